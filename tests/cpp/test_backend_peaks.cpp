// The kernels that measure a machine: that they do what they count, on every instruction set.
#include <doctest/doctest.h>

#include <vector>

#include "backend/registry.h"
#include "test_kernels.h"

using namespace a2sf;
using namespace a2sf::testing;

TEST_CASE("peaks: operations grow with the rounds") {
    for (const std::string &name : isas()) {
        const Kernels &kernels = kernels_for(name);
        CAPTURE(name);
        for (const auto kernel : {kernels.peak_int8, kernels.peak_float, kernels.peak_tiles}) {
            if (kernel == nullptr) continue;
            CHECK(kernel(0) == 0.0);
            CHECK(kernel(1) > 0.0);
            CHECK(kernel(100) == 100.0 * kernel(1));
        }
        CHECK(kernels.peak_int8(kPeakMostRounds / 16) > 0.0);
    }
}

TEST_CASE("peaks: reading stays inside what it is given") {
    for (const std::string &name : isas()) {
        // Sized exactly and off every alignment: a sanitizer sees a step too far.
        for (const size_t n : {kPeakReadFloats, 3 * kPeakReadFloats}) {
            const std::vector<float> memory(n + 1, 1.0f);
            kernels_for(name).read_floats(memory.data() + 1, n);
        }
    }
}

TEST_CASE("peaks: every device has some") {
    for (const BackendEntry &entry : backend_entries()) {
        if (!entry.unavailable().empty()) continue;
        const MachinePeaks peaks = entry.create({2})->measure_peaks();
        CHECK(peaks.read_gb_s > 0.0);
        CHECK(peaks.int8_gops > 0.0);
        CHECK(peaks.float_gflops > 0.0);
    }
}
