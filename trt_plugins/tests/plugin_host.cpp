// Makes the calls that TensorRT makes of a plugin library, in TensorRT's order, and writes what `enqueue` computes.
//
//     plugin_host nms|pool LIBRARY CALLS ANSWERS [REGISTRY]
//
// CALLS and ANSWERS are as for replay.cpp. The library must be built with the host kernels, as memory is the CPU's.
// With REGISTRY (a libnvinfer or libnvinfer_lean) the library is loaded by that TensorRT's plugin registry.
#include <tuple>

#include "calls.h"
#include "host.h"

namespace {

DataType type_of(std::int32_t element) { return element == calibox_float16 ? DataType::kHALF : DataType::kFLOAT; }

// What the two operators differ in. `give` fills the value of a field that the creator declares; `bad` are attributes
// that must be refused.
struct Suppression {
    using Call = CaliboxNms;
    static constexpr char const* name = "CalibratedNMS";
    static constexpr DataType wrong_output = DataType::kFLOAT;  // for the first output

    static std::vector<Dims> shapes(Call const& call) {
        std::int64_t const b = call.batch, a = call.anchors;
        return {{3, {b, a, 4}}, {3, {b, a, call.classes}}, {3, {b, a, call.quality_columns}}, {2, {b, 3}}, {1, {b}}, {1, {b}}};
    }

    static std::vector<DataType> types(Call const& call) {
        DataType const score = type_of(call.score_type), number = DataType::kFLOAT;
        return {type_of(call.box_type), score, score, number, number, number};
    }

    static void give(PluginField& field, Call const& call) {
        static char const* const out_scores[] = {"key", "classification", "classification_clustered"};
        std::string const name_of = field.name;
        if (name_of == "out_score") {
            field.data = out_scores[call.out_score];
            field.length = static_cast<std::int32_t>(std::strlen(out_scores[call.out_score]));
        } else if (name_of == "class_agnostic") {
            field.data = &call.class_agnostic;
        } else if (name_of == "candidate_floor") {
            field.data = &call.candidate_floor;
        } else if (name_of == "pre_nms_top_k") {
            field.data = &call.pre_nms_top_k;
        } else if (name_of == "max_detections") {
            field.data = &call.max_detections;
        }
    }

    static Call bad() {
        Call call{};
        call.pre_nms_top_k = 4000;
        call.max_detections = 1;
        return call;
    }
};

struct Pooling {
    using Call = CaliboxPrRoiPool;
    static constexpr char const* name = "PrRoIPool";
    static constexpr DataType wrong_output = DataType::kINT32;

    static std::vector<Dims> shapes(Call const& call) {
        return {{4, {call.batch, call.features, call.height, call.width}}, {3, {call.batch, call.rois, 4}}};
    }

    static std::vector<DataType> types(Call const& call) { return {type_of(call.map_type), DataType::kFLOAT}; }

    static void give(PluginField& field, Call const& call) {
        std::string const name_of = field.name;
        if (name_of == "pooled_height") field.data = &call.pooled_height;
        if (name_of == "pooled_width") field.data = &call.pooled_width;
        if (name_of == "spatial_scale") field.data = &call.spatial_scale;
    }

    static Call bad() {
        Call call{};
        call.pooled_height = call.pooled_width = 7;  // and a scale of 0
        return call;
    }
};

// As TensorRT's ONNX parser: by the names and types that the creator declares.
template <class Operator>
std::unique_ptr<IPluginV3> create(IPluginCreatorV3One& creator, typename Operator::Call const& call) {
    auto const* const declared = creator.getFieldNames();
    std::vector<PluginField> fields;
    for (std::int32_t i = 0; i < declared->nbFields; ++i) {
        PluginField field = declared->fields[i];
        field.length = 1;
        Operator::give(field, call);
        fields.push_back(field);
    }
    PluginFieldCollection const given{static_cast<std::int32_t>(fields.size()), fields.data()};
    return std::unique_ptr<IPluginV3>(creator.createPlugin("host", &given, TensorRTPhase::kBUILD));
}

std::vector<Dims> shapes_of_outputs(IPluginV3OneBuild& build, std::vector<Dims> const& inputs) {
    std::deque<Expression> sizes;
    std::vector<DimsExprs> in(inputs.size()), out(static_cast<std::size_t>(build.getNbOutputs()));
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        in[i].nbDims = inputs[i].nbDims;
        for (std::int32_t d = 0; d < inputs[i].nbDims; ++d) in[i].d[d] = &sizes.emplace_back(inputs[i].d[d]);
    }
    Builder builder;
    auto const ins = static_cast<std::int32_t>(in.size()), outs = static_cast<std::int32_t>(out.size());
    demand(build.getOutputShapes(in.data(), ins, nullptr, 0, out.data(), outs, builder) == 0, "getOutputShapes refuses");
    std::vector<Dims> shapes;
    for (auto const& expressions : out) {
        Dims shape{};
        shape.nbDims = expressions.nbDims;
        for (std::int32_t d = 0; d < shape.nbDims; ++d) shape.d[d] = expressions.d[d]->getConstantValue();
        shapes.push_back(shape);
    }
    return shapes;
}

// All tensors of a call, inputs first.
struct Tensors {
    std::vector<DynamicPluginTensorDesc> all;
    std::int32_t inputs, outputs;

    DynamicPluginTensorDesc const* in() const { return all.data(); }
    DynamicPluginTensorDesc const* out() const { return all.data() + inputs; }
};

Tensors describe(IPluginV3OneBuild& build, std::vector<DataType> types, std::vector<Dims> shapes, DataType wrong_output) {
    Tensors tensors{{}, static_cast<std::int32_t>(types.size()), build.getNbOutputs()};
    auto const [all, ins, outs] = std::tuple(shapes.size(), tensors.inputs, tensors.outputs);
    types.resize(all);
    demand(build.getOutputDataTypes(types.data() + ins, outs, types.data(), ins) == 0, "getOutputDataTypes refuses");
    tensors.all.resize(all);
    for (std::size_t i = 0; i < all; ++i) {
        auto& tensor = tensors.all[i];
        tensor.desc.type = types[i];
        tensor.desc.format = TensorFormat::kLINEAR;
        tensor.desc.dims = tensor.min = tensor.opt = tensor.max = shapes[i];
    }
    for (std::int32_t i = 0; i < ins + outs; ++i)
        demand(build.supportsFormatCombination(i, tensors.in(), ins, outs), "a format of the contract is refused");
    auto wrong = tensors;
    wrong.all[static_cast<std::size_t>(ins)].desc.type = wrong_output;
    demand(!build.supportsFormatCombination(ins, wrong.in(), ins, outs), "the first output may not have this type");
    return tensors;
}

void run(IPluginV3& plugin, Tensors const& tensors, std::size_t workspace_bytes, std::vector<Bytes>& inputs,
         std::vector<Bytes>& outputs) {
    std::unique_ptr<IPluginV3> const attached(
        capability<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME).attachToContext(nullptr));
    auto& runtime = capability<IPluginV3OneRuntime>(*attached, PluginCapabilityType::kRUNTIME);
    std::vector<PluginTensorDesc> descriptions;
    for (auto const& tensor : tensors.all) descriptions.push_back(tensor.desc);
    auto const* const described_outputs = descriptions.data() + tensors.inputs;
    demand(runtime.onShapeChange(descriptions.data(), tensors.inputs, described_outputs, tensors.outputs) == 0,
           "onShapeChange refuses");
    std::vector<void const*> in;
    std::vector<void*> out;
    for (auto& input : inputs) in.push_back(input.data());
    for (auto& output : outputs) out.push_back(output.data());
    std::size_t const whole_lines = (workspace_bytes + 256) / 256 * 256;
    std::unique_ptr<void, void (*)(void*)> const space(std::aligned_alloc(256, whole_lines), std::free);
    demand(runtime.enqueue(descriptions.data(), described_outputs, in.data(), out.data(), space.get(), nullptr) == 0,
           "enqueue fails");
}

std::size_t bytes_of(DynamicPluginTensorDesc const& tensor) {
    std::size_t bytes = tensor.desc.type == DataType::kHALF ? 2 : 4;
    for (std::int32_t d = 0; d < tensor.max.nbDims; ++d) bytes *= static_cast<std::size_t>(tensor.max.d[d]);
    return bytes;
}

template <class Operator>
void answer(IPluginCreatorV3One& creator, typename Operator::Call const& call, std::vector<Bytes>& inputs,
            std::vector<Bytes>& outputs) {
    auto const plugin = create<Operator>(creator, call);
    demand(plugin != nullptr, "createPlugin refuses good attributes");
    std::unique_ptr<IPluginV3> const copy(plugin->clone());
    auto& build = capability<IPluginV3OneBuild>(*copy, PluginCapabilityType::kBUILD);
    auto shapes = Operator::shapes(call);
    auto const more = shapes_of_outputs(build, shapes);
    shapes.insert(shapes.end(), more.begin(), more.end());
    auto const tensors = describe(build, Operator::types(call), shapes, Operator::wrong_output);
    demand(build.configurePlugin(tensors.in(), tensors.inputs, tensors.out(), tensors.outputs) == 0,
           "configurePlugin refuses");
    std::size_t const bytes = build.getWorkspaceSize(tensors.in(), tensors.inputs, tensors.out(), tensors.outputs);
    for (std::size_t i = 0; i < outputs.size(); ++i)
        demand(outputs[i].size() == bytes_of(tensors.out()[i]), "an output has another shape or type");
    run(*through_a_file(creator, *copy), tensors, bytes, inputs, outputs);
}

template <class Operator>
int host(int count, char** words) {
    auto& creator = count == 6 ? *creator_by_registry(words[2], Operator::name, words[5])
                               : *creator_by_hand(words[2], Operator::name);
    demand(!std::strcmp(creator.getPluginName(), Operator::name) && !std::strcmp(creator.getPluginVersion(), "1") &&
               !std::strcmp(creator.getPluginNamespace(), "calibox"),
           "name, version or namespace are others");
    demand(create<Operator>(creator, Operator::bad()) == nullptr, "bad attributes are accepted");
    PluginFieldCollection const none{0, nullptr};
    demand(creator.createPlugin("host", &none, TensorRTPhase::kBUILD) == nullptr, "missing attributes are accepted");
    using Call = typename Operator::Call;
    return for_each_call<Call>(words[3], words[4], [&](Call& call, std::vector<Bytes>& inputs, std::vector<Bytes>& outputs) {
        answer<Operator>(creator, call, inputs, outputs);
        return true;
    });
}

}  // namespace

int main(int count, char** words) {
    bool const right = count == 5 || count == 6;
    if (right && !std::strcmp(words[1], "nms")) return host<Suppression>(count, words);
    if (right && !std::strcmp(words[1], "pool")) return host<Pooling>(count, words);
    std::fputs("usage: plugin_host nms|pool LIBRARY CALLS ANSWERS [REGISTRY]\n", stderr);
    return 2;
}
