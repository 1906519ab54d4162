// Q5_K: 256 weights in 8 groups of 32, 5-bit values, 6-bit scales and minima. Layout: half d;
// half dmin; u8 scales[12] (see unpack_k_scales); u8 qh[32]; u8 qs[128]. Each 32 bytes of qs hold
// two groups: the first in the low, the second in the high nibbles. The fifth bit of element i of
// group g is bit g of qh[i].
#pragma once

#include "quant/nibbles.h"

namespace a2sf {

struct Q5_K {
    static constexpr const char *kName = "Q5_K";
    static constexpr uint32_t kGgmlId = 13;
    static constexpr int kBlock = 256;
    static constexpr int kBlockBytes = 176;
    static constexpr int kGroup = 32;
    static constexpr bool kHasOffset = true;

    struct Block {
        uint16_t d;
        uint16_t dmin;
        uint8_t scales[12];
        uint8_t qh[32];
        uint8_t qs[128];
    };
    static_assert(sizeof(Block) == kBlockBytes);

    A2SF_INLINE void unpack(const uint8_t *block, int8_t *q, float *scale, float *offset) {
        unpack_k_scales(block, scale, offset);
        const uint8_t *qh = block + 16;
        for (int pair = 0; pair < 4; ++pair) {
            const uint8_t *qs = block + 48 + 32 * pair;
            int8_t *out = q + 64 * pair;
            const int bit = 2 * pair;
            for (int i = 0; i < 32; ++i) {
                out[i] = (int8_t)((qs[i] & 15) | (qh[i] >> bit & 1) << 4);
            }
            for (int i = 0; i < 32; ++i) {
                out[i + 32] = (int8_t)(qs[i] >> 4 | (qh[i] >> (bit + 1) & 1) << 4);
            }
        }
    }
};

}  // namespace a2sf
