// Precise RoI pooling as plain C: one struct of sizes and pointers, one launch. Forward only.
//
// What is computed is the node calibox::PrRoIPool of `calibox_export.prroi_pool`. Letters: B images, F features, H x W
// pixels of the map, K RoIs per image, P x Q bins.
#pragma once

#include "calibrated_nms.h"

extern "C" {

// Every tensor is dense and row-major.
struct CaliboxPrRoiPool {
    int32_t batch;          // B, 0..65535
    int32_t features;       // F, 0 or more
    int32_t height;         // H, 1 or more
    int32_t width;          // W, 1 or more; H + W + 5 (P + Q) at most 12,288
    int32_t rois;           // K, 0 or more; K times the groups of 32 features below 2^31
    int32_t pooled_height;  // P, 1 or more
    int32_t pooled_width;   // Q, 1 or more
    int32_t map_type;       // CaliboxElement of maps and pooled
    float spatial_scale;    // pixels of the map per pixel of the image, above 0

    void const* maps;    // [B, F, H, W]
    float const* boxes;  // [B, K, 4] x1, y1, x2, y2 in pixels of the image
    void* pooled;        // [B, K, F, P, Q]; 0 for a RoI without area, or with NaN or an infinity in it
};

// Enqueues the operator on a cudaStream_t (nullptr: the default stream; ignored by the host build) and returns a
// CaliboxStatus or a cudaError_t. Needs no workspace, allocates nothing, waits for nothing, and may be captured in a
// CUDA graph.
CALIBOX_EXPORT int32_t calibox_prroi_pool_launch(CaliboxPrRoiPool const* call, void* stream);

// One English sentence for what calibox_prroi_pool_launch returned.
CALIBOX_EXPORT char const* calibox_prroi_pool_status_text(int32_t status);

// sizeof(CaliboxPrRoiPool), by which a caller in another language checks its copy of the struct.
CALIBOX_EXPORT uint64_t calibox_prroi_pool_call_bytes(void);
}
