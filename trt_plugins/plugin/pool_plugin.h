// PrRoIPool as a TensorRT plugin: what TensorRT asks for, answered from the attributes and the kernel's C interface.
//
// Inputs: features [B, F, H, W] (float32 or float16) and rois [B, K, 4] (float32). Output: pooled [B, K, F, P, Q] of the
// features' type. It needs no workspace.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>
#include <vector>

#include "../kernels/prroi_pool.h"
#include "base.h"

namespace calibox {

// Every attribute must be given, as for CalibratedNMS.
struct PoolAttributes {
    std::int32_t pooled_height = -1;
    std::int32_t pooled_width = -1;
    float spatial_scale = -1;
};

// As for CalibratedNMS's attributes.
std::string read_attributes(nvinfer1::PluginFieldCollection const& fields, PoolAttributes& attributes);
std::vector<nvinfer1::PluginField> fields_of(PoolAttributes const& attributes);

class PrRoiPoolPlugin final : public PluginBase<PrRoiPoolPlugin, PoolAttributes, 2, 1> {
   public:
    static constexpr char const* name = "PrRoIPool";

    using PluginBase::PluginBase;

    std::int32_t getOutputDataTypes(nvinfer1::DataType* types, std::int32_t outputs, nvinfer1::DataType const* in,
                                    std::int32_t inputs) const noexcept override;
    std::int32_t getOutputShapes(nvinfer1::DimsExprs const* in, std::int32_t inputs, nvinfer1::DimsExprs const*,
                                 std::int32_t, nvinfer1::DimsExprs* out, std::int32_t outputs,
                                 nvinfer1::IExprBuilder& builder) noexcept override;
    bool supportsFormatCombination(std::int32_t place, nvinfer1::DynamicPluginTensorDesc const* tensors,
                                   std::int32_t inputs, std::int32_t outputs) noexcept override;
    std::int32_t onShapeChange(nvinfer1::PluginTensorDesc const* in, std::int32_t inputs,
                               nvinfer1::PluginTensorDesc const* out, std::int32_t outputs) noexcept override;
    std::int32_t enqueue(nvinfer1::PluginTensorDesc const* in, nvinfer1::PluginTensorDesc const* out,
                         void const* const* inputs, void* const* outputs, void* workspace,
                         cudaStream_t stream) noexcept override;
};

}  // namespace calibox
