// Vectors of 16 lanes with AVX-512 (F, BW, DQ, VL) and VNNI. Meanings: simd_scalar.h.
// VNNI multiplies unsigned by signed bytes: weights are shifted by 128 and sums start corrected.
#pragma once

#include <immintrin.h>

#include "backend/cpu/kernels.h"

namespace a2sf {
namespace {

constexpr size_t kW = 16;
constexpr bool kFlipWeights = true;
constexpr size_t kTileVectors = 2;
constexpr size_t kTileTokens = 6;
constexpr size_t kFloatTileTokens = 8;

using F = __m512;
using I = __m512i;
struct W8 {
    __m512i v;
};
struct X8 {
    __m512i v;
};

A2SF_INLINE __mmask16 first_lanes(size_t n) {
    return (__mmask16)((1u << n) - 1u);
}

A2SF_INLINE F load(const float *p) {
    return _mm512_loadu_ps(p);
}
A2SF_INLINE void store(float *p, F a) {
    _mm512_storeu_ps(p, a);
}
A2SF_INLINE F load_n(const float *p, size_t n) {
    return _mm512_maskz_loadu_ps(first_lanes(n), p);
}
A2SF_INLINE void store_n(float *p, F a, size_t n) {
    _mm512_mask_storeu_ps(p, first_lanes(n), a);
}
A2SF_INLINE F set1(float x) {
    return _mm512_set1_ps(x);
}
A2SF_INLINE F add(F a, F b) {
    return _mm512_add_ps(a, b);
}
A2SF_INLINE F sub(F a, F b) {
    return _mm512_sub_ps(a, b);
}
A2SF_INLINE F mul(F a, F b) {
    return _mm512_mul_ps(a, b);
}
A2SF_INLINE F div(F a, F b) {
    return _mm512_div_ps(a, b);
}
A2SF_INLINE F fma(F a, F b, F c) {
    return _mm512_fmadd_ps(a, b, c);
}
A2SF_INLINE F max(F a, F b) {
    return _mm512_max_ps(a, b);
}
A2SF_INLINE F min(F a, F b) {
    return _mm512_min_ps(a, b);
}
A2SF_INLINE F abs(F a) {
    return _mm512_abs_ps(a);
}
A2SF_INLINE float sum(F a) {
    return _mm512_reduce_add_ps(a);
}
A2SF_INLINE float maximum(F a) {
    return _mm512_reduce_max_ps(a);
}

// Sums of neighbouring vectors' lanes, halving their number: 4 rows per vector, 4 lanes each.
A2SF_INLINE F sum_quads(const F *a) {
    const F ab = add(_mm512_unpacklo_ps(a[0], a[1]), _mm512_unpackhi_ps(a[0], a[1]));
    const F cd = add(_mm512_unpacklo_ps(a[2], a[3]), _mm512_unpackhi_ps(a[2], a[3]));
    const __m512d x = _mm512_castps_pd(ab), y = _mm512_castps_pd(cd);
    return add(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)),
               _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
}
A2SF_INLINE F sum_lanes(F a, F b) {
    return add(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}
A2SF_INLINE F sum_each(const F *a) {
    return sum_lanes(sum_lanes(sum_quads(a), sum_quads(a + 4)),
                     sum_lanes(sum_quads(a + 8), sum_quads(a + 12)));
}

A2SF_INLINE I load_i(const int32_t *p) {
    return _mm512_loadu_si512(p);
}
A2SF_INLINE I set1_i(int32_t x) {
    return _mm512_set1_epi32(x);
}
A2SF_INLINE I round_i(F a) {
    return _mm512_cvtps_epi32(a);
}
A2SF_INLINE F to_float(I a) {
    return _mm512_cvtepi32_ps(a);
}
A2SF_INLINE F pow2(I a) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(a, set1_i(127)), 23));
}
A2SF_INLINE F visible(F a, I pos, I low, I high) {
    const __mmask16 above = _mm512_cmpgt_epi32_mask(pos, low);
    const __mmask16 seen = _mm512_mask_cmple_epi32_mask(above, pos, high);
    return _mm512_mask_blend_ps(seen, set1(-__builtin_inff()), a);
}
A2SF_INLINE F keep_from(F x, F a, F limit) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, limit, _CMP_NLT_UQ), x);
}

A2SF_INLINE F load_halves(const uint8_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
A2SF_INLINE void store_halves(uint8_t *p, F a) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
A2SF_INLINE F load_bfloats(const uint8_t *p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
A2SF_INLINE F load_bytes(const int8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
A2SF_INLINE void store_bytes(int8_t *p, I a) {
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a));
}

A2SF_INLINE W8 load_panel(const int8_t *p) {
    return {_mm512_loadu_si512(p)};
}
A2SF_INLINE W8 load_weights(const int8_t *p) {
    return {_mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8((char)-128))};
}
A2SF_INLINE X8 load_x(const int8_t *p) {
    return {_mm512_loadu_si512(p)};
}
A2SF_INLINE X8 spread_x(const int8_t *p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    return {_mm512_set1_epi32(four)};
}
A2SF_INLINE I dot4(I acc, W8 w, X8 x) {
    return _mm512_dpbusd_epi32(acc, w.v, x.v);
}

template <int kGroup>
A2SF_INLINE F lane_scales(const float *c, size_t i) {
    if constexpr (kGroup == 32) {
        return _mm512_mask_mov_ps(set1(c[2 * i]), 0xff00, set1(c[2 * i + 1]));
    } else {
        const __m512i quarter = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
        return _mm512_permutexvar_ps(quarter, _mm512_castps128_ps512(_mm_loadu_ps(c + 4 * i)));
    }
}

}  // namespace
}  // namespace a2sf
