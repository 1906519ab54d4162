// K and V rows as they are stored: floats, halves, or blocks of 32 bytes with a half scale
// (backend/backend.h).
#pragma once

#include "backend/cuda/device.cuh"

#include "backend/backend.h"

namespace a2sf {

constexpr size_t kKvBlockSize = kQ8Block + 2;  // bytes: half scale, 32 signed bytes

// The slots of one KV head.
struct KvHead {
    const uint8_t *rows;
    size_t row_bytes;
    size_t head_dim;
};

template <KvType kType>
A2SF_INLINE float kv_element(const uint8_t *row, size_t d) {
    if constexpr (kType == KvType::F32) {
        return reinterpret_cast<const float *>(row)[d];
    } else if constexpr (kType == KvType::F16) {
        return load_half(row + 2 * d);
    } else {
        const uint8_t *block = row + d / kQ8Block * kKvBlockSize;
        return load_half(block) * (float)(int8_t)block[2 + d % kQ8Block];
    }
}

// Elements [d, d + 8) of a row, d a multiple of 8; zeros behind its end. to [8].
template <KvType kType>
A2SF_INLINE void kv_load_8(const KvHead &head, const uint8_t *row, size_t d, float *to) {
    if constexpr (kType == KvType::Q8_0) {
        const uint8_t *block = row + d / kQ8Block * kKvBlockSize;
        const float scale = load_half(block);
        const uint8_t *q = block + 2 + d % kQ8Block;
        const uint32_t words[2] = {paired_u32(q), paired_u32(q + 4)};
#pragma unroll
        for (int i = 0; i < 8; ++i) to[i] = scale * (float)(int8_t)(words[i / 4] >> 8 * (i % 4));
    } else if (head.row_bytes % 16 == 0 && d + 8 <= head.head_dim) {
        constexpr size_t kBytes = kType == KvType::F32 ? 4 : 2;
        uint4 words[kBytes / 2];
        memcpy(words, __builtin_assume_aligned(row + d * kBytes, 16), sizeof words);
        const uint8_t *bytes = reinterpret_cast<const uint8_t *>(words);
#pragma unroll
        for (size_t i = 0; i < 8; ++i) to[i] = kv_element<kType>(bytes, i);
    } else {
        for (size_t i = 0; i < 8; ++i) {
            to[i] = d + i < head.head_dim ? kv_element<kType>(row, d + i) : 0.0f;
        }
    }
}

// Keys that are stored before RoPE (KeyTurns), of one KV head.
struct TurnedHead {
    const float *angles;
    size_t stride, half;
    bool halves;
    const int32_t *place;  // null: keys are turned
    bool operator==(const TurnedHead &) const = default;
};

// Elements [d, d + 8) of a key's row, all of which are turned, by pairs of halves. to [8]: as they
// were stored.
template <KvType kType>
A2SF_INLINE void turn_8_halves(const KvHead &head, const TurnedHead &turned, const uint8_t *row,
                               const float *angles, size_t d, float *to) {
    const bool low = d < turned.half;
    const size_t j = low ? d : d - turned.half;
    float other[8];
    kv_load_8<kType>(head, row, low ? d + turned.half : j, other);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const float cosine = angles[j + i], sine = angles[turned.half + j + i];
        to[i] = low ? to[i] * cosine - other[i] * sine : other[i] * sine + to[i] * cosine;
    }
}

// The same by pairs of neighbours.
A2SF_INLINE void turn_8_neighbours(const TurnedHead &turned, const float *angles, size_t d,
                                   float *to) {
#pragma unroll
    for (int p = 0; p < 4; ++p) {
        const float cosine = angles[d / 2 + p], sine = angles[turned.half + d / 2 + p];
        const float low = to[2 * p], high = to[2 * p + 1];
        to[2 * p] = low * cosine - high * sine;
        to[2 * p + 1] = low * sine + high * cosine;
    }
}

// Elements [d, d + 8) of the key in a slot, turned. to [8].
template <KvType kType>
A2SF_INLINE void key_load_8(const KvHead &head, const TurnedHead &turned, size_t slot, size_t d,
                            float *to) {
    const uint8_t *row = head.rows + slot * head.row_bytes;
    kv_load_8<kType>(head, row, d, to);
    if (turned.place == nullptr || d >= 2 * turned.half) return;
    const float *angles = turned.angles + (size_t)turned.place[slot] * turned.stride;
    if (turned.halves && turned.half % 8 == 0) {
        return turn_8_halves<kType>(head, turned, row, angles, d, to);
    }
    if (!turned.halves && turned.half % 4 == 0) {
        return turn_8_neighbours(turned, angles, d, to);
    }
    for (uint32_t i = 0; i < 8; ++i) {
        const uint32_t at = (uint32_t)d + i, half = (uint32_t)turned.half;
        if (at >= 2 * half) break;
        const uint32_t j = !turned.halves ? at / 2 : at < half ? at : at - half;
        const bool low = turned.halves ? at < half : at % 2 == 0;
        const uint32_t distance = turned.halves ? half : 1;
        const float other = kv_element<kType>(row, low ? at + distance : at - distance);
        const float cosine = angles[j], sine = angles[half + j];
        to[i] = low ? to[i] * cosine - other * sine : other * sine + to[i] * cosine;
    }
}

}  // namespace a2sf
