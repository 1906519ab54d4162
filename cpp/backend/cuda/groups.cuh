// Weights as the products read them: 32 at a time, as small integers with a scale and an offset for
// each 16 or 32. The common formats by hand, straight from aligned words of the block; all others
// by their own scalar decode.
#pragma once

#include "backend/cuda/device.cuh"

namespace a2sf {

// q[i] are 4 signed bytes: weight 4i + j = scale[p] * q + offset[p], p = (4i + j) / 16 where a
// format has groups of 16, else 0. Bytes are at most 127 in magnitude.
struct Group {
    uint32_t q[8];
    float scale[2];
    float offset[2];
};

// Group g of a block. Has offsets where kOffset says so; blocks begin at even addresses where
// kBlockBytes is even, those of a multiple of 4 or 16 bytes at a multiple of 4.
template <typename F>
struct Groups {
    static constexpr bool kOffset = F::kHasOffset;
    static constexpr int kParts = 32 / F::kGroup;
    static __device__ __forceinline__ void load(const uint8_t *block, int g, Group &to) {
        int8_t q[F::kBlock];
        float scale[F::kBlock / F::kGroup], offset[F::kBlock / F::kGroup];
        F::unpack(block, q, scale, offset);
        // Of a block of one group, g is 0; said so, it stays in registers.
        const int first = F::kBlock == 32 ? 0 : g * 32;
        for (int i = 0; i < 8; ++i) memcpy(&to.q[i], q + first + 4 * i, 4);
        for (int p = 0; p < kParts; ++p) {
            to.scale[p] = scale[first / F::kGroup + p];
            to.offset[p] = kOffset ? offset[first / F::kGroup + p] : 0.0f;
        }
    }
};

template <>
struct Groups<Q8_0> {
    static constexpr bool kOffset = false;
    static constexpr int kParts = 1;
    static __device__ __forceinline__ void load(const uint8_t *block, int, Group &to) {
        to.scale[0] = load_half(block);
        // A stored -128 reads as -127 (quant/formats/q8_0.h).
        for (int i = 0; i < 8; ++i) to.q[i] = __vmaxs4(paired_u32(block + 2 + 4 * i), 0x81818181u);
    }
};

// Values 0..15 with an offset of -8 steps: the product is exact either way.
template <>
struct Groups<Q4_0> {
    static constexpr bool kOffset = true;
    static constexpr int kParts = 1;
    static __device__ __forceinline__ void load(const uint8_t *block, int, Group &to) {
        to.scale[0] = load_half(block);
        to.offset[0] = -8.0f * to.scale[0];
        for (int i = 0; i < 4; ++i) {
            const uint32_t word = paired_u32(block + 2 + 4 * i);
            to.q[i] = word & 0x0f0f0f0fu;
            to.q[i + 4] = word >> 4 & 0x0f0f0f0fu;
        }
    }
};

template <>
struct Groups<Q4_K> {
    static constexpr bool kOffset = true;
    static constexpr int kParts = 1;
    static __device__ __forceinline__ void load(const uint8_t *block, int g, Group &to) {
        const uint8_t *packed = block + 4;
        int scale, minimum;
        if (g < 4) {
            scale = packed[g] & 63;
            minimum = packed[g + 4] & 63;
        } else {
            scale = (packed[g + 4] & 15) | packed[g - 4] >> 6 << 4;
            minimum = packed[g + 4] >> 4 | packed[g] >> 6 << 4;
        }
        to.scale[0] = load_half(block) * (float)scale;
        to.offset[0] = -(load_half(block + 2) * (float)minimum);
        const uint8_t *qs = block + 16 + 32 * (g / 2);
        for (int i = 0; i < 8; ++i) {
            to.q[i] = aligned_u32(qs + 4 * i) >> 4 * (g % 2) & 0x0f0f0f0fu;
        }
    }
};

// Values 0..63 with an offset of -32 steps.
template <>
struct Groups<Q6_K> {
    static constexpr bool kOffset = true;
    static constexpr int kParts = 2;
    static __device__ __forceinline__ void load(const uint8_t *block, int g, Group &to) {
        const int half = g / 4, s = g % 4;
        const uint8_t *ql = block + 64 * half + 32 * (s % 2);
        const uint8_t *qh = block + 128 + 32 * half;
        for (int i = 0; i < 8; ++i) {
            const uint32_t low = paired_u32(ql + 4 * i) >> 4 * (s / 2) & 0x0f0f0f0fu;
            const uint32_t high = paired_u32(qh + 4 * i) >> 2 * s & 0x03030303u;
            to.q[i] = low | high << 4;
        }
        const float d = load_half(block + 208);
        for (int p = 0; p < 2; ++p) {
            to.scale[p] = d * (float)(int8_t)block[192 + 2 * g + p];
            to.offset[p] = -32.0f * to.scale[p];
        }
    }
};

// Weight i of a group.
template <typename F>
A2SF_INLINE float group_value(const Group &group, int i) {
    const int part = Groups<F>::kParts == 1 ? 0 : i / 16;
    const float q = (float)(int8_t)(group.q[i / 4] >> 8 * (i % 4));
    return group.scale[part] * q + (Groups<F>::kOffset ? group.offset[part] : 0.0f);
}

// Weights [32 g, 32 g + 32) of a row of `cols`, zeros behind its end. to [32].
template <typename F>
A2SF_INLINE void decode_32(const uint8_t *row, size_t g, size_t cols, float *to) {
    if constexpr (F::kGroup == 0) {
        for (size_t i = 0; i < 32; ++i) {
            const size_t k = 32 * g + i;
            to[i] = k < cols ? F::decode(row + k * F::kBlockBytes) : 0.0f;
        }
    } else {
        constexpr size_t kPerBlock = F::kBlock / 32;
        Group group;
        Groups<F>::load(row + g / kPerBlock * F::kBlockBytes, (int)(g % kPerBlock), group);
        for (int i = 0; i < 32; ++i) to[i] = group_value<F>(group, i);
    }
}

}  // namespace a2sf
