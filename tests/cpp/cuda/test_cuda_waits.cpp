// How often the host waits for the emulated GPU: for what hands a token's logits over, and nothing
// else.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "cuda_fixture.h"
#include "evict/registry.h"
#include "tiny_model.h"

using namespace a2sf;
using namespace a2sf::testing;
using namespace a2sf_test;

namespace {

SessionOptions small_options(const Policy &policy) {
    SessionOptions options{.n_threads = 1, .batch = 24};
    options.eviction.policy = policy.name;
    if (!policy.evicts()) return options;
    options.eviction.budget = Amount::of_tokens(20);
    if (policy.uses_window()) options.eviction.recent = Amount::of_tokens(4);
    options.eviction.division = Division::Equal;
    return options;
}

// body(engine, options): models of several depths, every policy.
template <typename Body>
void each_depth_and_policy(const Body &body) {
    for (const uint32_t n_layers : {2u, 3u}) {
        TinyModel shape;
        shape.n_layers = n_layers;
        const Engine engine = load_tiny(shape, "cuda");
        for (const Policy *policy : policies()) {
            CAPTURE(std::string(policy->name));
            body(engine, small_options(*policy));
        }
    }
}

}  // namespace

TEST_CASE("cuda waits: decoding waits once per token, however many layers there are") {
    each_depth_and_policy([](const Engine &engine, const SessionOptions &options) {
        Session session(engine.model, options);
        session.reserve(60);
        session.feed(some_ids(30));
        const auto feed = [&](size_t n) {
            for (const int32_t id : some_ids(n, 2)) session.feed({&id, 1});
        };
        feed(1);
        const size_t n_before = cuda_emulator::counts.n_waits;
        feed(6);
        const size_t n_waits = cuda_emulator::counts.n_waits - n_before;
        CHECK(n_waits == 6);
    });
}

TEST_CASE("cuda waits: a prompt that is read token by token waits for nothing in between") {
    const Engine engine = load_tiny({}, "cuda");
    SessionOptions options{.n_threads = 1, .batch = 24};
    options.eviction.policy = "a2sf-paper";
    options.eviction.budget = Amount::of_tokens(32);
    Session session(engine.model, options);
    session.feed(some_ids(48));
    const size_t n_before = cuda_emulator::counts.n_waits;
    session.feed(some_ids(48));
    CHECK(cuda_emulator::counts.n_waits == n_before + 2);  // at the end, and for the logits
}

TEST_CASE("cuda waits: a prompt in chunks waits for its end alone, however many layers there are") {
    each_depth_and_policy([](const Engine &engine, SessionOptions options) {
        if (find_policy(options.eviction.policy).evicts()) {
            options.eviction.prefill = PromptMode::Chunk;
        }
        Session session(engine.model, options);
        session.reserve(160);
        session.feed(some_ids(24));
        const size_t n_before = cuda_emulator::counts.n_waits;
        session.feed(some_ids(72));
        CHECK(cuda_emulator::counts.n_waits <= n_before + 3);
    });
}

TEST_CASE("cuda waits: compact positions are found on the GPU, too") {
    TinyModel shape;
    shape.n_layers = 3;
    const Engine engine = load_tiny(shape, "cuda");
    SessionOptions options = small_options(find_policy("a2sf"));
    options.eviction.positions = Positions::Compact;
    Session session(engine.model, options);
    session.reserve(160);
    session.feed(some_ids(24));
    size_t n_before = cuda_emulator::counts.n_waits;
    session.feed(some_ids(72));
    CHECK(cuda_emulator::counts.n_waits <= n_before + 3);
    session.feed(some_ids(1));
    n_before = cuda_emulator::counts.n_waits;
    for (const int32_t id : some_ids(6, 2)) session.feed({&id, 1});
    CHECK(cuda_emulator::counts.n_waits == n_before + 6);
}
