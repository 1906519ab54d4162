#include "sample/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <numeric>

#include "base/error.h"

namespace a2sf {

namespace {

// splitmix64, to spread a seed over the generator's state (Steele, Lea, Flood 2014).
uint64_t split_mix(uint64_t &state) {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t rotate_left(uint64_t value, int bits) {
    return (value << bits) | (value >> (64 - bits));
}

void check(bool valid, const char *name, const char *expected, double found) {
    if (!valid) throw OptionError(str(name, ": ", expected, " expected, found ", found));
}

// Choosing a token goes through the whole vocabulary: written so that compilers make vectors of it,
// which they do for integers where they must not for floats. With scalar code and std::exp it took
// a tenth of the time of a small model.
constexpr size_t kLanes = 16;

// A float's bits as an integer of the same order, and back.
int32_t in_order(int32_t bits) {
    return bits ^ ((bits >> 31) & INT32_MAX);
}

float largest(std::span<const float> logits) {
    constexpr int32_t kInfinity = 0x7f800000;
    int32_t most = INT32_MIN, magnitude = 0;
    for (const float logit : logits) {
        const auto bits = std::bit_cast<int32_t>(logit);
        most = std::max(most, in_order(bits));
        magnitude = std::max(magnitude, bits & INT32_MAX);
    }
    const float best = std::bit_cast<float>(in_order(most));
    // -inf is a token that never comes.
    if (magnitude > kInfinity || std::isinf(best)) {
        throw_not_finite();
    }
    return best;
}

// e^x for x <= 0 to 2e-7 of it: 2^n * e^r with |r| <= ln(2) / 2, e^r by its series (Cephes' way).
// Below -87 it is what it is there.
float exp_below_one(float x) {
    constexpr float kLog2E = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves whole numbers
    // Of numbers below zero the bits grow with the distance.
    x = std::bit_cast<float>(std::min(std::bit_cast<uint32_t>(x), std::bit_cast<uint32_t>(-87.0f)));
    const float shifted = x * kLog2E + kRound;
    const float n = shifted - kRound;
    const float r = x - n * kLn2High - n * kLn2Low;
    float series = 1.0f / 720 + r * (1.0f / 5040);
    series = 1.0f / 120 + r * series;
    series = 1.0f / 24 + r * series;
    series = 1.0f / 6 + r * series;
    series = 0.5f + r * series;
    series = 1.0f + r * (1.0f + r * series);
    const auto exponent = std::bit_cast<uint32_t>(shifted) << 23;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(series) + exponent);
}

double log_sum_exp(std::span<const float> logits, float most) {
    double total[kLanes] = {};
    size_t i = 0;
    for (; i + kLanes <= logits.size(); i += kLanes) {
        float exps[kLanes];
        for (size_t lane = 0; lane < kLanes; ++lane) {
            exps[lane] = exp_below_one(logits[i + lane] - most);
        }
        for (size_t lane = 0; lane < kLanes; ++lane) total[lane] += static_cast<double>(exps[lane]);
    }
    for (; i < logits.size(); ++i) {
        total[0] += static_cast<double>(exp_below_one(logits[i] - most));
    }
    const double sum = std::accumulate(total, total + kLanes, 0.0);
    return static_cast<double>(most) + std::log(sum);
}

}  // namespace

void SamplingOptions::validate() const {
    check(std::isfinite(temperature) && temperature >= 0, "temperature", "a number from 0 up",
          temperature);
    check(top_p > 0 && top_p <= 1, "top_p", "a number above 0, up to 1", top_p);
    check(min_p >= 0 && min_p <= 1, "min_p", "a number from 0 to 1", min_p);
    check(std::isfinite(repeat_penalty) && repeat_penalty > 0, "repeat_penalty",
          "a positive number", repeat_penalty);
}

Sampler::Sampler(const SamplingOptions &options, size_t n_vocab)
    : options_(options), candidates_(n_vocab) {
    options.validate();
    if (options.repeat_penalty != 1.0f) recent_.resize(options.repeat_window);
    uint64_t seed = options.seed;
    for (uint64_t &word : state_) word = split_mix(seed);
}

// xoshiro256** (Blackman and Vigna 2018).
uint64_t Sampler::next_random() {
    const uint64_t result = rotate_left(state_[1] * 5, 7) * 9;
    const uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = rotate_left(state_[3], 45);
    return result;
}

double Sampler::next_uniform() {
    return static_cast<double>(next_random() >> 11) * 0x1p-53;
}

void Sampler::accept(int32_t id) {
    if (!recent_.empty()) recent_[n_accepted_ % recent_.size()] = id;
    ++n_accepted_;
}

// Positive logits are divided, negative ones multiplied (the CTRL rule, arXiv 1909.05858), once per
// token however often it occurs.
void Sampler::penalise(std::span<const float> logits) {
    for (size_t i = 0; i < logits.size(); ++i)
        candidates_[i] = {static_cast<int32_t>(i), logits[i]};
    const size_t n_recent = std::min(n_accepted_, recent_.size());
    for (size_t i = 0; i < n_recent; ++i) {
        Candidate &candidate = candidates_[static_cast<size_t>(recent_[i])];
        const float logit = logits[static_cast<size_t>(candidate.id)];
        candidate.logit =
            logit > 0 ? logit / options_.repeat_penalty : logit * options_.repeat_penalty;
    }
}

// Moves what top-k, top-p and min-p leave, in that order, to the front and returns how many. Only
// as much is sorted as that needs. The probabilities of top-p and min-p are those before the
// temperature.
size_t Sampler::truncate(float most) {
    const auto better = [](const Candidate &a, const Candidate &b) {
        return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
    };
    const auto sort_first = [&](size_t n) {
        std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<ptrdiff_t>(n),
                          candidates_.end(), better);
    };
    const auto weight = [&](size_t i) {
        return std::exp(static_cast<double>(candidates_[i].logit - most));
    };
    size_t kept = candidates_.size();
    if (options_.top_k > 0 && options_.top_k < kept) sort_first(kept = options_.top_k);
    if (options_.top_p < 1.0f) {
        double total = 0.0;
        for (size_t i = 0; i < kept; ++i) total += weight(i);
        const double wanted = static_cast<double>(options_.top_p) * total;
        size_t n_sorted = 0;
        size_t n = 0;
        for (double sum = 0.0; n < kept && sum < wanted; ++n) {
            if (n == n_sorted) sort_first(n_sorted = std::min(kept, std::max<size_t>(64, 4 * n)));
            sum += weight(n);
        }
        kept = std::max<size_t>(n, 1);
    }
    if (options_.min_p > 0.0f) {
        const auto end = candidates_.begin() + static_cast<ptrdiff_t>(kept);
        const float least = most + std::log(options_.min_p);
        const auto likely = [least](const Candidate &c) { return c.logit >= least; };
        kept = static_cast<size_t>(std::partition(candidates_.begin(), end, likely) -
                                   candidates_.begin());
    }
    return kept;
}

void throw_not_finite() {
    throw Error("logits: finite numbers expected, found NaN or infinity");
}

Sampled likeliest(std::span<const float> logits) {
    const float most = largest(logits);
    const auto best = std::find(logits.begin(), logits.end(), most);
    const double logprob = static_cast<double>(most) - log_sum_exp(logits, most);
    return {static_cast<int32_t>(best - logits.begin()), static_cast<float>(logprob)};
}

Sampled Sampler::sample(std::span<const float> logits) {
    if (is_greedy()) return likeliest(logits);
    const float most = largest(logits);
    const double normaliser = log_sum_exp(logits, most);
    const auto sampled = [&](int32_t id) {
        const double logit = static_cast<double>(logits[static_cast<size_t>(id)]);
        return Sampled{id, static_cast<float>(logit - normaliser)};
    };
    penalise(logits);
    if (options_.temperature == 0.0f) {
        const auto best = std::max_element(
            candidates_.begin(), candidates_.end(),
            [](const Candidate &a, const Candidate &b) { return a.logit < b.logit; });
        return sampled(best->id);
    }
    float penalised_most = candidates_[0].logit;
    for (const Candidate &c : candidates_) penalised_most = std::max(penalised_most, c.logit);
    const size_t kept = truncate(penalised_most);
    const auto weight = [&](size_t i) {
        const double distance = static_cast<double>(candidates_[i].logit - penalised_most);
        return std::exp(distance / static_cast<double>(options_.temperature));
    };
    double total = 0.0;
    for (size_t i = 0; i < kept; ++i) total += weight(i);
    double target = next_uniform() * total;
    for (size_t i = 0; i < kept; ++i) {
        target -= weight(i);
        if (target < 0) return sampled(candidates_[i].id);
    }
    return sampled(candidates_[kept - 1].id);
}

double log_probability(std::span<const float> logits, int32_t id) {
    const double logit = static_cast<double>(logits[static_cast<size_t>(id)]);
    return logit - log_sum_exp(logits, largest(logits));
}

}  // namespace a2sf
