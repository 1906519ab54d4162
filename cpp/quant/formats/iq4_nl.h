// IQ4_NL: 32 weights, one half scale, 4-bit codes into kIq4Values. Layout: half d; u8 qs[16],
// element i in the low and element i + 16 in the high nibble of qs[i].
#pragma once

#include "quant/nibbles.h"

namespace a2sf {

struct IQ4_NL {
    static constexpr const char *kName = "IQ4_NL";
    static constexpr uint32_t kGgmlId = 20;
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
        unpack_codes(block + 2, kIq4Values, q);
    }
};

}  // namespace a2sf
