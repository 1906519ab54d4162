// Weight products: every weight type x instruction set against double-precision loops.
#include <doctest/doctest.h>

#include "backend/cpu/cpu_backend.h"
#include "test_kernels.h"

using namespace a2sf;
using namespace a2sf::testing;

namespace {

// A weight with its decoded truth.
struct Truth {
    Truth(Rng &rng, const WeightType &weight_type, size_t n_rows, size_t n_cols)
        : type(weight_type),
          rows(n_rows),
          cols(n_cols),
          bytes(random_blocks(rng, type, rows * cols)) {
        values.resize(rows * cols);
        type.decode(bytes.data(), values.data(), values.size());
    }
    Weight weight() const { return {&type, rows, cols, bytes.data()}; }
    const WeightType &type;
    size_t rows, cols;
    std::vector<uint8_t> bytes;
    std::vector<float> values;  // [rows, cols]
};

// What reads x: matvec when m is 1, else what the table says.
BatchX form_of(const Kernels &kernels, const WeightType &type, size_t m) {
    if (m > 1) return kernels.batch_x[type.index];
    return type.group == 0 ? kBatchFloats : kBatchIntegers;
}

// Checks y [m, rows] = first + x * w^T with the rounding that the form of x may cost at most.
// Integers: half a step, amax / 251 with the largest step taken, per element of a group of 32.
// bfloat16: 2^-8 of each factor.
void check_product(const Truth &truth, BatchX form, const std::vector<float> &x, size_t m,
                   const std::vector<double> &first, const float *y) {
    for (size_t t = 0; t < m; ++t) {
        for (size_t r = 0; r < truth.rows; ++r) {
            double product = 0.0, size = 0.0, allowed = 0.0;
            for (size_t k0 = 0; k0 < truth.cols; k0 += 32) {
                double amax = 0.0, weights = 0.0;
                for (size_t k = k0; k < std::min(k0 + 32, truth.cols); ++k) {
                    const double w = truth.values[r * truth.cols + k], a = x[t * truth.cols + k];
                    product += w * a;
                    size += std::fabs(w * a);
                    amax = std::max(amax, std::fabs(a));
                    weights += std::fabs(w);
                }
                if (form == kBatchIntegers) allowed += weights * amax / 251.0;
            }
            if (form == kBatchBfloat) allowed += size * 0x1.01p-7;
            const double expected = first[t * truth.rows + r] + product;
            // Formats with offsets add two large terms: their rounding is covered by `allowed`.
            CHECK(std::fabs(y[t * truth.rows + r] - expected) <=
                  1.001 * allowed + kTolerances.sum * 4 * (size + std::fabs(expected)));
        }
    }
}

}  // namespace

TEST_CASE("kernels: activations quantise alike on every instruction set, exactly as documented") {
    Rng rng(5);
    for (const size_t n : {32, 64, 96, 320}) {
        std::vector<float> x = random_floats(rng, n);
        std::fill(x.begin(), x.begin() + 32, n == 64 ? 0.0f : 1e-33f);
        const QuantizedMemory scalar(2, n);
        for (const Kernels *kernels : usable_kernels()) {
            CAPTURE(std::string(kernels->name));
            const QuantizedMemory memory(2, n);
            kernels->quantize_row(x.data(), n, memory.view(), 1, true);
            if (kernels->name == std::string("scalar")) {
                kernels->quantize_row(x.data(), n, scalar.view(), 1, true);
            }
            const QuantizedX xq = memory.view();
            CHECK(std::memcmp(xq.q, scalar.q.data(), 2 * xq.cols) == 0);
            CHECK(std::memcmp(xq.scale, scalar.scale.data(), 2 * xq.cols / 32 * 4) == 0);
            for (size_t g = 0; g < xq.cols / 32; ++g) {
                const size_t at = xq.cols / 32 + g;
                int total = 0;
                for (size_t i = 0; i < 32; ++i) {
                    const int q = xq.q[xq.cols + g * 32 + i];
                    total += q;
                    const float value = g * 32 + i < n ? x[g * 32 + i] : 0.0f;
                    CHECK(std::abs(q) <= 127);
                    CHECK(std::fabs(xq.scale[at] * q - value) <= xq.scale[at] * 0.50001f + 1e-30f);
                }
                CHECK(xq.sum32[at] == doctest::Approx(xq.scale[at] * total));
                CHECK(xq.sum16[2 * at] + xq.sum16[2 * at + 1] ==
                      doctest::Approx(xq.scale[at] * total).epsilon(1e-4));
            }
        }
    }
}

TEST_CASE("kernels: products of every weight type") {
    for (const WeightType &type : weight_types()) {
        CAPTURE(std::string(type.name));
        Rng rng(6);
        for (const size_t rows : {1, 3, 16, 17, 64}) {
            for (const size_t blocks : {1, 3, 17, 37}) {
                const size_t unit = type.group == 0 ? 17 : type.block;
                const size_t cols = blocks > 17 && unit > 32 ? 5 * unit : blocks * unit;
                const Truth truth(rng, type, rows, cols);
                const Weight w = truth.weight();
                const std::vector<float> bias = random_floats(rng, rows);
                for (const size_t m : {1, 2, 3, 5, 16, 33}) {
                    const std::vector<float> x = random_floats(rng, m * cols);
                    const std::vector<float> old = random_floats(rng, m * rows);
                    for (const Kernels *kernels : usable_kernels()) {
                        CAPTURE(std::string(kernels->name));
                        CAPTURE(rows);
                        CAPTURE(cols);
                        CAPTURE(m);
                        CpuBackend backend(*kernels, 1);
                        const BatchX form = form_of(*kernels, type, m);
                        std::vector<float> y = old, z = old;
                        Product products[2] = {{&w, nullptr, {y.data(), m, rows}, false},
                                               {&w, bias.data(), {z.data(), m, rows}, true}};
                        backend.matmul(Matrix<const float>(x.data(), m, cols), products);
                        std::vector<double> first(m * rows, 0.0);
                        check_product(truth, form, x, m, first, y.data());
                        for (size_t i = 0; i < first.size(); ++i) {
                            first[i] = static_cast<double>(old[i]) + bias[i % rows];
                        }
                        check_product(truth, form, x, m, first, z.data());

                        // Tokens that have nothing to do with each other: as precise as one token.
                        Input input(Matrix<const float>(x.data(), m, cols));
                        input.independent = true;
                        z = old;
                        backend.matmul(input, {&products[1], 1});
                        check_product(truth, form_of(*kernels, type, 1), x, m, first, z.data());
                    }
                }
            }
        }
    }
}

// What is left of the error when the quantised activations themselves are the truth: float sums.
TEST_CASE("kernels: integer products are exact up to float sums") {
    for (const WeightType &type : weight_types()) {
        if (type.group == 0) continue;
        Rng rng(7);
        const size_t rows = 33, cols = 256 * 7, m = 8;
        const Truth truth(rng, type, rows, cols);
        const Weight w = truth.weight();
        const std::vector<float> x = random_floats(rng, m * cols);
        for (const Kernels *kernels : usable_kernels()) {
            const QuantizedMemory memory(m, cols);
            for (size_t t = 0; t < m; ++t) {
                kernels->quantize_row(&x[t * cols], cols, memory.view(), t, false);
            }
            CpuBackend backend(*kernels, 1);
            std::vector<float> y(m * rows), y1(rows);
            const Product product = {&w, nullptr, {y.data(), m, rows}, false};
            const Product single = {&w, nullptr, {y1.data(), 1, rows}, false};
            backend.matmul(Matrix<const float>(x.data(), m, cols), {&product, 1});
            backend.matmul(Matrix<const float>(x.data(), 1, cols), {&single, 1});
            double worst = 0.0, worst1 = 0.0;
            for (size_t t = 0; t < m; ++t) {
                for (size_t r = 0; r < rows; ++r) {
                    double product_sum = 0.0, size = 0.0;
                    for (size_t k = 0; k < cols; ++k) {
                        const double a =
                            static_cast<double>(memory.scale[t * memory.cols / 32 + k / 32]) *
                            memory.q[t * memory.cols + k];
                        product_sum += truth.values[r * cols + k] * a;
                        size += std::fabs(truth.values[r * cols + k] * a);
                    }
                    if (kernels->batch_x[type.index] == kBatchIntegers) {
                        worst = std::max(worst, std::fabs(y[t * rows + r] - product_sum) / size);
                    }
                    if (t == 0) worst1 = std::max(worst1, std::fabs(y1[r] - product_sum) / size);
                }
            }
            MESSAGE(std::string(type.name), " ", std::string(kernels->name),
                    ": largest relative error, batch ", worst, ", one token ", worst1);
            CHECK(worst <= 4 * kTolerances.sum);
            CHECK(worst1 <= 4 * kTolerances.sum);
        }
    }
}

TEST_CASE("kernels: a row of a batch is the same for any batch and any number of threads") {
    for (const WeightType &type : weight_types()) {
        CAPTURE(std::string(type.name));
        Rng rng(8);
        const size_t rows = 100, cols = 256 * 3, m = 33;
        const Truth truth(rng, type, rows, cols);
        const Weight w = truth.weight();
        const std::vector<float> x = random_floats(rng, m * cols);
        for (const Kernels *kernels : usable_kernels()) {
            CAPTURE(std::string(kernels->name));
            std::vector<float> whole(m * rows), single(rows);
            for (const size_t n_threads : {1, 2, 4}) {
                CpuBackend backend(*kernels, n_threads);
                std::vector<float> y(m * rows), part(7 * rows), y1(rows);
                const Product product = {&w, nullptr, {y.data(), m, rows}, false};
                const Product small = {&w, nullptr, {part.data(), 7, rows}, false};
                const Product one = {&w, nullptr, {y1.data(), 1, rows}, false};
                backend.matmul(Matrix<const float>(x.data(), m, cols), {&product, 1});
                backend.matmul(Matrix<const float>(x.data() + 5 * cols, 7, cols), {&small, 1});
                backend.matmul(Matrix<const float>(x.data(), 1, cols), {&one, 1});
                if (n_threads == 1) {
                    whole = y;
                    single = y1;
                }
                CHECK(whole == y);
                CHECK(single == y1);
                CHECK(std::equal(part.begin(), part.end(), y.begin() + 5 * rows));
            }
        }
    }
}

TEST_CASE("kernels: an independent token gets what it would get alone, bit for bit") {
    for (const WeightType &type : weight_types()) {
        CAPTURE(std::string(type.name));
        Rng rng(10);
        for (const size_t rows : {3, 70}) {
            const size_t unit = type.group == 0 ? 17 : type.block;
            const size_t cols = unit > 32 ? 3 * unit : 37 * unit;
            const Truth truth(rng, type, rows, cols);
            const Weight w = truth.weight();
            const std::vector<float> bias = random_floats(rng, rows);
            const std::vector<float> norm = random_floats(rng, cols);
            for (const size_t m : {2, 3, 4, 7, 9}) {
                const std::vector<float> x = random_floats(rng, m * cols);
                const std::vector<float> old = random_floats(rng, m * rows);
                for (const Kernels *kernels : usable_kernels()) {
                    CAPTURE(std::string(kernels->name));
                    CAPTURE(m);
                    CpuBackend backend(*kernels, 2);
                    std::vector<float> together = old, alone = old;
                    for (const bool each : {false, true}) {
                        for (size_t t = 0; t < (each ? m : 1); ++t) {
                            const size_t n = each ? 1 : m;
                            Input input =
                                Input::normed({x.data() + t * cols, n, cols}, norm.data(), 1e-5f);
                            input.independent = true;
                            float *y = each ? alone.data() + t * rows : together.data();
                            const Product product{&w, bias.data(), {y, n, rows}, true};
                            backend.matmul(input, {&product, 1});
                        }
                    }
                    CHECK(together == alone);
                }
            }
        }
    }
}

TEST_CASE("kernels: an activation that is no number is not rounded away") {
    for (const WeightType &type : weight_types()) {
        CAPTURE(std::string(type.name));
        Rng rng(9);
        const size_t cols = std::max<size_t>(type.block, 64);
        const Truth truth(rng, type, 17, cols);
        const Weight w = truth.weight();
        for (const float wrong : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
            for (const size_t m : {1, 2}) {
                std::vector<float> x = random_floats(rng, m * cols);
                x[cols - 3] = wrong;
                for (const Kernels *kernels : usable_kernels()) {
                    CpuBackend backend(*kernels, 1);
                    std::vector<float> y(m * 17);
                    const Product product{&w, nullptr, {y.data(), m, 17}};
                    backend.matmul(Matrix<const float>(x.data(), m, cols), {&product, 1});
                    CHECK(!std::isfinite(y[16]));
                }
            }
        }
    }
}
