// Q2_K: 256 weights in 16 groups of 16, 2-bit values, 4-bit scales and minima. Layout:
// u8 scales[16], scale in the low and minimum in the high nibble; u8 qs[64]; half d; half dmin.
// Each 32 bytes of qs hold 128 weights: element 32 * s + i in bits 2s and 2s + 1 of byte i.
#pragma once

#include "quant/format.h"

namespace a2sf {

struct Q2_K {
    static constexpr const char *kName = "Q2_K";
    static constexpr uint32_t kGgmlId = 10;
    static constexpr int kBlock = 256;
    static constexpr int kBlockBytes = 84;
    static constexpr int kGroup = 16;
    static constexpr bool kHasOffset = true;

    struct Block {
        uint8_t scales[16];
        uint8_t qs[64];
        uint16_t d;
        uint16_t dmin;
    };
    static_assert(sizeof(Block) == kBlockBytes);

    A2SF_INLINE void unpack(const uint8_t *block, int8_t *q, float *scale, float *offset) {
        const float d = load_half(block + 80);
        const float dmin = load_half(block + 82);
        for (int g = 0; g < 16; ++g) {
            scale[g] = d * (float)(block[g] & 15);
            offset[g] = -(dmin * (float)(block[g] >> 4));
        }
        for (int half = 0; half < 2; ++half) {
            const uint8_t *qs = block + 16 + 32 * half;
            for (int s = 0; s < 4; ++s) {
                int8_t *out = q + 128 * half + 32 * s;
                for (int i = 0; i < 32; ++i) out[i] = (int8_t)(qs[i] >> 2 * s & 3);
            }
        }
    }
};

}  // namespace a2sf
