// F16: IEEE 754 binary16, little-endian.
#pragma once

#include "quant/format.h"

namespace a2sf {

struct F16 {
    static constexpr const char *kName = "F16";
    static constexpr uint32_t kGgmlId = 1;
    static constexpr int kBlock = 1;
    static constexpr int kBlockBytes = 2;
    static constexpr int kGroup = 0;
    static constexpr bool kHasOffset = false;

    A2SF_INLINE float decode(const uint8_t *element) { return load_half(element); }
};

}  // namespace a2sf
