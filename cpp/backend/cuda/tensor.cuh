// Tensor cores: their products, the fragments they read, tiles in shared memory that fragments come
// from, and copies to there that run beside the arithmetic.
//
// Tiles are rows of 16-bit numbers, halves or bfloat16. With g = lane / 4 and t = lane % 4, a
// lane's words of a fragment are pairs of neighbours along the sum (PTX ISA, mma.m16n8k16 and
// ldmatrix):
//   a [16, 16]: row g from 2t on, row g + 8 from 2t on, row g from 2t + 8 on, row g + 8 from 2t + 8
//   b [16, 8]:  column g from 2t on, column g from 2t + 8 on
//   c [16, 8]:  of float: row g, columns 2t and 2t + 1, then row g + 8, the same columns
#pragma once

#include "backend/cuda/device.cuh"

namespace a2sf {

// The power of two that brings numbers of at most amax to the upper half of what a half can hold,
// so that none is too large for it and few are too small. 1 for zeros and where amax is no number.
A2SF_INLINE float half_power(float amax) {
    const int exponent = (int)(float_to_bits(amax) >> 23) - 127;
    if (exponent < -100 || exponent > 127) return 1.0f;
    return bits_to_float((uint32_t)(127 + 14 - exponent) << 23);
}

// 1 / power, exactly, of a power of two that half_power() may be.
A2SF_INLINE float inverse_of(float power) {
    return bits_to_float((254u << 23) - float_to_bits(power));
}

// 2^x, off by some units in the last place; 0 where it is below what a normal float can be.
A2SF_INLINE float power_of_2(float x) {
#ifdef __CUDACC__
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
#else
    return exp2f(x);
#endif
}

// To the nearest half or bfloat16, ties to even: low in the lower 16 bits.
template <bool kHalf>
A2SF_INLINE uint32_t pack_pair(float low, float high) {
#ifdef __CUDACC__
    uint32_t pair;
    if constexpr (kHalf) {
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    } else {
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    }
    return pair;
#else
    const auto to_16 = [](float value) {
        return (uint32_t)(kHalf ? float_to_half(value) : float_to_bfloat(value));
    };
    return to_16(low) | to_16(high) << 16;
#endif
}

// c += a * b, a warp together.
template <bool kHalf>
A2SF_INLINE void multiply_tiles(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef __CUDACC__
    if constexpr (kHalf) {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    } else {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
#else
    cuda_emulator::multiply_tiles(c, a, b0, b1, kHalf ? half_to_float : bfloat_to_float);
#endif
}

// Four matrices of 8 rows of 8 numbers from shared memory, a warp together. `row`: of lane 8i + r,
// the 16 bytes of row r of matrix i. to[i]: of matrix i, row g from 2t on; transposed, column g
// from row 2t on.
template <bool kTransposed = false>
A2SF_INLINE void load_matrices(const void *row, uint32_t (&to)[4]) {
#ifdef __CUDACC__
    const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    if constexpr (kTransposed) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(at)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(at)
                     : "memory");
    }
#else
    cuda_emulator::load_matrices(row, to, kTransposed);
#endif
}

// 16 bytes to shared memory, beside what follows; the first n_bytes of them from `from`, zeros
// behind. Both 16-byte aligned. They are there once wait_for_copies says so and, for other threads,
// a barrier has passed.
A2SF_INLINE void copy_beside(void *to, const void *from, uint32_t n_bytes) {
#ifdef __CUDACC__
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     static_cast<uint32_t>(__cvta_generic_to_shared(to))),
                 "l"(__cvta_generic_to_global(from)), "r"(n_bytes)
                 : "memory");
#else
    cuda_emulator::copy_beside(to, from, n_bytes);
#endif
}

// The copies since the last such call are a group.
A2SF_INLINE void end_copies() {
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    cuda_emulator::end_copies();
#endif
}

// Until all groups of this thread but the kNewest newest are there.
template <int kNewest>
A2SF_INLINE void wait_for_copies() {
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" ::"n"(kNewest) : "memory");
#else
    cuda_emulator::wait_for_copies(kNewest);
#endif
}

}  // namespace a2sf
