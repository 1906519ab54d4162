// Q4_0: 32 weights, one half scale, 4-bit values 0..15 stored minus 8. Layout: half d; u8 qs[16],
// element i in the low and element i + 16 in the high nibble of qs[i].
#pragma once

#include "quant/nibbles.h"

namespace a2sf {

struct Q4_0 {
    static constexpr const char *kName = "Q4_0";
    static constexpr uint32_t kGgmlId = 2;
    static constexpr int kBlock = 32;
    static constexpr int kBlockBytes = 18;
    static constexpr int kGroup = 32;
    static constexpr bool kHasOffset = false;

    struct Block {
        uint16_t d;
        uint8_t qs[16];
    };
    static_assert(sizeof(Block) == kBlockBytes);

    A2SF_INLINE void unpack(const uint8_t *block, int8_t *q, float *scale, float *offset) {
        (void)offset;
        scale[0] = load_half(block);
        unpack_nibbles(block + 2, 8, q);
    }
};

}  // namespace a2sf
