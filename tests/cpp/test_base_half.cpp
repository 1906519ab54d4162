// Half-precision conversions: every half, and float_to_half at and around every rounding boundary.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

#include "base/half.h"

using namespace a2sf;

namespace {

// IEEE 754: sign * 2^(e - 15) * 1.m, or 2^-14 * 0.m for e = 0. The obvious way.
double half_value(uint16_t half) {
    const int exponent = half >> 10 & 31, mantissa = half & 1023;
    const double sign = half >> 15 ? -1.0 : 1.0;
    if (exponent == 31) {
        return mantissa == 0 ? sign * std::numeric_limits<double>::infinity()
                             : std::numeric_limits<double>::quiet_NaN();
    }
    if (exponent == 0) return sign * std::ldexp(mantissa, -24);
    return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

bool is_nan(uint16_t half) {
    return (half & 0x7fff) > 0x7c00;
}

// The positive half that `above` and `below` bracket rounds to even: below < value <= above.
uint16_t nearest(uint16_t below, float value) {
    const double low = half_value(below);
    const double high = below == 0x7bff ? 65536.0 : half_value(static_cast<uint16_t>(below + 1));
    const double middle = (low + high) / 2;
    if (value < middle) return below;
    if (value > middle) return static_cast<uint16_t>(below + 1);
    return below % 2 == 0 ? below : static_cast<uint16_t>(below + 1);
}

}  // namespace

TEST_CASE("every half converts to its value and back") {
    size_t n_wrong = 0;
    for (uint32_t i = 0; i < 65536; ++i) {
        const uint16_t half = static_cast<uint16_t>(i);
        const float value = half_to_float(half);
        if (is_nan(half)) {
            n_wrong += !std::isnan(value) || !is_nan(float_to_half(value));
            n_wrong += std::signbit(value) != (half >> 15 == 1);
        } else {
            n_wrong += static_cast<double>(value) != half_value(half);
            n_wrong += std::signbit(value) != (half >> 15 == 1);
            n_wrong += float_to_half(value) != half;
        }
    }
    CHECK(n_wrong == 0);
}

TEST_CASE("float_to_half rounds to nearest even at every boundary") {
    size_t n_wrong = 0;
    for (uint16_t below = 0; below < 0x7c00; ++below) {
        const double low = half_value(below);
        const double high =
            below == 0x7bff ? 65536.0 : half_value(static_cast<uint16_t>(below + 1));
        const float middle = static_cast<float>((low + high) / 2);  // exact
        for (const float value :
             {std::nextafterf(static_cast<float>(low), 1e9f), std::nextafterf(middle, 0.0f), middle,
              std::nextafterf(middle, 1e9f), std::nextafterf(static_cast<float>(high), 0.0f)}) {
            n_wrong += float_to_half(value) != nearest(below, value);
            n_wrong += float_to_half(-value) != (nearest(below, value) | 0x8000);
        }
    }
    CHECK(n_wrong == 0);
    CHECK(float_to_half(1e30f) == 0x7c00);
    CHECK(float_to_half(-std::numeric_limits<float>::infinity()) == 0xfc00);
    CHECK(float_to_half(std::numeric_limits<float>::denorm_min()) == 0);
    CHECK(float_to_half(-0.0f) == 0x8000);
}

#if defined(__FLT16_MAX__) && defined(__x86_64__)  // GCC 12 for aarch64 has it in C only
TEST_CASE("float_to_half agrees with the compiler's _Float16") {
    std::mt19937 random(5);
    size_t n_wrong = 0;
    for (int i = 0; i < 2000000; ++i) {
        const float value = bits_to_float(static_cast<uint32_t>(random()));
        if (std::isnan(value)) continue;
        const _Float16 converted = static_cast<_Float16>(value);
        uint16_t expected;
        __builtin_memcpy(&expected, &converted, sizeof expected);
        n_wrong += float_to_half(value) != expected;
    }
    CHECK(n_wrong == 0);
}
#endif

TEST_CASE("bfloat16 is the upper half of a float") {
    size_t n_wrong = 0;
    for (uint32_t i = 0; i < 65536; ++i) {
        n_wrong += float_to_bits(bfloat_to_float(static_cast<uint16_t>(i))) != i << 16;
    }
    CHECK(n_wrong == 0);
}
