// Attention, score lanes and key similarity of the CPU backend, every instruction set against naive
// double-precision loops (attention_calls.h).
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "attention_calls.h"
#include "backend/cpu/cpu_backend.h"

using namespace a2sf;
using namespace a2sf::testing;

TEST_CASE("attention: outputs and scores follow the definition") {
    for (const Kernels *kernels : usable_kernels()) {
        Errors worst;
        for (const Shape &shape : shapes()) {
            Rng rng(11);
            Call call(rng, shape);
            CpuBackend backend(*kernels, 1);
            backend.attention(call.args());
            CHECK(call.out.back() == -77.0f);
            const Errors errors = errors_of(call);
            CAPTURE(std::string(name_of(shape.type)));
            CAPTURE(shape.group);
            CAPTURE(shape.m);
            CAPTURE(shape.live);
            const bool tiles = kernels->attend_tiles != nullptr && shape.type != KvType::F32;
            const double allowed = tiles ? kTolerances.attention_tiles : kTolerances.attention;
            CHECK(errors.out <= allowed);
            CHECK(errors.score <= allowed);
            worst.out = std::max(worst.out, errors.out);
            worst.score = std::max(worst.score, errors.score);
        }
        MESSAGE(std::string(kernels->name), ": largest error, output ", worst.out, ", scores ",
                worst.score);
    }
}

TEST_CASE("attention: the same bits for any number of threads and from call to call") {
    for (const Kernels *kernels : usable_kernels()) {
        std::vector<std::unique_ptr<CpuBackend>> backends;
        for (const size_t n_threads : {1, 2, 4}) {
            backends.push_back(std::make_unique<CpuBackend>(*kernels, n_threads));
        }
        for (const Shape &shape : shapes()) {
            Rng rng(12);
            const Call original(rng, shape);
            Call first = original;
            backends[0]->attention(first.args());
            for (const std::unique_ptr<CpuBackend> &backend : backends) {
                Call call = original;
                backend->attention(call.args());
                CHECK(call.out == first.out);
                CHECK(call.scores == first.scores);
            }
        }
    }
}

TEST_CASE("attention: a decay of 0 overwrites, whatever was there") {
    for (const Kernels *kernels : usable_kernels()) {
        for (const size_t m : {1, 40}) {
            Rng rng(13);
            Call call(rng, {KvType::F32, 2, 2, 32, m, 77, 0, 2});
            for (float &score : call.scores[1]) score = NAN;
            CpuBackend backend(*kernels, 2);
            backend.attention(call.args());
            for (size_t h = 0; h < 2; ++h) {
                for (size_t s = 0; s < call.live[h]; ++s) {
                    CHECK(std::isfinite(call.scores[1][h * call.capacity + s]));
                }
            }
        }
    }
}

TEST_CASE("attention: the order of slots changes rounding only") {
    for (const Kernels *kernels : usable_kernels()) {
        Rng rng(14);
        Call call(rng, {KvType::F32, 1, 2, 64, 3, 120, 50, 1});
        Call reversed = call;
        for (size_t s = 0; s < 60; ++s) {
            std::swap(reversed.pos[s], reversed.pos[119 - s]);
            for (std::vector<uint8_t> *bytes : {&reversed.k_bytes, &reversed.v_bytes}) {
                std::swap_ranges(bytes->begin() + s * 256, bytes->begin() + (s + 1) * 256,
                                 bytes->begin() + (119 - s) * 256);
            }
        }
        CpuBackend backend(*kernels, 1);
        backend.attention(call.args());
        backend.attention(reversed.args());
        for (size_t i = 0; i < call.out.size(); ++i) {
            CHECK(std::fabs(call.out[i] - reversed.out[i]) <= 8 * kTolerances.attention);
        }
    }
}

TEST_CASE("key_similarity: cosine with the mean key, 0 where there is no length") {
    for (const Kernels *kernels : usable_kernels()) {
        for (const KvType type : {KvType::F32, KvType::F16, KvType::Q8_0}) {
            Rng rng(15);
            Call call(rng, {type, 3, 1, 64, 1, 41, 0, 0});
            const size_t n = 64, row_bytes = kv_row_bytes(type, n);
            // Slot 2 of head 0 has no length; head 2 is empty.
            std::fill_n(call.k.begin() + 2 * n, n, 0.0f);
            std::fill_n(call.k_bytes.begin() + 2 * row_bytes, row_bytes, uint8_t{0});
            call.live[2] = 0;
            std::vector<float> found(3 * call.capacity, -5.0f);
            CpuBackend backend(*kernels, 2);
            backend.key_similarity(call.args().slots, call.live.data(), found.data());
            for (size_t h = 0; h < 3; ++h) {
                std::vector<double> mean(n, 0.0);
                const float *keys = &call.k[h * call.capacity * n];
                for (size_t s = 0; s < call.live[h]; ++s) {
                    for (size_t d = 0; d < n; ++d) mean[d] += keys[s * n + d];
                }
                for (size_t s = 0; s < call.capacity; ++s) {
                    const float *key = keys + s * n;
                    const double product = std::inner_product(key, key + n, mean.begin(), 0.0);
                    const double lengths =
                        std::sqrt(std::inner_product(key, key + n, key, 0.0) *
                                  std::inner_product(mean.begin(), mean.end(), mean.begin(), 0.0));
                    const double expected = s >= call.live[h] ? -5.0
                                            : lengths > 0.0   ? product / lengths
                                                              : 0.0;
                    CHECK(std::fabs(found[h * call.capacity + s] - expected) <= 2e-6);
                }
            }
        }
    }
}

TEST_CASE("lowest: the lowest score within the range leaves, the oldest of equals") {
    for (const Kernels *kernels : usable_kernels()) {
        CAPTURE(std::string(kernels->name));
        Rng rng(15);
        for (size_t n = 1; n < 200; ++n) {
            CAPTURE(n);
            std::vector<int32_t> pos(n);
            std::iota(pos.begin(), pos.end(), 10);
            std::shuffle(pos.begin(), pos.end(), rng);
            std::vector<float> scores(n);
            for (float &score : scores) score = static_cast<float>(rng() % 5);
            const int32_t first = 10 + static_cast<int32_t>(rng() % n);
            const int32_t last = first + static_cast<int32_t>(rng() % n);
            int32_t expected = -1;
            float least = 1e9f;
            for (int32_t p = first; p <= last; ++p) {
                const auto at = std::find(pos.begin(), pos.end(), p) - pos.begin();
                if (static_cast<size_t>(at) == n || scores[at] >= least) continue;
                least = scores[at];
                expected = p;
            }
            CHECK(kernels->lowest_pos(scores.data(), pos.data(), n, first, last) == expected);
            scores[rng() % n] = NAN;
            CHECK(kernels->lowest_pos(scores.data(), pos.data(), n, first, last) ==
                  Backend::kNoVictim);
        }
    }
}
