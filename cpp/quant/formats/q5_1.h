// Q5_1: 32 weights, half scale and half offset, 5-bit values 0..31. Layout: half d; half m; u8
// qh[4]; u8 qs[16], element i in the low and element i + 16 in the high nibble of qs[i], the fifth
// bit of element i in bit i of qh taken as a little-endian number.
#pragma once

#include "quant/nibbles.h"

namespace a2sf {

struct Q5_1 {
    static constexpr const char *kName = "Q5_1";
    static constexpr uint32_t kGgmlId = 7;
    static constexpr int kBlock = 32;
    static constexpr int kBlockBytes = 24;
    static constexpr int kGroup = 32;
    static constexpr bool kHasOffset = true;

    struct Block {
        uint16_t d;
        uint16_t m;
        uint8_t qh[4];
        uint8_t qs[16];
    };
    static_assert(sizeof(Block) == kBlockBytes);

    A2SF_INLINE void unpack(const uint8_t *block, int8_t *q, float *scale, float *offset) {
        scale[0] = load_half(block);
        offset[0] = load_half(block + 2);
        unpack_five_bits(block + 8, block + 4, 0, q);
    }
};

}  // namespace a2sf
