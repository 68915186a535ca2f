#include "plugin.h"

namespace calibox {
namespace {

using namespace nvinfer1;

constexpr std::int32_t input_count = 6, output_count = 10;
constexpr std::int32_t ranks[input_count] = {3, 3, 3, 2, 1, 1};

enum Input : std::int32_t { boxes, p, q, fusion };

bool is_integer_output(std::int32_t output) { return output == 0 || output == 2 || output == 7; }
bool is_box_output(std::int32_t output) { return output == 1 || output == 6; }
bool is_candidate_output(std::int32_t output) { return output >= 6; }

// Sizes of a call; false where the shapes are not the operator's.
bool read_shapes(Dims const& box, Dims const& score, Dims const& quality, CaliboxNms& call) {
    if (box.nbDims != ranks[boxes] || score.nbDims != ranks[p] || quality.nbDims != ranks[q]) return false;
    bool const fit = as_int32(score.d[0], call.batch) && as_int32(score.d[1], call.anchors) &&
                     as_int32(score.d[2], call.classes) && as_int32(quality.d[2], call.quality_columns);
    bool const rows = box.d[0] == score.d[0] && box.d[1] == score.d[1] && quality.d[0] == score.d[0] &&
                      quality.d[1] == score.d[1];
    return fit && rows && box.d[2] == 4;
}

void point_to(CaliboxNms& call, void const* const* in, void* const* out) {
    call.boxes = in[0];
    call.p = in[1];
    call.q = in[2];
    call.fusion = static_cast<float const*>(in[3]);
    call.score_threshold = static_cast<float const*>(in[4]);
    call.iou_threshold = static_cast<float const*>(in[5]);
    call.num_detections = static_cast<std::int32_t*>(out[0]);
    call.out_boxes = static_cast<float*>(out[1]);
    call.labels = static_cast<std::int32_t*>(out[2]);
    call.classification_scores = static_cast<float*>(out[3]);
    call.localization_scores = static_cast<float*>(out[4]);
    call.scores = static_cast<float*>(out[5]);
    call.candidate_boxes = static_cast<float*>(out[6]);
    call.candidate_labels = static_cast<std::int32_t*>(out[7]);
    call.candidate_classification_scores = static_cast<float*>(out[8]);
    call.candidate_localization_scores = static_cast<float*>(out[9]);
}

}  // namespace

std::int32_t CalibratedNmsPlugin::getOutputDataTypes(
    DataType* types, std::int32_t outputs, DataType const*, std::int32_t inputs) const noexcept {
    if (!good_counts(inputs, outputs)) return -1;
    for (std::int32_t i = 0; i < output_count; ++i)
        types[i] = is_integer_output(i) ? DataType::kINT32 : DataType::kFLOAT;
    return 0;
}

std::int32_t CalibratedNmsPlugin::getOutputShapes(
    DimsExprs const* in, std::int32_t inputs, DimsExprs const*, std::int32_t, DimsExprs* out, std::int32_t outputs,
    IExprBuilder& builder) noexcept {
    if (!good_counts(inputs, outputs)) return -1;
    for (std::int32_t i = 0; i < input_count; ++i)
        if (in[i].nbDims != ranks[i]) return -1;
    for (std::int32_t i = 0; i < output_count; ++i) {
        auto const rows = is_candidate_output(i) ? attributes_.pre_nms_top_k : attributes_.max_detections;
        out[i].nbDims = i == 0 ? 1 : is_box_output(i) ? 3 : 2;
        out[i].d[0] = in[boxes].d[0];
        if (out[i].nbDims > 1) out[i].d[1] = builder.constant(rows);
        if (out[i].nbDims > 2) out[i].d[2] = builder.constant(4);
    }
    return 0;
}

bool CalibratedNmsPlugin::supportsFormatCombination(
    std::int32_t place, DynamicPluginTensorDesc const* tensors, std::int32_t inputs, std::int32_t outputs) noexcept {
    if (!good_counts(inputs, outputs)) return false;
    auto const& tensor = tensors[place].desc;
    if (tensor.format != TensorFormat::kLINEAR) return false;
    if (place == q) return tensor.type == tensors[p].desc.type;
    if (place < fusion) return is_float(tensor.type);
    bool const integer = place >= input_count && is_integer_output(place - input_count);
    return tensor.type == (integer ? DataType::kINT32 : DataType::kFLOAT);
}

std::size_t CalibratedNmsPlugin::getWorkspaceSize(
    DynamicPluginTensorDesc const* in, std::int32_t, DynamicPluginTensorDesc const*, std::int32_t) const noexcept {
    CaliboxNms call{};
    attributes_.write_to(call);
    return read_shapes(in[boxes].max, in[p].max, in[q].max, call) ? calibox_nms_workspace_bytes(&call) : 0;
}

std::int32_t CalibratedNmsPlugin::onShapeChange(
    PluginTensorDesc const* in, std::int32_t inputs, PluginTensorDesc const*, std::int32_t outputs) noexcept {
    if (!good_counts(inputs, outputs)) return -1;
    CaliboxNms call{};
    attributes_.write_to(call);
    bool const good = read_shapes(in[boxes].dims, in[p].dims, in[q].dims, call);
    if (!good || (call.batch > 0 && calibox_nms_workspace_bytes(&call) == 0)) {
        log_error("CalibratedNMS takes boxes [B, A, 4], p [B, A, C] and q [B, A, 1] or [B, A, C], with A * C below 2^31");
        return -1;
    }
    return 0;
}

std::int32_t CalibratedNmsPlugin::enqueue(
    PluginTensorDesc const* in, PluginTensorDesc const*, void const* const* inputs, void* const* outputs,
    void* workspace, cudaStream_t stream) noexcept {
    CaliboxNms call{};
    attributes_.write_to(call);
    if (!read_shapes(in[boxes].dims, in[p].dims, in[q].dims, call)) return calibox_bad_sizes;
    call.box_type = element(in[boxes].type);
    call.score_type = element(in[p].type);
    point_to(call, inputs, outputs);
    call.workspace = workspace;
    call.workspace_bytes = calibox_nms_workspace_bytes(&call);  // at most what getWorkspaceSize said of the largest
    std::int32_t const status = calibox_nms_launch(&call, stream);
    if (status != calibox_ok) log_error(std::string("CalibratedNMS: ") + calibox_nms_status_text(status));
    return status;
}

}  // namespace calibox
