// Weight products for one token, or a few that have nothing to do with each other, hand-tuned for
// AVX-512 with VNNI: what matvec and few do, at the speed of memory. Rows are not unpacked first:
// 64 weights at a time become unsigned bytes in a register and are multiplied at once, with all
// tokens. Replaces the table's matvec and few for the formats that have a Fused here. Included by
// isa_avx512.cpp, after kernels.inl.
//
// y[r] = sum over groups g of  w_scale[r, g] * x_scale[g] * dot(q_w, q_x) + w_offset[r, g] *
// x_sum[g]
//
// The dot product of signed bytes q_w = u - 2^b is that of the unsigned u, started with
// -2^b * sum(q_x): exactly what lane_start holds for 2^b = 128, and a shift away for less.
// Results depend on the row and the token alone: not on the task's rows nor on how many rows or
// tokens are taken at once.

namespace a2sf {
namespace {

constexpr size_t kFusedRows = 4;    // rows taken at once
constexpr size_t kFusedTokens = 4;  // and tokens
// How far ahead in each row memory is asked for: a row's chunk is a burst that the processor's own
// prefetching is late for, and the more so the more bytes a step takes.
template <typename F_>
constexpr size_t kPrefetchBytes = F_::kBlockBytes > F_::kBlock ? 4096 : 1536;

// ---- rows ------------------------------------------------------------------------------------

// What the scales (and offsets) of n columns from k0 on are multiplied by, in the same lanes.
template <typename F_, bool kWhole>
A2SF_INLINE F x_factors(const QuantizedX &xq, size_t k0, size_t n) {
    const float *scale = xq.scale + k0 / 32, *sum32 = xq.sum32 + k0 / 32;
    if constexpr (F_::kHasOffset) {
        const __mmask8 lanes = kWhole ? 0xff : (__mmask8)first_lanes(n / 32);
        const F scales = _mm512_castps256_ps512(_mm256_maskz_loadu_ps(lanes, scale));
        const __m256 sums = _mm256_maskz_loadu_ps(lanes, sum32);
        return _mm512_insertf32x8(scales, _mm256_mul_ps(sums, _mm256_set1_ps(Fused<F_>::kSign)), 1);
    } else if constexpr (F_::kGroup == 16) {
        const I pairs = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
        return _mm512_permutexvar_ps(pairs, _mm512_castps256_ps512(_mm256_loadu_ps(scale)));
    } else {
        return kWhole ? load(scale) : load_n(scale, n / 32);
    }
}

// What a dot product of columns [k, k + 64) starts with, by lane.
template <typename F_>
A2SF_INLINE I lane_starts(const QuantizedX &xq, size_t k) {
    constexpr int kStart = Fused<F_>::kStart;
    if constexpr (kStart < 0) return set1_i(0);
    return _mm512_srai_epi32(load_i(xq.lane_start + k / 4), kStart < 0 ? 0 : kStart);
}

// Asks for the bytes of a row's step i of kStepBytes, of kSteps, a good way ahead.
template <size_t kStepBytes, size_t kSteps>
A2SF_INLINE void prefetch_step(const uint8_t *ahead, size_t i) {
    constexpr size_t kLine = 64, kLines = (kStepBytes + kLine - 1) / kLine;
    if constexpr (kLines == 1) {
        _mm_prefetch((const char *)ahead + kStepBytes * i, _MM_HINT_T0);
    } else {
        // Whole lines for all steps together, the last of them with the first step.
        constexpr size_t kAll = (kSteps * kStepBytes + kLine - 1) / kLine;
        constexpr size_t kEach = kAll / kSteps;
        A2SF_UNROLL
        for (size_t j = 0; j < kEach; ++j) {
            _mm_prefetch((const char *)ahead + kLine * (kEach * i + j), _MM_HINT_T0);
        }
        if (i < kAll % kSteps) {
            _mm_prefetch((const char *)ahead + kLine * (kEach * kSteps + i), _MM_HINT_T0);
        }
    }
}

// A chunk of kRows rows, `stride` bytes apart from w on: columns [k0, k0 + n). c [kTokens, kRows,
// 16]: what the groups' dot products are multiplied by. Sums are total[4 * token + row].
struct FusedChunk {
    const uint8_t *w, *ahead;
    size_t stride, k0, n;
    const float *c;
};

template <typename F_, size_t kRows, size_t kTokens, bool kWhole>
A2SF_INLINE void fused_steps(const QuantizedX &xq, const FusedChunk &chunk, F *total) {
    using Format = Fused<F_>;
    constexpr size_t kSteps = Format::kChunk / 64;
    constexpr size_t kStepBytes = F_::kBlockBytes * 64 / F_::kBlock;
    A2SF_UNROLL
    for (size_t i = 0; i < kSteps; ++i) {
        if (!kWhole && i * 64 >= chunk.n) break;
        I start[kTokens], x[kTokens];
        A2SF_UNROLL
        for (size_t t = 0; t < kTokens; ++t) {
            const QuantizedX of = token_x(xq, t);
            start[t] = lane_starts<F_>(of, chunk.k0 + 64 * i);
            x[t] = _mm512_loadu_si512(of.q + chunk.k0 + 64 * i);
        }
        A2SF_UNROLL
        for (size_t r = 0; r < kRows; ++r) {
            const uint8_t *row = chunk.w + r * chunk.stride;
            prefetch_step<kStepBytes, kSteps>(chunk.ahead + r * chunk.stride, i);
            const I u = Format::weights(row, i, !kWhole && i * 64 + 32 == chunk.n);
            A2SF_UNROLL
            for (size_t t = 0; t < kTokens; ++t) {
                const F dot = to_float(_mm512_dpbusd_epi32(start[t], u, x[t]));
                const float *c = chunk.c + 16 * (t * kRows + r);
                total[4 * t + r] = fma(dot, lane_scales<F_::kGroup>(c, i), total[4 * t + r]);
            }
        }
    }
}

// Four blocks of activations as fused_nibbles takes them.
struct NibbleX {
    I low, high, start;
};

// Behind the last of `left` blocks nothing is read and every scale is 0.
template <typename F_>
A2SF_INLINE NibbleX nibble_x(const QuantizedX &xq, size_t k, size_t left) {
    const I a = _mm512_loadu_si512(xq.q + k);
    const I b = left > 2 ? _mm512_loadu_si512(xq.q + k + 64) : a;
    const I a_start = lane_starts<F_>(xq, k);
    const I b_start = left > 2 ? lane_starts<F_>(xq, k + 64) : a_start;
    const I start = _mm512_add_epi32(_mm512_shuffle_i32x4(a_start, b_start, 0x88),
                                     _mm512_shuffle_i32x4(a_start, b_start, 0xdd));
    return {_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd), start};
}

// The same for formats with values(): four blocks at a time.
template <typename F_, size_t kRows, size_t kTokens, bool kWhole>
A2SF_INLINE void fused_nibbles(const QuantizedX &xq, const FusedChunk &chunk, F *total) {
    using Format = Fused<F_>;
    constexpr size_t kSteps = Format::kChunk / 128;
    constexpr size_t kStepBytes = 4 * F_::kBlockBytes;
    constexpr size_t kSkip = F_::kBlockBytes - 16;
    A2SF_UNROLL
    for (size_t i = 0; i < kSteps; ++i) {
        if (!kWhole && i * 128 >= chunk.n) break;
        const size_t k = chunk.k0 + 128 * i, left = kWhole ? 4 : (chunk.n - i * 128) / 32;
        NibbleX x[kTokens];
        A2SF_UNROLL
        for (size_t t = 0; t < kTokens; ++t) x[t] = nibble_x<F_>(token_x(xq, t), k, left);
        A2SF_UNROLL
        for (size_t r = 0; r < kRows; ++r) {
            const uint8_t *row = chunk.w + r * chunk.stride + kStepBytes * i;
            prefetch_step<kStepBytes, kSteps>(chunk.ahead + r * chunk.stride, i);
            const I both = four_blocks<F_::kBlockBytes>(row + kSkip, left);
            const I low = Format::values(_mm512_and_si512(both, set1_bytes(15)));
            const I high =
                Format::values(_mm512_and_si512(_mm512_srli_epi32(both, 4), set1_bytes(15)));
            A2SF_UNROLL
            for (size_t t = 0; t < kTokens; ++t) {
                const I dot = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(x[t].start, low, x[t].low),
                                                  high, x[t].high);
                const float *c = chunk.c + 16 * (t * kRows + r);
                total[4 * t + r] = fma(to_float(dot), lane_scales<16>(c, i), total[4 * t + r]);
            }
        }
    }
}

// Adds to total the products of kRows rows, `stride` bytes apart from w on, and n columns from k0
// on, at most a chunk.
template <typename F_, size_t kRows, size_t kTokens, bool kWhole>
A2SF_INLINE void fused_chunk(const QuantizedX &xq, const uint8_t *w, size_t stride, size_t k0,
                             size_t n, F *total) {
    F scale[kRows];
    Fused<F_>::template scales<kRows, kWhole>(w, stride, n / F_::kGroup, scale);
    alignas(64) float c[kTokens * kRows * 16];
    const uint8_t *ahead = w + kPrefetchBytes<F_>;
    __asm__("" : "+r"(ahead));  // one base: GCC would keep a register for each line
    A2SF_UNROLL
    for (size_t t = 0; t < kTokens; ++t) {
        const F factors = x_factors<F_, kWhole>(token_x(xq, t), k0, n);
        A2SF_UNROLL
        for (size_t r = 0; r < kRows; ++r) {
            const F product = mul(scale[r], factors);
            store(c + 16 * (t * kRows + r), product);
            F *sum = &total[4 * t + r];
            if (F_::kHasOffset) *sum = _mm512_mask_add_ps(*sum, 0xff00, *sum, product);
        }
    }
    __asm__("" : "+m"(c));  // loads spread them; GCC would rather shuffle what it stored
    const FusedChunk chunk = {w, ahead, stride, k0, n, c};
    if constexpr (HasNibbles<F_>) {
        fused_nibbles<F_, kRows, kTokens, kWhole>(xq, chunk, total);
    } else {
        fused_steps<F_, kRows, kTokens, kWhole>(xq, chunk, total);
    }
}

// kRows rows, `between` rows apart from r on, of the task's tokens from t0 on.
template <typename F_, size_t kRows, size_t kTokens>
A2SF_INLINE void fused_rows(const MatmulTask &task, size_t r, size_t between, size_t t0) {
    constexpr size_t kChunk = Fused<F_>::kChunk;
    constexpr size_t kChunkBytes = kChunk / F_::kBlock * F_::kBlockBytes;
    const size_t stride = between * task.row_bytes;
    const uint8_t *w = task.w + r * task.row_bytes;
    const QuantizedX xq = token_x(task.xq, t0);
    F total[4 * kTokens];
    for (size_t i = 0; i < 4 * kTokens; ++i) total[i] = set1(0.0f);
    size_t k0 = 0;
    for (; k0 + kChunk <= task.cols; k0 += kChunk, w += kChunkBytes) {
        fused_chunk<F_, kRows, kTokens, true>(xq, w, stride, k0, kChunk, total);
    }
    if (k0 < task.cols) {
        fused_chunk<F_, kRows, kTokens, false>(xq, w, stride, k0, task.cols - k0, total);
    }
    for (size_t t = 0; t < kTokens; ++t) {
        const F quads = sum_quads(total + 4 * t);  // [4, rows]
        const __m256 pairs =
            _mm256_add_ps(_mm512_castps512_ps256(quads), _mm512_extractf32x8_ps(quads, 1));
        float y[4];
        _mm_storeu_ps(y,
                      _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
        for (size_t i = 0; i < kRows; ++i) finish_row(task, r + i * between, t0 + t, y[i]);
    }
}

template <typename F_>
void fused(const MatmulTask &task) {
    for (size_t r = task.row_begin; r < task.row_end; ++r) {
        if (task.between != 0) {
            fused_rows<F_, kFusedRows, 1>(task, r, task.between, 0);
        } else {
            fused_rows<F_, 1, 1>(task, r, 0, 0);
        }
    }
}

// All tokens of kRows rows, whose bytes stay in the first-level cache.
template <typename F_, size_t kRows>
A2SF_INLINE void fused_few_rows(const MatmulTask &task, size_t r, size_t between) {
    size_t t = 0;
    for (; t + kFusedTokens <= task.m; t += kFusedTokens) {
        fused_rows<F_, kRows, kFusedTokens>(task, r, between, t);
    }
    for (; t + 2 <= task.m; t += 2) fused_rows<F_, kRows, 2>(task, r, between, t);
    if (t < task.m) fused_rows<F_, kRows, 1>(task, r, between, t);
}

template <typename F_>
void fused_few(const MatmulTask &task) {
    for (size_t r = task.row_begin; r < task.row_end; ++r) {
        if (task.between != 0) {
            fused_few_rows<F_, kFusedRows>(task, r, task.between);
        } else {
            fused_few_rows<F_, 1>(task, r, 0);
        }
    }
}

// ---- the table -------------------------------------------------------------------------------

// `table` with the products above in place of matvec and few.
constexpr Kernels with_fused(Kernels table) {
#define A2SF_FUSED(F_)                        \
    table.matvec[index_of<F_>()] = fused<F_>; \
    table.few[index_of<F_>()] = fused_few<F_>;
    A2SF_FUSED_FORMATS(A2SF_FUSED)
#undef A2SF_FUSED
    return table;
}

}  // namespace
}  // namespace a2sf
