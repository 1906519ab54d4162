// What the kernel and backend tests share: seeded random data, random weights of any type, the
// usable instruction sets, and THE table of tolerances.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/isa.h"
#include "base/buffer.h"
#include "quant/registry.h"

namespace a2sf::testing {

// Largest error allowed, relative to the sum of the magnitudes that a result is made of.
struct Tolerances {
    double exp = 3e-7;         // relative to the result
    double activation = 1e-6;  // relative to |x * up|
    double rope = 3e-7;
    double norm = 2e-6;
    double sum = 3e-7;  // a float sum of up to some thousand terms, in lanes
    // Output relative to a large |v|, scores to the sum of weights; a logit of 20 rounds by 1e-6.
    double attention = 5e-6;
    // bfloat16: a logit that sums 64 terms of 0.4 rounds by some per cent; halves: by an eighth of
    // that.
    double attention_tiles = 0.05;
    double attention_halves = 0x1p-7;
    double half = 0x1p-11;                // rounding to binary16, relative
    double q8_0 = 0x1p-11 + 0.5 / 127.0;  // a K/V value, relative to its block's largest
};
constexpr Tolerances kTolerances;

using Rng = std::mt19937;

inline std::vector<float> random_floats(Rng &rng, size_t n, float scale = 1.0f) {
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<float> values(n);
    for (float &value : values) value = normal(rng);
    return values;
}

// Random blocks of a type whose largest weight lies in [1e-3, 10]: any bytes are a valid block, so
// bytes are drawn until the decoded values are reasonable.
inline std::vector<uint8_t> random_blocks(Rng &rng, const WeightType &type, size_t n) {
    std::vector<uint8_t> bytes(type.row_bytes(n));
    std::vector<float> values(type.block);
    for (size_t at = 0; at < bytes.size(); at += type.block_bytes) {
        for (bool reasonable = false; !reasonable;) {
            for (size_t i = 0; i < type.block_bytes; ++i) {
                bytes[at + i] = static_cast<uint8_t>(rng());
            }
            type.decode(&bytes[at], values.data(), type.block);
            float largest = 0.0f;
            bool finite = true;
            for (float value : values) {
                finite &= std::isfinite(value);
                largest = std::max(largest, std::fabs(value));
            }
            reasonable = finite && largest >= 1e-3f && largest <= 10.0f;
        }
    }
    return bytes;
}

// A QuantizedX and the memory it points to.
struct QuantizedMemory {
    QuantizedMemory(size_t m, size_t n)
        : cols((n + kColsPad - 1) / kColsPad * kColsPad),
          q(m * cols),
          scale(m * cols / 32),
          sum16(m * cols / 16),
          sum32(m * cols / 32),
          start16(m * cols / 16),
          start32(m * cols / 32),
          lane_start(m * cols / 4) {}
    QuantizedX view() const {
        return {cols,         q.data(),       scale.data(),   sum16.data(),
                sum32.data(), start16.data(), start32.data(), lane_start.data()};
    }
    size_t cols;
    Buffer<int8_t> q;
    Buffer<float> scale, sum16, sum32;
    Buffer<int32_t> start16, start32, lane_start;
};

// Every usable table; index 0 is the scalar one.
inline std::vector<const Kernels *> usable_kernels() {
    std::vector<const Kernels *> tables;
    for (const std::string &name : isas()) tables.push_back(&kernels_for(name));
    return tables;
}

}  // namespace a2sf::testing
