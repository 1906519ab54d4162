// Function markers. Code that is compiled once per instruction set must have internal linkage
// (A2SF_INLINE), or the linker would keep one copy for every instruction set. Sources for a device
// define them their own way before they include anything.
#pragma once

#ifndef A2SF_INLINE
#define A2SF_INLINE static inline __attribute__((always_inline))
#endif

// A constant array that A2SF_INLINE functions read.
#ifndef A2SF_TABLE
#define A2SF_TABLE static constexpr
#endif
