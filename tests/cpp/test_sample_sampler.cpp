// The sampler: each option's effect, distributions, seeds, and logits that are no numbers.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <vector>

#include "base/error.h"
#include "sample/sampler.h"

using namespace a2sf;

namespace {

std::map<int32_t, int> draw(const SamplingOptions &options, const std::vector<float> &logits,
                            int n) {
    Sampler sampler(options, logits.size());
    std::map<int32_t, int> count;
    for (int i = 0; i < n; ++i) ++count[sampler.sample(logits).id];
    return count;
}

const std::vector<float> kLogits = {1.0f, 3.0f, 2.0f, -1.0f, 3.0f};

}  // namespace

TEST_CASE("greedy takes the largest logit, the lower id of equals") {
    Sampler sampler({}, kLogits.size());
    const Sampled sampled = sampler.sample(kLogits);
    CHECK(sampled.id == 1);
    double sum = 0;
    for (float logit : kLogits) sum += std::exp(static_cast<double>(logit));
    CHECK(sampled.logprob == doctest::Approx(3.0 - std::log(sum)).epsilon(1e-6));
    CHECK(log_probability(kLogits, 2) == doctest::Approx(2.0 - std::log(sum)).epsilon(1e-6));
}

TEST_CASE("a temperature draws from the softmax of the scaled logits") {
    const int n = 40000;
    for (float temperature : {0.5f, 1.0f, 2.0f}) {
        const auto count = draw({.temperature = temperature, .seed = 5}, kLogits, n);
        double total = 0;
        for (float logit : kLogits) total += std::exp(static_cast<double>(logit / temperature));
        for (size_t i = 0; i < kLogits.size(); ++i) {
            const double p = std::exp(static_cast<double>(kLogits[i] / temperature)) / total;
            const auto found = count.find(static_cast<int32_t>(i));
            const double share = found == count.end() ? 0 : static_cast<double>(found->second) / n;
            // Five standard deviations.
            CHECK(std::abs(share - p) < 5 * std::sqrt(p * (1 - p) / n) + 1e-9);
        }
    }
}

TEST_CASE("the same seed draws the same tokens, another one others") {
    const std::vector<float> flat(1000, 0.0f);
    const auto sequence = [&](uint64_t seed) {
        Sampler sampler({.temperature = 1.0f, .seed = seed}, flat.size());
        std::vector<int32_t> ids;
        for (int i = 0; i < 20; ++i) ids.push_back(sampler.sample(flat).id);
        return ids;
    };
    CHECK(sequence(1) == sequence(1));
    CHECK(sequence(1) != sequence(2));
    CHECK(sequence(0) != sequence(1));
}

TEST_CASE("top-k, top-p and min-p keep the likeliest") {
    CHECK(draw({.temperature = 1.0f, .top_k = 2}, kLogits, 500).size() == 2);
    CHECK(draw({.temperature = 5.0f, .top_k = 1}, kLogits, 100).count(1) == 1);
    // p: .085 .63/2 each for 1 and 4, .23, .0115; half is reached by 1 and 4.
    const auto nucleus = draw({.temperature = 1.0f, .top_p = 0.5f}, kLogits, 500);
    CHECK(nucleus.size() == 2);
    CHECK(nucleus.count(4) == 1);
    const auto likely = draw({.temperature = 1.0f, .min_p = 0.3f}, kLogits, 2000);
    CHECK(likely.size() == 3);
    CHECK(likely.count(2) == 1);
    CHECK(draw({.temperature = 1.0f, .top_p = 1e-6f}, kLogits, 50).size() == 1);
}

TEST_CASE("truncation of a large vocabulary is that of a full sort") {
    std::vector<float> logits(5000);
    uint32_t state = 7;
    for (float &logit : logits) {
        state = state * 1664525u + 1013904223u;
        logit = static_cast<float>(state >> 8) / static_cast<float>(1 << 24) * 6.0f;
    }
    std::vector<float> sorted = logits;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    double total = 0;
    for (float logit : sorted) total += std::exp(static_cast<double>(logit - sorted[0]));
    size_t n_nucleus = 0;
    for (double sum = 0; sum < 0.3 * total; ++n_nucleus) {
        sum += std::exp(static_cast<double>(sorted[n_nucleus] - sorted[0]));
    }
    const float least = sorted[n_nucleus - 1];
    for (const auto &[id, count] : draw({.temperature = 1.0f, .top_p = 0.3f}, logits, 300)) {
        CHECK(logits[static_cast<size_t>(id)] >= least);
    }
    for (const auto &[id, count] : draw({.temperature = 1.0f, .min_p = 0.5f}, logits, 300)) {
        CHECK(logits[static_cast<size_t>(id)] >= sorted[0] + std::log(0.5f));
    }
}

TEST_CASE("the repetition penalty lowers what came lately, whatever its sign") {
    SamplingOptions options{.repeat_penalty = 2.0f, .repeat_window = 2};
    Sampler sampler(options, kLogits.size());
    sampler.accept(1);
    sampler.accept(4);
    CHECK(sampler.sample(kLogits).id == 2);
    sampler.accept(0);  // 1 leaves the window
    CHECK(sampler.sample(kLogits).id == 1);
    const std::vector<float> negative = {-1.0f, -1.5f};
    Sampler other(options, 2);
    other.accept(0);
    CHECK(other.sample(negative).id == 1);
}

TEST_CASE("log-probabilities are the model's own, whatever the options") {
    Sampler plain({}, kLogits.size());
    Sampler hot({.temperature = 3.0f, .top_k = 1, .repeat_penalty = 1.5f}, kLogits.size());
    CHECK(plain.sample(kLogits).logprob == hot.sample(kLogits).logprob);
}

TEST_CASE("logits that are not finite numbers are an error") {
    Sampler sampler({}, 3);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const float infinity = std::numeric_limits<float>::infinity();
    CHECK_THROWS_AS(sampler.sample(std::vector<float>{1, nan, 2}), Error);
    CHECK_THROWS_AS(sampler.sample(std::vector<float>{1, infinity, 2}), Error);
    CHECK_THROWS_AS(sampler.sample(std::vector<float>{-infinity, -infinity, -infinity}), Error);
    CHECK(sampler.sample(std::vector<float>{-infinity, 1, -infinity}).id == 1);
}

TEST_CASE("options out of range are refused") {
    const auto refused = [](const SamplingOptions &options) {
        CHECK_THROWS_AS(options.validate(), OptionError);
    };
    refused({.temperature = -1.0f});
    refused({.temperature = std::numeric_limits<float>::quiet_NaN()});
    refused({.top_p = 0.0f});
    refused({.top_p = 1.5f});
    refused({.min_p = -0.1f});
    refused({.repeat_penalty = 0.0f});
}

TEST_CASE("log probabilities of a whole vocabulary are those of double precision") {
    for (const size_t n : {1, 15, 16, 17, 1000, 49153}) {
        for (const float spread : {0.01f, 3.0f, 60.0f}) {
            CAPTURE(n);
            CAPTURE(spread);
            std::vector<float> logits(n);
            for (size_t i = 0; i < n; ++i) {
                logits[i] = spread * std::sin(static_cast<float>(i * i % 1009));
            }
            if (n > 15) logits[14] = -std::numeric_limits<float>::infinity();
            const float most = *std::max_element(logits.begin(), logits.end());
            double sum = 0;
            for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - most);
            const Sampled sampled = Sampler({}, n).sample(logits);
            CHECK(logits[static_cast<size_t>(sampled.id)] == most);
            CHECK(std::abs(static_cast<double>(sampled.logprob) + std::log(sum)) <
                  1e-6 * (1 + std::log(sum)));
        }
    }
}
