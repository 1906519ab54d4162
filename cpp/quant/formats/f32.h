// F32: plain little-endian floats.
#pragma once

#include "quant/format.h"

namespace a2sf {

struct F32 {
    static constexpr const char *kName = "F32";
    static constexpr uint32_t kGgmlId = 0;
    static constexpr int kBlock = 1;
    static constexpr int kBlockBytes = 4;
    static constexpr int kGroup = 0;
    static constexpr bool kHasOffset = false;

    A2SF_INLINE float decode(const uint8_t *element) {
        float value;
        memcpy(&value, element, sizeof value);
        return value;
    }
};

}  // namespace a2sf
