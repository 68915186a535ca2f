// Precise RoI pooling, forward: the mean of the bilinear surface of a map over each bin of a RoI, exactly.
//
// The surface along an axis is a sum of hats, hat(t) = max(0, 1 - |t|), one around every pixel; the mean over a bin is
// a sum over the pixels that the bin touches of a weight of the row, a weight of the column and the pixel. Source:
// IoU-Net, arXiv 1807.11590, eq. 2 to 4. A block serves one RoI and 32 features: it lays the weights of the RoI's bins
// along both axes into shared memory, then every thread sums up bins of its own, in one fixed order.
#pragma once

#include <cmath>

#include "keys.h"
#include "prroi_pool.h"

namespace calibox {

constexpr unsigned pooling_threads = block_threads(256);
constexpr unsigned features_per_block = 32;  // the weights are worked out once for so many; 8 blocks for 256 features

// A RoI along one axis, in pixels of the map counted from the first one that it can touch.
struct Extent {
    float low, side;  // side 0: nothing is pooled
    int first;        // that pixel's place on the map
    int last;         // of the map, counted likewise
};

// The pixels that a bin touches, counted like an Extent's, and where their weights begin.
struct Bin {
    int first, count, place;
};

// Weights of a whole axis: neighbouring bins share at most two pixels, so bin k's can begin at its first pixel plus 2 k.
__host__ __device__ __forceinline__ unsigned axis_words(unsigned pixels, unsigned bins) { return pixels + 2 * bins; }

inline std::size_t pooling_shared_bytes(CaliboxPrRoiPool const& call) {
    auto const rows = static_cast<std::size_t>(call.pooled_height), columns = static_cast<std::size_t>(call.pooled_width);
    auto const pixels = static_cast<std::size_t>(call.height) + static_cast<std::size_t>(call.width);
    return (pixels + 2 * (rows + columns)) * sizeof(float) + (rows + columns) * sizeof(Bin);
}

__device__ __forceinline__ float clamped(float value, float low, float high) { return fminf(fmaxf(value, low), high); }

__device__ inline Extent extent_of(float low, float high, float scale, unsigned pixels) {
    float const from = low * scale, side = high * scale - from, last = static_cast<float>(pixels - 1);
    bool const whole = side > 0 && is_finite(side) && is_finite(from);
    float const first = whole ? clamped(floorf(from), 0.0f, last) : 0;  // bounded before it becomes an integer
    return {from - first, whole ? side : 0, static_cast<int>(first), static_cast<int>(last - first)};
}

// Where edge k of a RoI's bins lies.
__device__ __forceinline__ float edge(Extent const& along, unsigned k, unsigned bins) {
    return along.low + along.side * (static_cast<float>(k) / static_cast<float>(bins));
}

__device__ inline Bin bin_of(Extent const& along, unsigned k, unsigned bins) {
    float const last = static_cast<float>(along.last);
    int const from = static_cast<int>(clamped(floorf(edge(along, k, bins)), 0.0f, last));
    int const upto = static_cast<int>(clamped(ceilf(edge(along, k + 1, bins)), -1.0f, last));
    return {from, along.side > 0 ? max(upto - from + 1, 0) : 0, from + 2 * static_cast<int>(k)};
}

// The integral of the hat from `low` to `high`: the trapezoids left and right of its top. Differences of its
// antiderivative would cancel in short bins.
__device__ __forceinline__ float hat_integral(float low, float high) {
    float const left_low = clamped(low, -1, 0), left_high = clamped(high, -1, 0);
    float const right_low = clamped(low, 0, 1), right_high = clamped(high, 0, 1);
    return (left_high - left_low) * (1 + (left_low + left_high) / 2) +
           (right_high - right_low) * (1 - (right_low + right_high) / 2);
}

// Bins of one axis and their weights, into shared memory; a warp takes a bin.
__device__ inline void weigh(Extent const& along, unsigned bins, Bin* into_bins, float* weights) {
    for (unsigned k = warp_id(); k < bins; k += pooling_threads / warp) {
        Bin const bin = bin_of(along, k, bins);
        float const low = edge(along, k, bins), high = edge(along, k + 1, bins);
        if (lane_id() == 0) into_bins[k] = bin;
        for (int i = static_cast<int>(lane_id()); i < bin.count; i += static_cast<int>(warp)) {
            float const pixel = static_cast<float>(bin.first + i), from = low - pixel, to = high - pixel;
            weights[bin.place + i] = to > from ? hat_integral(from, to) / (to - from) : 0;
        }
    }
}

__device__ __forceinline__ void store(float* at, float value) { *at = value; }
__device__ __forceinline__ void store(std::uint16_t* at, float value) { *at = float_to_half_bits(value); }

// The weighted sum over the pixels of a bin; `window` is the map from the RoI's first pixel on.
template <class Element>
__device__ float pool_bin(Element const* window, unsigned width, Bin rows, Bin columns, float const* row_weights,
                          float const* column_weights) {
    float sum = 0;
    for (int i = 0; i < rows.count; ++i) {
        Element const* const row = window + static_cast<std::size_t>(rows.first + i) * width + columns.first;
        float by_row = 0;
        for (int j = 0; j < columns.count; ++j) by_row += column_weights[columns.place + j] * as_float(row[j]);
        sum += row_weights[rows.place + i] * by_row;
    }
    return sum;
}

// `Element` is float, or std::uint16_t for half precision. Grid: RoIs times groups of features, images.
template <class Element>
__global__ void __launch_bounds__(pooling_threads) pool_rois(CaliboxPrRoiPool call, unsigned groups) {
    CALIBOX_SHARED_MEMORY(shared);
    unsigned const height = static_cast<unsigned>(call.height), width = static_cast<unsigned>(call.width);
    unsigned const rows = static_cast<unsigned>(call.pooled_height), columns = static_cast<unsigned>(call.pooled_width);
    Bin* const row_bins = reinterpret_cast<Bin*>(shared);
    Bin* const column_bins = row_bins + rows;
    float* const row_weights = reinterpret_cast<float*>(column_bins + columns);
    float* const column_weights = row_weights + axis_words(height, rows);
    unsigned const first_feature = blockIdx.x % groups * features_per_block;
    std::size_t const image = blockIdx.y, features = static_cast<unsigned>(call.features);
    std::size_t const roi = image * static_cast<unsigned>(call.rois) + blockIdx.x / groups;
    float const* const box = call.boxes + 4 * roi;
    Extent down = extent_of(box[1], box[3], call.spatial_scale, height);
    Extent across = extent_of(box[0], box[2], call.spatial_scale, width);
    if (!(down.side > 0 && across.side > 0)) down.side = across.side = 0;
    weigh(down, rows, row_bins, row_weights);
    weigh(across, columns, column_bins, column_weights);
    __syncthreads();
    unsigned const bins_of_feature = rows * columns;
    unsigned const numbers = min(features_per_block, static_cast<unsigned>(features) - first_feature) * bins_of_feature;
    std::size_t const corner = static_cast<std::size_t>(down.first) * width + static_cast<std::size_t>(across.first);
    Element const* const maps = static_cast<Element const*>(call.maps) + corner;
    Element* const pooled = static_cast<Element*>(call.pooled) + (roi * features + first_feature) * bins_of_feature;
    for (unsigned i = threadIdx.x; i < numbers; i += blockDim.x) {
        std::size_t const map = image * features + first_feature + i / bins_of_feature;
        Bin const down_bin = row_bins[i / columns % rows], across_bin = column_bins[i % columns];
        store(pooled + i, pool_bin(maps + map * height * width, width, down_bin, across_bin, row_weights, column_weights));
    }
}

}  // namespace calibox
