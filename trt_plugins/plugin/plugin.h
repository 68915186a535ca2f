// CalibratedNMS as a TensorRT plugin: what TensorRT asks for, answered from the attributes and the kernels' C interface.
//
// Inputs: boxes [B, A, 4], p [B, A, C], q [B, A, 1] or [B, A, C] (float32 or float16, p and q alike), fusion [B, 3],
// score_threshold [B], iou_threshold [B] (float32). Outputs: the ten of `calibox_core.operator_names.OUTPUTS`, int32
// and float32, of fixed rows.
#pragma once

#include "attributes.h"
#include "base.h"

namespace calibox {

class CalibratedNmsPlugin final : public PluginBase<CalibratedNmsPlugin, Attributes, 6, 10> {
   public:
    static constexpr char const* name = "CalibratedNMS";

    using PluginBase::PluginBase;

    std::int32_t getOutputDataTypes(nvinfer1::DataType* types, std::int32_t outputs, nvinfer1::DataType const* in,
                                    std::int32_t inputs) const noexcept override;
    std::int32_t getOutputShapes(nvinfer1::DimsExprs const* in, std::int32_t inputs, nvinfer1::DimsExprs const*,
                                 std::int32_t, nvinfer1::DimsExprs* out, std::int32_t outputs,
                                 nvinfer1::IExprBuilder& builder) noexcept override;
    bool supportsFormatCombination(std::int32_t place, nvinfer1::DynamicPluginTensorDesc const* tensors,
                                   std::int32_t inputs, std::int32_t outputs) noexcept override;
    std::size_t getWorkspaceSize(nvinfer1::DynamicPluginTensorDesc const* in, std::int32_t inputs,
                                 nvinfer1::DynamicPluginTensorDesc const*, std::int32_t) const noexcept override;
    std::int32_t onShapeChange(nvinfer1::PluginTensorDesc const* in, std::int32_t inputs,
                               nvinfer1::PluginTensorDesc const* out, std::int32_t outputs) noexcept override;
    std::int32_t enqueue(nvinfer1::PluginTensorDesc const* in, nvinfer1::PluginTensorDesc const* out,
                         void const* const* inputs, void* const* outputs, void* workspace,
                         cudaStream_t stream) noexcept override;
};

}  // namespace calibox
