// Every token of a head compared with every other, a thread for each, by blocks of kPairThreads.
#pragma once

#include "backend/cuda/device.cuh"

namespace a2sf {

constexpr unsigned kPairThreads = 256;

// visit(from[i], i) for every i < n. All threads of the block call it.
template <typename T, typename Visit>
A2SF_INLINE void visit_all(const T *from, size_t n, const Visit &visit) {
    __shared__ T tile[kPairThreads];
    for (size_t first = 0; first < n; first += kPairThreads) {
        __syncthreads();  // the last tile has been read
        if (first + threadIdx.x < n) tile[threadIdx.x] = from[first + threadIdx.x];
        __syncthreads();
        const unsigned here = n - first < kPairThreads ? (unsigned)(n - first) : kPairThreads;
        for (unsigned i = 0; i < here; ++i) visit(tile[i], first + i);
    }
}

// The tokens of a head that are older than that of a slot.
A2SF_INLINE size_t count_older(const int32_t *of_slot, size_t live, size_t slot) {
    const int32_t own = slot < live ? of_slot[slot] : 0;
    unsigned older = 0;
    visit_all(of_slot, live, [&](int32_t pos, size_t) { older += pos < own ? 1 : 0; });
    return older;
}

}  // namespace a2sf
