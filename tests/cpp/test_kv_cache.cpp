// The cache against a plain model of itself: every policy, random schedules of chunks, and K/V rows
// tagged with their position so that a slot that holds the wrong token is seen.
#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "backend/registry.h"
#include "evict/allocation.h"
#include "evict/registry.h"
#include "kv/cache.h"

using namespace a2sf;

namespace {

constexpr size_t kLayers = 2;
constexpr size_t kHeads = 3;
constexpr size_t kHeadDim = 8;
constexpr CacheShape kShape{kLayers, kHeads, kHeadDim, KvType::F32};

// What a token at `pos` stores in a head.
float tag(int32_t pos, size_t head, size_t i, bool value) {
    return static_cast<float>((pos * 31 + static_cast<int32_t>(head * 7 + i)) % 97) / 97.0f +
           (value ? 1.0f : -0.5f) + static_cast<float>(pos) * 1e-3f;
}

struct Fixture {
    std::unique_ptr<Backend> backend = find_backend("cpu").create({.n_threads = 1});
    Cache cache{*backend, kShape};
    int32_t n_tokens = 0;
    std::mt19937 random{3};

    // One chunk of m tokens through all layers, as the decoder does it.
    void step(size_t m) {
        std::vector<float> k(m * kHeads * kHeadDim), v(k.size()), q(k.size()), out(k.size());
        std::vector<int32_t> query_pos(m);
        for (size_t i = 0; i < m; ++i) {
            query_pos[i] = n_tokens + static_cast<int32_t>(i);
            for (size_t h = 0; h < kHeads; ++h) {
                for (size_t d = 0; d < kHeadDim; ++d) {
                    const size_t at = (i * kHeads + h) * kHeadDim + d;
                    k[at] = tag(query_pos[i], h, d, false);
                    v[at] = tag(query_pos[i], h, d, true);
                    q[at] = static_cast<float>(random() % 2001) / 250.0f - 4.0f;
                }
            }
        }
        for (size_t layer = 0; layer < kLayers; ++layer) {
            const auto slots = cache.append(layer, n_tokens, m);
            backend->kv_write(cache.slots(layer),
                              Matrix<const float>(k.data(), m, kHeads * kHeadDim),
                              Matrix<const float>(v.data(), m, kHeads * kHeadDim), slots.data());
            check_rows(layer);
            AttentionArgs args;
            args.q = Matrix<const float>(q.data(), m, kHeads * kHeadDim);
            args.out = Matrix<float>(out.data(), m, kHeads * kHeadDim);
            args.query_pos = query_pos.data();
            args.n_heads = kHeads;
            cache.bind_attention(layer, m, args);
            backend->attention(args);
            cache.evict(layer);
        }
        n_tokens += static_cast<int32_t>(m);
    }

    // While attention runs, slots [0, live) hold the tokens that positions() names, and no others.
    void check_rows(size_t layer) {
        AttentionArgs args;
        cache.bind_attention(layer, 1, args);
        for (size_t h = 0; h < kHeads; ++h) {
            const size_t first = args.slots.at(h);
            const auto *k = static_cast<const float *>(args.slots.k) + first * kHeadDim;
            const auto *v = static_cast<const float *>(args.slots.v) + first * kHeadDim;
            std::vector<int32_t> held;
            for (size_t slot = 0; slot < args.live[h]; ++slot) {
                const int32_t pos = args.pos[first + slot];
                held.push_back(pos);
                for (size_t d = 0; d < kHeadDim; ++d) {
                    REQUIRE(k[slot * kHeadDim + d] == tag(pos, h, d, false));
                    REQUIRE(v[slot * kHeadDim + d] == tag(pos, h, d, true));
                }
            }
            std::sort(held.begin(), held.end());
            REQUIRE(held == cache.positions(layer, h));
        }
    }

    void check_invariants() {
        const EvictionConfig &config = cache.config();
        size_t n_evicted = 0;
        for (size_t layer = 0; layer < kLayers; ++layer) {
            for (size_t h = 0; h < kHeads; ++h) {
                const size_t most = config.evicts() ? cache.budget(layer, h) : size_t(n_tokens);
                const size_t expected = std::min(most, size_t(n_tokens));
                n_evicted += size_t(n_tokens) - expected;
                const auto pos = cache.positions(layer, h);
                REQUIRE(pos.size() == expected);
                REQUIRE(cache.live(layer, h) == expected);
                REQUIRE(std::is_sorted(pos.begin(), pos.end()));
                const std::set<int32_t> held(pos.begin(), pos.end());
                REQUIRE(held.size() == pos.size());
                for (int32_t p = 0; p < std::min<int32_t>(n_tokens, int32_t(config.n_sinks)); ++p) {
                    REQUIRE(held.count(p) == 1);
                }
                const int32_t oldest_recent =
                    std::max<int32_t>(0, n_tokens - static_cast<int32_t>(cache.n_recent(layer, h)));
                for (int32_t p = oldest_recent; p < n_tokens; ++p) REQUIRE(held.count(p) == 1);
                for (const PositionRange &range : config.pinned) {
                    for (size_t p = range.first; p < range.last && p < size_t(n_tokens); ++p) {
                        REQUIRE(held.count(static_cast<int32_t>(p)) == 1);
                    }
                }
                if (config.scope == Scope::Layer) REQUIRE(pos == cache.positions(layer, 0));
            }
        }
        REQUIRE(cache.n_evicted() == n_evicted);
    }
};

}  // namespace

TEST_CASE("every policy holds its budget and its protections over any schedule of chunks") {
    for (const Policy *policy : policies()) {
        for (int variant = 0; variant < 4; ++variant) {
            const Scope scope = variant % 2 == 0 ? Scope::Head : Scope::Layer;
            if (!policy->evicts() && variant > 0) continue;
            CAPTURE(policy->name);
            EvictionOptions options{.policy = policy->name};
            if (variant >= 2) options.pinned = {{0, 4}, {9, 14}, {61, 63}};
            if (policy->evicts()) {
                options.budget = Amount::of_tokens(24);
                options.recent = Amount::of_tokens(6);
                options.sinks = 2;
                options.scope = scope;
            }
            Fixture fixture;
            fixture.cache.configure(resolve(options, 0));
            fixture.cache.reserve(policy->evicts() ? 24 + 40 : 400);
            for (size_t m : {size_t(5), size_t(40), size_t(1), size_t(1), size_t(33), size_t(7),
                             size_t(1), size_t(40), size_t(40), size_t(2)}) {
                fixture.step(m);
                fixture.check_invariants();
            }
            for (int i = 0; i < 30; ++i) fixture.step(1);
            fixture.check_invariants();
        }
    }
}

TEST_CASE("growing keeps every token, clearing forgets them") {
    Fixture fixture;
    fixture.cache.configure(resolve({.policy = "a2sf", .budget = Amount::of_tokens(30)}, 0));
    fixture.cache.reserve(32);
    fixture.step(30);
    fixture.step(2);
    const auto before = fixture.cache.positions(1, 2);
    const auto scores = fixture.cache.scores(1, 2);
    fixture.cache.reserve(80);
    CHECK(fixture.cache.positions(1, 2) == before);
    CHECK(fixture.cache.scores(1, 2) == scores);
    fixture.step(50);
    fixture.check_invariants();
    fixture.cache.clear();
    CHECK(fixture.cache.live(0, 0) == 0);
    CHECK(fixture.cache.n_evicted() == 0);
    fixture.n_tokens = 0;
    fixture.step(20);
    fixture.check_invariants();
}

TEST_CASE("steady decoding reuses the slot of the token that left") {
    Fixture fixture;
    fixture.cache.configure(resolve({.policy = "h2o", .budget = Amount::of_tokens(16)}, 0));
    fixture.cache.reserve(17);
    fixture.step(16);
    const size_t n_bytes = fixture.cache.n_bytes();
    for (int i = 0; i < 200; ++i) {
        fixture.step(1);
        fixture.check_invariants();
    }
    CHECK(fixture.cache.n_bytes() == n_bytes);
    CHECK(fixture.cache.capacity() == 17);
}

TEST_CASE("bytes are counted from shapes") {
    Fixture fixture;
    fixture.cache.configure(resolve({.policy = "full"}, 0));
    fixture.cache.reserve(10);
    const size_t kv = 2 * kLayers * kHeads * 10 * kHeadDim * sizeof(float);
    CHECK(fixture.cache.n_bytes_full(10) == kv);
    CHECK(fixture.cache.n_bytes() >= kv);
    CHECK(fixture.cache.n_bytes() <= kv + kLayers * kHeads * 10 * 16);
}

TEST_CASE("a slot's bytes are what every buffer of the cache takes for it") {
    const auto backend = find_backend("cpu").create({.n_threads = 1});
    for (const KvType type : {KvType::F32, KvType::F16, KvType::Q8_0}) {
        for (const Policy *policy : policies()) {
            CAPTURE(policy->name);
            CAPTURE(name_of(type));
            const CacheShape shape{kLayers, kHeads, 32, type};
            const SlotBytes slot = Cache::slot_bytes(shape, policy->n_lanes());
            EvictionOptions options{.policy = policy->name};
            if (policy->evicts()) options.budget = Amount::of_tokens(64);
            const size_t before = buffer_bytes();
            Cache cache(*backend, shape);
            cache.configure(resolve(options, 64));
            for (const size_t capacity : {size_t{65}, size_t{200}}) {
                cache.reserve(capacity);
                CHECK(buffer_bytes() - before == slot.of({capacity, capacity}));
            }
        }
    }
}

TEST_CASE("where heads have budgets of their own, a slot's bytes are those of the room they get") {
    const auto backend = find_backend("cpu").create({.n_threads = 1});
    const CacheShape shape{kLayers, kHeads, 32, KvType::F16};
    EvictionOptions options{.policy = "a2sf", .budget = Amount::of_tokens(100)};
    options.allocation = {0.5f, 1.0f, 2.0f, 0.5f, 1.0f, 1.0f};
    const size_t before = buffer_bytes();
    Cache cache(*backend, shape);
    cache.configure(resolve(options, 1000));
    const CacheRoom room = cache.room_for(1000, 16);
    CHECK(room.mean == 116);
    CHECK(room.most == 216);
    CHECK(longest_budget(cache.config(), 1000) == 200);
    cache.reserve(1000, 16);
    const size_t n_bytes = Cache::slot_bytes(shape, cache.config().policy->n_lanes()).of(room);
    CHECK(buffer_bytes() - before == n_bytes);
}

TEST_CASE("a head with a budget of its own keeps what it would keep if all had that budget") {
    constexpr size_t kChunks[] = {30, 1, 1, 1, 40, 1, 1, 50, 1, 1, 1, 1, 90, 1, 1};
    constexpr PromptMode kModes[] = {PromptMode::Token, PromptMode::Chunk};
    const std::vector<float> shares = {0.5f, 1.0f, 1.5f, 2.0f, 0.6f, 0.4f};
    for (const Policy *policy : policies()) {
        if (!policy->evicts()) continue;
        // One that looks at other heads' tokens keeps other ones.
        if (std::string(policy->name) == "a2sf-dual") continue;
        for (const PromptMode mode : kModes) {
            CAPTURE(policy->name);
            EvictionOptions options{.policy = policy->name, .budget = Amount::of_tokens(80)};
            options.prefill = mode;
            options.allocation = shares;
            // That of a preset may depend on the budget.
            if (policy->preset.memory_share > 0) options.forgetting_factor = 0.9;
            Fixture uneven;
            uneven.cache.configure(resolve(options, 0));
            const auto read = [&](Fixture &fixture) {
                for (const size_t m : kChunks) {
                    // Token mode walks a chunk; here each token is a step of its own.
                    for (size_t i = 0; i < (mode == PromptMode::Token ? m : 1); ++i) {
                        const size_t n = mode == PromptMode::Token ? 1 : m;
                        fixture.cache.reserve(size_t(fixture.n_tokens) + n, n);
                        fixture.step(n);
                    }
                }
            };
            read(uneven);
            uneven.check_invariants();
            for (size_t index = 0; index < shares.size(); ++index) {
                const size_t layer = index / kHeads, head = index % kHeads;
                EvictionOptions same = options;
                same.allocation.clear();
                same.budget = Amount::of_tokens(uneven.cache.budget(layer, head));
                Fixture even;
                even.cache.configure(resolve(same, 0));
                read(even);
                CHECK(uneven.cache.positions(layer, head) == even.cache.positions(layer, head));
                // Sums are taken in parts that depend on how much is live.
                const auto ours = uneven.cache.scores(layer, head);
                const auto theirs = even.cache.scores(layer, head);
                for (size_t i = 0; i < ours.size(); ++i) {
                    REQUIRE(ours[i] == doctest::Approx(theirs[i]).epsilon(1e-4));
                }
            }
        }
    }
}

TEST_CASE("heads with budgets of their own take no more room together than with the same one") {
    EvictionOptions options{.policy = "a2sf", .budget = Amount::of_tokens(200)};
    Fixture even, uneven;
    even.cache.configure(resolve(options, 0));
    options.allocation = {0.5f, 1.0f, 1.5f, 2.0f, 0.6f, 0.4f};
    uneven.cache.configure(resolve(options, 0));
    even.cache.reserve(200 + 16, 16);
    uneven.cache.reserve(uneven.cache.most_budget() + 16, 16);
    CHECK(uneven.cache.n_bytes() == even.cache.n_bytes());
    CHECK(uneven.cache.capacity() > even.cache.capacity());
    CHECK(uneven.cache.has_room(uneven.cache.most_budget() + 16, 16));
    CHECK(!uneven.cache.has_room(uneven.cache.most_budget() + 17, 17));
}
