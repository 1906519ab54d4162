// Weight products for tokens that have nothing to do with each other, hand-tuned for AVX-512 with
// VNNI: rows lie in the lanes of a vector, so that a dot product of 32 columns is one lane and is
// scaled once for 16 rows. Weights become bytes in registers and are multiplied with up to eight
// tokens at once; nothing is unpacked into memory. Replaces the table's few for the formats listed
// at the end. Included by isa_avx512.cpp, after matvec_avx512.inl, which takes rows that are left
// over. Results depend on the row and the token alone, not on the other tokens; matvec adds up in
// another order.
//
// y[r] = sum over blocks b of  x_scale[b] * (w_scale[r, b] * dot(q_w, q_x)) + w_offset[r, b] *
// x_sum[b], in the order of the blocks.

namespace a2sf {
namespace {

constexpr size_t kMostPanelTokens = 8;

// Four rows of each of four runs: run q begins `between` rows behind run q - 1. Lane 4 * q + i is
// row i of run q.
struct PanelRows {
    const uint8_t *w;  // row 0 of run 0
    size_t row_bytes, run_bytes;
};

// 16 bytes of row i of each run, from `skip` on.
A2SF_INLINE I row_of_runs(const PanelRows &rows, size_t i, size_t skip) {
    const uint8_t *first = rows.w + i * rows.row_bytes + skip;
    I all = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)first));
    A2SF_UNROLL
    for (size_t q = 1; q < 4; ++q) {
        const __m128i run = _mm_loadu_si128((const __m128i *)(first + q * rows.run_bytes));
        all = _mm512_mask_broadcast_i32x4(all, (__mmask16)(15u << 4 * q), run);
    }
    return all;
}

// Bytes 4 * j to 4 * j + 3 of 16 from `skip` on, of all rows: out[j].
A2SF_INLINE void dwords_of_rows(const PanelRows &rows, size_t skip, I *out) {
    const I a = row_of_runs(rows, 0, skip), b = row_of_runs(rows, 1, skip);
    const I c = row_of_runs(rows, 2, skip), d = row_of_runs(rows, 3, skip);
    const I ab_low = _mm512_unpacklo_epi32(a, b), ab_high = _mm512_unpackhi_epi32(a, b);
    const I cd_low = _mm512_unpacklo_epi32(c, d), cd_high = _mm512_unpackhi_epi32(c, d);
    out[0] = _mm512_unpacklo_epi64(ab_low, cd_low);
    out[1] = _mm512_unpackhi_epi64(ab_low, cd_low);
    out[2] = _mm512_unpacklo_epi64(ab_high, cd_high);
    out[3] = _mm512_unpackhi_epi64(ab_high, cd_high);
}

// The block at `skip` of all rows as unsigned bytes: columns 4 * j to 4 * j + 3 in out[j].
template <typename F_>
A2SF_INLINE void panel_block(const PanelRows &rows, size_t skip, I *out) {
    if constexpr (HasNibbles<F_>) {
        dwords_of_rows(rows, skip + F_::kBlockBytes - 16, out);
        A2SF_UNROLL
        for (size_t j = 0; j < 4; ++j) {
            const I high = _mm512_and_si512(_mm512_srli_epi32(out[j], 4), set1_bytes(15));
            out[4 + j] = Fused<F_>::values(high);
            out[j] = Fused<F_>::values(_mm512_and_si512(out[j], set1_bytes(15)));
        }
    } else {
        dwords_of_rows(rows, skip + F_::kBlockBytes - 32, out);
        dwords_of_rows(rows, skip + F_::kBlockBytes - 16, out + 4);
        A2SF_UNROLL
        for (size_t j = 0; j < 8; ++j) out[j] = Fused<F_>::unsigned_of(out[j]);
    }
}

// 16 x 16 floats in rows of 16, turned.
A2SF_INLINE void transpose_16(F *rows) {
    F t[16];
    A2SF_UNROLL
    for (size_t i = 0; i < 16; i += 4) {
        const F a = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
        const F b = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
        const F c = _mm512_unpacklo_ps(rows[i + 2], rows[i + 3]);
        const F d = _mm512_unpackhi_ps(rows[i + 2], rows[i + 3]);
        t[i] = _mm512_shuffle_ps(a, c, 0x44);
        t[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
        t[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
        t[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
    }
    A2SF_UNROLL
    for (size_t i = 0; i < 4; ++i) {
        const F a = _mm512_shuffle_f32x4(t[i], t[4 + i], 0x88);
        const F b = _mm512_shuffle_f32x4(t[i], t[4 + i], 0xdd);
        const F c = _mm512_shuffle_f32x4(t[8 + i], t[12 + i], 0x88);
        const F d = _mm512_shuffle_f32x4(t[8 + i], t[12 + i], 0xdd);
        rows[i] = _mm512_shuffle_f32x4(a, c, 0x88);
        rows[4 + i] = _mm512_shuffle_f32x4(b, d, 0x88);
        rows[8 + i] = _mm512_shuffle_f32x4(a, c, 0xdd);
        rows[12 + i] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

// Scales (and behind them offsets) of the n blocks at `skip`, at most a chunk: to [16, rows].
template <typename F_>
A2SF_INLINE void panel_scales(const PanelRows &rows, size_t skip, size_t n, float *to) {
    constexpr size_t kBlocks = Fused<F_>::kChunk / 32;
    F of[16];
    A2SF_UNROLL
    for (size_t q = 0; q < 4; ++q) {
        A2SF_UNROLL
        for (size_t i = 0; i < 4; ++i) {
            const uint8_t *w = rows.w + q * rows.run_bytes + i * rows.row_bytes + skip;
            if (n == kBlocks) {
                Fused<F_>::template scales<1, true>(w, 0, n, of + 4 * q + i);
            } else {
                Fused<F_>::template scales<1, false>(w, 0, n, of + 4 * q + i);
            }
        }
    }
    transpose_16(of);
    A2SF_UNROLL
    for (size_t b = 0; b < 16; ++b) store(to + 16 * b, of[b]);
}

// Asks for a block's share of the four rows of each run that come next.
template <typename F_>
A2SF_INLINE void prefetch_next(const PanelRows &rows, size_t skip) {
    constexpr size_t kLine = 64;
    const uint8_t *next = rows.w + 4 * (rows.row_bytes + skip);
    A2SF_UNROLL
    for (size_t q = 0; q < 4; ++q) {
        A2SF_UNROLL
        for (size_t i = 0; i < 4 * F_::kBlockBytes; i += kLine) {
            _mm_prefetch((const char *)next + q * rows.run_bytes + i, _MM_HINT_T0);
        }
    }
}

// Adds block k / 32 of 16 rows, times kTokens tokens. scale: its scales, and 8 rows further on its
// offsets where there are some.
template <typename F_, size_t kTokens>
A2SF_INLINE void panel_products(const QuantizedX &xq, size_t k, const I *w, const float *scale,
                                F *total) {
    constexpr int kStart = Fused<F_>::kStart;
    const F scales = load(scale);
    A2SF_UNROLL
    for (size_t t = 0; t < kTokens; ++t) {
        const int8_t *q = xq.q + t * xq.cols + k;
        const size_t block = (t * xq.cols + k) / 32;
        // Two sums, so that one does not wait for the other.
        I dot[2] = {set1_i(kStart < 0 ? 0 : xq.start32[block] >> (kStart < 0 ? 0 : kStart)),
                    set1_i(0)};
        A2SF_UNROLL
        for (size_t j = 0; j < 8; ++j) {
            int32_t four;
            memcpy(&four, q + 4 * j, sizeof four);
            dot[j % 2] = _mm512_dpbusd_epi32(dot[j % 2], w[j], set1_i(four));
        }
        const F product = mul(to_float(_mm512_add_epi32(dot[0], dot[1])), scales);
        total[t] = fma(product, set1(xq.scale[block]), total[t]);
        if constexpr (F_::kHasOffset) {
            total[t] = fma(load(scale + 8 * 16), set1(xq.sum32[block]), total[t]);
        }
    }
}

// y of four rows of each run from the sums of a token.
A2SF_INLINE void finish_panel(const MatmulTask &task, size_t r, size_t between, size_t t, F total) {
    alignas(64) float sums[16];
    store(sums, total);
    for (size_t q = 0; q < 4; ++q) {
        const size_t row = r + q * between;
        float *y = task.y + t * task.y_stride + row;
        __m128 sum = _mm_load_ps(sums + 4 * q);
        if (task.bias != nullptr) sum = _mm_add_ps(sum, _mm_loadu_ps(task.bias + row));
        if (task.accumulate) sum = _mm_add_ps(_mm_loadu_ps(y), sum);
        _mm_storeu_ps(y, sum);
    }
}

// Rows r to r + 3 of four runs, of tokens [t0, t0 + kTokens).
template <typename F_, size_t kTokens>
void panel(const MatmulTask &task, size_t r, size_t between, size_t t0) {
    constexpr size_t kBlocks = Fused<F_>::kChunk / 32;
    const PanelRows rows = {task.w + r * task.row_bytes, task.row_bytes, between * task.row_bytes};
    const QuantizedX xq = token_x(task.xq, t0);
    F total[kTokens];
    for (size_t t = 0; t < kTokens; ++t) total[t] = set1(0.0f);
    const size_t n_blocks = task.cols / 32;
    alignas(64) float scale[16 * 16];
    for (size_t b0 = 0; b0 < n_blocks; b0 += kBlocks) {
        const size_t n = n_blocks - b0 < kBlocks ? n_blocks - b0 : kBlocks;
        panel_scales<F_>(rows, b0 * F_::kBlockBytes, n, scale);
        for (size_t b = 0; b < n; ++b) {
            I w[8];
            prefetch_next<F_>(rows, (b0 + b) * F_::kBlockBytes);
            panel_block<F_>(rows, (b0 + b) * F_::kBlockBytes, w);
            panel_products<F_, kTokens>(xq, 32 * (b0 + b), w, scale + 16 * b, total);
        }
    }
    for (size_t t = 0; t < kTokens; ++t) finish_panel(task, r, between, t0 + t, total[t]);
}

template <typename F_>
void panel_of(const MatmulTask &task, size_t r, size_t between, size_t t0, size_t n_tokens) {
    switch (n_tokens) {
        case 1:
            return panel<F_, 1>(task, r, between, t0);
        case 2:
            return panel<F_, 2>(task, r, between, t0);
        case 3:
            return panel<F_, 3>(task, r, between, t0);
        case 4:
            return panel<F_, 4>(task, r, between, t0);
        case 5:
            return panel<F_, 5>(task, r, between, t0);
        case 6:
            return panel<F_, 6>(task, r, between, t0);
        case 7:
            return panel<F_, 7>(task, r, between, t0);
        default:
            return panel<F_, 8>(task, r, between, t0);
    }
}

// All tokens, as evenly as it goes, so that rows are taken apart as seldom as it goes.
template <typename F_>
A2SF_INLINE void panel_tokens_of(const MatmulTask &task, size_t r, size_t between) {
    size_t n_groups = (task.m + kMostPanelTokens - 1) / kMostPanelTokens;
    for (size_t t = 0; t < task.m; --n_groups) {
        const size_t n = (task.m - t + n_groups - 1) / n_groups;
        panel_of<F_>(task, r, between, t, n);
        t += n;
    }
}

template <typename F_>
void panels(const MatmulTask &task) {
    MatmulTask rest = task;
    size_t &r = rest.row_begin;
    if (task.between != 0) {
        for (; r + 4 <= task.row_end; r += 4) panel_tokens_of<F_>(task, r, task.between);
    }
    fused_few<F_>(rest);
}

// The formats whose few are panels.
#define A2SF_PANEL_FORMATS(X) X(Q4_0) X(Q4_1) X(Q8_0) X(IQ4_NL)

constexpr Kernels with_panels(Kernels table) {
#define A2SF_PANEL(F_) table.few[index_of<F_>()] = panels<F_>;
    A2SF_PANEL_FORMATS(A2SF_PANEL)
#undef A2SF_PANEL
    return table;
}

}  // namespace
}  // namespace a2sf
