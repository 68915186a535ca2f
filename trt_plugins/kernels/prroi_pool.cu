// The launcher: checks, one kernel. nvcc compiles it for GPUs, a C++17 compiler (-x c++) for the CPU.
#include "prroi_pool.h"

#include <climits>

#include "pooling.h"

namespace calibox {
namespace {

constexpr int largest_images = 65535;               // images are the second dimension of a grid
constexpr std::size_t most_shared_bytes = 48 * 1024;  // that every device gives without being asked

std::int64_t groups_of(CaliboxPrRoiPool const& call) {
    return (static_cast<std::int64_t>(call.features) + features_per_block - 1) / features_per_block;
}

bool good_shapes(CaliboxPrRoiPool const& call) {
    bool const counts = call.batch >= 0 && call.batch <= largest_images && call.features >= 0 && call.rois >= 0;
    bool const sides = call.height >= 1 && call.width >= 1 && call.pooled_height >= 1 && call.pooled_width >= 1;
    bool const known = call.map_type == calibox_float32 || call.map_type == calibox_float16;
    return counts && sides && known && groups_of(call) * call.rois < INT_MAX &&
           pooling_shared_bytes(call) <= most_shared_bytes;
}

int check(CaliboxPrRoiPool const& call) {
    if (!good_shapes(call)) return calibox_bad_sizes;
    if (!(call.spatial_scale > 0 && call.spatial_scale <= FLT_MAX)) return calibox_bad_attributes;
    bool const nothing = call.batch == 0 || call.features == 0 || call.rois == 0;  // then there may be no address
    return nothing || (call.maps && call.boxes && call.pooled) ? calibox_ok : calibox_bad_pointer;
}

}  // namespace
}  // namespace calibox

extern "C" {

int32_t calibox_prroi_pool_launch(CaliboxPrRoiPool const* call, void* stream) {
    int const refused = calibox::check(*call);
    if (refused != calibox_ok) return refused;
    unsigned const groups = static_cast<unsigned>(calibox::groups_of(*call));
    auto const pool = call->map_type == calibox_float16 ? calibox::pool_rois<std::uint16_t> : calibox::pool_rois<float>;
    dim3 const grid(groups * static_cast<unsigned>(call->rois), static_cast<unsigned>(call->batch));
    return calibox::launch(pool, grid, calibox::pooling_threads, calibox::pooling_shared_bytes(*call),
                           static_cast<calibox::Stream>(stream), *call, groups);
}

char const* calibox_prroi_pool_status_text(int32_t status) {
    switch (status) {
        case calibox_bad_sizes:
            return "Sizes are outside their ranges: batch 0..65535, sides of the map and bins at least 1, height + width "
                   "+ 5 (bins down + bins across) at most 12,288, element type 0 (float32) or 1 (float16).";
        case calibox_bad_attributes: return "spatial_scale must be above 0 and finite.";
        case calibox_bad_pointer: return "A pointer is null: give the maps, the RoIs and the output.";
    }
    return calibox_nms_status_text(status);
}

uint64_t calibox_prroi_pool_call_bytes(void) { return sizeof(CaliboxPrRoiPool); }
}
