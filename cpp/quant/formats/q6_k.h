// Q6_K: 256 weights in 16 groups of 16, 6-bit values stored plus 32, signed 8-bit scales. Layout:
// u8 ql[128]; u8 qh[64]; i8 scales[16]; half d. Each 64 bytes of ql and 32 of qh hold 128 weights:
// elements 0..63 have their low four bits in the low, 64..127 in the high nibbles of ql; the upper
// two bits of element 32 * s + i are bits 2s and 2s + 1 of qh[i].
#pragma once

#include "quant/format.h"

namespace a2sf {

struct Q6_K {
    static constexpr const char *kName = "Q6_K";
    static constexpr uint32_t kGgmlId = 14;
    static constexpr int kBlock = 256;
    static constexpr int kBlockBytes = 210;
    static constexpr int kGroup = 16;
    static constexpr bool kHasOffset = false;

    struct Block {
        uint8_t ql[128];
        uint8_t qh[64];
        int8_t scales[16];
        uint16_t d;
    };
    static_assert(sizeof(Block) == kBlockBytes);

    A2SF_INLINE void unpack(const uint8_t *block, int8_t *q, float *scale, float *offset) {
        (void)offset;
        const float d = load_half(block + 208);
        const int8_t *scales = (const int8_t *)(block + 192);
        for (int g = 0; g < 16; ++g) scale[g] = d * (float)scales[g];
        for (int half = 0; half < 2; ++half) {
            const uint8_t *ql = block + 64 * half;
            const uint8_t *qh = block + 128 + 32 * half;
            int8_t *out = q + 128 * half;
            for (int i = 0; i < 32; ++i) {
                out[i] = (int8_t)(((ql[i] & 15) | (qh[i] & 3) << 4) - 32);
            }
            for (int i = 0; i < 32; ++i) {
                out[i + 32] = (int8_t)(((ql[i + 32] & 15) | (qh[i] >> 2 & 3) << 4) - 32);
            }
            for (int i = 0; i < 32; ++i) {
                out[i + 64] = (int8_t)((ql[i] >> 4 | (qh[i] >> 4 & 3) << 4) - 32);
            }
            for (int i = 0; i < 32; ++i) {
                out[i + 96] = (int8_t)((ql[i + 32] >> 4 | qh[i] >> 6 << 4) - 32);
            }
        }
    }
};

}  // namespace a2sf
