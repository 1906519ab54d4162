// Vectors of 4 lanes in plain C++, for processors without a kernel table of their own and as the
// truth that the others are tested against. Names and meanings are the same in every simd_<isa>.h.
#pragma once

#include <math.h>

#include "backend/cpu/kernels.h"

namespace a2sf {
namespace {

constexpr size_t kW = 4;                // float lanes
constexpr bool kFlipWeights = false;    // whether weights are shifted by 128 to unsigned bytes
constexpr size_t kTileVectors = 2;      // batch tile: vectors of kW weight rows ...
constexpr size_t kTileTokens = 2;       // ... by tokens
constexpr size_t kFloatTileTokens = 2;  // the same for plain formats

struct F {
    float v[4];
};
struct I {
    int32_t v[4];
};
struct W8 {
    int8_t v[16];
};  // 4 weights for each lane
struct X8 {
    int8_t v[16];
};  // 4 activations for each lane

#define A2SF_LANES for (size_t i = 0; i < 4; ++i)

A2SF_INLINE F load(const float *p) {
    F r;
    A2SF_LANES r.v[i] = p[i];
    return r;
}
A2SF_INLINE void store(float *p, F a) {
    A2SF_LANES p[i] = a.v[i];
}
// The first n < kW lanes; the others read as 0.
A2SF_INLINE F load_n(const float *p, size_t n) {
    F r;
    A2SF_LANES r.v[i] = i < n ? p[i] : 0.0f;
    return r;
}
A2SF_INLINE void store_n(float *p, F a, size_t n) {
    for (size_t i = 0; i < n; ++i) p[i] = a.v[i];
}
A2SF_INLINE F set1(float x) {
    F r;
    A2SF_LANES r.v[i] = x;
    return r;
}
A2SF_INLINE F add(F a, F b) {
    A2SF_LANES a.v[i] += b.v[i];
    return a;
}
A2SF_INLINE F sub(F a, F b) {
    A2SF_LANES a.v[i] -= b.v[i];
    return a;
}
A2SF_INLINE F mul(F a, F b) {
    A2SF_LANES a.v[i] *= b.v[i];
    return a;
}
A2SF_INLINE F div(F a, F b) {
    A2SF_LANES a.v[i] /= b.v[i];
    return a;
}
// a * b + c; fused where the instruction set can.
A2SF_INLINE F fma(F a, F b, F c) {
    A2SF_LANES c.v[i] += a.v[i] * b.v[i];
    return c;
}
// Both give b where a lane of a or b is not a number.
A2SF_INLINE F max(F a, F b) {
    A2SF_LANES b.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return b;
}
A2SF_INLINE F min(F a, F b) {
    A2SF_LANES b.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
    return b;
}
A2SF_INLINE F abs(F a) {
    A2SF_LANES a.v[i] = __builtin_fabsf(a.v[i]);
    return a;
}
A2SF_INLINE float sum(F a) {
    return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]);
}
A2SF_INLINE float maximum(F a) {
    float best = a.v[0];
    for (size_t i = 1; i < 4; ++i) best = a.v[i] > best ? a.v[i] : best;
    return best;
}
// Lane i of the result is the sum of a[i]'s lanes. a [kW].
A2SF_INLINE F sum_each(const F *a) {
    F r;
    A2SF_LANES r.v[i] = sum(a[i]);
    return r;
}

A2SF_INLINE I load_i(const int32_t *p) {
    I r;
    A2SF_LANES r.v[i] = p[i];
    return r;
}
A2SF_INLINE I set1_i(int32_t x) {
    I r;
    A2SF_LANES r.v[i] = x;
    return r;
}
// To the nearest integer, ties to even; |a| < 2^22.
A2SF_INLINE I round_i(F a) {
    I r;
    A2SF_LANES r.v[i] = (int32_t)float_to_bits(a.v[i] + 12582912.0f) - 0x4b400000;
    return r;
}
A2SF_INLINE F to_float(I a) {
    F r;
    A2SF_LANES r.v[i] = (float)a.v[i];
    return r;
}
// 2^a for -126 <= a <= 127.
A2SF_INLINE F pow2(I a) {
    F r;
    A2SF_LANES r.v[i] = bits_to_float((uint32_t)(a.v[i] + 127) << 23);
    return r;
}
// a where low < pos <= high, else minus infinity.
A2SF_INLINE F visible(F a, I pos, I low, I high) {
    A2SF_LANES if (!(pos.v[i] > low.v[i] && pos.v[i] <= high.v[i])) a.v[i] = -__builtin_inff();
    return a;
}
// x where a >= limit or a is not a number, else 0.
A2SF_INLINE F keep_from(F x, F a, F limit) {
    A2SF_LANES if (a.v[i] < limit.v[i]) x.v[i] = 0.0f;
    return x;
}

A2SF_INLINE F load_halves(const uint8_t *p) {
    F r;
    A2SF_LANES r.v[i] = load_half(p + 2 * i);
    return r;
}
A2SF_INLINE void store_halves(uint8_t *p, F a) {
    A2SF_LANES {
        const uint16_t half = float_to_half(a.v[i]);
        memcpy(p + 2 * i, &half, sizeof half);
    }
}
A2SF_INLINE F load_bfloats(const uint8_t *p) {
    F r;
    A2SF_LANES r.v[i] = bfloat_to_float(load_u16(p + 2 * i));
    return r;
}
A2SF_INLINE F load_bytes(const int8_t *p) {
    F r;
    A2SF_LANES r.v[i] = (float)p[i];
    return r;
}
// Lanes in [-127, 127] as bytes.
A2SF_INLINE void store_bytes(int8_t *p, I a) {
    A2SF_LANES p[i] = (int8_t)a.v[i];
}

A2SF_INLINE W8 load_weights(const int8_t *p) {
    W8 r;
    memcpy(r.v, p, 16);
    return r;
}
// The same from a panel, whose bytes are already flipped if kFlipWeights.
A2SF_INLINE W8 load_panel(const int8_t *p) {
    return load_weights(p);
}
A2SF_INLINE X8 load_x(const int8_t *p) {
    X8 r;
    memcpy(r.v, p, 16);
    return r;
}
// The same 4 activations for every lane.
A2SF_INLINE X8 spread_x(const int8_t *p) {
    X8 r;
    for (size_t i = 0; i < 16; ++i) r.v[i] = p[i % 4];
    return r;
}
// acc + the dot product of each lane's 4 weights and 4 activations; exact.
A2SF_INLINE I dot4(I acc, W8 w, X8 x) {
    for (size_t i = 0; i < 16; ++i) acc.v[i / 4] += w.v[i] * x.v[i];
    return acc;
}
// What each lane of vector i of a row (elements 4 * kW * i ..) is multiplied by. c: one per group.
template <int kGroup>
A2SF_INLINE F lane_scales(const float *c, size_t i) {
    return set1(c[i * 16 / kGroup]);
}

#undef A2SF_LANES

}  // namespace
}  // namespace a2sf
