// In which order tokens leave a cache, for the host and for devices that choose by themselves.
// Plain functions, free of the STL.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/half.h"
#include "base/inline.h"

namespace a2sf {

// A guarded token is judged in the mean with those within so many positions (select.h).
constexpr int32_t kGuardReach = 3;

// A number that orders tokens as they go: by rank, not-a-number first, then by age, a number that
// is lower for older ones.
A2SF_INLINE uint64_t victim_key(float rank, uint64_t age) {
    // Bits of a float order like it once the negative ones are turned round; -0 counts as 0.
    const uint32_t bits = float_to_bits(rank + 0.0f);
    const uint32_t turned = bits ^ ((bits >> 31) != 0 ? 0xffffffffu : 0x80000000u);
    const uint64_t high = rank != rank ? 0 : turned;
    return high << 32 | age;
}

// A share of n, rounded down, but not because 29 % has no exact binary form.
A2SF_INLINE size_t share_of(double share, size_t n) {
    return (size_t)(share * (double)n + 1e-9);
}

}  // namespace a2sf
