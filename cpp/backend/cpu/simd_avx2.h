// Vectors of 8 lanes with AVX2, FMA and F16C. Meanings: simd_scalar.h.
// maddubs multiplies unsigned by signed bytes: |w| times x with w's sign. Two products of at most
// 127 * 127 stay below 32768, so its 16-bit sums never saturate.
#pragma once

#include <immintrin.h>

#include "backend/cpu/kernels.h"

namespace a2sf {
namespace {

constexpr size_t kW = 8;
constexpr bool kFlipWeights = false;
constexpr size_t kTileVectors = 1;
constexpr size_t kTileTokens = 4;
constexpr size_t kFloatTileTokens = 8;

using F = __m256;
using I = __m256i;
struct W8 {
    __m256i v, magnitude;
};
struct X8 {
    __m256i v;
};

// All ones in the first n < 8 lanes.
A2SF_INLINE __m256i first_lanes(size_t n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane);
}

A2SF_INLINE F load(const float *p) {
    return _mm256_loadu_ps(p);
}
A2SF_INLINE void store(float *p, F a) {
    _mm256_storeu_ps(p, a);
}
A2SF_INLINE F load_n(const float *p, size_t n) {
    return _mm256_maskload_ps(p, first_lanes(n));
}
A2SF_INLINE void store_n(float *p, F a, size_t n) {
    _mm256_maskstore_ps(p, first_lanes(n), a);
}
A2SF_INLINE F set1(float x) {
    return _mm256_set1_ps(x);
}
A2SF_INLINE F add(F a, F b) {
    return _mm256_add_ps(a, b);
}
A2SF_INLINE F sub(F a, F b) {
    return _mm256_sub_ps(a, b);
}
A2SF_INLINE F mul(F a, F b) {
    return _mm256_mul_ps(a, b);
}
A2SF_INLINE F div(F a, F b) {
    return _mm256_div_ps(a, b);
}
A2SF_INLINE F fma(F a, F b, F c) {
    return _mm256_fmadd_ps(a, b, c);
}
A2SF_INLINE F max(F a, F b) {
    return _mm256_max_ps(a, b);
}
A2SF_INLINE F min(F a, F b) {
    return _mm256_min_ps(a, b);
}
A2SF_INLINE F abs(F a) {
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
A2SF_INLINE float sum(F a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
A2SF_INLINE float maximum(F a) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

// 4 rows per vector, 2 lanes each.
A2SF_INLINE F sum_quads(const F *a) {
    return _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
}
A2SF_INLINE F sum_each(const F *a) {
    const F low = sum_quads(a), high = sum_quads(a + 4);
    return add(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}

A2SF_INLINE I load_i(const int32_t *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}
A2SF_INLINE I set1_i(int32_t x) {
    return _mm256_set1_epi32(x);
}
A2SF_INLINE I round_i(F a) {
    return _mm256_cvtps_epi32(a);
}
A2SF_INLINE F to_float(I a) {
    return _mm256_cvtepi32_ps(a);
}
A2SF_INLINE F pow2(I a) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(a, set1_i(127)), 23));
}
A2SF_INLINE F visible(F a, I pos, I low, I high) {
    const __m256i seen =
        _mm256_andnot_si256(_mm256_cmpgt_epi32(pos, high), _mm256_cmpgt_epi32(pos, low));
    return _mm256_blendv_ps(set1(-__builtin_inff()), a, _mm256_castsi256_ps(seen));
}
A2SF_INLINE F keep_from(F x, F a, F limit) {
    return _mm256_and_ps(x, _mm256_cmp_ps(a, limit, _CMP_NLT_UQ));
}

A2SF_INLINE F load_halves(const uint8_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
A2SF_INLINE void store_halves(uint8_t *p, F a) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
A2SF_INLINE F load_bfloats(const uint8_t *p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
A2SF_INLINE F load_bytes(const int8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
A2SF_INLINE void store_bytes(int8_t *p, I a) {
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(words, words));
}

A2SF_INLINE W8 load_weights(const int8_t *p) {
    const __m256i w = _mm256_loadu_si256((const __m256i *)p);
    return {w, _mm256_abs_epi8(w)};
}
A2SF_INLINE W8 load_panel(const int8_t *p) {
    return load_weights(p);
}
A2SF_INLINE X8 load_x(const int8_t *p) {
    return {_mm256_loadu_si256((const __m256i *)p)};
}
A2SF_INLINE X8 spread_x(const int8_t *p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    return {_mm256_set1_epi32(four)};
}
A2SF_INLINE I dot4(I acc, W8 w, X8 x) {
    const __m256i pairs = _mm256_maddubs_epi16(w.magnitude, _mm256_sign_epi8(x.v, w.v));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

template <int kGroup>
A2SF_INLINE F lane_scales(const float *c, size_t i) {
    if constexpr (kGroup == 32) {
        return set1(c[i]);
    } else {
        return _mm256_set_m128(_mm_set1_ps(c[2 * i + 1]), _mm_set1_ps(c[2 * i]));
    }
}

}  // namespace
}  // namespace a2sf
