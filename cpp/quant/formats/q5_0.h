// Q5_0: 32 weights, one half scale, 5-bit values 0..31 stored plus 16. Layout: half d; u8 qh[4];
// u8 qs[16], element i in the low and element i + 16 in the high nibble of qs[i], the fifth bit of
// element i in bit i of qh taken as a little-endian number.
#pragma once

#include "quant/nibbles.h"

namespace a2sf {

struct Q5_0 {
    static constexpr const char *kName = "Q5_0";
    static constexpr uint32_t kGgmlId = 6;
    static constexpr int kBlock = 32;
    static constexpr int kBlockBytes = 22;
    static constexpr int kGroup = 32;
    static constexpr bool kHasOffset = false;

    struct Block {
        uint16_t d;
        uint8_t qh[4];
        uint8_t qs[16];
    };
    static_assert(sizeof(Block) == kBlockBytes);

    A2SF_INLINE void unpack(const uint8_t *block, int8_t *q, float *scale, float *offset) {
        (void)offset;
        scale[0] = load_half(block);
        unpack_five_bits(block + 6, block + 2, 16, q);
    }
};

}  // namespace a2sf
