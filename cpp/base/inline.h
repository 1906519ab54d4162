// Function markers. Code that is compiled once per instruction set must have internal linkage
// (A2SF_INLINE), or the linker would keep one copy for every instruction set.
#pragma once

#define A2SF_INLINE static inline __attribute__((always_inline))
