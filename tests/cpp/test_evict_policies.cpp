// The policies' own arithmetic: query weights against the formula, ranks against plain loops.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "evict/registry.h"

using namespace a2sf;

TEST_CASE("names are unique and found") {
    std::set<std::string> names;
    for (const Policy *policy : policies()) {
        CHECK(names.insert(policy->name).second);
        CHECK(&find_policy(policy->name) == policy);
        CHECK(std::string(policy->summary).size() > 10);
        CHECK(policy->n_lanes() <= kMaxScoreLanes);
    }
    CHECK_THROWS_AS(find_policy("none"), OptionError);
}

TEST_CASE("a chunk weighs its queries as single steps would") {
    // A <- decay A + sum_i w_i p_i over a chunk equals m steps of A <- f A + p (algorithm, section
    // 1).
    for (const Policy *policy : policies()) {
        if (policy->uses_window()) continue;
        EvictionConfig config = resolve({.policy = policy->name}, 0);
        config.chunk_forgetting_factor = config.forgetting_factor;
        for (size_t lane = 0; lane < policy->n_lanes(); ++lane) {
            CAPTURE(policy->name);
            std::vector<float> weight(9);
            const double decay = policy->query_weights(config, lane, weight);
            std::vector<float> one(1);
            const double factor = policy->query_weights(config, lane, one);
            CHECK(one[0] == 1.0f);
            CHECK(decay == doctest::Approx(std::pow(factor, 9)));
            for (size_t i = 0; i < 9; ++i) {
                CHECK(weight[i] == doctest::Approx(std::pow(factor, 8 - static_cast<double>(i))));
            }
        }
    }
}

TEST_CASE("queries that a2sf reads together count nearly alike, unless a factor is given") {
    std::vector<float> weight(3);
    EvictionOptions options{.policy = "a2sf"};
    EvictionConfig config = resolve(options, 0);
    CHECK(config.policy->query_weights(config, 0, weight) == doctest::Approx(std::pow(0.998, 3)));
    CHECK(weight[0] == doctest::Approx(std::pow(0.998, 2)));
    CHECK(config.policy->query_weights(config, 0, {weight.data(), 1}) == 0.99f);
    options.forgetting_factor = 0.5;
    config = resolve(options, 0);
    CHECK(config.policy->query_weights(config, 0, weight) == 0.125f);
}

TEST_CASE("a factor of zero keeps the newest query alone, exactly") {
    std::vector<float> weight(4);
    const EvictionConfig config = resolve({.policy = "tova"}, 0);
    CHECK(config.policy->query_weights(config, 0, weight) == 0.0f);
    CHECK(weight == std::vector<float>{0, 0, 0, 1});
}

TEST_CASE("snapkv looks at its window, and fades as much as it adds") {
    EvictionOptions options{.policy = "snapkv"};
    options.window = 4;
    options.budget = Amount::of_tokens(64);
    const EvictionConfig config = resolve(options, 0);
    std::vector<float> weight(6);
    CHECK(config.policy->query_weights(config, 0, weight) == 0.0f);
    CHECK(weight == std::vector<float>{0, 0, 1, 1, 1, 1});
    weight.resize(1);
    CHECK(config.policy->query_weights(config, 0, weight) == 0.75f);
    CHECK(weight == std::vector<float>{1});
}

TEST_CASE("a2sf-dual ranks by the larger of its two memories") {
    std::mt19937 random(7);
    const EvictionConfig config = resolve({.policy = "a2sf-dual"}, 0);
    for (int round = 0; round < 50; ++round) {
        const size_t n_heads = 1 + random() % 3;
        const size_t live = 1 + random() % 40;
        std::vector<std::vector<int32_t>> pos(n_heads);
        std::vector<std::vector<float>> slow(n_heads), fast(n_heads);
        std::map<int32_t, double> shared;
        double fast_total = 0;
        std::vector<HeadView> heads(n_heads);
        for (size_t h = 0; h < n_heads; ++h) {
            std::set<int32_t> held;
            while (held.size() < live) held.insert(static_cast<int32_t>(random() % 90));
            pos[h].assign(held.begin(), held.end());
            for (int32_t p : pos[h]) {
                slow[h].push_back(static_cast<float>(random() % 1000) / 1000);
                fast[h].push_back(static_cast<float>(random() % 1000) / 1000);
                shared[p] += fast[h].back();
                fast_total += fast[h].back();
            }
            heads[h] = {pos[h], {slow[h], fast[h]}, {}};
        }
        std::vector<float> rank(n_heads * live);
        config.policy->rank(config, heads, {rank.data(), n_heads, live});
        for (size_t h = 0; h < n_heads; ++h) {
            double slow_total = 0;
            for (float s : slow[h]) slow_total += s;
            for (size_t i = 0; i < live; ++i) {
                double most = 0;
                for (const auto &[p, sum] : shared) {
                    if (std::abs(p - pos[h][i]) <= 3) most = std::max(most, sum);
                }
                const double expected = std::max(most / fast_total, slow[h][i] / slow_total);
                CHECK(rank[h * live + i] == doctest::Approx(expected).epsilon(1e-5));
            }
        }
    }
}
