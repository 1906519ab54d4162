// Whole models on an emulated GPU: the same tokens, kept positions and scores as on the CPU, for
// every policy, K/V type and way of reading a prompt. Launches run as late as can be, so a step
// that the host takes too early shows.
#include <doctest/doctest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "cuda_fixture.h"
#include "evict/registry.h"
#include "sample/sampler.h"
#include "tiny_model.h"

using namespace a2sf;
using namespace a2sf::testing;
using namespace a2sf_test;

namespace {

// What a session saw and kept.
struct Outcome {
    std::vector<std::vector<float>> logits;
    std::vector<std::vector<int32_t>> positions;  // by layer and head
    std::vector<std::vector<float>> scores;
};

Outcome run(const Engine &engine, SessionOptions options, size_t n_prompt) {
    options.n_threads = 1;
    Session session(engine.model, options);
    Outcome outcome;
    const std::vector<int32_t> prompt = some_ids(n_prompt);
    const auto keep = [&](std::span<const float> logits) {
        outcome.logits.emplace_back(logits.begin(), logits.end());
    };
    keep(session.feed(prompt));
    for (const int32_t id : some_ids(6, 2)) keep(session.feed({&id, 1}));
    const Cache &cache = session.cache();
    for (size_t layer = 0; layer < cache.shape().n_layers; ++layer) {
        for (size_t head = 0; head < cache.shape().n_kv_heads; ++head) {
            outcome.positions.push_back(cache.positions(layer, head));
            outcome.scores.push_back(cache.scores(layer, head));
        }
    }
    return outcome;
}

const Engine &on_cuda() {
    static const Engine engine = load_tiny({}, "cuda");
    return engine;
}

// Both devices, the same but for rounding.
void compare(const SessionOptions &options, size_t n_prompt, double allowed) {
    const Outcome expected = run(tiny(), options, n_prompt),
                  found = run(on_cuda(), options, n_prompt);
    CHECK(found.positions == expected.positions);
    REQUIRE(found.logits.size() == expected.logits.size());
    for (size_t i = 0; i < found.logits.size(); ++i) {
        CHECK(largest_difference(found.logits[i], expected.logits[i]) <= allowed);
    }
    for (size_t i = 0; i < found.scores.size(); ++i) {
        CHECK(largest_difference(found.scores[i], expected.scores[i]) <= allowed);
    }
}

SessionOptions with(const Policy &policy, size_t budget) {
    SessionOptions options{.kv_type = KvType::F32, .n_threads = 1, .batch = 24};
    options.eviction.policy = policy.name;
    if (policy.evicts()) options.eviction.budget = Amount::of_tokens(budget);
    return options;
}

}  // namespace

TEST_CASE("cuda session: every policy keeps what it keeps on the CPU") {
    for (const Policy *policy : policies()) {
        CAPTURE(std::string(policy->name));
        compare(with(*policy, 40), 90, 2e-4);
    }
}

TEST_CASE("cuda session: one seed draws the same tokens on both devices") {
    for (const char *policy : {"full", "a2sf", "h2o"}) {
        CAPTURE(std::string(policy));
        const SessionOptions options = with(find_policy(policy), 40);
        const auto draw = [&](const Engine &engine, uint64_t seed) {
            Session session(engine.model, options);
            Sampler sampler({.temperature = 1.0f, .top_p = 0.95f, .seed = seed}, kTinyVocab);
            std::span<const float> logits = session.feed(some_ids(60));
            std::vector<int32_t> ids;
            for (int i = 0; i < 20; ++i) {
                ids.push_back(sampler.sample(logits).id);
                logits = session.feed({&ids.back(), 1});
            }
            return ids;
        };
        const std::vector<int32_t> expected = draw(tiny(), 7);
        CHECK(draw(on_cuda(), 7) == expected);
        CHECK(draw(on_cuda(), 8) != expected);
    }
}

TEST_CASE("cuda session: every way of reading a prompt, scope, pooling and position") {
    const Policy &policy = find_policy("a2sf");
    for (const PromptMode mode : {PromptMode::Token, PromptMode::Chunk, PromptMode::Full}) {
        CAPTURE(static_cast<int>(mode));
        SessionOptions options = with(policy, 32);
        options.eviction.prefill = mode;
        compare(options, 60, 2e-4);
        options.eviction.scope = Scope::Layer;
        options.eviction.pooling = 3;
        compare(options, 60, 2e-4);
        options = with(policy, 32);
        options.eviction.prefill = mode;
        options.eviction.positions = Positions::Compact;
        compare(options, 60, 2e-4);
    }
}

TEST_CASE("cuda session: K and V as halves and bytes") {
    for (const KvType type : {KvType::F16, KvType::Q8_0}) {
        SessionOptions options = with(find_policy("full"), 0);
        options.kv_type = type;
        if (!can_store(type, tiny().model->config().head_dim)) continue;
        // The CPU may multiply halves as bfloat16.
        compare(options, 60, 0.2);
    }
}

TEST_CASE("cuda session: a saved session goes on as the one it came from, bit for bit") {
    SessionOptions options = with(find_policy("a2sf"), 40);
    Session session(on_cuda().model, options);
    session.feed(some_ids(70));
    const std::unique_ptr<Session> other = session.fork();
    for (const int32_t id : some_ids(5, 3)) {
        const auto expected = session.feed({&id, 1});
        const std::vector<float> kept(expected.begin(), expected.end());
        const auto found = other->feed({&id, 1});
        CHECK(std::equal(kept.begin(), kept.end(), found.begin()));
    }
    CHECK(session.cache().positions(1, 1) == other->cache().positions(1, 1));
}

TEST_CASE("cuda session: sessions that take a step together get what each gets alone") {
    SessionOptions options = with(find_policy("a2sf"), 32);
    const auto workspace = make_workspace(*on_cuda().model, options, 3);
    std::vector<std::unique_ptr<Session>> together, alone;
    std::vector<Session *> all;
    for (unsigned i = 0; i < 3; ++i) {
        together.push_back(std::make_unique<Session>(on_cuda().model, options, workspace));
        alone.push_back(std::make_unique<Session>(on_cuda().model, options));
        together[i]->feed(some_ids(30 + 7 * i, i));
        alone[i]->feed(some_ids(30 + 7 * i, i));
        all.push_back(together[i].get());
    }
    for (const int32_t id : some_ids(4, 9)) {
        const std::vector<int32_t> ids(3, id);
        Session::step(all, ids);
        for (size_t i = 0; i < 3; ++i) {
            const auto expected = alone[i]->feed({&id, 1});
            CHECK(std::equal(expected.begin(), expected.end(), together[i]->logits().begin()));
        }
    }
}
