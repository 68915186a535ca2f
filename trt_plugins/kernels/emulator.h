// Runs CUDA kernels on a CPU, one block at a time, so that the kernels that ship are tested where no GPU is.
//
// Every thread of a block is a fibre of one operating-system thread: a barrier costs one switch per thread. With
// CALIBOX_EMULATE_WITH_THREADS each is a std::thread, far slower, which is what a thread sanitizer can watch.
// Shared memory is filled with 0xA5 before each block. Only what the kernels use is there; collectives take whole warps.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#ifdef CALIBOX_EMULATE_WITH_THREADS
#include <condition_variable>
#include <thread>
#define CALIBOX_PER_THREAD thread_local
#else
#include <csetjmp>
#include <ucontext.h>
#define CALIBOX_PER_THREAD
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(threads)

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct float4 {
    float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline CALIBOX_PER_THREAD dim3 threadIdx{0, 0, 0}, blockIdx{0, 0, 0};
inline dim3 blockDim, gridDim;

namespace calibox::emulator {

constexpr unsigned warp_size = 32;
constexpr unsigned char poison = 0xA5;
inline unsigned char* shared_memory = nullptr;

#ifdef CALIBOX_EMULATE_WITH_THREADS

class Barrier {
   public:
    explicit Barrier(unsigned expected) : expected_(expected) {}
    void wait() {
        std::unique_lock<std::mutex> lock(mutex_);
        unsigned const round = round_;
        if (++arrived_ == expected_) {
            arrived_ = 0;
            ++round_;
            all_here_.notify_all();
        } else {
            all_here_.wait(lock, [&] { return round_ != round; });
        }
    }

   private:
    std::mutex mutex_;
    std::condition_variable all_here_;
    unsigned expected_, arrived_ = 0, round_ = 0;
};

template <class Body>
void run_threads(unsigned count, Body const& body) {
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < count; ++t) threads.emplace_back([&body, t] { body(t); });
    for (auto& thread : threads) thread.join();
}

#else

// Fibres start by swapping contexts and switch by _setjmp and _longjmp, which make no system call.
class Fibres {
   public:
    static Fibres& all() {
        static Fibres fibres;
        return fibres;
    }

    template <class Body>
    void run(unsigned count, Body const& body) {
        body_ = [](void const* b, unsigned t) { (*static_cast<Body const*>(b))(t); };
        argument_ = &body;
        while (fibres_.size() < count) add();
        ready_.clear();
        next_ = finished_ = 0;
        for (unsigned t = 0; t < count; ++t) wake(t);
        while (next_ < ready_.size()) resume(ready_[next_++]);
        if (finished_ != count) {
            std::fputs("calibox emulator: threads of a block wait at different barriers\n", stderr);
            std::abort();
        }
    }

    void wake(unsigned fibre) {
        if (next_ > 65536) {  // the queue's dead front is cut off now and then
            ready_.erase(ready_.begin(), ready_.begin() + static_cast<std::ptrdiff_t>(next_));
            next_ = 0;
        }
        ready_.push_back(fibre);
    }

    unsigned current() const { return current_; }

    void suspend() {
        leave(fibres_[current_]->here);
        threadIdx = dim3(current_, 0, 0);
    }

   private:
    static constexpr std::size_t stack_bytes = 128 * 1024;  // untouched pages cost nothing; kernels use a few KB

    struct Fibre {
        ucontext_t start;
        jmp_buf here;
        std::unique_ptr<char[]> stack{new char[stack_bytes]};
        bool started = false;
    };

    __attribute__((noinline)) void leave(jmp_buf& here) {
        if (_setjmp(here) == 0) _longjmp(home_, 1);
    }

    __attribute__((noinline)) void resume(unsigned fibre) {
        current_ = fibre;
        if (_setjmp(home_) != 0) return;
        if (fibres_[fibre]->started) _longjmp(fibres_[fibre]->here, 1);
        fibres_[fibre]->started = true;
        setcontext(&fibres_[fibre]->start);
    }

    static void live() {  // a fibre never ends: it waits for the next launch
        Fibres& all_of_them = all();
        for (;;) {
            unsigned const me = all_of_them.current_;
            all_of_them.body_(all_of_them.argument_, me);
            ++all_of_them.finished_;
            all_of_them.leave(all_of_them.fibres_[me]->here);
        }
    }

    void add() {
        fibres_.push_back(std::make_unique<Fibre>());
        Fibre& fibre = *fibres_.back();
        getcontext(&fibre.start);
        fibre.start.uc_stack.ss_sp = fibre.stack.get();
        fibre.start.uc_stack.ss_size = stack_bytes;
        fibre.start.uc_link = nullptr;
        makecontext(&fibre.start, &Fibres::live, 0);
    }

    std::vector<std::unique_ptr<Fibre>> fibres_;
    std::vector<unsigned> ready_;
    std::size_t next_ = 0;
    unsigned current_ = 0, finished_ = 0;
    jmp_buf home_;
    void (*body_)(void const*, unsigned) = nullptr;
    void const* argument_ = nullptr;
};

class Barrier {
   public:
    explicit Barrier(unsigned expected) : expected_(expected) {}
    void wait() {
        Fibres& fibres = Fibres::all();
        if (++arrived_ < expected_) {
            waiting_.push_back(fibres.current());
            fibres.suspend();
            return;
        }
        arrived_ = 0;
        for (unsigned fibre : waiting_) fibres.wake(fibre);
        waiting_.clear();
    }

   private:
    unsigned expected_, arrived_ = 0;
    std::vector<unsigned> waiting_;
};

template <class Body>
void run_threads(unsigned count, Body const& body) {
    Fibres::all().run(count, body);
}

#endif

struct Warp {
    Barrier barrier{warp_size};
    // Collectives take turns between two rows: whoever writes a row again has passed the barrier of the other one,
    // and so has everybody who read it.
    std::uint64_t slots[2][warp_size] = {};
    std::uint8_t turn[warp_size] = {};
};

struct Block {
    explicit Block(unsigned threads) : barrier(threads), warps(threads / warp_size) {}
    Barrier barrier;
    std::vector<Warp> warps;
};

inline Block* block = nullptr;

inline Warp& my_warp() { return block->warps[threadIdx.x / warp_size]; }

// Leaves a value for the warp, waits for it, and returns the values of all lanes.
template <class T>
std::uint64_t const* exchange(T value) {
    static_assert(sizeof(T) <= sizeof(std::uint64_t), "a lane's slot holds eight bytes");
    Warp& warp = my_warp();
    unsigned const lane = threadIdx.x % warp_size;
    std::uint64_t* row = warp.slots[warp.turn[lane] ^= 1];
    row[lane] = 0;
    std::memcpy(&row[lane], &value, sizeof(T));
    warp.barrier.wait();
    return row;
}

template <class T>
T read_slot(std::uint64_t slot) {
    T value;
    std::memcpy(&value, &slot, sizeof(T));
    return value;
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, std::size_t shared_bytes,
            Arguments... arguments) {
    static std::mutex one_launch_at_a_time;
    std::lock_guard<std::mutex> lock(one_launch_at_a_time);
    std::vector<float4> memory(shared_bytes / sizeof(float4) + 1);
    shared_memory = reinterpret_cast<unsigned char*>(memory.data());
    Block now(threads);
    block = &now;
    gridDim = grid;
    blockDim = dim3(threads);
#ifdef CALIBOX_EMULATE_WITH_THREADS
    run_threads(threads, [&](unsigned t) {
        threadIdx = dim3(t, 0, 0);
        for (unsigned b = 0; b < grid.x * grid.y; ++b) {
            blockIdx = dim3(b % grid.x, b / grid.x, 0);
            if (t == 0) std::memset(shared_memory, poison, shared_bytes);
            block->barrier.wait();
            kernel(arguments...);
            block->barrier.wait();
        }
    });
#else
    for (unsigned b = 0; b < grid.x * grid.y; ++b) {
        std::memset(shared_memory, poison, shared_bytes);
        run_threads(threads, [&](unsigned t) {
            threadIdx = dim3(t, 0, 0);
            blockIdx = dim3(b % grid.x, b / grid.x, 0);
            kernel(arguments...);
        });
    }
#endif
}

inline float half_to_float(std::uint16_t bits) {
    int const exponent = (bits >> 10) & 31, fraction = bits & 1023;
    float size = std::ldexp(static_cast<float>(exponent ? fraction + 1024 : fraction), (exponent ? exponent : 1) - 25);
    if (exponent == 31) size = fraction ? NAN : INFINITY;
    return bits >> 15 ? -size : size;
}

// To the nearest, ties to even. 13 bits of a float's fraction go; below 2^-14 a half counts in steps of 2^-24.
inline std::uint16_t float_to_half(float value) {
    unsigned const sign = std::signbit(value) ? 0x8000u : 0;
    float const size = std::fabs(value);
    if (std::isnan(size)) return static_cast<std::uint16_t>(sign | 0x7fff);
    if (size >= 65520) return static_cast<std::uint16_t>(sign | 0x7c00);  // halfway beyond the largest half
    int exponent = -13;
    if (size >= std::ldexp(1.0f, -14)) std::frexp(size, &exponent);
    // The fraction's eleventh bit, where there is one, adds itself to the exponent's field.
    auto const steps = static_cast<unsigned>(std::nearbyint(std::ldexp(size, 11 - exponent)));
    return static_cast<std::uint16_t>(sign | (steps + (static_cast<unsigned>(exponent + 13) << 10)));
}

}  // namespace calibox::emulator

inline void __syncthreads() { calibox::emulator::block->barrier.wait(); }
inline void __syncwarp(unsigned = ~0u) { calibox::emulator::my_warp().barrier.wait(); }

template <class T>
T __shfl_sync(unsigned, T value, unsigned source) {
    return calibox::emulator::read_slot<T>(calibox::emulator::exchange(value)[source % 32]);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, unsigned mask) {
    return calibox::emulator::read_slot<T>(calibox::emulator::exchange(value)[(threadIdx.x % 32) ^ mask]);
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned distance) {
    unsigned const lane = threadIdx.x % 32;
    std::uint64_t const* slots = calibox::emulator::exchange(value);
    return lane < distance ? value : calibox::emulator::read_slot<T>(slots[lane - distance]);
}
inline unsigned __ballot_sync(unsigned, bool vote) {
    std::uint64_t const* slots = calibox::emulator::exchange(vote);
    unsigned votes = 0;
    for (unsigned lane = 0; lane < 32; ++lane) votes |= static_cast<unsigned>(slots[lane] & 1) << lane;
    return votes;
}

inline unsigned atomicAdd(unsigned* at, unsigned value) { return __atomic_fetch_add(at, value, __ATOMIC_RELAXED); }
inline unsigned atomicMax(unsigned* at, unsigned value) {
    unsigned old = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (old < value && !__atomic_compare_exchange_n(at, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
// Compiled without contraction, so that each rounds once, as CUDA's do.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }

using std::max;
using std::min;
