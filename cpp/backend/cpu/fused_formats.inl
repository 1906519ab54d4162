// The weight formats as matvec_avx512.inl takes them: 64 weights at a time as unsigned bytes in a
// register, and the scales of a chunk of columns. Rows are not unpacked first. Included by
// isa_avx512.cpp, after kernels.inl.

namespace a2sf {
namespace {

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

// The formats that have one.
#define A2SF_FUSED_FORMATS(X) X(Q4_0) X(Q4_1) X(Q8_0) X(Q4_K) X(Q6_K) X(Q5_K) X(Q5_0) X(IQ4_NL)

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
        return unsigned_of(_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
    }
    A2SF_INLINE I unsigned_of(I bytes) {
        return _mm512_max_epu8(_mm512_xor_si512(bytes, set1_bytes(128)), set1_bytes(1));
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

template <typename F_>
concept HasNibbles = requires(I nibbles) { Fused<F_>::values(nibbles); };

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

}  // namespace
}  // namespace a2sf
