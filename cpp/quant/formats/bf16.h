// BF16: the upper half of a binary32, little-endian.
#pragma once

#include "quant/format.h"

namespace a2sf {

struct BF16 {
    static constexpr const char *kName = "BF16";
    static constexpr uint32_t kGgmlId = 30;
    static constexpr int kBlock = 1;
    static constexpr int kBlockBytes = 2;
    static constexpr int kGroup = 0;
    static constexpr bool kHasOffset = false;

    A2SF_INLINE float decode(const uint8_t *element) { return bfloat_to_float(load_u16(element)); }
};

}  // namespace a2sf
