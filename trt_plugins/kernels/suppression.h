// From candidates, best first, to detections: greedy suppression by one block per image.
//
// Tiles of 32 candidates are visited in rank order. Which of a tile overlap each other is found for all tiles at once
// beforehand; so every warp can settle the tile for itself by two votes per link of its longest chain, without a
// barrier. Then all warps test the later candidates against the tile's kept boxes, in rank order: the first that
// overlaps owns the candidate, clears its bit and takes its p if that is larger. One barrier per tile with life in it.
#pragma once

#include "workspace.h"

namespace calibox {

constexpr unsigned suppressing_threads = block_threads(512);

// Boxes of every candidate, one bit each that says it is alive, and the number of detections. 61.9 KB for K = 3840:
// below the 64 KB that a block can have on compute capability 7.5.
inline std::size_t suppression_shared_bytes(unsigned candidates) {
    return candidates * sizeof(float4) + ((candidates + warp - 1) / warp + 1) * sizeof(unsigned);
}

__device__ __forceinline__ float side(float low, float high) { return fmaxf(__fsub_rn(high, low), 0.0f); }

// intersection > threshold * union as in `calibox_core.suppression`, each step rounded once; an inverted box is empty.
__device__ __forceinline__ bool overlaps(float4 kept, float4 other, float threshold) {
    float const common = __fmul_rn(side(fmaxf(kept.x, other.x), fminf(kept.z, other.z)),
                                   side(fmaxf(kept.y, other.y), fminf(kept.w, other.w)));
    float const kept_area = __fmul_rn(side(kept.x, kept.z), side(kept.y, kept.w));
    float const other_area = __fmul_rn(side(other.x, other.z), side(other.y, other.w));
    return common > __fmul_rn(threshold, __fsub_rn(__fadd_rn(kept_area, other_area), common));
}

// One image's candidates.
struct Field {
    float4* boxes;               // [K] shared
    unsigned* alive;             // [K / 32] shared
    std::int32_t const* labels;  // [K]
    float const* p;              // [K]
    unsigned* tile_overlaps;     // [K]
    unsigned* cluster_scores;    // [K]
    unsigned* kept;              // [K]
    unsigned count;
    float threshold;
    bool class_agnostic;

    __device__ unsigned tiles() const { return (count + warp - 1) / warp; }

    __device__ bool removes(unsigned keeper, float4 box, std::int32_t label) const {
        bool const competes = class_agnostic || labels[keeper] == label;
        return competes && overlaps(boxes[keeper], box, threshold);
    }
};

__device__ inline void load_field(Field const& field, float const* boxes) {
    for (unsigned i = threadIdx.x; i < field.count; i += blockDim.x) {
        field.boxes[i] = make_float4(boxes[4 * i], boxes[4 * i + 1], boxes[4 * i + 2], boxes[4 * i + 3]);
        field.cluster_scores[i] = __float_as_uint(field.p[i]);
    }
    for (unsigned tile = threadIdx.x; tile < field.tiles(); tile += blockDim.x) {
        unsigned const members = min(warp, field.count - tile * warp);
        field.alive[tile] = whole_warp >> (warp - members);
    }
    CALIBOX_LOADING_BARRIER();
}

// For each candidate the earlier members of its tile that would remove it.
__device__ inline void find_tile_overlaps(Field const& field) {
    for (unsigned i = threadIdx.x; i < field.count; i += blockDim.x) {
        unsigned const first = i / warp * warp;
        unsigned removers = 0;
        for (unsigned j = first; j < i; ++j)
            removers |= static_cast<unsigned>(field.removes(j, field.boxes[i], field.labels[i])) << (j - first);
        field.tile_overlaps[i] = removers;
    }
    __syncthreads();
}

// Bits of a tile's candidates that are kept: alive, and removed by no kept one. Each round settles at least the first
// that is open. Every warp gets the same answer.
__device__ inline unsigned settle_tile(unsigned alive, unsigned removers) {
    unsigned open = alive, kept = 0;
    while (open) {
        bool const mine_is_open = open >> lane_id() & 1;
        kept |= __ballot_sync(whole_warp, mine_is_open && !(removers & (kept | open)));
        open = __ballot_sync(whole_warp, mine_is_open && !(kept >> lane_id() & 1) && !(removers & kept));
    }
    return kept;
}

// Within the tile, what is alive and not kept belongs to the first kept member that removes it; the kept ones are
// written to their places in rank order. For one warp.
__device__ inline void record_tile(Field const& field, unsigned first, unsigned alive, unsigned kept, unsigned removers,
                                   unsigned kept_before) {
    unsigned const i = first + lane_id();
    if (kept >> lane_id() & 1)
        field.kept[kept_before + static_cast<unsigned>(__popc(kept & ((1u << lane_id()) - 1)))] = i;
    else if (alive >> lane_id() & 1)
        atomicMax(&field.cluster_scores[first + static_cast<unsigned>(__ffs(removers & kept)) - 1],
                  __float_as_uint(field.p[i]));
}

// Tests what is alive behind a tile against the tile's kept boxes.
__device__ inline void remove_behind(Field const& field, unsigned tile, unsigned kept) {
    for (unsigned later = tile + 1 + warp_id(); later < field.tiles(); later += blockDim.x / warp) {
        unsigned const alive = field.alive[later];
        if (!alive) continue;
        unsigned const i = later * warp + lane_id();
        bool removed = false;
        if (alive >> lane_id() & 1) {
            float4 const box = field.boxes[i];
            std::int32_t const label = field.labels[i];
            for (unsigned left = kept; left && !removed; left &= left - 1) {
                unsigned const keeper = tile * warp + static_cast<unsigned>(__ffs(left)) - 1;
                removed = field.removes(keeper, box, label);
                if (removed) atomicMax(&field.cluster_scores[keeper], __float_as_uint(field.p[i]));
            }
        }
        unsigned const gone = __ballot_sync(whole_warp, removed);
        if (lane_id() == 0) field.alive[later] = alive & ~gone;
    }
}

// Number of kept candidates, at least `wanted` where there are so many; `kept` lists them. What lies behind the tile in
// which `wanted` is reached can neither be reported nor belong to anything that is: it was tested against all of it.
__device__ inline unsigned suppress_field(Field const& field, unsigned wanted) {
    unsigned count = 0;
    for (unsigned tile = 0; tile < field.tiles() && count < wanted; ++tile) {
        unsigned const alive = field.alive[tile];
        if (!alive) continue;
        unsigned const i = tile * warp + lane_id(), removers = i < field.count ? field.tile_overlaps[i] : 0;
        unsigned const kept = settle_tile(alive, removers);
        if (warp_id() == 0) record_tile(field, tile * warp, alive, kept, removers, count);
        remove_behind(field, tile, kept);
        count += static_cast<unsigned>(__popc(kept));
        __syncthreads();
    }
    return count;
}

__device__ __forceinline__ float reported_score(CaliboxNms const& call, Field const& field, unsigned const* keys,
                                                unsigned i) {
    if (call.out_score == calibox_score_key) return expf(key_of_bits(keys[i]));
    return call.out_score == calibox_score_classification ? field.p[i] : __uint_as_float(field.cluster_scores[i]);
}

// Closes the gaps that scores below the threshold leave in `kept`; returns how many remain. For one warp: what it
// writes lies at or before what it has read.
__device__ inline unsigned drop_low_scores(CaliboxNms const& call, Field const& field, unsigned const* keys,
                                           unsigned count, float threshold) {
    unsigned remaining = 0;
    for (unsigned first = 0; first < count; first += warp) {
        unsigned const place = first + lane_id(), i = place < count ? field.kept[place] : 0;
        bool const stays = place < count && reported_score(call, field, keys, i) >= threshold;
        unsigned const staying = __ballot_sync(whole_warp, stays);
        if (stays) field.kept[remaining + static_cast<unsigned>(__popc(staying & ((1u << lane_id()) - 1)))] = i;
        remaining += static_cast<unsigned>(__popc(staying));
        __syncwarp();
    }
    return remaining;
}

__device__ inline void write_detections(CaliboxNms const& call, Field const& field, unsigned const* keys,
                                        float const* q, unsigned count) {
    std::size_t const rows = static_cast<unsigned>(call.max_detections);
    for (unsigned row = threadIdx.x; row < rows; row += blockDim.x) {
        std::size_t const out = blockIdx.x * rows + row;
        bool const found = row < count;
        unsigned const i = found ? field.kept[row] : 0;
        float4 const box = found ? field.boxes[i] : make_float4(0, 0, 0, 0);
        call.out_boxes[4 * out] = box.x;
        call.out_boxes[4 * out + 1] = box.y;
        call.out_boxes[4 * out + 2] = box.z;
        call.out_boxes[4 * out + 3] = box.w;
        call.labels[out] = found ? field.labels[i] : -1;
        call.classification_scores[out] = found ? field.p[i] : 0;
        call.localization_scores[out] = found ? q[i] : 0;
        call.scores[out] = found ? reported_score(call, field, keys, i) : 0;
    }
}

// From `candidate_*`, `candidate_keys` and `states` to the detections. Grid: images.
__global__ void __launch_bounds__(suppressing_threads) suppress(CaliboxNms call, Workspace space) {
    CALIBOX_SHARED_MEMORY(shared);
    unsigned const image = blockIdx.x, most = static_cast<unsigned>(call.pre_nms_top_k);
    std::size_t const first = static_cast<std::size_t>(image) * most;
    float4* const boxes = reinterpret_cast<float4*>(shared);
    unsigned* const alive = reinterpret_cast<unsigned*>(boxes + most);
    unsigned& remaining = alive[(most + warp - 1) / warp];
    Field const field{boxes,
                      alive,
                      call.candidate_labels + first,
                      call.candidate_classification_scores + first,
                      space.tile_overlaps + first,
                      space.cluster_scores + first,
                      space.kept + first,
                      space.states[image].candidates,
                      call.iou_threshold[image],
                      call.class_agnostic != 0};
    unsigned const* const keys = space.candidate_keys + first;
    load_field(field, call.candidate_boxes + 4 * first);
    find_tile_overlaps(field);
    unsigned const wanted = static_cast<unsigned>(call.max_detections);
    unsigned const kept = min(suppress_field(field, wanted), wanted);
    if (warp_id() == 0) {
        unsigned const shown = drop_low_scores(call, field, keys, kept, call.score_threshold[image]);
        if (lane_id() == 0) {
            remaining = shown;
            call.num_detections[image] = static_cast<std::int32_t>(shown);
        }
    }
    __syncthreads();
    write_detections(call, field, keys, call.candidate_localization_scores + first, remaining);
}

}  // namespace calibox
