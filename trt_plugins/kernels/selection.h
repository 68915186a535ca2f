// From scores to the K best pairs (anchor, class) of each image, in the order of key, then index.
//
// Keys never fall with p, so the K best pairs belong to the K anchors with the best keys of their own (ties by index):
// with one q per anchor that is one key per anchor, and then the keys of at most K * C pairs, never of A * C.
#pragma once

#include <climits>

#include "top_ranks.h"
#include "workspace.h"

namespace calibox {

constexpr unsigned scoring_threads = block_threads(256);     // eight warps: enough blocks on every multiprocessor
constexpr unsigned selecting_threads = block_threads(1024);  // one block per image has to hide the latency by itself

// Threads that share an anchor: a whole warp reads the 80 scores of an anchor side by side, one thread a single score.
inline unsigned lanes_per_anchor(int classes) { return classes > 16 ? 32 : classes > 4 ? 8 : 1; }

__device__ __forceinline__ bool box_is_finite(CaliboxNms const& call, std::size_t anchor_row) {
    bool finite = true;
    for (unsigned side = 0; side < 4; ++side) finite &= is_finite(load(call.boxes, call.box_type, 4 * anchor_row + side));
    return finite;
}

// Best over one lane's share of an anchor's classes: key bits where every pair has its own q, else the bits of p, which
// order positive floats.
template <class Score>
__device__ unsigned best_of_share(
    CaliboxNms const& call, std::size_t row, unsigned first, unsigned step, Exponents exponents) {
    unsigned const classes = static_cast<unsigned>(call.classes);
    Score const* const scores = static_cast<Score const*>(call.p) + row * classes;
    Score const* const qualities = static_cast<Score const*>(call.q) + row * classes;
    unsigned best = 0;
    for (unsigned base = first; base < classes; base += loads_in_flight * step) {
        float p[loads_in_flight];
        CALIBOX_UNROLL
        for (unsigned j = 0; j < loads_in_flight; ++j)
            p[j] = base + j * step < classes ? as_float(scores[base + j * step]) : 0;
        CALIBOX_UNROLL
        for (unsigned j = 0; j < loads_in_flight; ++j) {
            if (!is_candidate_score(p[j], call.candidate_floor)) continue;
            if (call.quality_columns == 1) {
                best = max(best, __float_as_uint(p[j]));
                continue;
            }
            float const q = as_float(qualities[base + j * step]);
            if (is_finite(q)) best = max(best, key_bits(log_key(p[j], q, exponents)));
        }
    }
    return best;
}

// Writes `anchor_keys`; `Score` is float, or std::uint16_t for half precision. Grid: anchors in groups, images.
template <class Score>
__global__ void __launch_bounds__(scoring_threads) score_anchors(CaliboxNms call, Workspace space, unsigned lanes) {
    unsigned const image = blockIdx.y, anchors = static_cast<unsigned>(call.anchors);
    unsigned const anchor = (blockIdx.x * blockDim.x + threadIdx.x) / lanes;
    std::size_t const row = static_cast<std::size_t>(image) * anchors + anchor;
    Exponents const exponents = read_exponents(call.fusion, image);
    unsigned best = anchor < anchors ? best_of_share<Score>(call, row, threadIdx.x % lanes, lanes, exponents) : 0;
    for (unsigned mask = lanes / 2; mask > 0; mask /= 2) best = max(best, __shfl_xor_sync(whole_warp, best, mask));
    if (anchor >= anchors || threadIdx.x % lanes != 0) return;
    if (best && call.quality_columns == 1) {
        float const q = load(call.q, call.score_type, row);
        best = is_finite(q) ? key_bits(log_key(__uint_as_float(best), q, exponents)) : 0;
    }
    space.anchor_keys[row] = best && box_is_finite(call, row) ? best : 0;
}

struct AnchorRanks {
    unsigned const* keys;
    __device__ Rank operator()(unsigned i) const { return rank_of(keys[i], i); }
};

struct ListedRanks {
    Rank const* ranks;
    __device__ Rank operator()(unsigned i) const { return ranks[i]; }
};

// Chooses the K best anchors of an image. Grid: images.
__global__ void __launch_bounds__(selecting_threads) choose_anchors(CaliboxNms call, Workspace space) {
    CALIBOX_SHARED_MEMORY(shared);
    auto& scratch = *reinterpret_cast<SelectionScratch*>(shared);
    unsigned& count = *reinterpret_cast<unsigned*>(shared + sizeof(SelectionScratch));
    unsigned const image = blockIdx.x, anchors = static_cast<unsigned>(call.anchors);
    unsigned const most = min(anchors, static_cast<unsigned>(call.pre_nms_top_k));
    AnchorRanks const rank_at{space.anchor_keys + static_cast<std::size_t>(image) * anchors};
    unsigned* const chosen = space.chosen_anchors + static_cast<std::size_t>(image) * most;
    if (threadIdx.x == 0) count = 0;
    Rank const threshold = select_threshold(rank_at, anchors, static_cast<unsigned>(call.pre_nms_top_k), scratch);
    for (unsigned anchor = threadIdx.x; anchor < anchors; anchor += blockDim.x)
        if (rank_at(anchor) >= threshold) chosen[atomicAdd(&count, 1u)] = anchor;
    __syncthreads();
    // Where K anchors were found, each holds a pair at least this good, so that worse pairs are not among the K best.
    if (threadIdx.x == 0) space.states[image] = {count, max(rank_key(threshold), 1u), 0, 0};
}

// Appends to an image's list, one atomic per warp; every lane of the warp takes part.
__device__ __forceinline__ void append(Rank rank, Rank* list, unsigned* count) {
    unsigned const voters = __ballot_sync(whole_warp, rank != 0);
    if (!voters) return;
    unsigned first = 0;
    if (lane_id() == 0) first = atomicAdd(count, static_cast<unsigned>(__popc(voters)));
    first = __shfl_sync(whole_warp, first, 0);
    if (rank) list[first + static_cast<unsigned>(__popc(voters & ((1u << lane_id()) - 1)))] = rank;
}

// Rank of the pair at place i of the chosen anchors' pairs, 0 when it is no candidate or cannot be among the K best.
__device__ inline Rank pair_rank(CaliboxNms const& call, unsigned const* chosen, unsigned image, unsigned i,
                                 unsigned key_floor) {
    unsigned const classes = static_cast<unsigned>(call.classes), pair = chosen[i / classes] * classes + i % classes;
    std::size_t const row = static_cast<std::size_t>(image) * static_cast<unsigned>(call.anchors);
    float const p = load(call.p, call.score_type, row * classes + pair);
    if (!is_candidate_score(p, call.candidate_floor)) return 0;
    float const q = load(call.q, call.score_type, call.quality_columns == 1 ? row + pair / classes : row * classes + pair);
    if (!is_finite(q)) return 0;
    unsigned const key = key_bits(log_key(p, q, read_exponents(call.fusion, image)));
    return key >= key_floor ? rank_of(key, pair) : 0;
}

// Lists the pairs of the chosen anchors that can be among the K best. Grid: pairs in groups, images.
__global__ void __launch_bounds__(scoring_threads) list_pairs(CaliboxNms call, Workspace space) {
    unsigned const image = blockIdx.y, classes = static_cast<unsigned>(call.classes);
    unsigned const most = min(static_cast<unsigned>(call.anchors), static_cast<unsigned>(call.pre_nms_top_k));
    unsigned const* const chosen = space.chosen_anchors + static_cast<std::size_t>(image) * most;
    ImageState& state = space.states[image];
    unsigned const i = blockIdx.x * blockDim.x + threadIdx.x;
    Rank const rank = i < state.anchors * classes ? pair_rank(call, chosen, image, i, state.key_floor) : 0;
    append(rank, space.pairs + static_cast<std::size_t>(image) * most * classes, &state.pairs);
}

// Writes the outputs `candidate_*` and `candidate_keys` of one row; a rank of 0 is padding.
__device__ inline void write_candidate(CaliboxNms const& call, Workspace const& space, unsigned image, unsigned row,
                                       Rank rank) {
    unsigned const classes = static_cast<unsigned>(call.classes), pair = rank ? rank_index(rank) : 0;
    unsigned const anchor = rank ? pair / classes : 0;
    std::size_t const out = static_cast<std::size_t>(image) * static_cast<unsigned>(call.pre_nms_top_k) + row;
    std::size_t const in = static_cast<std::size_t>(image) * static_cast<unsigned>(call.anchors) + anchor;
    for (unsigned side = 0; side < 4; ++side)
        call.candidate_boxes[4 * out + side] = rank ? load(call.boxes, call.box_type, 4 * in + side) : 0;
    std::size_t const pair_at = in * classes + pair % max(classes, 1u);
    call.candidate_labels[out] = rank ? static_cast<std::int32_t>(pair % classes) : -1;
    call.candidate_classification_scores[out] = rank ? load(call.p, call.score_type, pair_at) : 0;
    call.candidate_localization_scores[out] =
        rank ? load(call.q, call.score_type, call.quality_columns == 1 ? in : pair_at) : 0;
    space.candidate_keys[out] = rank_key(rank);
}

inline unsigned power_of_two_from(unsigned least) {
    unsigned size = 1;
    while (size < least) size *= 2;
    return size;
}

inline std::size_t choosing_shared_bytes() { return sizeof(SelectionScratch) + sizeof(unsigned); }

inline std::size_t ranking_shared_bytes(unsigned size) { return choosing_shared_bytes() + size * sizeof(Rank); }

// Selects and sorts the K best listed pairs; `size` is the power of two from K. Grid: images.
__global__ void __launch_bounds__(selecting_threads) rank_pairs(CaliboxNms call, Workspace space, unsigned size) {
    CALIBOX_SHARED_MEMORY(shared);
    Rank* const best = reinterpret_cast<Rank*>(shared);
    auto& scratch = *reinterpret_cast<SelectionScratch*>(best + size);
    unsigned& count = *reinterpret_cast<unsigned*>(&scratch + 1);
    unsigned const image = blockIdx.x, most = static_cast<unsigned>(call.pre_nms_top_k);
    std::size_t const rows = min(static_cast<unsigned>(call.anchors), most);
    ListedRanks const rank_at{space.pairs + image * rows * static_cast<unsigned>(call.classes)};
    unsigned const listed = space.states[image].pairs;
    for (unsigned i = threadIdx.x; i < size; i += blockDim.x) best[i] = 0;
    if (threadIdx.x == 0) count = 0;
    Rank const threshold = select_threshold(rank_at, listed, most, scratch);
    for (unsigned i = threadIdx.x; i < listed; i += blockDim.x)
        if (rank_at(i) >= threshold) best[atomicAdd(&count, 1u)] = rank_at(i);
    __syncthreads();
    sort_falling(best, size);
    for (unsigned row = threadIdx.x; row < most; row += blockDim.x) write_candidate(call, space, image, row, best[row]);
    if (threadIdx.x == 0) space.states[image].candidates = count;
}

}  // namespace calibox
