// Pieces that several formats share: 4-bit code books and the 6-bit scales of Q4_K and Q5_K.
// As format.h asks: A2SF_INLINE, plain loops, no STL.
#pragma once

#include "quant/format.h"

namespace a2sf {

// Code book of IQ4_NL and IQ4_XS: denser around zero, as weights are. Source: ggml kvalues_iq4nl.
A2SF_TABLE int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                    1,    13,   25,  38,  53,  69,  89,  113};

// Code book of MXFP4: the e2m1 values (OCP Microscaling Formats 1.0, table 5), doubled.
A2SF_TABLE int8_t kE2m1Doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// Compilers for a device know no vectors of GCC's: loops, which they unroll. The same meanings as
// below.
#ifdef A2SF_PLAIN_LOOPS

A2SF_INLINE void unpack_nibbles(const uint8_t *packed, uint8_t bias, int8_t *q) {
    for (int i = 0; i < 16; ++i) {
        q[i] = (int8_t)((packed[i] & 15) - bias);
        q[i + 16] = (int8_t)((packed[i] >> 4) - bias);
    }
}

A2SF_INLINE void unpack_five_bits(const uint8_t *packed, const uint8_t *high, uint8_t bias,
                                  int8_t *q) {
    for (int i = 0; i < 16; ++i) {
        const int low_fifth = high[i / 8] >> i % 8 & 1, high_fifth = high[2 + i / 8] >> i % 8 & 1;
        q[i] = (int8_t)(((packed[i] & 15) | low_fifth << 4) - bias);
        q[i + 16] = (int8_t)(((packed[i] >> 4) | high_fifth << 4) - bias);
    }
}

A2SF_INLINE void unpack_codes(const uint8_t *packed, const int8_t *table, int8_t *q) {
    for (int i = 0; i < 16; ++i) {
        q[i] = table[packed[i] & 15];
        q[i + 16] = table[packed[i] >> 4];
    }
}

#else

// The compilers' portable vectors, for what GCC does not find by itself: it unrolls loops of 16
// before it vectorises, and it does not turn table loops into byte shuffles (pshufb, tbl).
typedef uint8_t Bytes16 __attribute__((vector_size(16)));
typedef uint8_t Bytes32 __attribute__((vector_size(32)));

A2SF_INLINE Bytes16 load_bytes16(const uint8_t *bytes) {
    Bytes16 value;
    memcpy(&value, bytes, 16);
    return value;
}

// low to q[0..15], high to q[16..31]. Where registers hold 32 bytes it is one store: the kernel
// that loads all 32 back would have to wait for two.
A2SF_INLINE void store_halves(Bytes16 low, Bytes16 high, int8_t *q) {
#ifdef __AVX2__
    const Bytes32 both =
        __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
                                17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31);
    memcpy(q, &both, 32);
#else
    memcpy(q, &low, 16);
    memcpy(q + 16, &high, 16);
#endif
}

// 16 bytes of two 4-bit values each, less `bias`: low nibbles to q[0..15], high to q[16..31].
A2SF_INLINE void unpack_nibbles(const uint8_t *packed, uint8_t bias, int8_t *q) {
    const Bytes16 bytes = load_bytes16(packed);
    store_halves((bytes & 15) - bias, (bytes >> 4) - bias, q);
}

// The same with a fifth bit for q[i] in bit i of the 32 bits at high.
A2SF_INLINE void unpack_five_bits(const uint8_t *packed, const uint8_t *high, uint8_t bias,
                                  int8_t *q) {
    const Bytes16 bytes = load_bytes16(packed);
    const Bytes16 mask = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    Bytes16 bits = {};
    memcpy(&bits, high, 4);
    const Bytes16 spread_low =
        __builtin_shufflevector(bits, bits, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    const Bytes16 spread_high =
        __builtin_shufflevector(bits, bits, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const Bytes16 fifth_low = (Bytes16)((spread_low & mask) == mask) & 16;
    const Bytes16 fifth_high = (Bytes16)((spread_high & mask) == mask) & 16;
    store_halves(((bytes & 15) | fifth_low) - bias, ((bytes >> 4) | fifth_high) - bias, q);
}

// 16 bytes of two 4-bit codes each, looked up in table [16]; q as in unpack_nibbles.
A2SF_INLINE void unpack_codes(const uint8_t *packed, const int8_t *table, int8_t *q) {
#ifdef __clang__  // has no shuffle by variable indices
    for (int i = 0; i < 16; ++i) q[i] = table[packed[i] & 15];
    for (int i = 0; i < 16; ++i) q[i + 16] = table[packed[i] >> 4];
#else
    const Bytes16 bytes = load_bytes16(packed);
    const Bytes16 entries = load_bytes16((const uint8_t *)table);
    store_halves(__builtin_shuffle(entries, bytes & 15), __builtin_shuffle(entries, bytes >> 4), q);
#endif
}

#endif

// The header of a Q4_K or Q5_K block: half d; half dmin; u8 packed[12], eight 6-bit scales and
// eight 6-bit minima. Bytes 0..3 and 4..7 hold the low six bits of scales and minima 0..3, and in
// their upper two bits the top of scales and minima 4..7, whose low nibbles share bytes 8..11.
// scale [8], offset [8].
A2SF_INLINE void unpack_k_scales(const uint8_t *block, float *scale, float *offset) {
    const float d = load_half(block);
    const float dmin = load_half(block + 2);
    const uint8_t *packed = block + 4;
    for (int i = 0; i < 4; ++i) {
        scale[i] = d * (float)(packed[i] & 63);
        offset[i] = -(dmin * (float)(packed[i + 4] & 63));
    }
    for (int i = 0; i < 4; ++i) {
        scale[i + 4] = d * (float)((packed[i + 8] & 15) | (packed[i] >> 6 << 4));
        offset[i + 4] = -(dmin * (float)((packed[i + 8] >> 4) | (packed[i + 4] >> 6 << 4)));
    }
}

}  // namespace a2sf
