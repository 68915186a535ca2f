// Makes the calls that TensorRT makes of a plugin library, in TensorRT's order, and writes what `enqueue` computes.
//
//     plugin_host LIBRARY CALLS ANSWERS [REGISTRY]
//
// CALLS and ANSWERS are as for replay.cpp. The library must be built with the host kernels, as memory is the CPU's.
// With REGISTRY (a libnvinfer or libnvinfer_lean) the library is loaded by that TensorRT's plugin registry.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>

#include "calls.h"

using namespace nvinfer1;

namespace {

void demand(bool good, char const* what) {
    if (good) return;
    std::fprintf(stderr, "plugin_host: %s\n", what);
    std::exit(1);
}

class Value final : public apiv::VDimensionExpr {
   public:
    explicit Value(std::int64_t value) : value_(value) {}
    bool isConstant() const override { return true; }
    std::int64_t getConstantValue() const override { return value_; }
    bool isSizeTensor() const override { return false; }

   private:
    std::int64_t value_;
};

class Expression final : public IDimensionExpr {
   public:
    explicit Expression(std::int64_t value) : value_(value) { mImpl = &value_; }
    ~Expression() noexcept override = default;

   private:
    Value value_;
};

// Constants only: the plugin makes no other expressions.
class Constants final : public apiv::VExprBuilder {
   public:
    IDimensionExpr const* constant(std::int64_t value) override { return &made_.emplace_back(value); }
    IDimensionExpr const* operation(DimensionOperation, IDimensionExpr const&, IDimensionExpr const&) override {
        return nullptr;
    }
    IDimensionExpr const* declareSizeTensor(std::int32_t, IDimensionExpr const&, IDimensionExpr const&) override {
        return nullptr;
    }

   private:
    std::deque<Expression> made_;
};

class Builder final : public IExprBuilder {
   public:
    Builder() { mImpl = &constants_; }
    ~Builder() noexcept override = default;

   private:
    Constants constants_;
};

class Errors final : public ILogger {
   public:
    void log(Severity severity, AsciiChar const* message) noexcept override {
        if (severity <= Severity::kERROR) std::printf("logged: %s\n", message);
    }
};

class Finder final : public ILoggerFinder {
   public:
    ILogger* findLogger() override { return &errors_; }

   private:
    Errors errors_;
};

IPluginCreatorV3One* creator_by_hand(char const* path) {
    void* const library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) std::fprintf(stderr, "%s\n", dlerror());
    demand(library != nullptr, "the library cannot be loaded");
    auto const creators =
        reinterpret_cast<IPluginCreatorInterface* const* (*)(std::int32_t&)>(dlsym(library, "getCreators"));
    auto const set_finder = reinterpret_cast<void (*)(ILoggerFinder*)>(dlsym(library, "setLoggerFinder"));
    demand(creators && set_finder, "getCreators or setLoggerFinder is missing");
    static Finder finder;
    set_finder(&finder);
    std::int32_t count = 0;
    auto* const* const found = creators(count);
    demand(count == 1, "there must be one creator");
    return static_cast<IPluginCreatorV3One*>(found[0]);
}

IPluginCreatorV3One* creator_by_registry(char const* path, char const* tensorrt) {
    void* const library = dlopen(tensorrt, RTLD_NOW | RTLD_GLOBAL);
    if (!library) std::fprintf(stderr, "%s\n", dlerror());
    demand(library != nullptr, "the registry's library cannot be loaded");
    auto const registry = reinterpret_cast<IPluginRegistry* (*)()>(dlsym(library, "getPluginRegistry"));
    demand(registry != nullptr, "there is no getPluginRegistry");
    demand(registry()->loadLibrary(path) != nullptr, "the registry does not load the library");
    auto* const found = registry()->getCreator("CalibratedNMS", "1", "calibox");
    demand(found != nullptr, "the registry has no CalibratedNMS, 1, calibox");
    std::printf("registry: CalibratedNMS version 1 in calibox\n");
    return static_cast<IPluginCreatorV3One*>(found);
}

char const* const out_scores[] = {"key", "classification", "classification_clustered"};

// As TensorRT's ONNX parser: by the names and types that the creator declares.
std::unique_ptr<IPluginV3> create(IPluginCreatorV3One& creator, CaliboxNms const& call) {
    auto const* const declared = creator.getFieldNames();
    std::vector<PluginField> fields;
    for (std::int32_t i = 0; i < declared->nbFields; ++i) {
        PluginField field = declared->fields[i];
        std::string const name = field.name;
        field.length = 1;
        if (name == "out_score") {
            field.data = out_scores[call.out_score];
            field.length = static_cast<std::int32_t>(std::strlen(out_scores[call.out_score]));
        } else if (name == "class_agnostic") {
            field.data = &call.class_agnostic;
        } else if (name == "candidate_floor") {
            field.data = &call.candidate_floor;
        } else if (name == "pre_nms_top_k") {
            field.data = &call.pre_nms_top_k;
        } else if (name == "max_detections") {
            field.data = &call.max_detections;
        }
        fields.push_back(field);
    }
    PluginFieldCollection const given{static_cast<std::int32_t>(fields.size()), fields.data()};
    return std::unique_ptr<IPluginV3>(creator.createPlugin("host", &given, TensorRTPhase::kBUILD));
}

template <class T>
T& capability(IPluginV3& plugin, PluginCapabilityType type) {
    return *static_cast<T*>(plugin.getCapabilityInterface(type));
}

std::vector<Dims> shapes_of_inputs(CaliboxNms const& call) {
    std::int64_t const b = call.batch, a = call.anchors;
    return {{3, {b, a, 4}}, {3, {b, a, call.classes}}, {3, {b, a, call.quality_columns}}, {2, {b, 3}}, {1, {b}}, {1, {b}}};
}

std::vector<Dims> shapes_of_outputs(IPluginV3OneBuild& build, std::vector<Dims> const& inputs) {
    std::deque<Expression> sizes;
    std::vector<DimsExprs> in(inputs.size()), out(static_cast<std::size_t>(build.getNbOutputs()));
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        in[i].nbDims = inputs[i].nbDims;
        for (std::int32_t d = 0; d < inputs[i].nbDims; ++d) in[i].d[d] = &sizes.emplace_back(inputs[i].d[d]);
    }
    Builder builder;
    demand(build.getOutputShapes(in.data(), 6, nullptr, 0, out.data(), 10, builder) == 0, "getOutputShapes refuses");
    std::vector<Dims> shapes;
    for (auto const& expressions : out) {
        Dims shape{};
        shape.nbDims = expressions.nbDims;
        for (std::int32_t d = 0; d < shape.nbDims; ++d) shape.d[d] = expressions.d[d]->getConstantValue();
        shapes.push_back(shape);
    }
    return shapes;
}

std::vector<DynamicPluginTensorDesc> describe(IPluginV3OneBuild& build, CaliboxNms const& call,
                                              std::vector<Dims> const& inputs, std::vector<Dims> const& outputs) {
    DataType const box = call.box_type == calibox_float16 ? DataType::kHALF : DataType::kFLOAT;
    DataType const score = call.score_type == calibox_float16 ? DataType::kHALF : DataType::kFLOAT;
    std::vector<DataType> types{box, score, score, DataType::kFLOAT, DataType::kFLOAT, DataType::kFLOAT};
    types.resize(16);
    demand(build.getOutputDataTypes(types.data() + 6, 10, types.data(), 6) == 0, "getOutputDataTypes refuses");
    std::vector<DynamicPluginTensorDesc> tensors(16);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        tensors[i].desc.type = types[i];
        tensors[i].desc.format = TensorFormat::kLINEAR;
        tensors[i].desc.dims = tensors[i].min = tensors[i].opt = tensors[i].max = i < 6 ? inputs[i] : outputs[i - 6];
    }
    for (std::int32_t i = 0; i < 16; ++i)
        demand(build.supportsFormatCombination(i, tensors.data(), 6, 10), "a format of the contract is refused");
    auto wrong = tensors;
    wrong[6].desc.type = DataType::kFLOAT;
    demand(!build.supportsFormatCombination(6, wrong.data(), 6, 10), "num_detections may not be float32");
    return tensors;
}

bool same_fields(PluginFieldCollection const& one, PluginFieldCollection const& other) {
    bool same = one.nbFields == other.nbFields;
    for (std::int32_t i = 0; same && i < one.nbFields; ++i) {
        auto const &a = one.fields[i], &b = other.fields[i];
        std::size_t const bytes = static_cast<std::size_t>(a.length) * (a.type == PluginFieldType::kCHAR ? 1 : 4);
        same = !std::strcmp(a.name, b.name) && a.length == b.length && !std::memcmp(a.data, b.data, bytes);
    }
    return same;
}

// The plugin as an engine gets it back: from the fields that it asked to be stored.
std::unique_ptr<IPluginV3> through_a_file(IPluginCreatorV3One& creator, IPluginV3& plugin) {
    auto const* const stored =
        capability<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME).getFieldsToSerialize();
    std::unique_ptr<IPluginV3> read(creator.createPlugin("host", stored, TensorRTPhase::kRUNTIME));
    demand(read != nullptr, "the plugin is not made again from its own fields");
    auto& runtime = capability<IPluginV3OneRuntime>(*read, PluginCapabilityType::kRUNTIME);
    demand(same_fields(*stored, *runtime.getFieldsToSerialize()), "the fields changed on the way");
    return read;
}

void run(IPluginV3& plugin, std::vector<DynamicPluginTensorDesc> const& tensors, std::size_t workspace_bytes,
         std::vector<Bytes>& inputs, std::vector<Bytes>& outputs) {
    std::unique_ptr<IPluginV3> const attached(
        capability<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME).attachToContext(nullptr));
    auto& runtime = capability<IPluginV3OneRuntime>(*attached, PluginCapabilityType::kRUNTIME);
    std::vector<PluginTensorDesc> descriptions;
    for (auto const& tensor : tensors) descriptions.push_back(tensor.desc);
    demand(runtime.onShapeChange(descriptions.data(), 6, descriptions.data() + 6, 10) == 0, "onShapeChange refuses");
    std::vector<void const*> in;
    std::vector<void*> out;
    for (auto& input : inputs) in.push_back(input.data());
    for (auto& output : outputs) out.push_back(output.data());
    std::unique_ptr<void, void (*)(void*)> const space(std::aligned_alloc(256, workspace_bytes + 256), std::free);
    demand(runtime.enqueue(descriptions.data(), descriptions.data() + 6, in.data(), out.data(), space.get(), nullptr) == 0,
           "enqueue fails");
}

void answer(IPluginCreatorV3One& creator, CaliboxNms const& call, std::vector<Bytes>& inputs,
            std::vector<Bytes>& outputs) {
    auto const plugin = create(creator, call);
    demand(plugin != nullptr, "createPlugin refuses good attributes");
    std::unique_ptr<IPluginV3> const copy(plugin->clone());
    auto& build = capability<IPluginV3OneBuild>(*copy, PluginCapabilityType::kBUILD);
    auto const in = shapes_of_inputs(call), out = shapes_of_outputs(build, in);
    auto const tensors = describe(build, call, in, out);
    demand(build.configurePlugin(tensors.data(), 6, tensors.data() + 6, 10) == 0, "configurePlugin refuses");
    std::size_t const bytes = build.getWorkspaceSize(tensors.data(), 6, tensors.data() + 6, 10);
    for (std::size_t i = 0; i < outputs.size(); ++i) {
        std::int64_t elements = 1;
        for (std::int32_t d = 0; d < out[i].nbDims; ++d) elements *= out[i].d[d];
        demand(outputs[i].size() == static_cast<std::size_t>(elements) * 4, "an output has another shape");
    }
    run(*through_a_file(creator, *copy), tensors, bytes, inputs, outputs);
}

void refuse_bad_attributes(IPluginCreatorV3One& creator) {
    CaliboxNms call{};
    call.pre_nms_top_k = 4000;
    call.max_detections = 1;
    demand(create(creator, call) == nullptr, "4,000 candidates are accepted");
    PluginFieldCollection const none{0, nullptr};
    demand(creator.createPlugin("host", &none, TensorRTPhase::kBUILD) == nullptr, "missing attributes are accepted");
}

}  // namespace

int main(int count, char** words) {
    demand(count == 4 || count == 5, "usage: plugin_host LIBRARY CALLS ANSWERS [REGISTRY]");
    auto& creator = count == 5 ? *creator_by_registry(words[1], words[4]) : *creator_by_hand(words[1]);
    demand(!std::strcmp(creator.getPluginName(), "CalibratedNMS") && !std::strcmp(creator.getPluginVersion(), "1") &&
               !std::strcmp(creator.getPluginNamespace(), "calibox"),
           "name, version or namespace are others");
    refuse_bad_attributes(creator);
    return for_each_call(words[2], words[3], [&](CaliboxNms& call, std::vector<Bytes>& inputs, std::vector<Bytes>& outputs) {
        answer(creator, call, inputs, outputs);
        return true;
    });
}
