// What kernels are written in: the words of CUDA, the weight formats for the device, sums over
// warps and blocks, and how a kernel is launched. Included by .cu files before anything else.
//
// A .cu file is compiled by nvcc, or as C++ against tests/cpp/cuda_emulator, whose cuda_runtime.h
// gives the same words a meaning on the processor. What differs between the two is in this file and
// in tensor.cuh.
#pragma once

#include <cuda_runtime.h>
#ifdef __CUDACC__
#include <cuda_fp16.h>
#define A2SF_NATIVE_HALF __half
#define A2SF_ASSUME_GLOBAL(p) __builtin_assume((p) == nullptr || __isGlobal(p))
#else
#define A2SF_ASSUME_GLOBAL(p) static_cast<void>(p)
#endif
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define A2SF_INLINE static __device__ __forceinline__
#define A2SF_TABLE static __device__ constexpr
#define A2SF_PLAIN_LOOPS
#include "quant/formats.h"

#include "backend/cuda/cuda_check.h"
#include "backend/cuda/cuda_queue.h"

namespace a2sf {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// Where a launch runs: blocks, threads of a block, bytes of shared memory asked for by its size.
struct LaunchShape {
    dim3 grid;
    dim3 block;
    size_t n_shared = 0;
};

// Most of what a block may ask for without being configured for more.
constexpr size_t kMostShared = 48 * 1024;

// What is done with a kernel that takes these arguments, a struct.
template <typename Arguments>
struct LaunchKind {
    static Arguments copy_of(const void *bytes) {
        Arguments arguments;
        memcpy(&arguments, bytes, sizeof arguments);
        return arguments;
    }
    static void run(const CudaLaunch &launch, const void *arguments, cudaStream_t stream,
                    bool overlaps) {
        cudaLaunchConfig_t config = {};
        config.gridDim = launch.grid;
        config.blockDim = launch.block;
        config.dynamicSmemBytes = launch.n_shared;
        config.stream = stream;
        cudaLaunchAttribute overlap = {};
        overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        overlap.val.programmaticStreamSerializationAllowed = 1;
        config.attrs = &overlap;
        config.numAttrs = overlaps ? 1 : 0;
        const auto kernel = reinterpret_cast<void (*)(Arguments)>(launch.kernel);
        check_cuda(cudaLaunchKernelEx(&config, kernel, copy_of(arguments)), launch.what);
    }
    static bool equal(const void *a, const void *b) { return copy_of(a) == copy_of(b); }
    static constexpr CudaLaunch::Kind kKind = {run, equal};
};

// Arguments compare member by member: two launches are the same where these are.
template <typename Arguments>
void launch(const char *what, CudaQueue &queue, const LaunchShape &shape, void (*kernel)(Arguments),
            const Arguments &arguments) {
    queue.launch({&LaunchKind<Arguments>::kKind, what, reinterpret_cast<void (*)()>(kernel),
                  shape.grid, shape.block, shape.n_shared, sizeof arguments},
                 &arguments);
}

inline unsigned n_blocks(size_t n, size_t per_block) {
    return static_cast<unsigned>((n + per_block - 1) / per_block);
}

// What every kernel begins with: until those before it are done. Where launches overlap, a kernel's
// blocks take their places while the last ones of the kernel before still run; what no kernel
// writes, weights, may be read ahead of this.
A2SF_INLINE void after_others() {
#ifndef __CUDACC__
    cuda_emulator::after_others();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// The shared memory that a launch asked for, 16-byte aligned.
A2SF_INLINE unsigned char *shared_memory() {
#ifdef __CUDACC__
    extern __shared__ uint4 a2sf_shared_memory[];
    return reinterpret_cast<unsigned char *>(a2sf_shared_memory);
#else
    return cuda_emulator::shared_memory();
#endif
}

// Sum, and largest, of kLanes neighbouring lanes, in each of them. All lanes of the warp call it.
template <int kLanes = kWarp>
A2SF_INLINE float warp_sum(float value) {
    for (int step = kLanes / 2; step > 0; step /= 2) {
        value += __shfl_xor_sync(kAllLanes, value, step);
    }
    return value;
}
template <int kLanes = kWarp>
A2SF_INLINE float warp_max(float value) {
    for (int step = kLanes / 2; step > 0; step /= 2) {
        value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, step));
    }
    return value;
}

// Sum over a block of whole warps, at most 32, in each of its threads; all of them call it.
// scratch [32], shared.
A2SF_INLINE float block_sum(float value, float *scratch) {
    const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    value = warp_sum(value);
    __syncthreads();  // scratch may still be read by an earlier sum
    if (lane == 0) scratch[warp] = value;
    __syncthreads();
    return warp_sum(lane < blockDim.x / kWarp ? scratch[lane] : 0.0f);
}

// The same of the largest.
A2SF_INLINE float block_max(float value, float *scratch) {
    const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    value = warp_max(value);
    __syncthreads();
    if (lane == 0) scratch[warp] = value;
    __syncthreads();
    return warp_max(lane < blockDim.x / kWarp ? scratch[lane] : -INFINITY);
}

// 16 and 32 bits at p, which is a multiple of as many.
A2SF_INLINE uint32_t aligned_u16(const uint8_t *p) {
    uint16_t value;
    memcpy(&value, __builtin_assume_aligned(p, 2), 2);
    return value;
}
A2SF_INLINE uint32_t aligned_u32(const uint8_t *p) {
    uint32_t value;
    memcpy(&value, __builtin_assume_aligned(p, 4), 4);
    return value;
}
// 32 bits at p, a multiple of 16 bits.
A2SF_INLINE uint32_t paired_u32(const uint8_t *p) {
    return aligned_u16(p) | aligned_u16(p + 2) << 16;
}

// Whether p is a multiple of 16 bytes.
__host__ __device__ inline bool is_vector(const void *p) {
    return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

// To the nearest bfloat16, ties to even; not-a-number stays one.
A2SF_INLINE uint16_t float_to_bfloat(float value) {
    const uint32_t bits = float_to_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace a2sf
