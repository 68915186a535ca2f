// What the kernels are written in: CUDA's own words under nvcc, the emulator's elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define CALIBOX_SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]
#define CALIBOX_UNROLL _Pragma("unroll")

namespace calibox {

using Stream = cudaStream_t;

__device__ __forceinline__ float half_bits_to_float(std::uint16_t bits) {
    return __half2float(__ushort_as_half(bits));
}
__device__ __forceinline__ std::uint16_t float_to_half_bits(float value) {
    return __half_as_ushort(__float2half_rn(value));
}

// An empty grid is nothing to do; CUDA calls it an error.
template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, std::size_t shared_bytes, Stream stream,
           Arguments... arguments) {
    if (grid.x == 0 || grid.y == 0) return 0;
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    constexpr std::size_t without_asking = 48 * 1024;  // more dynamic shared memory must be asked for
    if (shared_bytes > without_asking) {
        cudaError_t const refused = cudaFuncSetAttribute(
            reinterpret_cast<void const*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
            static_cast<int>(shared_bytes));
        if (refused != cudaSuccess) return refused;
    }
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace calibox

#else

#include "emulator.h"

#define CALIBOX_SHARED_MEMORY(name) unsigned char* const name = calibox::emulator::shared_memory
#define CALIBOX_UNROLL

namespace calibox {

using Stream = void*;

inline float half_bits_to_float(std::uint16_t bits) { return emulator::half_to_float(bits); }
inline std::uint16_t float_to_half_bits(float value) { return emulator::float_to_half(value); }

template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, std::size_t shared_bytes, Stream,
           Arguments... arguments) {
    if (grid.x == 0 || grid.y == 0) return 0;
    emulator::launch(kernel, grid, threads, shared_bytes, arguments...);
    return 0;
}

}  // namespace calibox

#endif

namespace calibox {

// A test leaves this barrier out, to see that a sanitizer misses it.
#ifdef CALIBOX_WITHOUT_LOADING_BARRIER
#define CALIBOX_LOADING_BARRIER() (void)0
#else
#define CALIBOX_LOADING_BARRIER() __syncthreads()
#endif

constexpr unsigned warp = 32;
constexpr unsigned whole_warp = ~0u;

// Threads of a block. A thread sanitizer follows at most 255 threads at a time and loses sight of the others' accesses:
// where every CUDA thread is one of its own, blocks have an eighth of their threads, two warps at least.
constexpr unsigned block_threads(unsigned on_device) {
#ifdef CALIBOX_EMULATE_WITH_THREADS
    return on_device / 8 > 2 * warp ? on_device / 8 : 2 * warp;
#else
    return on_device;
#endif
}

__device__ __forceinline__ unsigned lane_id() { return threadIdx.x % warp; }
__device__ __forceinline__ unsigned warp_id() { return threadIdx.x / warp; }

}  // namespace calibox
