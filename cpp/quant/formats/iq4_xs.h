// IQ4_XS: 256 weights in 8 groups of 32, 4-bit codes into kIq4Values, 6-bit scales stored plus 32.
// Layout: half d; u16 scales_h, the upper two bits of scale g at bit 2g; u8 scales_l[4], the low
// four bits of scale g in nibble g; u8 qs[128], 16 bytes per group, packed as in IQ4_NL.
#pragma once

#include "quant/nibbles.h"

namespace a2sf {

struct IQ4_XS {
    static constexpr const char *kName = "IQ4_XS";
    static constexpr uint32_t kGgmlId = 23;
    static constexpr int kBlock = 256;
    static constexpr int kBlockBytes = 136;
    static constexpr int kGroup = 32;
    static constexpr bool kHasOffset = false;

    struct Block {
        uint16_t d;
        uint16_t scales_h;
        uint8_t scales_l[4];
        uint8_t qs[128];
    };
    static_assert(sizeof(Block) == kBlockBytes);

    A2SF_INLINE void unpack(const uint8_t *block, int8_t *q, float *scale, float *offset) {
        (void)offset;
        const float d = load_half(block);
        const int scales_h = load_u16(block + 2);
        const uint8_t *scales_l = block + 4;
        for (int g = 0; g < 8; ++g) {
            const int low = scales_l[g / 2] >> 4 * (g % 2) & 15;
            const int high = scales_h >> 2 * g & 3;
            scale[g] = d * (float)((low | high << 4) - 32);
        }
        for (int g = 0; g < 8; ++g) unpack_codes(block + 8 + 16 * g, kIq4Values, q + 32 * g);
    }
};

}  // namespace a2sf
