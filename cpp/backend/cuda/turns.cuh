// RoPE of one head of one row, in place.
#pragma once

#include "backend/cuda/device.cuh"

#include "backend/backend.h"

namespace a2sf {

struct RowTurns {
    const float *angles;  // [m, 2 half]: cosines, then sines
    size_t stride, half;
    bool halves;
    bool operator==(const RowTurns &) const = default;
};
inline RowTurns row_turns(RopeStyle style, Matrix<const float> angles) {
    return {angles.data, angles.stride, angles.cols / 2, style == RopeStyle::Halves};
}

// Pair j of a head of row i.
A2SF_INLINE void turn_pair(const RowTurns &turns, size_t i, size_t j, float *head) {
    const float *angles = turns.angles + i * turns.stride;
    const float cosine = angles[j], sine = angles[turns.half + j];
    float *low = turns.halves ? head + j : head + 2 * j;
    float *high = turns.halves ? low + turns.half : low + 1;
    const float a = *low, b = *high;
    *low = a * cosine - b * sine;
    *high = a * sine + b * cosine;
}

}  // namespace a2sf
