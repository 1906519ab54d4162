// Vectors of 4 lanes with NEON and the signed dot product (armv8.2-a+dotprod). Meanings:
// simd_scalar.h.
#pragma once

#include <arm_neon.h>

#include "backend/cpu/kernels.h"

namespace a2sf {
namespace {

constexpr size_t kW = 4;
constexpr bool kFlipWeights = false;
constexpr size_t kTileVectors = 4;
constexpr size_t kTileTokens = 3;
constexpr size_t kFloatTileTokens = 5;

using F = float32x4_t;
using I = int32x4_t;
struct W8 {
    int8x16_t v;
};
struct X8 {
    int8x16_t v;
};

A2SF_INLINE F load(const float *p) {
    return vld1q_f32(p);
}
A2SF_INLINE void store(float *p, F a) {
    vst1q_f32(p, a);
}
A2SF_INLINE F load_n(const float *p, size_t n) {
    float lanes[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (size_t i = 0; i < n; ++i) lanes[i] = p[i];
    return vld1q_f32(lanes);
}
A2SF_INLINE void store_n(float *p, F a, size_t n) {
    float lanes[4];
    vst1q_f32(lanes, a);
    for (size_t i = 0; i < n; ++i) p[i] = lanes[i];
}
A2SF_INLINE F set1(float x) {
    return vdupq_n_f32(x);
}
A2SF_INLINE F add(F a, F b) {
    return vaddq_f32(a, b);
}
A2SF_INLINE F sub(F a, F b) {
    return vsubq_f32(a, b);
}
A2SF_INLINE F mul(F a, F b) {
    return vmulq_f32(a, b);
}
A2SF_INLINE F div(F a, F b) {
    return vdivq_f32(a, b);
}
A2SF_INLINE F fma(F a, F b, F c) {
    return vfmaq_f32(c, a, b);
}
// A comparison with not-a-number is false, which selects b.
A2SF_INLINE F max(F a, F b) {
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}
A2SF_INLINE F min(F a, F b) {
    return vbslq_f32(vcltq_f32(a, b), a, b);
}
A2SF_INLINE F abs(F a) {
    return vabsq_f32(a);
}
A2SF_INLINE float sum(F a) {
    return vaddvq_f32(a);
}
A2SF_INLINE float maximum(F a) {
    return vmaxvq_f32(a);
}
A2SF_INLINE F sum_each(const F *a) {
    return vpaddq_f32(vpaddq_f32(a[0], a[1]), vpaddq_f32(a[2], a[3]));
}

A2SF_INLINE I load_i(const int32_t *p) {
    return vld1q_s32(p);
}
A2SF_INLINE I set1_i(int32_t x) {
    return vdupq_n_s32(x);
}
A2SF_INLINE I round_i(F a) {
    return vcvtnq_s32_f32(a);
}
A2SF_INLINE F to_float(I a) {
    return vcvtq_f32_s32(a);
}
A2SF_INLINE F pow2(I a) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(a, vdupq_n_s32(127)), 23));
}
A2SF_INLINE F visible(F a, I pos, I low, I high) {
    const uint32x4_t seen = vandq_u32(vcgtq_s32(pos, low), vcleq_s32(pos, high));
    return vbslq_f32(seen, a, vdupq_n_f32(-__builtin_inff()));
}
A2SF_INLINE F keep_from(F x, F a, F limit) {
    return vbslq_f32(vcltq_f32(a, limit), vdupq_n_f32(0.0f), x);
}

A2SF_INLINE F load_halves(const uint8_t *p) {
    float16x4_t halves;
    memcpy(&halves, p, sizeof halves);
    return vcvt_f32_f16(halves);
}
A2SF_INLINE void store_halves(uint8_t *p, F a) {
    const float16x4_t halves = vcvt_f16_f32(a);
    memcpy(p, &halves, sizeof halves);
}
A2SF_INLINE F load_bfloats(const uint8_t *p) {
    uint16x4_t values;
    memcpy(&values, p, sizeof values);
    return vreinterpretq_f32_u32(vshll_n_u16(values, 16));
}
A2SF_INLINE F load_bytes(const int8_t *p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    const int16x8_t words = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(words)));
}
A2SF_INLINE void store_bytes(int8_t *p, I a) {
    const int16x4_t words = vqmovn_s32(a);
    const int8x8_t bytes = vqmovn_s16(vcombine_s16(words, words));
    memcpy(p, &bytes, 4);
}

A2SF_INLINE W8 load_weights(const int8_t *p) {
    return {vld1q_s8(p)};
}
A2SF_INLINE W8 load_panel(const int8_t *p) {
    return {vld1q_s8(p)};
}
A2SF_INLINE X8 load_x(const int8_t *p) {
    return {vld1q_s8(p)};
}
A2SF_INLINE X8 spread_x(const int8_t *p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    return {vreinterpretq_s8_s32(vdupq_n_s32(four))};
}
A2SF_INLINE I dot4(I acc, W8 w, X8 x) {
    return vdotq_s32(acc, w.v, x.v);
}

template <int kGroup>
A2SF_INLINE F lane_scales(const float *c, size_t i) {
    return set1(c[i * 16 / kGroup]);
}

}  // namespace
}  // namespace a2sf
