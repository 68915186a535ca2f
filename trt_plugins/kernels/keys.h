// The ranking key of a pair (anchor, class), and 64-bit numbers that order pairs by it.
#pragma once

#include <cfloat>
#include <cmath>

#include "block.h"
#include "calibrated_nms.h"

namespace calibox {

using Rank = unsigned long long;  // a key's bits above the complement of a pair's index; 0: no candidate

struct Exponents {
    float a, b, g;
};

__device__ __forceinline__ Exponents read_exponents(float const* fusion, unsigned image) {
    return {fusion[3 * image], fusion[3 * image + 1], fusion[3 * image + 2]};
}

constexpr unsigned loads_in_flight = 4;  // that a thread starts before it waits for the first

__device__ __forceinline__ float as_float(float value) { return value; }
__device__ __forceinline__ float as_float(std::uint16_t half_bits) { return half_bits_to_float(half_bits); }

// One value of a tensor whose type is known only when the kernel runs.
__device__ __forceinline__ float load(void const* values, std::int32_t type, std::size_t index) {
    return type == calibox_float16 ? half_bits_to_float(static_cast<std::uint16_t const*>(values)[index])
                                   : static_cast<float const*>(values)[index];
}

__device__ __forceinline__ bool is_finite(float value) { return fabsf(value) <= FLT_MAX; }  // false for NaN

__device__ __forceinline__ bool is_candidate_score(float p, float floor) { return p > floor && p <= FLT_MAX; }

// a log p + b log q - g (1 - q)^2 in the order of `calibox_core.fusion.log_key`; each step rounds once, so that nothing
// differs from numpy but the logarithm.
__device__ __forceinline__ float log_key(float p, float q, Exponents exponents) {
    float const log_p = logf(fmaxf(p, FLT_MIN)), log_q = logf(fmaxf(q, FLT_MIN));
    float const logs = __fadd_rn(__fmul_rn(exponents.a, log_p), __fmul_rn(exponents.b, log_q));
    float const miss = __fsub_rn(1.0f, q);
    return __fsub_rn(logs, __fmul_rn(exponents.g, __fmul_rn(miss, miss)));
}

// Bits that order as the keys do: 1 or more, NaN (of scores outside 0..1) last, -0 equal to 0.
__device__ __forceinline__ unsigned key_bits(float key) {
    if (key != key) return 1;
    unsigned const bits = __float_as_uint(key == 0 ? 0.0f : key);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float key_of_bits(unsigned bits) {
    return __uint_as_float(bits >> 31 ? bits & 0x7fffffffu : ~bits);
}

// The larger key first, then the smaller index.
__device__ __forceinline__ Rank rank_of(unsigned key, unsigned index) {
    return key ? static_cast<Rank>(key) << 32 | (0xffffffffu - index) : 0;
}

__device__ __forceinline__ unsigned rank_key(Rank rank) { return static_cast<unsigned>(rank >> 32); }

__device__ __forceinline__ unsigned rank_index(Rank rank) { return 0xffffffffu - static_cast<unsigned>(rank); }

}  // namespace calibox
