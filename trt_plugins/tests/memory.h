// Memory where the kernels run: the CPU's own for the host build, the device's where nvcc compiles this.
#pragma once

#include <cstddef>
#include <cstdio>
#include <cstdlib>

#ifdef __CUDACC__

#include <cuda_runtime.h>

inline void demand_cuda(cudaError_t status) {
    if (status == cudaSuccess) return;
    std::fprintf(stderr, "%s\n", cudaGetErrorString(status));
    std::exit(1);
}

// Of exactly this size, so that a checker sees the first byte too many.
inline void* allocate(std::size_t bytes) {
    void* memory = nullptr;
    demand_cuda(cudaMalloc(&memory, bytes));
    return memory;
}

inline void release(void* memory) { demand_cuda(cudaFree(memory)); }

inline void copy(void* into, void const* from, std::size_t bytes) {
    if (bytes > 0) demand_cuda(cudaMemcpy(into, from, bytes, cudaMemcpyDefault));
}

inline void wait_for_kernels() { demand_cuda(cudaDeviceSynchronize()); }

#else

#include <cstring>

inline void* allocate(std::size_t bytes) {
    constexpr std::size_t alignment = 256;  // of a workspace; only what is a multiple of it can be had
    return bytes % alignment == 0 && bytes > 0 ? std::aligned_alloc(alignment, bytes) : std::malloc(bytes + (bytes == 0));
}

inline void release(void* memory) { std::free(memory); }

inline void copy(void* into, void const* from, std::size_t bytes) {
    if (bytes > 0) std::memcpy(into, from, bytes);
}

inline void wait_for_kernels() {}

#endif
