// Weight products for one token, hand-tuned for AVX-512 with VNNI: what matvec does, at the speed
// of memory. Rows are not unpacked first: 64 weights at a time become unsigned bytes in a register
// and are multiplied at once. Replaces the table's matvec for the formats that have a Fused here.
// Included by isa_avx512.cpp, after kernels.inl.
//
// y[r] = sum over groups g of  w_scale[r, g] * x_scale[g] * dot(q_w, q_x) + w_offset[r, g] *
// x_sum[g]
//
// The dot product of signed bytes q_w = u - 2^b is that of the unsigned u, started with
// -2^b * sum(q_x): exactly what lane_start holds for 2^b = 128, and a shift away for less.
// Results depend on the row alone: not on the task's rows nor on how many are taken at once.

namespace a2sf {
namespace {

constexpr size_t kFusedRows = 4;  // rows taken at once
// How far ahead in each row memory is asked for: a row's chunk is a burst that the processor's own
// prefetching is late for, and the more so the more bytes a step takes.
template <typename F_>
constexpr size_t kPrefetchBytes = F_::kBlockBytes > F_::kBlock ? 4096 : 1536;

// What the kernel knows of a format beyond quant/formats/<type>.h. A chunk is the columns whose
// scales fill a vector.
//
//   static constexpr size_t kChunk;  // columns, a multiple of 64 and of the format's block
//   static constexpr int kStart;     // lane_start >> kStart corrects the dot product; -1: 0 does
//   static constexpr float kSign;    // of the offsets
//
//   template <size_t kRows, bool kWhole>
//   static void scales(const uint8_t *w, size_t stride, size_t n, F *out);
//       // out[r]: of n groups in row r, from w + r * stride on, zero above. Formats without
//       // offsets: 16 scales. With offsets: 8 scales, then 8 offsets (times kSign).
//       // kWhole: n fills the chunk. Reads nothing behind the n groups.
//
//   static I weights(const uint8_t *w, size_t i, bool half);
//       // Weights 64 * i .. of a chunk, as unsigned bytes. half: only the first 32 exist; the rest
//       // may be anything.
// or, for blocks of 32 nibbles of which a block's low ones come first:
//   static I values(I nibbles);
//       // Unsigned bytes from nibbles. Four blocks are taken at a time: low nibbles and high ones
//       // go to the same four lanes of each block, so that sums are scaled half as often.
template <typename F_>
struct Fused;

// ---- scales ----------------------------------------------------------------------------------

// For blocks that begin with a half (kLanes == 16: lane b from block b), or with two (kLanes == 8:
// the second in lane b + 8), how a permutation of words takes them from 64 bytes of blocks.
struct alignas(64) WordIndex {
    uint16_t of[32];
};
template <size_t kStride, size_t kLanes>
constexpr size_t kBlocksPerLoad = (64 - 32 / kLanes) / kStride + 1;
template <size_t kStride, size_t kLanes>
constexpr WordIndex word_index() {
    WordIndex index = {};
    for (size_t w = 0; w < 16; ++w) {
        const size_t block = w % kLanes % kBlocksPerLoad<kStride, kLanes>;
        index.of[w] = (uint16_t)(block * kStride / 2 + w / kLanes);
    }
    return index;
}

// The halves at the start of n <= kLanes blocks of kStride bytes as floats, zero above.
template <size_t kStride, size_t kLanes, bool kWhole>
A2SF_INLINE F block_halves(const uint8_t *blocks, size_t n) {
    static constexpr WordIndex kIndex = word_index<kStride, kLanes>();
    constexpr size_t kStep = kBlocksPerLoad<kStride, kLanes>;
    const I index = _mm512_load_si512(kIndex.of);
    I words = _mm512_setzero_si512();
    if (kWhole) n = kLanes;
    A2SF_UNROLL
    for (size_t b = 0; b < kLanes; b += kStep) {
        if (b >= n) break;
        const size_t n_words = (n - b) * kStride / 2;
        const uint32_t lanes = ((1u << kStep) - 1u) << b & ((1u << kLanes) - 1u);
        const I bytes = n_words >= 32 ? _mm512_loadu_si512(blocks + b * kStride)
                                      : _mm512_maskz_loadu_epi16((1u << (n_words & 31)) - 1u,
                                                                 blocks + b * kStride);
        words = _mm512_mask_permutexvar_epi16(words, lanes | (kLanes == 8 ? lanes << 8 : 0u), index,
                                              bytes);
    }
    return _mm512_cvtph_ps(_mm512_castsi512_si256(words));
}

// 6-bit scales and minima of kRows blocks of Q4_K or Q5_K (unpack_k_scales).
template <size_t kRows>
A2SF_INLINE void k_block_scales(const uint8_t *w, size_t stride, F *out) {
    I header = _mm512_setzero_si512();
    A2SF_UNROLL
    for (size_t r = 0; r < kRows; ++r) {
        const __m128i bytes = _mm_loadu_si128((const __m128i *)(w + r * stride));
        header = r == 0 ? _mm512_broadcast_i32x4(bytes)
                        : _mm512_mask_broadcast_i32x4(header, (__mmask16)(15u << 4 * r), bytes);
    }
    // Dwords a, b, c follow d and dmin. Low six bits, then the upper four, their top two from a, b.
    const I lower =
        _mm512_shuffle_epi32(header, (_MM_PERM_ENUM)_MM_SHUFFLE(2, 2, 1, 1));  // a a b b
    const I upper = _mm512_shuffle_epi32(header, (_MM_PERM_ENUM)_MM_SHUFFLE(3, 3, 3, 3));
    const I top = _mm512_srlv_epi32(lower, _mm512_set4_epi32(2, 0, 2, 0));
    const I low = _mm512_srlv_epi32(upper, _mm512_set4_epi32(4, 32, 0, 32));
    const I top_bits = _mm512_set4_epi32(0x30303030, 0x3f3f3f3f, 0x30303030, 0x3f3f3f3f);
    const I low_bits = _mm512_set1_epi32(0x0f0f0f0f);
    const I six = _mm512_or_si512(_mm512_and_si512(top, top_bits), _mm512_and_si512(low, low_bits));
    alignas(64) uint8_t bytes[64];
    _mm512_store_si512(bytes, six);
    const I spread = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    A2SF_UNROLL
    for (size_t r = 0; r < kRows; ++r) {
        const I ints = _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)(bytes + 16 * r)));
        const __m128 d = _mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)(w + r * stride)));
        out[r] = mul(to_float(ints), _mm512_permutexvar_ps(spread, _mm512_castps128_ps512(d)));
    }
}

// ---- weights ---------------------------------------------------------------------------------

// Lanes 0..7 and 8..15 of a vector.
A2SF_INLINE I two_halves(int low, int high) {
    return _mm512_inserti64x4(set1_i(low), _mm256_set1_epi32(high), 1);
}
A2SF_INLINE I set1_bytes(int value) {
    return _mm512_set1_epi8((char)value);
}
// 32 bytes twice.
A2SF_INLINE I twice(const uint8_t *bytes) {
    return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)bytes));
}
// The low bits of each byte up to `bits` from a, the others from b, and of these `keep`.
A2SF_INLINE I join_bits(I a, I b, int bits, int keep) {
    return _mm512_and_si512(_mm512_ternarylogic_epi32(a, b, set1_bytes(bits), 0xe4),
                            set1_bytes(keep));
}

// 16 bytes from each of n <= 4 blocks kStride bytes apart, the first's above them.
template <size_t kStride>
A2SF_INLINE I four_blocks(const uint8_t *first, size_t n) {
    I all = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)first));
    A2SF_UNROLL
    for (size_t b = 1; b < 4; ++b) {
        if (b >= n) break;
        const __m128i block = _mm_loadu_si128((const __m128i *)(first + b * kStride));
        all = _mm512_mask_broadcast_i32x4(all, (__mmask16)(15u << 4 * b), block);
    }
    return all;
}

// 16 bytes of nibbles from each of two blocks, in the order of the elements.
A2SF_INLINE I block_nibbles(const uint8_t *first, const uint8_t *second) {
    const I low = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)first));
    const __m128i high = _mm_loadu_si128((const __m128i *)second);
    const I both = _mm512_mask_broadcast_i32x4(low, 0xff00, high);
    const I shift = _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4);
    return _mm512_and_si512(_mm512_srlv_epi32(both, shift), set1_bytes(15));
}

// ---- formats ---------------------------------------------------------------------------------

// Blocks of 32 that begin with a half (or two: scale and offset).
template <typename F_, int kStartShift>
struct FusedBlocks {
    static constexpr size_t kChunk = F_::kHasOffset ? 256 : 512;
    static constexpr int kStart = kStartShift;
    static constexpr float kSign = 1.0f;
    template <size_t kRows, bool kWhole>
    A2SF_INLINE void scales(const uint8_t *w, size_t stride, size_t n, F *out) {
        A2SF_UNROLL
        for (size_t r = 0; r < kRows; ++r) {
            out[r] = block_halves<F_::kBlockBytes, kChunk / 32, kWhole>(w + r * stride, n);
        }
    }
    A2SF_INLINE I nibbles(const uint8_t *first, const uint8_t *second) {
        constexpr size_t kSkip = F_::kBlockBytes - 16;
        return block_nibbles(first + kSkip, second + kSkip);
    }
};

template <>
struct Fused<Q4_0> : FusedBlocks<Q4_0, 4> {
    A2SF_INLINE I values(I nibbles) { return nibbles; }
};

template <>
struct Fused<Q4_1> : FusedBlocks<Q4_1, -1> {
    A2SF_INLINE I values(I nibbles) { return nibbles; }
};

template <>
struct Fused<Q5_0> : FusedBlocks<Q5_0, 3> {
    A2SF_INLINE I weights(const uint8_t *w, size_t i, bool half) {
        const uint8_t *first = w + 2 * i * Q5_0::kBlockBytes;
        const uint8_t *second = half ? first : first + Q5_0::kBlockBytes;
        uint32_t low, high;
        memcpy(&low, first + 2, sizeof low);
        memcpy(&high, second + 2, sizeof high);
        const I four = nibbles(first, second);
        const __mmask64 fifth = low | (uint64_t)high << 32;
        return _mm512_mask_add_epi8(four, fifth, four, set1_bytes(16));
    }
};

template <>
struct Fused<IQ4_NL> : FusedBlocks<IQ4_NL, 0> {
    A2SF_INLINE I values(I nibbles) {
        const __m128i table = _mm_loadu_si128((const __m128i *)kIq4Values);
        const __m128i flipped = _mm_xor_si128(table, _mm_set1_epi8((char)-128));
        return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(flipped), nibbles);
    }
};

// Weights are flipped to unsigned by adding 128: -128, which reads as -127, to 1.
template <>
struct Fused<Q8_0> : FusedBlocks<Q8_0, 0> {
    A2SF_INLINE I weights(const uint8_t *w, size_t i, bool half) {
        const uint8_t *first = w + 2 * i * Q8_0::kBlockBytes;
        const __m256i low = _mm256_loadu_si256((const __m256i *)(first + 2));
        const uint8_t *second = half ? first : first + Q8_0::kBlockBytes;
        const __m256i high = _mm256_loadu_si256((const __m256i *)(second + 2));
        const I both = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
        return _mm512_max_epu8(_mm512_xor_si512(both, set1_bytes(128)), set1_bytes(1));
    }
};

struct FusedK {
    static constexpr size_t kChunk = 256;
    static constexpr int kStart = -1;
    static constexpr float kSign = -1.0f;
    template <size_t kRows, bool kWhole>
    A2SF_INLINE void scales(const uint8_t *w, size_t stride, size_t, F *out) {
        k_block_scales<kRows>(w, stride, out);
    }
};

template <>
struct Fused<Q4_K> : FusedK {
    A2SF_INLINE I weights(const uint8_t *w, size_t i, bool) {
        const I shifted = _mm512_srlv_epi32(twice(w + 16 + 32 * i), two_halves(0, 4));
        return _mm512_and_si512(shifted, set1_bytes(15));
    }
};

template <>
struct Fused<Q5_K> : FusedK {
    A2SF_INLINE I weights(const uint8_t *w, size_t i, bool) {
        const I four = _mm512_srlv_epi32(twice(w + 48 + 32 * i), two_halves(0, 4));
        // Bits 2i and 2i + 1 of qh to bit 4.
        const int turn = 4 - 2 * (int)i;
        const I fifth = _mm512_rolv_epi32(twice(w + 16), two_halves(turn & 31, (turn - 1) & 31));
        return join_bits(four, fifth, 15, 31);
    }
};

template <>
struct Fused<Q6_K> {
    static constexpr size_t kChunk = 256;
    static constexpr int kStart = 2;
    static constexpr float kSign = 1.0f;
    template <size_t kRows, bool kWhole>
    A2SF_INLINE void scales(const uint8_t *w, size_t stride, size_t, F *out) {
        A2SF_UNROLL
        for (size_t r = 0; r < kRows; ++r) {
            const uint8_t *block = w + r * stride;
            out[r] = mul(load_bytes((const int8_t *)block + 192), set1(load_half(block + 208)));
        }
    }
    A2SF_INLINE I weights(const uint8_t *w, size_t i, bool) {
        const I ql = _mm512_loadu_si512(w + 64 * (i / 2));
        const I qh = twice(w + 128 + 32 * (i / 2));
        // Bits 0, 1 and 2, 3, or for odd i 4, 5 and 6, 7, of qh to bits 4, 5.
        const I shift = i % 2 == 0 ? two_halves(4, 2) : two_halves(0, 30);
        const I four = i % 2 == 0 ? ql : _mm512_srli_epi32(ql, 4);
        return join_bits(four, _mm512_rolv_epi32(qh, shift), 15, 63);
    }
};

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

// A chunk of kRows rows, `stride` bytes apart from w on: columns [k0, k0 + n). c [kRows, 16]: what
// the groups' dot products are multiplied by.
struct FusedChunk {
    const uint8_t *w, *ahead;
    size_t stride, k0, n;
    const float *c;
};

template <typename F_, size_t kRows, bool kWhole>
A2SF_INLINE void fused_steps(const QuantizedX &xq, const FusedChunk &chunk, F *total) {
    using Format = Fused<F_>;
    constexpr size_t kSteps = Format::kChunk / 64;
    constexpr size_t kStepBytes = F_::kBlockBytes * 64 / F_::kBlock;
    A2SF_UNROLL
    for (size_t i = 0; i < kSteps; ++i) {
        if (!kWhole && i * 64 >= chunk.n) break;
        const I start = lane_starts<F_>(xq, chunk.k0 + 64 * i);
        const I x = _mm512_loadu_si512(xq.q + chunk.k0 + 64 * i);
        A2SF_UNROLL
        for (size_t r = 0; r < kRows; ++r) {
            const uint8_t *row = chunk.w + r * chunk.stride;
            prefetch_step<kStepBytes, kSteps>(chunk.ahead + r * chunk.stride, i);
            const I u = Format::weights(row, i, !kWhole && i * 64 + 32 == chunk.n);
            const F dot = to_float(_mm512_dpbusd_epi32(start, u, x));
            total[r] = fma(dot, lane_scales<F_::kGroup>(chunk.c + 16 * r, i), total[r]);
        }
    }
}

// The same for formats with values(): four blocks at a time.
template <typename F_, size_t kRows, bool kWhole>
A2SF_INLINE void fused_nibbles(const QuantizedX &xq, const FusedChunk &chunk, F *total) {
    using Format = Fused<F_>;
    constexpr size_t kSteps = Format::kChunk / 128;
    constexpr size_t kStepBytes = 4 * F_::kBlockBytes;
    constexpr size_t kSkip = F_::kBlockBytes - 16;
    A2SF_UNROLL
    for (size_t i = 0; i < kSteps; ++i) {
        if (!kWhole && i * 128 >= chunk.n) break;
        const size_t k = chunk.k0 + 128 * i, left = kWhole ? 4 : (chunk.n - i * 128) / 32;
        // Behind the last block nothing is read and every scale is 0.
        const I a = _mm512_loadu_si512(xq.q + k);
        const I b = left > 2 ? _mm512_loadu_si512(xq.q + k + 64) : a;
        const I a_start = lane_starts<F_>(xq, k);
        const I b_start = left > 2 ? lane_starts<F_>(xq, k + 64) : a_start;
        const I x_low = _mm512_shuffle_i32x4(a, b, 0x88), x_high = _mm512_shuffle_i32x4(a, b, 0xdd);
        const I start = _mm512_add_epi32(_mm512_shuffle_i32x4(a_start, b_start, 0x88),
                                         _mm512_shuffle_i32x4(a_start, b_start, 0xdd));
        A2SF_UNROLL
        for (size_t r = 0; r < kRows; ++r) {
            const uint8_t *row = chunk.w + r * chunk.stride + kStepBytes * i;
            prefetch_step<kStepBytes, kSteps>(chunk.ahead + r * chunk.stride, i);
            const I both = four_blocks<F_::kBlockBytes>(row + kSkip, left);
            const I low = Format::values(_mm512_and_si512(both, set1_bytes(15)));
            const I high =
                Format::values(_mm512_and_si512(_mm512_srli_epi32(both, 4), set1_bytes(15)));
            const I dot = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(start, low, x_low), high, x_high);
            total[r] = fma(to_float(dot), lane_scales<16>(chunk.c + 16 * r, i), total[r]);
        }
    }
}

template <typename F_>
concept HasNibbles = requires(I nibbles) { Fused<F_>::values(nibbles); };

// total[r] += the products of kRows rows, `stride` bytes apart from w on, and n columns from k0 on,
// at most a chunk.
template <typename F_, size_t kRows, bool kWhole>
A2SF_INLINE void fused_chunk(const QuantizedX &xq, const uint8_t *w, size_t stride, size_t k0,
                             size_t n, F *total) {
    F scale[kRows];
    Fused<F_>::template scales<kRows, kWhole>(w, stride, n / F_::kGroup, scale);
    const F factors = x_factors<F_, kWhole>(xq, k0, n);
    alignas(64) float c[kRows * 16];
    const uint8_t *ahead = w + kPrefetchBytes<F_>;
    __asm__("" : "+r"(ahead));  // one base: GCC would keep a register for each line
    A2SF_UNROLL
    for (size_t r = 0; r < kRows; ++r) {
        const F product = mul(scale[r], factors);
        store(c + 16 * r, product);
        if (F_::kHasOffset) total[r] = _mm512_mask_add_ps(total[r], 0xff00, total[r], product);
    }
    __asm__("" : "+m"(c));  // loads spread them; GCC would rather shuffle what it stored
    const FusedChunk chunk = {w, ahead, stride, k0, n, c};
    if constexpr (HasNibbles<F_>) {
        fused_nibbles<F_, kRows, kWhole>(xq, chunk, total);
    } else {
        fused_steps<F_, kRows, kWhole>(xq, chunk, total);
    }
}

// kRows rows, `between` rows apart from r on.
template <typename F_, size_t kRows>
A2SF_INLINE void fused_rows(const MatmulTask &task, size_t r, size_t between) {
    constexpr size_t kChunk = Fused<F_>::kChunk;
    constexpr size_t kChunkBytes = kChunk / F_::kBlock * F_::kBlockBytes;
    const size_t stride = between * task.row_bytes;
    const uint8_t *w = task.w + r * task.row_bytes;
    F total[4];
    for (size_t i = 0; i < 4; ++i) total[i] = set1(0.0f);
    size_t k0 = 0;
    for (; k0 + kChunk <= task.cols; k0 += kChunk, w += kChunkBytes) {
        fused_chunk<F_, kRows, true>(task.xq, w, stride, k0, kChunk, total);
    }
    if (k0 < task.cols) {
        fused_chunk<F_, kRows, false>(task.xq, w, stride, k0, task.cols - k0, total);
    }
    const F quads = sum_quads(total);  // [4, rows]
    const __m256 pairs =
        _mm256_add_ps(_mm512_castps512_ps256(quads), _mm512_extractf32x8_ps(quads, 1));
    float y[4];
    _mm_storeu_ps(y, _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
    for (size_t i = 0; i < kRows; ++i) finish_row(task, r + i * between, y[i]);
}

template <typename F_>
void fused(const MatmulTask &task) {
    for (size_t r = task.row_begin; r < task.row_end; ++r) {
        if (task.between != 0) {
            fused_rows<F_, kFusedRows>(task, r, task.between);
        } else {
            fused_rows<F_, 1>(task, r, 0);
        }
    }
}

// ---- the table -------------------------------------------------------------------------------

template <typename F_>
constexpr size_t index_of() {
    size_t index = 0, n = 0;
#define A2SF_FIND(G_)                          \
    if (G_::kGgmlId == F_::kGgmlId) index = n; \
    ++n;
    A2SF_WEIGHT_FORMATS(A2SF_FIND)
#undef A2SF_FIND
    return index;
}

// `table` with the products above in place of matvec.
constexpr Kernels with_fused(Kernels table) {
    table.matvec[index_of<Q4_0>()] = fused<Q4_0>;
    table.matvec[index_of<Q4_1>()] = fused<Q4_1>;
    table.matvec[index_of<Q8_0>()] = fused<Q8_0>;
    table.matvec[index_of<Q4_K>()] = fused<Q4_K>;
    table.matvec[index_of<Q6_K>()] = fused<Q6_K>;
    table.matvec[index_of<Q5_K>()] = fused<Q5_K>;
    table.matvec[index_of<Q5_0>()] = fused<Q5_0>;
    table.matvec[index_of<IQ4_NL>()] = fused<IQ4_NL>;
    return table;
}

}  // namespace
}  // namespace a2sf
