// Ranks to victims: selection against a sort, protection, pooling, shared heads.
#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "evict/registry.h"
#include "evict/select.h"

using namespace a2sf;

namespace {

// Token i is at position i; those before range.first are sinks, those from range.last on recent.
std::vector<uint32_t> victims_of(const std::vector<float> &rank, Unprotected range, size_t n,
                                 std::vector<PositionRange> pinned = {}) {
    EvictionConfig config;
    config.n_sinks = range.first;
    config.n_recent = rank.size() - range.last;
    config.pinned = ordered_ranges(std::move(pinned));
    std::vector<int32_t> pos(rank.size());
    std::iota(pos.begin(), pos.end(), 0);
    std::vector<uint32_t> victims(n);
    std::vector<uint64_t> scratch(rank.size());
    select_victims(config, config.n_recent, pos, rank, victims, scratch);
    return victims;
}

}  // namespace

TEST_CASE("the lowest ranks go, the older of equals") {
    std::mt19937 random(1);
    for (int round = 0; round < 300; ++round) {
        const size_t live = 1 + random() % 60;
        std::vector<float> rank(live);
        // Many ties, some below zero, and a zero of each sign.
        for (float &r : rank) {
            r = (random() % 2 == 0 ? -0.5f : 1.0f) * static_cast<float>(random() % 4);
        }
        const size_t first = random() % live;
        const size_t last = first + 1 + random() % (live - first);
        const size_t n = 1 + random() % (last - first);
        std::vector<uint32_t> expected(last - first);
        std::iota(expected.begin(), expected.end(), static_cast<uint32_t>(first));
        std::stable_sort(expected.begin(), expected.end(),
                         [&](uint32_t a, uint32_t b) { return rank[a] < rank[b]; });
        expected.resize(n);
        std::sort(expected.begin(), expected.end());
        CHECK(victims_of(rank, {first, last}, n) == expected);
    }
}

TEST_CASE("a rank that is not a number goes first") {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    CHECK(victims_of({1, nan, 0, 2}, {0, 4}, 1) == std::vector<uint32_t>{1});
    CHECK(victims_of({1, nan, 0, nan}, {0, 4}, 2) == std::vector<uint32_t>{1, 3});
    CHECK(victims_of({1, nan, 0, nan}, {0, 4}, 3) == std::vector<uint32_t>{1, 2, 3});
}

TEST_CASE("no rank displaces a pinned token") {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const float most = std::numeric_limits<float>::infinity();
    CHECK(victims_of({nan, most, nan, most}, {0, 4}, 2, {{0, 1}, {2, 3}}) ==
          std::vector<uint32_t>{1, 3});
    CHECK(victims_of({-most, nan, most, 5}, {0, 4}, 1, {{0, 2}}) == std::vector<uint32_t>{3});
    std::mt19937 random(2);
    for (int round = 0; round < 300; ++round) {
        const size_t live = 1 + random() % 60;
        std::vector<float> rank(live);
        std::vector<PositionRange> pinned;
        for (float &r : rank) r = static_cast<float>(random() % 5);
        for (size_t n = random() % 4; n-- > 0;) {
            const size_t first = random() % 70;
            pinned.push_back({first, first + random() % 9});
        }
        std::vector<uint32_t> expected;
        for (uint32_t i = 0; i < live; ++i) {
            const bool free = std::none_of(pinned.begin(), pinned.end(), [&](PositionRange range) {
                return i >= range.first && i < range.last;
            });
            if (free) expected.push_back(i);
        }
        if (expected.empty()) continue;
        std::stable_sort(expected.begin(), expected.end(),
                         [&](uint32_t a, uint32_t b) { return rank[a] < rank[b]; });
        expected.resize(1 + random() % expected.size());
        std::sort(expected.begin(), expected.end());
        CHECK(victims_of(rank, {0, live}, expected.size(), pinned) == expected);
    }
}

TEST_CASE("sinks are the first positions, recent ones the newest") {
    EvictionConfig config;
    config.n_sinks = 4;
    config.n_recent = 3;
    const std::vector<int32_t> pos = {0, 1, 3, 7, 20, 30, 31, 32, 33};
    const Unprotected range = unprotected(config, config.n_recent, pos);
    CHECK(range.first == 3);
    CHECK(range.last == 6);
    config.n_recent = 0;
    CHECK(unprotected(config, config.n_recent, pos).last == pos.size());
    config.n_sinks = 100;
    CHECK(unprotected(config, config.n_recent, pos).first ==
          unprotected(config, config.n_recent, pos).last);
}

TEST_CASE("pooling takes the maximum over neighbouring positions, not neighbouring slots") {
    const std::vector<int32_t> pos = {0, 1, 5, 6, 7, 30};
    std::vector<float> rank = {1, 9, 2, 3, 8, 4};
    std::vector<float> scratch(rank.size());
    const std::vector<HeadView> heads = {{.pos = pos}};
    EvictionConfig config;
    config.pooling = 3;
    spread_ranks(config, find_policy("a2sf"), heads, {rank.data(), 1, rank.size()}, scratch);
    CHECK(rank == std::vector<float>{9, 9, 3, 8, 8, 4});
}

TEST_CASE("the heads of a layer share the sum of their ranks, pooled afterwards") {
    const std::vector<int32_t> pos = {0, 1, 9};
    std::vector<float> rank = {1, 2, 3, 10, 0, 5};
    std::vector<float> scratch(3);
    const std::vector<HeadView> heads = {{.pos = pos}, {.pos = pos}};
    EvictionConfig config;
    config.scope = Scope::Layer;
    spread_ranks(config, find_policy("a2sf"), heads, {rank.data(), 2, 3}, scratch);
    CHECK(rank == std::vector<float>{11, 2, 8, 11, 2, 8});
    config.pooling = 3;
    rank = {1, 2, 3, 10, 0, 5};
    spread_ranks(config, find_policy("a2sf"), heads, {rank.data(), 2, 3}, scratch);
    CHECK(rank == std::vector<float>{11, 11, 8, 11, 11, 8});
}

TEST_CASE("the guard lifts the tokens whose neighbourhood is least like the others") {
    const std::vector<int32_t> pos = {0, 1, 2, 3, 9, 20, 21, 30, 31};
    // Alone, the token at 9 is the least like the others; in the mean, the run from 20 on is.
    const std::vector<float> similarity = {0.9f, 0.8f, 0.9f, 0.8f, 0.3f, 0.2f, 0.4f, 0.9f, -1.0f};
    const HeadView head{.pos = pos, .similarity = similarity};
    EvictionConfig config;
    config.n_sinks = 1;
    config.guard = 0.5;
    const auto lifted = [&](size_t n_recent, size_t n_victims) {
        std::vector<float> rank(pos.size(), 1.0f);
        std::vector<uint64_t> scratch(pos.size());
        guard_ranks(config, n_recent, head, n_victims, rank.data(), scratch);
        std::vector<int32_t> found;
        for (size_t i = 0; i < pos.size(); ++i) {
            if (rank[i] > 1) found.push_back(pos[i]);
        }
        return found;
    };
    // Of 8 candidates 2 are to leave: half of the other 6. Means: 9 has 0.3, 20 and 21 0.3, 30 and
    // 31 -0.05; equals go older first.
    CHECK(lifted(0, 2) == std::vector<int32_t>{21, 30, 31});
    CHECK(lifted(0, 0) == std::vector<int32_t>{20, 21, 30, 31});
    // Recent ones need no guard, but count as neighbours.
    CHECK(lifted(1, 1) == std::vector<int32_t>{20, 21, 30});
    CHECK(lifted(0, 8).empty());
}
