// What both plugins answer TensorRT alike.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <new>
#include <utility>
#include <vector>

#include "fields.h"

namespace calibox {

// `Plugin` derives from this and has `name`; for its attributes there are read_attributes and fields_of.
template <class Plugin, class AttributesOf, std::int32_t input_count, std::int32_t output_count>
class PluginBase : public nvinfer1::IPluginV3,
                   public nvinfer1::IPluginV3OneCore,
                   public nvinfer1::IPluginV3OneBuild,
                   public nvinfer1::IPluginV3OneRuntime {
   public:
    using Attributes = AttributesOf;

    explicit PluginBase(Attributes attributes) : attributes_(std::move(attributes)) {}

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override {
        switch (type) {
            case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
            case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
            case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }

    nvinfer1::IPluginV3* clone() noexcept override {
        try {
            return new Plugin(attributes_);
        } catch (std::bad_alloc const&) {
            return nullptr;
        }
    }

    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override { return clone(); }

    nvinfer1::AsciiChar const* getPluginName() const noexcept override { return Plugin::name; }
    nvinfer1::AsciiChar const* getPluginVersion() const noexcept override { return plugin_version; }
    nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override { return plugin_namespace; }
    std::int32_t getNbOutputs() const noexcept override { return output_count; }

    std::int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const*, std::int32_t inputs,
                                 nvinfer1::DynamicPluginTensorDesc const*, std::int32_t outputs) noexcept override {
        return good_counts(inputs, outputs) ? 0 : -1;
    }

    nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override {
        fields_ = fields_of(attributes_);
        collection_ = {static_cast<std::int32_t>(fields_.size()), fields_.data()};
        return &collection_;
    }

   protected:
    static bool good_counts(std::int32_t inputs, std::int32_t outputs) {
        return inputs == input_count && outputs == output_count;
    }

    Attributes attributes_;

   private:
    std::vector<nvinfer1::PluginField> fields_;
    nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace calibox
