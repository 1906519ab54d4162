// The backend's contract, through the registry and on every instruction set: memory, embeddings,
// row operations with strides, rotation angles, K/V slots, thread counts.
#include <doctest/doctest.h>

#include <algorithm>

#include "backend/cpu/cpu_backend.h"
#include "backend/registry.h"
#include "base/error.h"
#include "test_kernels.h"

using namespace a2sf;
using namespace a2sf::testing;

TEST_CASE("backend registry: devices, auto, unknown names") {
    const std::vector<std::string> names = devices();
    CHECK(std::count(names.begin(), names.end(), "cpu") == 1);
    CHECK(find_backend("auto").device == names.back());
    CHECK(std::string(find_backend("cpu").isa()) == std::string(default_kernels().name));
    for (const BackendEntry &entry : backend_entries()) {
        if (!entry.unavailable().empty()) {
            CHECK_THROWS_AS(find_backend(entry.device), DeviceError);
            continue;
        }
        const std::unique_ptr<Backend> backend = entry.create({});
        CHECK(std::string(backend->device()) == entry.device);
        CHECK(std::string(backend->isa()) == entry.isa());
        CHECK(backend->n_threads() >= 1);
    }
    CHECK(find_backend("cpu").create({3})->n_threads() == 3);
    std::string message;
    try {
        find_backend("tpu");
    } catch (const OptionError &error) {
        message = error.what();
    }
    CHECK(message.find("cpu") != std::string::npos);
    CHECK(message.find("'tpu'") != std::string::npos);
}

TEST_CASE("backend: memory is zeroed, uploads stay readable, copies cross over") {
    for (const BackendEntry &entry : backend_entries()) {
        if (!entry.unavailable().empty()) continue;
        const std::unique_ptr<Backend> backend = entry.create({1});
        const std::vector<float> values = {1.0f, 2.0f, 3.0f};
        std::vector<float> back(3, 9.0f);
        const std::unique_ptr<DeviceMemory> memory = backend->allocate(12, "test");
        CHECK(memory->n_bytes() == 12);
        backend->copy_to_host(back.data(), memory->data(), 12);
        CHECK(back == std::vector<float>{0.0f, 0.0f, 0.0f});
        backend->copy_to_device(memory->data(), values.data(), 12);
        backend->copy_to_host(back.data(), memory->data(), 12);
        CHECK(back == values);
        const std::unique_ptr<DeviceMemory> view =
            backend->upload(std::as_bytes(std::span(values)));
        std::fill(back.begin(), back.end(), 0.0f);
        backend->copy_to_host(back.data(), view->data(), 12);
        CHECK(back == values);
        CHECK(backend->allocate(0, "nothing")->n_bytes() == 0);
    }
}

TEST_CASE("backend: embeddings of every weight type") {
    for (const WeightType &type : weight_types()) {
        Rng rng(21);
        const size_t rows = 9, cols = type.block == 1 ? 37 : 2 * type.block;
        const std::vector<uint8_t> bytes = random_blocks(rng, type, rows * cols);
        std::vector<float> truth(rows * cols);
        type.decode(bytes.data(), truth.data(), truth.size());
        const Weight table{&type, rows, cols, bytes.data()};
        const std::vector<int32_t> ids = {8, 0, 3, 3};
        for (const float scale : {1.0f, 2.5f}) {
            CpuBackend backend(kernels_for("scalar"), 2);
            std::vector<float> out(ids.size() * (cols + 3), 7.0f);
            backend.embed(table, ids, scale, {out.data(), ids.size(), cols, cols + 3});
            for (size_t i = 0; i < ids.size(); ++i) {
                for (size_t j = 0; j < cols + 3; ++j) {
                    const float expected = j < cols ? truth[ids[i] * cols + j] * scale : 7.0f;
                    CHECK(out[i * (cols + 3) + j] == expected);
                }
            }
        }
    }
}

TEST_CASE("backend: rms_norm by heads and rope respect strides, for any thread count") {
    for (const Kernels *kernels : usable_kernels()) {
        const size_t m = 70, width = 20, cols = 3 * width, stride = cols + 5;
        Rng rng(22);
        const std::vector<float> x = random_floats(rng, m * stride);
        const std::vector<float> weight = random_floats(rng, width);
        const std::vector<float> angles = random_floats(rng, m * 12);
        std::vector<float> first;
        for (const size_t n_threads : {1, 2, 4}) {
            CpuBackend backend(*kernels, n_threads);
            std::vector<float> y = x;
            const Matrix<float> view{y.data(), m, cols, stride};
            backend.rms_norm(view, width, weight.data(), 1e-6f, view, false);
            for (const RopeStyle style : {RopeStyle::Halves, RopeStyle::Interleaved}) {
                backend.rope(style, width, {angles.data(), m, 12}, view);
            }
            for (size_t i = 0; i < m; ++i) {
                for (size_t j = cols; j < stride; ++j)
                    CHECK(y[i * stride + j] == x[i * stride + j]);
            }
            if (n_threads == 1) first = y;
            CHECK(y == first);
            // The second row's second head alone gives the same.
            std::vector<float> head(x.begin() + stride + width, x.begin() + stride + 2 * width);
            const Matrix<float> one{head.data(), 1, width};
            backend.rms_norm(one, width, weight.data(), 1e-6f, one, false);
            for (const RopeStyle style : {RopeStyle::Halves, RopeStyle::Interleaved}) {
                backend.rope(style, width, {angles.data() + 12, 1, 12}, one);
            }
            CHECK(std::equal(head.begin(), head.end(), y.begin() + stride + width));
        }
    }
}

TEST_CASE("backend: rotation angles are exact far into the text") {
    CpuBackend backend(kernels_for("scalar"), 2);
    const std::vector<int32_t> pos = {0, 1, 1000, 131071};
    std::vector<float> frequency;
    for (int j = 0; j < 32; ++j) frequency.push_back(std::pow(10000.0f, -j / 32.0f));
    std::vector<float> angles(pos.size() * 64);
    backend.rope_angles(pos, frequency, 1.5f, {angles.data(), pos.size(), 64});
    for (size_t i = 0; i < pos.size(); ++i) {
        for (size_t j = 0; j < 32; ++j) {
            const double angle = static_cast<double>(pos[i]) * frequency[j];
            CHECK(angles[i * 64 + j] == static_cast<float>(1.5 * std::cos(angle)));
            CHECK(angles[i * 64 + 32 + j] == static_cast<float>(1.5 * std::sin(angle)));
        }
    }
}

TEST_CASE("backend: K/V slots are written where asked and moved within a head") {
    for (const Kernels *kernels : usable_kernels()) {
        for (const KvType type : {KvType::F32, KvType::F16, KvType::Q8_0}) {
            const size_t n_kv_heads = 3, n = 64, capacity = 11, m = 4, stride = n_kv_heads * n + 2;
            const size_t row_bytes = kv_row_bytes(type, n);
            Rng rng(23);
            const std::vector<float> k = random_floats(rng, m * stride);
            const std::vector<float> v = random_floats(rng, m * stride);
            std::vector<uint8_t> k_bytes(n_kv_heads * capacity * row_bytes, 0xee),
                v_bytes = k_bytes;
            const KvSlots slots{type, n_kv_heads, n, capacity, k_bytes.data(), v_bytes.data()};
            const std::vector<uint32_t> slot = {10, 0, 3, 7, 1, 2, 3, 4, 9, 8, 7, 6};
            CpuBackend backend(*kernels, 3);
            backend.kv_write(slots, {k.data(), m, n_kv_heads * n, stride},
                             {v.data(), m, n_kv_heads * n, stride}, slot.data());
            std::vector<uint8_t> k_expected(k_bytes.size(), 0xee), v_expected = k_expected;
            const Kernels &scalar = kernels_for("scalar");
            for (size_t h = 0; h < n_kv_heads; ++h) {
                for (size_t i = 0; i < m; ++i) {
                    const size_t at = (h * capacity + slot[h * m + i]) * row_bytes;
                    const int format = static_cast<int>(type);
                    scalar.kv_store(format, &k[i * stride + h * n], n, &k_expected[at]);
                    scalar.kv_store(format, &v[i * stride + h * n], n, &v_expected[at]);
                }
            }
            CHECK(k_bytes == k_expected);
            CHECK(v_bytes == v_expected);
            backend.kv_move(slots, 1, 2, 5);
            backend.kv_move(slots, 2, 9, 9);
            for (std::vector<uint8_t> *bytes : {&k_expected, &v_expected}) {
                const auto from = bytes->begin() + (capacity + 2) * row_bytes;
                std::copy_n(from, row_bytes, bytes->begin() + (capacity + 5) * row_bytes);
            }
            CHECK(k_bytes == k_expected);
            CHECK(v_bytes == v_expected);
        }
    }
}

TEST_CASE("backend: one call of several products, types mixed") {
    const WeightType *plain = nullptr, *quantised = nullptr;
    for (const WeightType &type : weight_types()) {
        if (type.group == 0 && plain == nullptr) plain = &type;
        if (type.group != 0 && type.block == 32 && quantised == nullptr) quantised = &type;
    }
    REQUIRE(plain != nullptr);
    REQUIRE(quantised != nullptr);
    Rng rng(24);
    const size_t cols = 96, rows_a = 70, rows_b = 5, m = 9;
    const std::vector<uint8_t> a = random_blocks(rng, *plain, rows_a * cols);
    const std::vector<uint8_t> b = random_blocks(rng, *quantised, rows_b * cols);
    const Weight wa{plain, rows_a, cols, a.data()}, wb{quantised, rows_b, cols, b.data()};
    const std::vector<float> x = random_floats(rng, m * (cols + 1));
    for (const size_t n_tokens : {size_t{1}, m}) {
        for (const Kernels *kernels : usable_kernels()) {
            CpuBackend backend(*kernels, 2);
            const Matrix<const float> view{x.data(), n_tokens, cols, cols + 1};
            std::vector<float> ya(m * rows_a), yb(m * (rows_b + 1), 4.0f), alone(m * rows_b);
            const Product both[3] = {
                {&wa, nullptr, {ya.data(), n_tokens, rows_a}, false},
                {&wb, nullptr, {yb.data(), n_tokens, rows_b, rows_b + 1}, false},
                {&wa, nullptr, {ya.data(), n_tokens, rows_a}, false}};
            backend.matmul(view, {both, 2});
            const Product single = {&wb, nullptr, {alone.data(), n_tokens, rows_b}, false};
            backend.matmul(view, {&single, 1});
            for (size_t t = 0; t < n_tokens; ++t) {
                for (size_t r = 0; r < rows_b; ++r) {
                    CHECK(yb[t * (rows_b + 1) + r] == alone[t * rows_b + r]);
                }
                CHECK(yb[t * (rows_b + 1) + rows_b] == 4.0f);
            }
            backend.matmul(view, std::span<const Product>());
        }
    }
}

TEST_CASE("backend: a normed or gated input is the product of the rows made beforehand") {
    Rng rng(24);
    const size_t cols = 160, rows = 21, stride = cols + 3;
    for (const WeightType &type : weight_types()) {
        if (cols % type.block != 0) continue;
        CAPTURE(std::string(type.name));
        const std::vector<uint8_t> bytes = random_blocks(rng, type, rows * cols);
        const Weight w{&type, rows, cols, bytes.data()};
        for (const size_t m : {1, 2, 37}) {
            const std::vector<float> x = random_floats(rng, m * stride);
            const std::vector<float> up = random_floats(rng, m * stride);
            const std::vector<float> norm = random_floats(rng, cols);
            const Matrix<const float> view{x.data(), m, cols, stride};
            const Matrix<const float> factor{up.data(), m, cols, stride};
            for (const Kernels *kernels : usable_kernels()) {
                CAPTURE(std::string(kernels->name));
                CpuBackend backend(*kernels, 2);
                const auto product_of = [&](const Input &input) {
                    std::vector<float> y(m * rows);
                    const Product product = {&w, nullptr, {y.data(), m, rows}, false};
                    backend.matmul(input, {&product, 1});
                    return y;
                };
                std::vector<float> normed(m * cols), silu(m * cols), gelu(m * cols);
                for (size_t t = 0; t < m; ++t) {
                    const float *row = view.row(t), *by = factor.row(t);
                    kernels->rms_norm(row, norm.data(), cols, 1e-5f, &normed[t * cols], false);
                    kernels->silu_gated(row, by, cols, &silu[t * cols]);
                    kernels->gelu_gated(row, by, cols, &gelu[t * cols]);
                }
                const auto plain = [&](const std::vector<float> &made) {
                    return product_of(Matrix<const float>(made.data(), m, cols));
                };
                CHECK(product_of(Input::normed(view, norm.data(), 1e-5f)) == plain(normed));
                CHECK(product_of(Input::gated(view, factor, Activation::Silu)) == plain(silu));
                CHECK(product_of(Input::gated(view, factor, Activation::GeluTanh)) == plain(gelu));
            }
        }
    }
}
