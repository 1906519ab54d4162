// The likeliest token, found on the GPU: the one the sampler finds, and all that reaches the host.
#include <doctest/doctest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "cuda_fixture.h"
#include "engine/generate.h"
#include "sample/sampler.h"
#include "tiny_model.h"

using namespace a2sf;
using namespace a2sf::testing;
using namespace a2sf_test;

namespace {

constexpr float kInfinity = INFINITY;

const Engine &on_cuda() {
    static const Engine engine = load_tiny({}, "cuda");
    return engine;
}

SessionOptions options_for(const char *policy) {
    SessionOptions options{.n_threads = 1, .batch = 24};
    options.eviction.policy = policy;
    options.eviction.division = Division::Equal;
    options.eviction.budget = Amount::of_tokens(30);
    return options;
}

// What the sampler makes of a session's logits, step by step.
std::vector<int32_t> sampled_by_host(Session &session, std::span<const int32_t> prompt, size_t n) {
    Sampler sampler({}, session.model().config().n_vocab);
    std::vector<int32_t> ids;
    session.feed(prompt);
    while (true) {
        ids.push_back(sampler.sample(session.logits()).id);
        if (ids.size() == n) return ids;
        session.feed({&ids.back(), 1});
    }
}

}  // namespace

TEST_CASE("cuda greedy: the token and its probability are the sampler's") {
    CudaBackend cuda(1);
    Rng rng(31);
    for (const size_t n : {1, 2, 31, 257, 4096, 4097, 9000}) {
        for (int variant = 0; variant < 6; ++variant) {
            CAPTURE(n);
            CAPTURE(variant);
            std::vector<float> logits = random_floats(rng, n);
            const float scale = variant == 1 ? 0.25f : 1.0f;
            for (float &logit : logits) {
                if (variant == 2) logit = std::floor(2 * logit);  // many equals
                if (variant == 3) logit = -kInfinity;
                if (variant == 4) logit = -0.0f;
            }
            if (variant == 3) logits[n / 2] = -3.0f;
            if (variant == 4) logits[n - 1] = 0.0f;
            if (variant == 5) logits[rng() % n] = 40.0f;
            OnDevice device(cuda, logits);
            const Likeliest found = cuda.likeliest(device.matrix(1, n), scale);
            for (float &logit : logits) logit *= scale;
            const Sampled expected = likeliest(logits);
            CHECK(found.is_finite);
            CHECK(found.id == expected.id);
            CHECK(std::fabs(found.logprob - expected.logprob) <= 1e-5f);
        }
        for (const float bad : {NAN, kInfinity}) {
            std::vector<float> logits = random_floats(rng, n);
            logits[rng() % n] = bad;
            OnDevice device(cuda, logits);
            CHECK_FALSE(cuda.likeliest(device.matrix(1, n), 1.0f).is_finite);
        }
        OnDevice device(cuda, std::vector<float>(n, -kInfinity));
        CHECK_FALSE(cuda.likeliest(device.matrix(1, n), 1.0f).is_finite);
    }
}

TEST_CASE("cuda greedy: the tokens of host sampling, a few bytes and one wait for each") {
    for (const char *policy : {"a2sf", "streaming"}) {
        CAPTURE(std::string(policy));
        const std::vector<int32_t> prompt = some_ids(50);
        Session other(on_cuda().model, options_for(policy));
        const std::vector<int32_t> expected = sampled_by_host(other, prompt, 24);
        Session session(on_cuda().model, options_for(policy));
        Generator generator(session, *on_cuda().tokenizer, {.max_tokens = 24, .ignore_end = true});
        generator.start(prompt);
        GeneratedToken token;
        for (int i = 0; i < 4; ++i) generator.next(token);
        const auto before = cuda_emulator::counts;
        for (int i = 0; i < 10; ++i) generator.next(token);
        const auto after = cuda_emulator::counts;
        CHECK(after.n_waits - before.n_waits == 10);
        CHECK(after.n_bytes_to_host - before.n_bytes_to_host == 10 * sizeof(Likeliest));
        while (generator.next(token)) {
        }
        CHECK(generator.result().ids == expected);
        // Who asks for the logits afterwards gets them.
        CHECK(std::vector<float>(session.logits().begin(), session.logits().end()) ==
              std::vector<float>(other.logits().begin(), other.logits().end()));
        const std::unique_ptr<Session> fork = session.fork();
        CHECK(fork->likeliest().id == session.likeliest().id);
    }
}

TEST_CASE("cuda greedy: sessions that share a decoder keep logits of their own") {
    const SessionOptions options = options_for("a2sf");
    const auto workspace = make_workspace(*on_cuda().model, options, 2);
    Session one(on_cuda().model, options, workspace), two(on_cuda().model, options, workspace);
    one.feed_chunk(some_ids(9, 1), 0);
    two.feed_chunk(some_ids(9, 2), 0);
    Session alone(on_cuda().model, options);
    const auto expected = alone.feed(some_ids(9, 1));
    CHECK(std::equal(expected.begin(), expected.end(), one.logits().begin()));
}
