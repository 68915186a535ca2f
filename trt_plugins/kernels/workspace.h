// What the kernels hand to each other, laid out in one piece of memory that the caller owns.
#pragma once

#include "keys.h"

namespace calibox {

struct ImageState {
    unsigned anchors;     // chosen ones, at most K
    unsigned key_floor;   // no pair with smaller key bits is among the K best
    unsigned pairs;       // listed ones
    unsigned candidates;  // at most K
};

// K' is min(K, A): no more anchors than that can hold the K best pairs.
struct Workspace {
    ImageState* states;        // [B]
    unsigned* anchor_keys;     // [B, A] key bits of each anchor's best pair, 0: none
    unsigned* chosen_anchors;  // [B, K'] in no order
    Rank* pairs;               // [B, K' * C] in no order
    unsigned* candidate_keys;  // [B, K] key bits, best first
    unsigned* tile_overlaps;   // [B, K] earlier candidates of the same tile of 32 that overlap, one bit each
    unsigned* cluster_scores;  // [B, K] bits of the largest p of a kept candidate and of what it removes
    unsigned* kept;            // [B, K] candidates by rank
    std::uint64_t bytes;
};

inline unsigned anchors_taken(CaliboxNms const& call) {
    return static_cast<unsigned>(std::min(call.anchors, call.pre_nms_top_k));
}

// Pointers into `base` (which may be null) and the bytes in all.
inline Workspace lay_out(CaliboxNms const& call, void* base) {
    constexpr std::uint64_t alignment = 256;  // of what cudaMalloc returns; whole lines of the cache
    Workspace space{};
    auto const take = [&](std::uint64_t count, std::uint64_t size) {
        std::uint64_t const start = space.bytes;
        space.bytes += (count * size + alignment - 1) / alignment * alignment;
        return static_cast<void*>(static_cast<char*>(base) + start);
    };
    std::uint64_t const images = static_cast<unsigned>(call.batch), rows = images * anchors_taken(call);
    std::uint64_t const candidates = images * static_cast<unsigned>(call.pre_nms_top_k);
    space.states = static_cast<ImageState*>(take(images, sizeof(ImageState)));
    space.anchor_keys = static_cast<unsigned*>(take(images * static_cast<unsigned>(call.anchors), sizeof(unsigned)));
    space.chosen_anchors = static_cast<unsigned*>(take(rows, sizeof(unsigned)));
    space.pairs = static_cast<Rank*>(take(rows * static_cast<unsigned>(call.classes), sizeof(Rank)));
    space.candidate_keys = static_cast<unsigned*>(take(candidates, sizeof(unsigned)));
    space.tile_overlaps = static_cast<unsigned*>(take(candidates, sizeof(unsigned)));
    space.cluster_scores = static_cast<unsigned*>(take(candidates, sizeof(unsigned)));
    space.kept = static_cast<unsigned*>(take(candidates, sizeof(unsigned)));
    return space;
}

}  // namespace calibox
