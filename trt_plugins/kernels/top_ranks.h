// The k largest of n ranks by one block: an exact radix selection, then a sort of what was selected.
//
// No two ranks but 0 are equal, since an index is part of each; so "at least the threshold" names exactly k of them and
// ties of keys are settled by index.
#pragma once

#include "keys.h"

namespace calibox {

// Eleven bits of a rank at a time: the first digit holds sign, exponent and two bits of a float, enough to spread the
// counts; six digits make 64 bits, and the last three are looked at only for ties.
constexpr unsigned digit_bits = 11;
constexpr unsigned bins = 1u << digit_bits;
constexpr unsigned bins_per_lane = bins / warp;
constexpr int digits = 6;

struct SelectionScratch {
    // One word is left out after each lane's share, so that lanes that walk their shares read different banks.
    unsigned histogram[bins + warp];
    Rank prefix;
    unsigned wanted;  // of the bin that the prefix names
    unsigned held;    // by that bin
};

__device__ __forceinline__ unsigned padded(unsigned bin) { return bin + bin / bins_per_lane; }

// 53, 42, 32 for the key's bits; 21, 10, 0 for the index's.
__device__ __forceinline__ unsigned digit_shift(int digit) {
    int const half = digit < 3 ? 32 : 0, shift = half + 21 - static_cast<int>(digit_bits) * (digit % 3);
    return static_cast<unsigned>(max(shift, half));
}

__device__ __forceinline__ unsigned digit_width(int digit) { return digit == 2 || digit == 5 ? 10 : digit_bits; }

// Counts the digit below the prefix of every rank that begins with the prefix.
template <class Source>
__device__ void count_digit(Source const& rank_at, unsigned n, int digit, SelectionScratch& scratch) {
    unsigned const shift = digit_shift(digit), width = digit_width(digit);
    Rank const prefix = scratch.prefix;
    for (unsigned first = threadIdx.x; first < n; first += loads_in_flight * blockDim.x) {
        Rank ranks[loads_in_flight];
        CALIBOX_UNROLL
        for (unsigned j = 0; j < loads_in_flight; ++j) {
            unsigned const i = first + j * blockDim.x;
            ranks[j] = i < n ? rank_at(i) : 0;
        }
        CALIBOX_UNROLL
        for (unsigned j = 0; j < loads_in_flight; ++j) {
            Rank const rank = ranks[j];
            bool const begins_so = digit == 0 || (rank ^ prefix) >> (shift + width) == 0;  // never a shift by 64
            if (rank && begins_so)
                atomicAdd(&scratch.histogram[padded(static_cast<unsigned>(rank >> shift) & ((1u << width) - 1))], 1u);
        }
    }
}

// One warp finds the bin in which the wanted number of ranks is reached, counted from the largest digit, and appends
// it to the prefix. Where all counts together are fewer, nothing is changed but `held`, which becomes `wanted`.
__device__ inline void choose_bin(int digit, SelectionScratch& scratch) {
    unsigned const lane = lane_id(), share_end = bins - lane * bins_per_lane;  // lane 0 holds the largest digits
    unsigned mine = 0;
    for (unsigned bin = share_end - bins_per_lane; bin < share_end; ++bin) mine += scratch.histogram[padded(bin)];
    unsigned upto = mine;
    for (unsigned distance = 1; distance < warp; distance *= 2) {
        unsigned const before = __shfl_up_sync(whole_warp, upto, distance);
        if (lane >= distance) upto += before;
    }
    unsigned const wanted = scratch.wanted;
    unsigned const reached = __ballot_sync(whole_warp, upto >= wanted);
    if (!reached) {
        if (lane == 0) scratch.held = wanted;
    } else if (lane + 1 == static_cast<unsigned>(__ffs(reached))) {
        unsigned before = upto - mine, bin = share_end - 1;
        while (before + scratch.histogram[padded(bin)] < wanted) before += scratch.histogram[padded(bin--)];
        scratch.prefix |= static_cast<Rank>(bin) << digit_shift(digit);
        scratch.wanted = wanted - before;
        scratch.held = scratch.histogram[padded(bin)];
    }
    __syncwarp();
}

// The smallest of the k largest ranks, 1 or more, or something below it that no other rank reaches; all threads of the
// block get it. n and k may be 0; `rank_at(i)` is asked for i below n.
template <class Source>
__device__ Rank select_threshold(Source const& rank_at, unsigned n, unsigned k, SelectionScratch& scratch) {
    if (threadIdx.x == 0) {
        scratch.prefix = 0;
        scratch.wanted = k;
    }
    for (int digit = 0; digit < digits; ++digit) {
        for (unsigned i = threadIdx.x; i < bins + warp; i += blockDim.x) scratch.histogram[i] = 0;
        __syncthreads();
        count_digit(rank_at, n, digit, scratch);
        __syncthreads();
        if (warp_id() == 0) choose_bin(digit, scratch);
        __syncthreads();
        if (scratch.held == scratch.wanted) break;  // the whole bin is wanted
    }
    return scratch.prefix ? scratch.prefix : 1;
}

// Falling order, in place, of a power of two of ranks in shared memory (bitonic). A warp's 32 pairs of a step lie within
// 64 neighbours as long as partners are at most 32 apart: those steps wait for the warp alone.
__device__ inline void sort_falling(Rank* ranks, unsigned size) {
    for (unsigned run = 2; run <= size; run *= 2) {
        for (unsigned apart = run / 2; apart > 0; apart /= 2) {
            for (unsigned pair = threadIdx.x; pair < size / 2; pair += blockDim.x) {
                unsigned const i = 2 * pair - (pair & (apart - 1)), j = i + apart;
                bool const falling = (i & run) == 0;
                Rank const one = ranks[i], other = ranks[j];
                if ((one < other) == falling) {
                    ranks[i] = other;
                    ranks[j] = one;
                }
            }
            bool const next_within_warp = apart > 1 ? apart / 2 <= warp : run <= warp;
            if (apart <= warp && next_within_warp)
                __syncwarp();
            else
                __syncthreads();
        }
    }
    __syncthreads();
}

}  // namespace calibox
