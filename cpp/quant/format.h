// What a weight format must say about itself. A format is a struct in quant/formats/<type>.h with
//
//   static constexpr const char *kName;     // as llama.cpp names it, "Q4_0"
//   static constexpr uint32_t kGgmlId;      // the type's number in GGUF files
//   static constexpr int kBlock;            // elements per block
//   static constexpr int kBlockBytes;       // bytes per block
//   static constexpr int kGroup;            // elements that share a scale: 16 or 32; 0 = plain
//   floats static constexpr bool kHasOffset;       // whether offsets can be non-zero
//
// and, for kGroup > 0, the exact meaning of a block as small integers:
//
//   static void unpack(const uint8_t *block, int8_t *q, float *scale, float *offset);
//       // q [kBlock], scale [kBlock / kGroup], offset [kBlock / kGroup] (only if kHasOffset)
//       // weight[i] = scale[i / kGroup] * q[i] + offset[i / kGroup], |q| <= 127
//
// or, for kGroup == 0,
//
//   static float decode(const uint8_t *element);
//
// Both are A2SF_INLINE and plain loops without the STL: the same source is the scalar truth and,
// compiled once per instruction set, what the CPU kernels unpack with.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/half.h"
#include "base/inline.h"

namespace a2sf {

// A 16-bit little-endian load from unaligned bytes, and the half that it holds.
A2SF_INLINE uint16_t load_u16(const uint8_t *bytes) {
    uint16_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}
A2SF_INLINE float load_half(const uint8_t *bytes) {
    return half_to_float(load_u16(bytes));
}

// One block of format F as floats. out [F::kBlock].
template <typename F>
A2SF_INLINE void decode_block(const uint8_t *block, float *out) {
    if constexpr (F::kGroup == 0) {
        for (int i = 0; i < F::kBlock; ++i)
            out[i] = F::decode(block + i * (F::kBlockBytes / F::kBlock));
    } else {
        int8_t q[F::kBlock];
        float scale[F::kBlock / F::kGroup];
        float offset[F::kBlock / F::kGroup];
        for (int g = 0; g < F::kBlock / F::kGroup; ++g) offset[g] = 0.0f;
        F::unpack(block, q, scale, offset);
        for (int i = 0; i < F::kBlock; ++i)
            out[i] = scale[i / F::kGroup] * q[i] + offset[i / F::kGroup];
    }
}

}  // namespace a2sf
