// Weight products of the CUDA backend on an emulated GPU: every weight type against double
// precision, one token and many, biases, sums, and inputs that are made on the way.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "backend/cuda/cuda_kernels.h"
#include "cuda_fixture.h"

using namespace a2sf;
using namespace a2sf::testing;

namespace {

// What reads x decides what rounding costs: as in the tests of the CPU's kernels.
enum class Form { Floats, Bytes, Halves, Bfloats };

Form form_of(const WeightType &type, bool batch) {
    const std::string name = type.name;
    if (!batch) return type.group == 0 ? Form::Floats : Form::Bytes;
    if (name == "F32") return Form::Floats;
    return name == "BF16" || name == "MXFP4" ? Form::Bfloats : Form::Halves;
}

struct Case {
    Case(Rng &rng, const WeightType &weight_type, size_t n_rows, size_t n_cols, size_t n_tokens)
        : type(weight_type),
          rows(n_rows),
          cols(n_cols),
          m(n_tokens),
          bytes(random_blocks(rng, type, rows * cols)),
          values(rows * cols),
          x(random_floats(rng, m * (cols + 4))),
          bias(random_floats(rng, rows)),
          y(random_floats(rng, m * (rows + 1))) {
        type.decode(bytes.data(), values.data(), values.size());
    }
    size_t x_stride() const { return cols + 4; }
    size_t y_stride() const { return rows + 1; }

    // y [m, rows + 1] after the product of the GPU.
    std::vector<float> run(bool independent, bool biased, bool accumulate) const {
        CudaBackend backend(1);
        const auto memory = backend.upload(std::as_bytes(std::span(bytes)));
        const Weight w{&type, rows, cols, memory->data()};
        OnDevice x_there(backend, x), bias_there(backend, bias), y_there(backend, y);
        Input input(Matrix<const float>(x_there.matrix(m, cols, x_stride())));
        input.independent = independent;
        const Product product = {&w, biased ? bias_there.data() : nullptr,
                                 y_there.matrix(m, rows, y_stride()), accumulate};
        backend.matmul(input, {&product, 1});
        return y_there.fetch();
    }

    // Half a step of the bytes, amax / 251, per element of a group of 32; 2^-8 of each bfloat16,
    // 2^-11 of each half.
    void check(const std::vector<float> &found, Form form, bool biased, bool accumulate) const {
        for (size_t t = 0; t < m; ++t) {
            for (size_t r = 0; r < rows; ++r) {
                double expected =
                    (biased ? bias[r] : 0.0) + (accumulate ? y[t * y_stride() + r] : 0.0f);
                double size = 0.0, allowed = 0.0;
                for (size_t k0 = 0; k0 < cols; k0 += 32) {
                    double amax = 0.0, weights = 0.0;
                    for (size_t k = k0; k < std::min(k0 + 32, cols); ++k) {
                        const double w = values[r * cols + k], a = x[t * x_stride() + k];
                        expected += w * a;
                        size += std::fabs(w * a);
                        amax = std::max(amax, std::fabs(a));
                        weights += std::fabs(w);
                    }
                    if (form == Form::Bytes) allowed += weights * amax / 251.0;
                }
                if (form == Form::Bfloats) allowed += size * 0x1.01p-7;
                if (form == Form::Halves) allowed += size * 0x1.01p-10;
                const double error = std::fabs(found[t * y_stride() + r] - expected);
                CHECK(error <=
                      1.001 * allowed + kTolerances.sum * 8 * (size + std::fabs(expected) + 1.0));
            }
            CHECK(found[t * y_stride() + rows] == y[t * y_stride() + rows]);
        }
    }

    const WeightType &type;
    size_t rows, cols, m;
    std::vector<uint8_t> bytes;
    std::vector<float> values, x, bias, y;
};

}  // namespace

TEST_CASE("cuda products: one token, every weight type and odd sizes") {
    for (const WeightType &type : weight_types()) {
        CAPTURE(std::string(type.name));
        Rng rng(31);
        // More than one chunk of 1024, more than are on their way at once, and rows that begin at
        // every alignment their blocks allow.
        const bool large = type.block == 256;
        std::vector<size_t> widths = {type.block == 1 ? size_t{37} : type.block,
                                      size_t{large ? 1536u : 1120u}, size_t{large ? 2816u : 3104u}};
        if (type.block == 1) widths.push_back(256);
        for (const size_t cols : widths) {
            CAPTURE(cols);
            const Case one(rng, type, 7, cols, 1);
            one.check(one.run(false, false, false), form_of(type, false), false, false);
            one.check(one.run(false, true, true), form_of(type, false), true, true);
        }
    }
}

TEST_CASE("cuda products: batches, every weight type, tiles that are not full") {
    for (const WeightType &type : weight_types()) {
        CAPTURE(std::string(type.name));
        Rng rng(32);
        const size_t cols = type.block == 1 ? 75 : type.block == 256 ? 512 : 96;
        const Case batch(rng, type, 70, cols, 66);
        batch.check(batch.run(false, false, false), form_of(type, true), false, false);
        const Case few(rng, type, 5, cols, 2);
        few.check(few.run(false, true, true), form_of(type, true), true, true);
    }
}

// More steps than shared memory holds, more than a block's rows and tokens, few tokens and many;
// rows of 16-bit weights that begin at multiples of 16 bytes and end within a step.
TEST_CASE("cuda products: batches of several blocks and many steps") {
    const Restored restored;
    for (const int n_multiprocessors : {1, 100}) {  // many tokens to a block, and few
        set_multiprocessors(n_multiprocessors);
        for (const uint32_t id : {1u, 8u, 12u, 14u, 30u, 39u}) {
            const WeightType &type = *find_weight_type(id);
            CAPTURE(std::string(type.name));
            Rng rng(36);
            for (const size_t m : {33, 131}) {
                const size_t cols = type.block == 1 ? 216 : type.block == 256 ? 256 : 224;
                const Case many(rng, type, 150, cols, m);
                many.check(many.run(false, true, false), form_of(type, true), true, false);
            }
        }
    }
}

TEST_CASE("cuda products: activations as large and as small as floats may be") {
    for (const uint32_t id : {1u, 8u, 30u}) {
        const WeightType &type = *find_weight_type(id);
        CAPTURE(std::string(type.name));
        Rng rng(37);
        Case odd(rng, type, 3, 64, 4);
        const float sizes[] = {1e30f, 1e-25f, 3e4f, 0.0f};
        for (size_t t = 0; t < odd.m; ++t) {
            for (size_t k = 0; k < odd.cols; ++k) odd.x[t * odd.x_stride() + k] *= sizes[t];
        }
        std::vector<float> found = odd.run(false, false, false);
        odd.check(found, form_of(type, true), false, false);
        for (size_t r = 0; r < odd.rows; ++r) CHECK(found[odd.y_stride() + r] != 0.0f);
        odd.x[5] = NAN;
        odd.x[odd.x_stride() + 6] = INFINITY;
        found = odd.run(false, false, false);
        for (size_t r = 0; r < odd.rows; ++r) {
            CHECK(std::isnan(found[r]));
            CHECK_FALSE(std::isfinite(found[odd.y_stride() + r]));
        }
    }
}

// Where there is scratch for few rows, they are multiplied as they come.
TEST_CASE("cuda products: weights decoded some rows at a time give what all at once give") {
    const size_t cols = 256, m = 5;
    const WeightType &type = *find_weight_type(12);
    Rng rng(39);
    CudaBackend backend(1);
    CudaQueue queue;
    const OnDevice x(backend, random_floats(rng, m * cols));
    CudaForms forms;
    const OnDevice half(backend, std::vector<uint16_t>(m * cols));
    const OnDevice half_size(backend, std::vector<float>(m));
    forms.half = half.data();
    forms.half_size = half_size.data();
    const Input input(Matrix<const float>(x.matrix(m, cols)));
    const size_t n_rows[] = {150, 1, 300};
    std::vector<std::unique_ptr<DeviceMemory>> memory;
    std::vector<Weight> weights;
    for (const size_t rows : n_rows) {
        const std::vector<uint8_t> blocks = random_blocks(rng, type, rows * cols);
        memory.push_back(backend.upload(std::as_bytes(std::span(blocks))));
        weights.push_back({&type, rows, cols, memory.back()->data()});
    }
    const OnDevice bias(backend, random_floats(rng, 300));
    const std::vector<float> before = random_floats(rng, m * 300);
    std::vector<std::vector<float>> expected;
    for (const size_t n_decoded : {451, 300, 150, 128, 7, 1}) {
        CAPTURE(n_decoded);
        const OnDevice decoded(backend, std::vector<uint16_t>(n_decoded * cols));
        const OnDevice a(backend, before), b(backend, before), c(backend, before);
        const Product products[] = {{&weights[0], bias.data(), a.matrix(m, 150, 300), true},
                                    {&weights[1], nullptr, b.matrix(m, 1, 300), true},
                                    {&weights[2], bias.data(), c.matrix(m, 300), true}};
        CudaProducts job;
        job.products = products;
        job.x = input.x;
        job.forms = forms;
        job.decoded = {decoded.data(), n_decoded * cols};
        backend.wait();
        cuda_prepare(queue, input, forms);
        cuda_matmul(queue, job);
        queue.wait();
        const std::vector<std::vector<float>> found = {a.fetch(), b.fetch(), c.fetch()};
        if (expected.empty()) expected = found;
        CHECK(found == expected);
        CHECK(found[2] != before);
    }
}

// Neighbours of one type are one launch: it must not matter to what they give.
TEST_CASE("cuda products: several of one input give bit for bit what each gives alone") {
    const uint32_t ids[] = {8, 8, 12, 12, 12, 12, 12, 0, 0, 1, 1};
    const size_t n = std::size(ids), cols = 256;
    for (const size_t m : {1, 3, 70}) {
        CAPTURE(m);
        Rng rng(38);
        CudaBackend backend(1);
        const OnDevice x(backend, random_floats(rng, m * cols));
        std::vector<std::unique_ptr<DeviceMemory>> memory;
        std::vector<std::unique_ptr<OnDevice<float>>> bias, together, alone;
        std::vector<Weight> weights;
        for (size_t i = 0; i < n; ++i) {
            const WeightType &type = *find_weight_type(ids[i]);
            const size_t rows = 5 + 67 * (i % 3);
            const std::vector<uint8_t> blocks = random_blocks(rng, type, rows * cols);
            memory.push_back(backend.upload(std::as_bytes(std::span(blocks))));
            weights.push_back({&type, rows, cols, memory.back()->data()});
            bias.push_back(std::make_unique<OnDevice<float>>(backend, random_floats(rng, rows)));
            const std::vector<float> y = random_floats(rng, m * rows);
            together.push_back(std::make_unique<OnDevice<float>>(backend, y));
            alone.push_back(std::make_unique<OnDevice<float>>(backend, y));
        }
        const auto product = [&](size_t i, const OnDevice<float> &y) {
            return Product{&weights[i], i % 2 == 0 ? bias[i]->data() : nullptr,
                           y.matrix(m, weights[i].rows), i == 4};
        };
        const Input input(Matrix<const float>(x.matrix(m, cols)));
        std::vector<Product> products;
        for (size_t i = 0; i < n; ++i) products.push_back(product(i, *together[i]));
        backend.wait();
        const std::optional<size_t> before = launches_so_far();
        backend.matmul(input, products);
        backend.wait();
        // The input, then Q8_0, Q4_K before and behind the sum and the sum, F32, F16. For a batch
        // each of Q8_0 and Q4_K is decoded.
        if (before) CHECK(*launches_so_far() - *before == (m == 1 ? 7 : 14));
        for (size_t i = 0; i < n; ++i) {
            const Product one = product(i, *alone[i]);
            backend.matmul(input, {&one, 1});
            CHECK(together[i]->fetch() == alone[i]->fetch());
        }
    }
}

TEST_CASE("cuda products: independent tokens get bit for bit what each gets alone") {
    for (const WeightType &type : weight_types()) {
        CAPTURE(std::string(type.name));
        Rng rng(33);
        const size_t cols = type.block == 1 ? 40 : type.block;
        const Case many(rng, type, 6, cols, 3);
        const std::vector<float> together = many.run(true, true, true);
        for (size_t t = 0; t < 3; ++t) {
            Case alone = many;
            alone.m = 1;
            alone.x.erase(alone.x.begin(), alone.x.begin() + t * many.x_stride());
            alone.y.erase(alone.y.begin(), alone.y.begin() + t * many.y_stride());
            const std::vector<float> own = alone.run(false, true, true);
            CHECK(std::equal(own.begin(), own.begin() + many.rows,
                             together.begin() + t * many.y_stride()));
        }
    }
}

TEST_CASE(
    "cuda products: weights of Q8_0 that no quantiser writes, activations that are no numbers") {
    const WeightType &q8_0 = *find_weight_type(8);
    Rng rng(34);
    Case odd(rng, q8_0, 3, 64, 1);
    for (size_t i = 2; i < odd.bytes.size(); i += 34) odd.bytes[i] = 0x80;  // -128
    q8_0.decode(odd.bytes.data(), odd.values.data(), odd.values.size());
    odd.check(odd.run(false, false, false), Form::Bytes, false, false);
    odd.x[40] = INFINITY;
    for (size_t r = 0; r < 3; ++r) CHECK(std::isnan(odd.run(false, false, false)[r]));
    std::fill(odd.x.begin(), odd.x.end(), 1e-33f);
    for (size_t r = 0; r < 3; ++r) CHECK(odd.run(false, false, false)[r] == 0.0f);
}

TEST_CASE("cuda products: normed and gated inputs, and the whole FFN, follow the scalar kernels") {
    for (const uint32_t id : {0u, 8u, 30u}) {
        const WeightType &type = *find_weight_type(id);
        CAPTURE(std::string(type.name));
        for (const size_t m : {1, 5}) {
            CAPTURE(m);
            Rng rng(35);
            const size_t cols = 288, hidden = 320;
            const auto weights = [&](size_t n) { return random_blocks(rng, type, n); };
            const auto gate = weights(hidden * cols), up = weights(hidden * cols);
            const auto down = weights(cols * hidden);
            const std::vector<float> norm = random_floats(rng, cols);
            const std::vector<float> x = random_floats(rng, m * cols);
            for (const Activation act : {Activation::Silu, Activation::GeluTanh}) {
                const auto run = [&](Backend &backend) {
                    const auto put = [&](const std::vector<uint8_t> &bytes) {
                        return backend.upload(std::as_bytes(std::span(bytes)));
                    };
                    const auto g = put(gate), u = put(up), d = put(down);
                    const Weight gate_w{&type, hidden, cols, g->data()};
                    const Weight up_w{&type, hidden, cols, u->data()};
                    const Weight down_w{&type, cols, hidden, d->data()};
                    OnDevice x_there(backend, x), norm_there(backend, norm);
                    OnDevice y(backend, std::vector<float>(m * cols));
                    const Input input =
                        Input::normed(x_there.matrix(m, cols), norm_there.data(), 1e-5f);
                    backend.gated_ffn(input, {&gate_w, &up_w, act},
                                      {&down_w, nullptr, y.matrix(m, cols)});
                    return y.fetch();
                };
                CpuBackend cpu(kernels_for("scalar"), 1);
                CudaBackend cuda(1);
                const std::vector<float> expected = run(cpu), found = run(cuda);
                double size = 0.0;
                for (const float value : expected) size = std::max(size, std::fabs(double{value}));
                // A batch of rounded weights is 16 bits here and bytes there.
                const bool exact = id == 0 || m == 1;
                CHECK(largest_difference(found, expected) <= (exact ? 2e-5 : 2e-2) * size);
            }
        }
    }
}
