// CalibratedNMS as plain C: one struct of sizes and pointers, one launch. Nothing here knows TensorRT or PyTorch.
//
// What is computed is `calibox_core.suppression`, image by image. Letters: B images, A anchors, C classes, K candidates
// (pre_nms_top_k), N detections (max_detections).
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(_WIN32)
#define CALIBOX_EXPORT __declspec(dllexport)
#else
#define CALIBOX_EXPORT __attribute__((visibility("default")))
#endif

extern "C" {

enum CaliboxElement : int32_t { calibox_float32 = 0, calibox_float16 = 1 };

enum CaliboxOutScore : int32_t {
    calibox_score_key = 0,                      // the ranking key
    calibox_score_classification = 1,           // p of the kept box
    calibox_score_classification_clustered = 2  // the largest p of the kept box and of those that it removes
};

// The operator in two parts, to measure them one by one. The suppression reads what the selection left in the workspace
// and in candidate_*, and may be run again.
enum CaliboxPart : int32_t { calibox_whole = 0, calibox_selection = 1, calibox_suppression = 2 };

// Below zero: refused before anything ran. Above zero: a cudaError_t.
enum CaliboxStatus : int32_t {
    calibox_ok = 0,
    calibox_bad_sizes = -1,
    calibox_bad_attributes = -2,
    calibox_bad_pointer = -3,
    calibox_small_workspace = -4
};

// Every tensor is dense and row-major. Scores are 0..1, boxes x1, y1, x2, y2 in any unit.
struct CaliboxNms {
    int32_t batch;            // B, 0..65535
    int32_t anchors;          // A, 0 or more; A * C below 2^31
    int32_t classes;          // C, 0 or more
    int32_t quality_columns;  // 1, or C: one q per pair
    int32_t box_type;         // CaliboxElement of boxes
    int32_t score_type;       // CaliboxElement of p and q

    int32_t out_score;  // CaliboxOutScore
    int32_t class_agnostic;
    float candidate_floor;  // 0 or more
    int32_t pre_nms_top_k;  // K, 1..3840
    int32_t max_detections;  // N, 1 or more

    void const* boxes;              // [B, A, 4]
    void const* p;                  // [B, A, C]
    void const* q;                  // [B, A, quality_columns]
    float const* fusion;            // [B, 3] exponents (a, b, g), finite and at least 0
    float const* score_threshold;   // [B]
    float const* iou_threshold;     // [B]

    int32_t* num_detections;        // [B]
    float* out_boxes;               // [B, N, 4], padded with 0
    int32_t* labels;                // [B, N], padded with -1
    float* classification_scores;   // [B, N], padded with 0, as are the next two
    float* localization_scores;     // [B, N]
    float* scores;                  // [B, N]
    float* candidate_boxes;         // [B, K, 4], best first, padded like the detections
    int32_t* candidate_labels;      // [B, K]
    float* candidate_classification_scores;  // [B, K]
    float* candidate_localization_scores;    // [B, K]

    void* workspace;          // aligned to 256 bytes, as cudaMalloc's are
    uint64_t workspace_bytes;
};

// Bytes of workspace that a call of these sizes and attributes needs; pointers are not looked at. Never falls when a
// size grows. 0 for sizes or attributes that a launch would refuse.
CALIBOX_EXPORT uint64_t calibox_nms_workspace_bytes(CaliboxNms const* call);

// Enqueues the operator on a cudaStream_t (nullptr: the default stream; ignored by the host build) and returns a
// CaliboxStatus or a cudaError_t. Allocates nothing, waits for nothing, and may be captured in a CUDA graph.
CALIBOX_EXPORT int32_t calibox_nms_launch(CaliboxNms const* call, void* stream);

// As calibox_nms_launch, one CaliboxPart of it.
CALIBOX_EXPORT int32_t calibox_nms_launch_part(CaliboxNms const* call, int32_t part, void* stream);

// One English sentence for what calibox_nms_launch returned.
CALIBOX_EXPORT char const* calibox_nms_status_text(int32_t status);

// "cuda", or "host" for the build that runs the same kernels on the CPU.
CALIBOX_EXPORT char const* calibox_nms_device(void);

// sizeof(CaliboxNms), by which a caller in another language checks its copy of the struct.
CALIBOX_EXPORT uint64_t calibox_nms_call_bytes(void);
}
