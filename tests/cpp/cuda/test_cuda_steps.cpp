// Slots that the GPU hands out itself: the same tokens in the same slots, the same scores and
// holes, bit for bit, as when the host chooses.
#include <doctest/doctest.h>

#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "cuda_fixture.h"
#include "evict/registry.h"
#include "host_slots.h"
#include "kv/cache.h"
#include "tiny_model.h"

using namespace a2sf;
using namespace a2sf::testing;
using namespace a2sf_test;

namespace {

constexpr size_t kLayers = 2, kHeads = 3, kHeadDim = 8, kWidth = kHeads * kHeadDim;

constexpr CacheShape kShape{kLayers, kHeads, kHeadDim, KvType::F16};
// Growing, over the budget at once, token by token, in between both.
const std::vector<size_t> kSchedule = {7, 1, 1, 1, 30, 1, 1, 1, 1, 4, 1, 1, 2, 1};

// A cache that is fed random queries, keys and values, the same for one seed.
struct Fed {
    explicit Fed(Backend &the_backend) : backend(the_backend) {
        for (auto &memory : arrays) {
            memory = backend.allocate(kMost * kWidth * sizeof(float), "test");
        }
    }

    Matrix<float> random_rows(size_t which, size_t m, float factor) {
        std::vector<float> values(m * kWidth);
        for (float &value : values) {
            value = factor * (static_cast<float>(random() % 2001) / 1000.0f - 1.0f);
        }
        backend.copy_to_device(arrays[which]->data(), values.data(), m * kWidth * sizeof(float));
        return {static_cast<float *>(arrays[which]->data()), m, kWidth};
    }

    // m tokens through all layers, as the decoder does it; lost: the first query head is no number.
    void step(size_t m, bool lost = false) {
        std::vector<int32_t> query_pos(m);
        for (size_t i = 0; i < m; ++i) query_pos[i] = n_tokens + static_cast<int32_t>(i);
        for (size_t layer = 0; layer < kLayers; ++layer) {
            const Matrix<float> k = random_rows(0, m, 1), v = random_rows(1, m, 1);
            AttentionArgs args;
            args.q = random_rows(2, m, 4);
            if (lost) {
                const float nan = NAN;
                backend.copy_to_device(arrays[2]->data(), &nan, sizeof nan);
            }
            const auto slots = cache.append(layer, n_tokens, m);
            backend.kv_write(cache.slots(layer), k, v, slots.data());
            args.out = {static_cast<float *>(arrays[3]->data()), m, kWidth};
            args.query_pos = query_pos.data();
            args.n_heads = kHeads;
            args.scale = 1.0f;
            cache.bind_attention(layer, m, args);
            backend.attention(args);
            cache.evict(layer);
        }
        n_tokens += static_cast<int32_t>(m);
    }

    std::vector<std::byte> saved() const {
        MemoryWriter writer;
        cache.save(writer);
        return {writer.bytes().begin(), writer.bytes().end()};
    }

    static constexpr size_t kMost = 40;
    Backend &backend;
    Cache cache{backend, kShape};
    std::unique_ptr<DeviceMemory> arrays[4];
    int32_t n_tokens = 0;
    std::mt19937 random{5};
};

// Both ways beside each other.
struct Pair {
    CudaBackend gpu{1};
    HostSlots host;
    Fed kept{gpu}, chosen{host};

    template <typename Body>
    void both(const Body &body) {
        body(kept);
        body(chosen);
    }
    void check() const {
        CHECK(kept.cache.n_evicted() == chosen.cache.n_evicted());
        CHECK(kept.saved() == chosen.saved());
    }
};

EvictionConfig config_of(const Policy &policy, size_t budget) {
    EvictionOptions options{.policy = policy.name};
    if (policy.evicts()) {
        options.budget = Amount::of_tokens(budget);
        options.recent = Amount::of_tokens(3);
        options.sinks = 2;
    }
    return resolve(options, 0);
}

bool is_kept(const Cache &cache, size_t layer) {
    return cache.slots(layer).kept != nullptr;
}

}  // namespace

TEST_CASE("cuda steps: every policy and schedule ends in the slots that the host would choose") {
    for (const Policy *policy : policies()) {
        for (const bool pools : {true, false}) {
            if (!pools && !policy->evicts()) continue;
            CAPTURE(std::string(policy->name));
            EvictionConfig config = config_of(*policy, 20);
            if (!pools) config.pooling = 1;
            Pair pair;
            pair.both([&](Fed &fed) {
                fed.cache.configure(config);
                fed.cache.reserve(policy->evicts() ? 20 + 30 : 200);
            });
            for (const size_t m : kSchedule) {
                for (size_t i = 0; i < (m == 1 ? 5 : 1); ++i) {
                    pair.both([&](Fed &fed) { fed.step(m); });
                }
                if (m == 2) pair.check();
            }
            pair.check();
            pair.both([&](Fed &fed) { fed.step(1); });
            CHECK(is_kept(pair.kept.cache, 1));
            CHECK_FALSE(is_kept(pair.chosen.cache, 1));
        }
    }
}

TEST_CASE(
    "cuda steps: neighbours, other heads, pinned tokens and guarded keys count as on the host") {
    struct Case {
        const char *policy;
        Scope scope;
        size_t pooling;
        double guard;
        std::vector<PositionRange> pinned;
        PromptMode prefill = PromptMode::Chunk;
    };
    const Case cases[] = {
        {"a2sf", Scope::Head, 1, 0.0, {}},
        {"a2sf", Scope::Head, 1, 1.0, {}},
        {"a2sf", Scope::Head, 5, 0.3, {{5, 9}, {11, 12}}},
        {"a2sf", Scope::Layer, 1, 0.65, {}},
        {"h2o", Scope::Layer, 7, 0.0, {{3, 4}}},
        {"keydiff", Scope::Head, 3, 0.0, {}},
        {"keydiff", Scope::Layer, 1, 0.0, {{6, 8}}},
        {"tova", Scope::Layer, 1, 0.0, {}},
        {"streaming", Scope::Head, 1, 0.5, {{7, 9}}},
        {"a2sf-dual", Scope::Head, 7, 0.0, {}},
        {"a2sf-dual", Scope::Head, 1, 0.4, {{4, 8}}},
        {"a2sf-dual", Scope::Layer, 3, 0.0, {}},
        {"snapkv", Scope::Head, 7, 0.0, {}, PromptMode::Full},
        {"a2sf", Scope::Layer, 3, 0.0, {}, PromptMode::Full},
    };
    for (const Case &each : cases) {
        CAPTURE(std::string(each.policy));
        CAPTURE(each.pooling);
        EvictionConfig config = config_of(find_policy(each.policy), 20);
        config.scope = each.scope;
        config.pooling = each.pooling;
        config.guard = each.guard;
        config.pinned = each.pinned;
        config.prefill = each.prefill;
        Pair pair;
        pair.both([&](Fed &fed) {
            fed.cache.configure(config);
            fed.cache.reserve(20 + 40);
        });
        // Chunks behind chunks, with the budget met on the way, and behind steps.
        for (const size_t m : {18, 5, 1, 33, 2, 1, 1, 1, 1, 40, 1, 1, 9}) {
            pair.both([&](Fed &fed) { fed.step(m); });
            CHECK(pair.kept.cache.most_live() == pair.chosen.cache.most_live());
        }
        pair.check();
        pair.both([&](Fed &fed) {
            for (int i = 0; i < 7; ++i) fed.step(1);
        });
        CHECK(is_kept(pair.kept.cache, 0));
        pair.check();
    }
}

TEST_CASE("cuda steps: more slots than a block has threads, and heads that lose none") {
    EvictionConfig config = config_of(find_policy("a2sf"), 400);
    config.allocation = {0.5f, 1.0f, 1.5f, 2.0f, 0.2f, 0.8f};
    Pair pair;
    pair.both([&](Fed &fed) {
        fed.cache.configure(config);
        fed.cache.reserve(900, 40);
        for (int i = 0; i < 16; ++i) fed.step(40);
        for (int i = 0; i < 3; ++i) fed.step(1);
        fed.step(17);
    });
    CHECK(pair.kept.cache.live(0, 0) == 200);
    CHECK(pair.kept.cache.live(1, 0) == 660);
    pair.check();
}

TEST_CASE("cuda steps: heads that hold different tokens are not ranked together on the GPU") {
    const EvictionConfig config = config_of(find_policy("a2sf"), 20);
    Pair pair;
    pair.both([&](Fed &fed) {
        fed.cache.configure(config);
        fed.cache.reserve(60);
        fed.step(40);
        for (int i = 0; i < 4; ++i) fed.step(1);
        EvictionConfig other = config;
        other.scope = Scope::Layer;
        fed.cache.configure(other);
        for (int i = 0; i < 4; ++i) fed.step(1);
        fed.step(10);
    });
    CHECK_FALSE(is_kept(pair.kept.cache, 0));
    pair.check();
}

TEST_CASE("cuda steps: heads with budgets of their own, that fill at different times") {
    for (const char *name : {"a2sf", "streaming", "tova"}) {
        CAPTURE(std::string(name));
        EvictionConfig config = config_of(find_policy(name), 20);
        config.allocation = {1.0f, 2.5f, 0.5f, 0.4f, 1.0f, 0.6f};
        Pair pair;
        pair.both([&](Fed &fed) {
            fed.cache.configure(config);
            fed.cache.reserve(60, 1);
        });
        for (int i = 0; i < 70; ++i) {
            pair.both([&](Fed &fed) { fed.step(1); });
            CHECK(pair.kept.cache.mean_live() == pair.chosen.cache.mean_live());
            if (i % 23 == 22) pair.check();
        }
        CHECK(is_kept(pair.kept.cache, 0));
        // Half the budget: what is over it leaves by the general way, then steps go on.
        config.budget = 10;
        pair.both([&](Fed &fed) {
            fed.cache.configure(config);
            for (size_t layer = 0; layer < kLayers; ++layer) fed.cache.evict(layer);
            for (int i = 0; i < 12; ++i) fed.step(1);
        });
        pair.check();
        pair.both([&](Fed &fed) {
            fed.cache.divide({2.0f, 0.5f, 0.5f, 1.0f, 1.0f, 1.0f});
            fed.cache.reserve(30, 1);
            for (int i = 0; i < 12; ++i) fed.step(1);
        });
        pair.check();
    }
}

TEST_CASE("cuda steps: who asks in between changes nothing, and finds what is there") {
    const EvictionConfig config = config_of(find_policy("a2sf"), 16);
    Pair pair;
    pair.both([&](Fed &fed) {
        fed.cache.configure(config);
        fed.cache.reserve(24);
        fed.step(24);
    });
    for (int i = 0; i < 20; ++i) {
        pair.both([&](Fed &fed) { fed.step(1); });
        if (i % 3 != 0) continue;
        for (size_t layer = 0; layer < kLayers; ++layer) {
            for (size_t head = 0; head < kHeads; ++head) {
                CHECK(pair.kept.cache.positions(layer, head) ==
                      pair.chosen.cache.positions(layer, head));
                CHECK(pair.kept.cache.scores(layer, head) == pair.chosen.cache.scores(layer, head));
            }
        }
        if (i == 9) pair.both([](Fed &fed) { fed.cache.reserve(48); });
    }
    pair.check();
    // What is saved in the middle of it goes on as it would have.
    const std::vector<std::byte> bytes = pair.kept.saved();
    Fed other(pair.gpu);
    const std::string name = "test";
    ByteReader in(bytes, name);
    other.cache.configure(config);
    other.cache.load(in, static_cast<size_t>(pair.kept.n_tokens));
    other.n_tokens = pair.kept.n_tokens;
    other.random = pair.kept.random;
    for (int i = 0; i < 9; ++i) {
        pair.both([&](Fed &fed) { fed.step(1); });
        other.step(1);
    }
    pair.check();
    CHECK(other.saved() == pair.kept.saved());
}

TEST_CASE("cuda steps: scores that are not numbers leave in the same order") {
    for (const char *name : {"a2sf", "h2o"}) {
        CAPTURE(std::string(name));
        Pair pair;
        pair.both([&](Fed &fed) {
            fed.cache.configure(config_of(find_policy(name), 12));
            fed.cache.reserve(14);
            for (int i = 0; i < 30; ++i) fed.step(1, i == 9 || i == 20);
        });
        CHECK(std::isnan(pair.kept.cache.scores(0, 0)[0]));
        for (size_t head = 0; head < kHeads; ++head) {
            CHECK(pair.kept.cache.positions(1, head) == pair.chosen.cache.positions(1, head));
        }
    }
}
