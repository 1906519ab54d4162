// Q8_0: 32 weights, one half scale, signed bytes. Layout: half d; i8 qs[32].
// Divergence: a stored -128 reads as -127, so that |q| <= 127 holds for the kernels. llama.cpp
// would take it as it is, but no quantiser writes it: they scale the largest weight to 127.
#pragma once

#include "quant/format.h"

namespace a2sf {

struct Q8_0 {
    static constexpr const char *kName = "Q8_0";
    static constexpr uint32_t kGgmlId = 8;
    static constexpr int kBlock = 32;
    static constexpr int kBlockBytes = 34;
    static constexpr int kGroup = 32;
    static constexpr bool kHasOffset = false;

    struct Block {
        uint16_t d;
        int8_t qs[32];
    };
    static_assert(sizeof(Block) == kBlockBytes);

    A2SF_INLINE void unpack(const uint8_t *block, int8_t *q, float *scale, float *offset) {
        (void)offset;
        scale[0] = load_half(block);
        const int8_t *qs = (const int8_t *)(block + 2);
        for (int i = 0; i < 32; ++i) q[i] = qs[i] < -127 ? (int8_t)-127 : qs[i];
    }
};

}  // namespace a2sf
