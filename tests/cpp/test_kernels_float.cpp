// Kernels on float rows, every instruction set against double-precision loops.
#include <doctest/doctest.h>

#include <cstdlib>

#include "base/error.h"
#include "test_kernels.h"

using namespace a2sf;
using namespace a2sf::testing;

namespace {

constexpr size_t kLongest = 2 * kMaxLanes + 1;
constexpr float kGuard = 12345.0f;

// n floats followed by a guard, starting off every alignment.
struct Row {
    explicit Row(const std::vector<float> &values) : memory(values.size() + 2, kGuard) {
        std::copy(values.begin(), values.end(), memory.begin() + 1);
    }
    float *data() { return memory.data() + 1; }
    bool intact() const { return memory.front() == kGuard && memory.back() == kGuard; }
    std::vector<float> memory;
};

double sigmoid(double x) {
    return 1.0 / (1.0 + std::exp(-x));
}

}  // namespace

TEST_CASE("kernels: names, best last, an unknown one is refused with the list") {
    const std::vector<std::string> names = isas();
    REQUIRE(!names.empty());
    CHECK(names.front() == "scalar");
    for (const std::string &name : names) CHECK(kernels_for(name).name == name);
    for (const std::string wrong : {"", "sse9", "AVX2"}) {
        std::string message;
        try {
            kernels_for(wrong);
        } catch (const OptionError &error) {
            message = error.what();
        }
        CHECK(message.find("scalar") != std::string::npos);
        CHECK(message.find("'" + wrong + "'") != std::string::npos);
    }
}

TEST_CASE("kernels: A2SF_ISA chooses the table") {
    const char *before = std::getenv("A2SF_ISA");
    const std::string saved = before == nullptr ? "" : before;
    for (const std::string &name : isas()) {
        setenv("A2SF_ISA", name.c_str(), 1);
        CHECK(default_kernels().name == name);
    }
    setenv("A2SF_ISA", "nonesuch", 1);
    CHECK_THROWS_AS(default_kernels(), OptionError);
    unsetenv("A2SF_ISA");
    CHECK(default_kernels().name == isas().back());
    if (before != nullptr) setenv("A2SF_ISA", saved.c_str(), 1);
}

TEST_CASE("kernels: exp") {
    for (const Kernels *kernels : usable_kernels()) {
        CAPTURE(std::string(kernels->name));
        std::vector<float> x;
        for (float v = -87.29f; v < 88.0f; v += 0.00713f) x.push_back(v);
        std::vector<float> y(x.size());
        kernels->exp(x.data(), y.data(), x.size());
        double worst = 0.0;
        for (size_t i = 0; i < x.size(); ++i) {
            const double truth = std::exp(static_cast<double>(x[i]));
            worst = std::max(worst, std::fabs(y[i] - truth) / truth);
        }
        MESSAGE(std::string(kernels->name), " exp: largest relative error ", worst);
        CHECK(worst <= kTolerances.exp);
        const float special[4] = {-INFINITY, -88.0f, 0.0f, NAN};
        float out[4];
        kernels->exp(special, out, 4);
        CHECK(out[0] == 0.0f);
        CHECK(out[1] == 0.0f);
        CHECK(out[2] == 1.0f);
        CHECK(std::isnan(out[3]));
    }
}

TEST_CASE("kernels: gated activations") {
    Rng rng(1);
    for (const Kernels *kernels : usable_kernels()) {
        CAPTURE(std::string(kernels->name));
        for (size_t n = 0; n <= kLongest; ++n) {
            const std::vector<float> x = random_floats(rng, n, 5.0f), up = random_floats(rng, n);
            Row silu(x), gelu(x), factor(up);
            kernels->silu_gated(silu.data(), factor.data(), n, silu.data());
            kernels->gelu_gated(gelu.data(), factor.data(), n, gelu.data());
            for (size_t i = 0; i < n; ++i) {
                const double size = std::fabs(static_cast<double>(x[i]) * up[i]) + 1e-30;
                const double a = x[i], t = std::sqrt(2.0 / M_PI) * (a + 0.044715 * a * a * a);
                CHECK(std::fabs(silu.data()[i] - a * sigmoid(a) * up[i]) <=
                      kTolerances.activation * size);
                CHECK(std::fabs(gelu.data()[i] - 0.5 * a * (1.0 + std::tanh(t)) * up[i]) <=
                      kTolerances.activation * size);
            }
            CHECK(silu.intact());
            CHECK(gelu.intact());
        }
        float extreme[4] = {200.0f, -200.0f, 0.0f, -88.5f};
        const float ones[4] = {1.0f, 1.0f, 1.0f, 1.0f};
        kernels->silu_gated(extreme, ones, 4, extreme);
        CHECK(extreme[0] == 200.0f);
        CHECK(std::fabs(extreme[1]) < 1e-30f);
        CHECK(extreme[2] == 0.0f);
        CHECK(std::fabs(extreme[3]) < 1e-30f);
    }
}

TEST_CASE("kernels: rms_norm, dot, add_scaled") {
    Rng rng(2);
    for (const Kernels *kernels : usable_kernels()) {
        CAPTURE(std::string(kernels->name));
        for (size_t n = 0; n <= 5 * kMaxLanes + 1; ++n) {
            CAPTURE(n);
            const std::vector<float> x = random_floats(rng, n), w = random_floats(rng, n);
            const std::vector<float> old = random_floats(rng, n);
            double squares = 0.0, product = 0.0, size = 0.0;
            for (size_t i = 0; i < n; ++i) {
                squares += static_cast<double>(x[i]) * x[i];
                product += static_cast<double>(x[i]) * w[i];
                size += std::fabs(static_cast<double>(x[i]) * w[i]);
            }
            Row in(x), weight(w), scaled(old), same(x);
            CHECK(std::fabs(kernels->dot(in.data(), weight.data(), n) - product) <=
                  kTolerances.sum * size);
            kernels->add_scaled(in.data(), 0.7f, scaled.data(), n);
            for (size_t i = 0; i < n; ++i) {
                CHECK(scaled.data()[i] == doctest::Approx(old[i] + 0.7 * x[i]).epsilon(1e-5));
            }
            CHECK(scaled.intact());
            if (n == 0) continue;
            const double factor = 1.0 / std::sqrt(squares / n + 1e-5);
            for (const bool accumulate : {false, true}) {
                Row out(old);
                kernels->rms_norm(in.data(), weight.data(), n, 1e-5f, out.data(), accumulate);
                for (size_t i = 0; i < n; ++i) {
                    const double term = x[i] * factor * w[i], first = accumulate ? old[i] : 0.0;
                    CHECK(std::fabs(out.data()[i] - (first + term)) <=
                          kTolerances.norm * (std::fabs(first) + std::fabs(term)));
                }
                CHECK(out.intact());
            }
            kernels->rms_norm(same.data(), weight.data(), n, 1e-5f, same.data(), false);
            CHECK(same.data()[0] == doctest::Approx(x[0] * factor * w[0]).epsilon(1e-5));
            CHECK(same.intact());
        }
    }
}

TEST_CASE("kernels: rope, both styles") {
    Rng rng(3);
    for (const Kernels *kernels : usable_kernels()) {
        CAPTURE(std::string(kernels->name));
        for (size_t half = 0; half <= kLongest; ++half) {
            const size_t head_dim = 2 * half + 6;  // the last elements are not rotated
            const std::vector<float> x = random_floats(rng, head_dim);
            std::vector<float> c(half), s(half);
            for (size_t j = 0; j < half; ++j) {
                c[j] = std::cos(0.1f * j + 0.3f);
                s[j] = std::sin(0.1f * j + 0.3f);
            }
            Row inter(x), halves(x);
            kernels->rope_interleaved(c.data(), s.data(), 2 * half, inter.data());
            kernels->rope_halves(c.data(), s.data(), 2 * half, halves.data());
            const auto check = [&](float *out, size_t a, size_t b, size_t j) {
                const double size = std::fabs(x[a]) + std::fabs(x[b]);
                const double real =
                    static_cast<double>(x[a]) * c[j] - static_cast<double>(x[b]) * s[j];
                const double imag =
                    static_cast<double>(x[a]) * s[j] + static_cast<double>(x[b]) * c[j];
                CHECK(std::fabs(out[a] - real) <= kTolerances.rope * size);
                CHECK(std::fabs(out[b] - imag) <= kTolerances.rope * size);
            };
            for (size_t j = 0; j < half; ++j) {
                check(inter.data(), 2 * j, 2 * j + 1, j);
                check(halves.data(), j, j + half, j);
            }
            for (size_t i = 2 * half; i < head_dim; ++i) {
                CHECK(inter.data()[i] == x[i]);
                CHECK(halves.data()[i] == x[i]);
            }
        }
    }
}

TEST_CASE("kernels: K/V rows") {
    Rng rng(4);
    for (const Kernels *kernels : usable_kernels()) {
        CAPTURE(std::string(kernels->name));
        for (size_t n = 0; n <= 130; ++n) {
            std::vector<float> x = random_floats(rng, n);
            if (n > 2) x[1] = 1e-6f;  // a subnormal half
            for (const int format : {kKvF32, kKvF16, kKvQ8_0}) {
                if (format == kKvQ8_0 && n % 32 != 0) continue;
                std::vector<uint8_t> row(4 * n + 3, 0xee);
                Row back(std::vector<float>(n, 0.0f));
                kernels->kv_store(format, x.data(), n, row.data() + 1);
                kernels->kv_load(format, row.data() + 1, n, back.data());
                const size_t n_bytes = format == kKvF32   ? 4 * n
                                       : format == kKvF16 ? 2 * n
                                                          : n / 32 * 34;
                CHECK(row[0] == 0xee);
                CHECK(row[n_bytes + 1] == 0xee);
                CHECK(back.intact());
                for (size_t i = 0; i < n; ++i) {
                    float amax = 0.0f;
                    for (size_t j = i / 32 * 32; j < n && j < i / 32 * 32 + 32; ++j) {
                        amax = std::max(amax, std::fabs(x[j]));
                    }
                    const double error = std::fabs(static_cast<double>(back.data()[i]) - x[i]);
                    if (format == kKvF32) CHECK(error == 0.0);
                    if (format == kKvF16)
                        CHECK(back.data()[i] == half_to_float(float_to_half(x[i])));
                    if (format == kKvQ8_0) CHECK(error <= kTolerances.q8_0 * amax);
                }
                std::vector<uint8_t> scalar(row.size(), 0xee);
                kernels_for("scalar").kv_store(format, x.data(), n, scalar.data() + 1);
                CHECK(scalar == row);
            }
        }
        const std::vector<float> zeros(32, 0.0f);
        std::vector<uint8_t> row(34, 0xee);
        std::vector<float> back(32, 1.0f);
        kernels->kv_store(kKvQ8_0, zeros.data(), 32, row.data());
        kernels->kv_load(kKvQ8_0, row.data(), 32, back.data());
        CHECK(back == zeros);
    }
}
