// Q3_K: 256 weights in 16 groups of 16, 3-bit values stored plus 4, 6-bit scales stored plus 32.
// Layout: u8 hmask[32]; u8 qs[64]; u8 scales[12]; half d. Each 32 bytes of qs hold the low two bits
// of 128 weights: element 32 * s + i in bits 2s and 2s + 1 of byte i. The third bit of element
// 32 * s + i, with s counted over the whole block, is bit s of hmask[i]. Scale g has its low nibble
// in scales[g % 8] (low for g < 8, else high), its upper two bits in bits 2 * (g / 4) of scales[8 +
// g % 4].
#pragma once

#include "quant/format.h"

namespace a2sf {

struct Q3_K {
    static constexpr const char *kName = "Q3_K";
    static constexpr uint32_t kGgmlId = 11;
    static constexpr int kBlock = 256;
    static constexpr int kBlockBytes = 110;
    static constexpr int kGroup = 16;
    static constexpr bool kHasOffset = false;

    struct Block {
        uint8_t hmask[32];
        uint8_t qs[64];
        uint8_t scales[12];
        uint16_t d;
    };
    static_assert(sizeof(Block) == kBlockBytes);

    A2SF_INLINE void unpack(const uint8_t *block, int8_t *q, float *scale, float *offset) {
        (void)offset;
        const float d = load_half(block + 108);
        const uint8_t *scales = block + 96;
        for (int g = 0; g < 16; ++g) {
            const int low = scales[g % 8] >> 4 * (g / 8) & 15;
            const int high = scales[8 + g % 4] >> 2 * (g / 4) & 3;
            scale[g] = d * (float)((low | high << 4) - 32);
        }
        for (int half = 0; half < 2; ++half) {
            const uint8_t *qs = block + 32 + 32 * half;
            for (int s = 0; s < 4; ++s) {
                int8_t *out = q + 128 * half + 32 * s;
                const int bit = 4 * half + s;
                for (int i = 0; i < 32; ++i) {
                    out[i] = (int8_t)(((qs[i] >> 2 * s & 3) | (block[i] >> bit & 1) << 2) - 4);
                }
            }
        }
    }
};

}  // namespace a2sf
