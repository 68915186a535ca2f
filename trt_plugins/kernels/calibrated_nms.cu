// The launcher: checks, workspace, five kernels. nvcc compiles it for GPUs, a C++17 compiler (-x c++) for the CPU.
#include "calibrated_nms.h"

#include "selection.h"
#include "suppression.h"

namespace calibox {
namespace {

constexpr int largest_top_k = 3840;   // TensorRT's limit for TopK, by which the operator is defined
constexpr int largest_batch = 65535;  // images are the second dimension of a grid

bool good_sizes(CaliboxNms const& call) {
    bool const counts = call.batch >= 0 && call.batch <= largest_batch && call.anchors >= 0 && call.classes >= 0;
    bool const pairs = static_cast<std::int64_t>(call.anchors) * call.classes < INT_MAX;
    bool const quality = call.quality_columns == 1 || call.quality_columns == call.classes;
    auto const known = [](std::int32_t type) { return type == calibox_float32 || type == calibox_float16; };
    return counts && pairs && quality && known(call.box_type) && known(call.score_type);
}

bool good_attributes(CaliboxNms const& call) {
    return call.out_score >= calibox_score_key && call.out_score <= calibox_score_classification_clustered &&
           call.candidate_floor >= 0 && call.pre_nms_top_k >= 1 && call.pre_nms_top_k <= largest_top_k &&
           call.max_detections >= 1;
}

bool good_pointers(CaliboxNms const& call) {
    bool const inputs = call.boxes && call.p && call.q && call.fusion && call.score_threshold && call.iou_threshold;
    bool const detections = call.num_detections && call.out_boxes && call.labels && call.classification_scores &&
                            call.localization_scores && call.scores;
    bool const candidates = call.candidate_boxes && call.candidate_labels && call.candidate_classification_scores &&
                            call.candidate_localization_scores;
    return inputs && detections && candidates && call.workspace;
}

int check(CaliboxNms const& call) {
    if (!good_sizes(call)) return calibox_bad_sizes;
    if (!good_attributes(call)) return calibox_bad_attributes;
    if (call.batch == 0) return calibox_ok;  // empty tensors may have no address
    if (call.workspace_bytes < lay_out(call, nullptr).bytes) return calibox_small_workspace;
    // Inputs without elements may have none either; nothing of them is read.
    CaliboxNms read = call;
    if (call.anchors == 0) read.boxes = read.p = read.q = call.workspace;
    if (call.classes == 0) read.p = read.q = call.workspace;
    return good_pointers(read) ? calibox_ok : calibox_bad_pointer;
}

unsigned groups(std::uint64_t threads) {
    return static_cast<unsigned>((threads + scoring_threads - 1) / scoring_threads);
}

int select(CaliboxNms const& call, Workspace const& space, Stream stream) {
    unsigned const images = static_cast<unsigned>(call.batch), lanes = lanes_per_anchor(call.classes);
    std::uint64_t const anchors = static_cast<unsigned>(call.anchors);
    std::uint64_t const pairs = static_cast<std::uint64_t>(anchors_taken(call)) * static_cast<unsigned>(call.classes);
    unsigned const size = power_of_two_from(static_cast<unsigned>(call.pre_nms_top_k));
    auto const score = call.score_type == calibox_float16 ? score_anchors<std::uint16_t> : score_anchors<float>;
    int status = launch(score, dim3(groups(anchors * lanes), images), scoring_threads, 0, stream, call, space, lanes);
    if (status == calibox_ok)
        status = launch(choose_anchors, dim3(images), selecting_threads, choosing_shared_bytes(), stream, call, space);
    if (status == calibox_ok)
        status = launch(list_pairs, dim3(groups(pairs), images), scoring_threads, 0, stream, call, space);
    if (status == calibox_ok)
        status = launch(rank_pairs, dim3(images), selecting_threads, ranking_shared_bytes(size), stream, call, space,
                        size);
    return status;
}

}  // namespace
}  // namespace calibox

extern "C" {

uint64_t calibox_nms_workspace_bytes(CaliboxNms const* call) {
    if (!calibox::good_sizes(*call) || !calibox::good_attributes(*call)) return 0;
    return calibox::lay_out(*call, nullptr).bytes;
}

int32_t calibox_nms_launch(CaliboxNms const* call, void* stream) {
    return calibox_nms_launch_part(call, calibox_whole, stream);
}

int32_t calibox_nms_launch_part(CaliboxNms const* call, int32_t part, void* stream) {
    int const refused = calibox::check(*call);
    if (refused != calibox_ok || call->batch == 0) return refused;
    auto const space = calibox::lay_out(*call, call->workspace);
    auto const on = static_cast<calibox::Stream>(stream);
    int const status = part == calibox_suppression ? calibox_ok : calibox::select(*call, space, on);
    if (status != calibox_ok || part == calibox_selection) return status;
    auto const shared_bytes = calibox::suppression_shared_bytes(static_cast<unsigned>(call->pre_nms_top_k));
    return calibox::launch(calibox::suppress, dim3(static_cast<unsigned>(call->batch)), calibox::suppressing_threads,
                           shared_bytes, on, *call, space);
}

char const* calibox_nms_status_text(int32_t status) {
    switch (status) {
        case calibox_ok: return "Done.";
        case calibox_bad_sizes:
            return "Sizes are outside their ranges: batch 0..65535, anchors * classes below 2^31, quality_columns 1 or "
                   "classes, element types 0 (float32) or 1 (float16).";
        case calibox_bad_attributes:
            return "Attributes are outside their ranges: out_score 0..2, candidate_floor at least 0, pre_nms_top_k "
                   "1..3840, max_detections at least 1.";
        case calibox_bad_pointer: return "A pointer is null: give every input, every output and the workspace.";
        case calibox_small_workspace:
            return "The workspace is smaller than calibox_nms_workspace_bytes says for this call.";
    }
#ifdef __CUDACC__
    return cudaGetErrorString(static_cast<cudaError_t>(status));
#else
    return "Unknown status.";
#endif
}

char const* calibox_nms_device(void) {
#ifdef __CUDACC__
    return "cuda";
#else
    return "host";
#endif
}

uint64_t calibox_nms_call_bytes(void) { return sizeof(CaliboxNms); }
}
