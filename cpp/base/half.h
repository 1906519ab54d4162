// Half-precision and bfloat16 scalars as stored in GGUF files, converted to and from float.
// Safe to include from per-ISA sources: everything is A2SF_INLINE and free of the STL.
#pragma once

#include <stdint.h>

#include "base/inline.h"

namespace a2sf {

A2SF_INLINE float bits_to_float(uint32_t bits) {
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

A2SF_INLINE uint32_t float_to_bits(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return bits;
}

// The compiler's own half type, where the processor converts it in one instruction. Clang before
// 15 has none on x86. Sources for a device say which it is before they include this.
#if defined(A2SF_NATIVE_HALF)
#elif defined(__ARM_FEATURE_DOTPROD)
#define A2SF_NATIVE_HALF __fp16
#elif defined(__F16C__) && (!defined(__clang__) || __clang_major__ >= 15)
#define A2SF_NATIVE_HALF _Float16
#endif

// IEEE 754 binary16 -> binary32, exact, subnormals and NaN payloads included.
// One instruction in sources compiled for a processor that has it (there a signalling NaN turns
// quiet): weight scales are converted once per block, right in the decode loop.
A2SF_INLINE float half_to_float(uint16_t half) {
#if defined(A2SF_NATIVE_HALF)
    A2SF_NATIVE_HALF native;
    __builtin_memcpy(&native, &half, sizeof native);
    return (float)native;
#else
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t exponent = (half >> 10) & 0x1fu;
    const uint32_t mantissa = half & 0x3ffu;
    if (exponent == 0x1fu) return bits_to_float(sign | 0x7f800000u | (mantissa << 13));
    if (exponent != 0) return bits_to_float(sign | ((exponent + 112u) << 23) | (mantissa << 13));
    // Subnormal: mantissa * 2^-24, exact in float.
    const float magnitude = (float)mantissa * 0x1p-24f;
    return bits_to_float(sign | float_to_bits(magnitude));
#endif
}

// binary32 -> binary16, round to nearest even; overflow gives infinity, NaN stays NaN.
A2SF_INLINE uint16_t float_to_half(float value) {
    const uint32_t bits = float_to_bits(value);
    const uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {
        // Result is subnormal: adding 0.5 aligns the mantissa to 2^-24 and rounds to nearest even.
        const float shifted = bits_to_float(magnitude) + 0.5f;
        return (uint16_t)(sign | (uint16_t)(float_to_bits(shifted) - 0x3f000000u));
    }
    const uint32_t odd = (magnitude >> 13) & 1u;
    return (uint16_t)(sign | (uint16_t)((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

A2SF_INLINE float bfloat_to_float(uint16_t value) {
    return bits_to_float((uint32_t)value << 16);
}

}  // namespace a2sf
