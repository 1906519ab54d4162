// MXFP4: 32 weights, a power-of-two scale, 4-bit e2m1 floats (OCP Microscaling Formats 1.0).
// Layout: u8 e, the scale's exponent with bias 127; u8 qs[16], element i in the low and element i +
// 16 in the high nibble of qs[i]. The codes stand for doubled values, so the scale is 2^(e - 128).
// As in llama.cpp, e = 255 is an ordinary exponent; OCP makes it NaN.
#pragma once

#include "quant/nibbles.h"

namespace a2sf {

struct MXFP4 {
    static constexpr const char *kName = "MXFP4";
    static constexpr uint32_t kGgmlId = 39;
    static constexpr int kBlock = 32;
    static constexpr int kBlockBytes = 17;
    static constexpr int kGroup = 32;
    static constexpr bool kHasOffset = false;

    struct Block {
        uint8_t e;
        uint8_t qs[16];
    };
    static_assert(sizeof(Block) == kBlockBytes);

    A2SF_INLINE void unpack(const uint8_t *block, int8_t *q, float *scale, float *offset) {
        (void)offset;
        // 2^-127 and 2^-128 are subnormal floats: shifted bits instead of an exponent field.
        const uint32_t e = block[0];
        scale[0] = bits_to_float(e < 2 ? 0x00200000u << e : (e - 1) << 23);
        unpack_codes(block + 1, kE2m1Doubled, q);
    }
};

}  // namespace a2sf
