// Sessions: chunking, budgets, bit-for-bit promises, interruption, context limits.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/error.h"
#include "engine/perplexity.h"
#include "evict/registry.h"
#include "tiny_model.h"

using namespace a2sf;
using namespace a2sf_test;

namespace {

std::vector<float> all_logits(const SessionOptions &options, const std::vector<int32_t> &ids) {
    Session session(tiny().model, options);
    std::vector<float> logits;
    session.feed_all(ids, [&](size_t first, size_t n, const float *rows) {
        CHECK(first * kTinyVocab == logits.size());
        logits.insert(logits.end(), rows, rows + n * kTinyVocab);
    });
    return logits;
}

SessionOptions with(const char *policy, size_t budget, size_t batch = 32) {
    SessionOptions options{.n_threads = 1, .batch = batch};
    options.eviction.policy = policy;
    if (find_policy(policy).evicts()) options.eviction.budget = Amount::of_tokens(budget);
    return options;
}

}  // namespace

TEST_CASE("a budget that is never reached changes nothing, bit for bit") {
    const auto ids = some_ids(100);
    const auto full = all_logits(with("full", 0), ids);
    for (const Policy *policy : policies()) {
        CAPTURE(policy->name);
        if (policy->preset.prefill == PromptMode::Token) continue;  // another order of sums
        CHECK(all_logits(with(policy->name, 100), ids) == full);
        CHECK(all_logits(with(policy->name, 1000), ids) == full);
    }
    // Token by token the sums have another order; float32 storage keeps them exact but for that.
    SessionOptions token = with("a2sf-paper", 100), chunk = with("full", 0);
    token.kv_type = chunk.kv_type = KvType::F32;
    const auto by_token = all_logits(token, ids), by_chunk = all_logits(chunk, ids);
    float most = 0;
    for (size_t i = 0; i < full.size(); ++i) {
        most = std::max(most, std::abs(by_token[i] - by_chunk[i]));
    }
    CHECK(most < 1e-4f);
}

TEST_CASE("results do not depend on the number of threads") {
    const auto ids = some_ids(90);
    for (const char *policy : {"full", "a2sf", "a2sf-dual", "snapkv"}) {
        SessionOptions options = with(policy, 40);
        const auto one = all_logits(options, ids);
        for (size_t n_threads : {2, 3, 4}) {
            options.n_threads = n_threads;
            CHECK(all_logits(options, ids) == one);
        }
    }
}

TEST_CASE("feeding in pieces is feeding at once, when the pieces are the chunks") {
    const auto ids = some_ids(96);
    Session whole(tiny().model, with("a2sf", 20));
    Session pieces(tiny().model, with("a2sf", 20));
    const auto expected = whole.feed(ids);
    for (size_t i = 0; i < ids.size(); i += 32) pieces.feed({ids.data() + i, 32});
    CHECK(std::equal(expected.begin(), expected.end(), pieces.logits().begin()));
    for (size_t layer = 0; layer < 2; ++layer) {
        CHECK(whole.cache().positions(layer, 1) == pieces.cache().positions(layer, 1));
    }
}

TEST_CASE("memory is bounded by the budget, whatever the length") {
    for (const char *mode : {"chunk", "token"}) {
        SessionOptions options = with("a2sf", 40, 16);
        options.eviction.prefill = parse_prompt_mode(mode);
        Session session(tiny().model, options);
        session.feed(some_ids(200));
        const size_t n_bytes = session.cache().n_bytes();
        session.feed(some_ids(5000));
        CHECK(session.cache().n_bytes() == n_bytes);
        CHECK(mean_live(session.cache()) == 40);
        CHECK(session.n_tokens() == 5200);
    }
}

TEST_CASE("memory grows rarely when tokens come one by one") {
    Session session(tiny().model, with("a2sf", 200));
    size_t n_sizes = 0;
    size_t n_bytes = 0;
    for (int32_t id : some_ids(300)) {
        session.feed({&id, 1});
        n_sizes += session.cache().n_bytes() != n_bytes;
        n_bytes = session.cache().n_bytes();
    }
    CHECK(n_sizes <= 6);
    // However it is divided, no more than the budget and the newest token of each head.
    Session equal(tiny().model, with("h2o", 200));
    equal.reserve(300);
    equal.feed(some_ids(1));
    CHECK(equal.cache().capacity() == 201);
    CHECK(session.cache().n_bytes() == equal.cache().n_bytes());
}

TEST_CASE("a cache or a number of threads that no machine has is refused") {
    SessionOptions options = with("a2sf", (size_t{1} << 31) - 1);
    Session session(tiny().model, options);
    session.reserve(SIZE_MAX);
    session.feed(some_ids(3));  // room is asked for, not used
    options.n_threads = 100000;
    CHECK_THROWS_AS(Session(tiny().model, options), OptionError);
}

TEST_CASE("`full` mode evicts once, at the end of the prompt, and then at every step") {
    SessionOptions options = with("a2sf", 30, 16);
    options.eviction.prefill = PromptMode::Full;
    Session session(tiny().model, options);
    size_t most = 0;
    session.feed(some_ids(100), [&](size_t, size_t) {
        most = std::max(most, session.cache().live(0, 0));
        return true;
    });
    CHECK(most == 96);
    CHECK(mean_live(session.cache()) == 30);
    session.feed(some_ids(1));
    CHECK(mean_live(session.cache()) == 30);
}

TEST_CASE("a share of the prompt is decided by the first prompt") {
    SessionOptions options{.n_threads = 1};
    options.eviction = {.policy = "tova", .budget = Amount::of_share(0.25)};
    Session session(tiny().model, options);
    session.feed(some_ids(80));
    CHECK(session.cache().config().budget == 20);
    session.feed(some_ids(40));
    CHECK(session.cache().live(0, 0) == 20);
    session.reset();
    session.feed(some_ids(40));
    CHECK(session.cache().live(0, 0) == 10);
}

TEST_CASE("a full cache ends at the model's context and says so") {
    Session session(tiny().model, with("full", 0));
    session.feed(some_ids(256));
    CHECK_THROWS_WITH_AS(session.feed(some_ids(1)), doctest::Contains("256"), OptionError);
    CHECK_THROWS_AS(Session(tiny().model, with("full", 0)).feed(some_ids(257)), OptionError);
}

TEST_CASE("no ids and foreign ids are refused before any work") {
    Session session(tiny().model, with("a2sf", 40));
    CHECK_THROWS_AS(session.feed({}), OptionError);
    const std::vector<int32_t> wrong = {1, 2, 258};
    CHECK_THROWS_WITH_AS(session.feed(wrong), doctest::Contains("ids[2]"), OptionError);
    const std::vector<int32_t> negative = {-1};
    CHECK_THROWS_AS(session.feed(negative), OptionError);
    CHECK(session.n_tokens() == 0);
    session.feed(some_ids(3));
}

TEST_CASE("an interrupted session says so until it is reset") {
    Session session(tiny().model, with("a2sf", 40, 16));
    size_t n_asked = 0;
    CHECK_THROWS_AS(session.feed(some_ids(100), [&](size_t, size_t) { return ++n_asked < 4; }),
                    Interrupted);
    CHECK_THROWS_WITH_AS(session.feed(some_ids(1)), doctest::Contains("reset"), Error);
    session.reset();
    session.feed(some_ids(20));
    CHECK(session.n_tokens() == 20);
}

TEST_CASE("half-precision and 8-bit caches stay close to the exact one") {
    const auto ids = some_ids(60);
    const auto exact = all_logits({.kv_type = KvType::F32, .n_threads = 1}, ids);
    const auto difference = [&](KvType type) {
        const auto logits = all_logits({.kv_type = type, .n_threads = 1}, ids);
        float most = 0;
        for (size_t i = 0; i < exact.size(); ++i)
            most = std::max(most, std::abs(logits[i] - exact[i]));
        return most;
    };
    CHECK(difference(KvType::F16) < 0.05f);
    CHECK(difference(KvType::F16) > 0.0f);
    CHECK_THROWS_AS(difference(KvType::Q8_0), OptionError);  // head_dim 16
}

TEST_CASE("scores are log-probabilities of the tokens that follow") {
    const auto ids = some_ids(50);
    Session session(tiny().model, with("full", 0));
    const auto log_probs = score(session, ids);
    const auto logits = all_logits(with("full", 0), ids);
    REQUIRE(log_probs.size() == 49);
    for (size_t i = 0; i < 49; ++i) {
        const std::span<const float> row(logits.data() + i * kTinyVocab, kTinyVocab);
        CHECK(log_probs[i] == doctest::Approx(log_probability(row, ids[i + 1])));
    }
    const PerplexityResult result = perplexity(session, ids, 20);
    CHECK(result.n_windows == 3);
    CHECK(result.n_scored == 19 + 19 + 9);
    CHECK(result.perplexity == doctest::Approx(std::exp(result.mean_nll)));
    CHECK_THROWS_AS(perplexity(session, ids, 1), OptionError);
}

TEST_CASE("weights that are no numbers end in an error, not in tokens") {
    TinyModel broken;
    broken.change = [](const std::string &name, std::vector<uint64_t> &,
                       std::vector<float> &values) {
        if (name == "blk.1.attn_v.weight") values[5] = std::numeric_limits<float>::quiet_NaN();
    };
    const Engine engine = load_tiny(broken);
    for (const char *policy : {"full", "a2sf", "a2sf-dual", "keydiff"}) {
        Session session(engine.model, with(policy, 20));
        Generator generator(session, *engine.tokenizer, {});
        const auto ids = some_ids(60);
        generator.start(ids);
        GeneratedToken token;
        CHECK_THROWS_WITH_AS(generator.next(token), doctest::Contains("logits"), Error);
    }
}

namespace {

std::vector<float> copied(std::span<const float> logits) {
    return {logits.begin(), logits.end()};
}

}  // namespace

TEST_CASE("sessions that step together read what each would step by step alone, bit for bit") {
    SessionOptions base{.n_threads = 2, .batch = 32};
    const auto workspace = make_workspace(*tiny().model, base, 40);
    // Every policy, prompts of different lengths, positions of both kinds, in one pass.
    std::vector<std::unique_ptr<Session>> together, alone;
    for (const Policy *policy : policies()) {
        for (const Positions positions : {Positions::Original, Positions::Compact}) {
            SessionOptions options = with(policy->name, 40);
            if (policy->evicts()) options.eviction.positions = positions;
            together.push_back(std::make_unique<Session>(tiny().model, options, workspace));
            alone.push_back(std::make_unique<Session>(tiny().model, options));
        }
    }
    std::vector<Session *> sessions;
    for (size_t i = 0; i < together.size(); ++i) {
        const auto prompt = some_ids(5 + 9 * i, static_cast<unsigned>(i));
        CHECK(copied(together[i]->feed(prompt)) == copied(alone[i]->feed(prompt)));
        sessions.push_back(together[i].get());
    }
    for (unsigned step = 0; step < 20; ++step) {
        const auto ids = some_ids(sessions.size(), 100 + step);
        // Now and then some do not take part.
        const size_t first = step % 5 == 4 ? 3 : 0;
        const size_t n = step % 7 == 6 ? 1 : sessions.size() - first;
        Session::step(std::span(sessions).subspan(first, n), std::span(ids).subspan(first, n));
        for (size_t i = first; i < first + n; ++i) {
            CAPTURE(i);
            CAPTURE(step);
            Session *const one = alone[i].get();
            Session::step({&one, 1}, {&ids[i], 1});
            CHECK(copied(one->logits()) == copied(sessions[i]->logits()));
        }
    }
    for (size_t i = 0; i < sessions.size(); ++i) {
        CHECK(sessions[i]->n_tokens() == alone[i]->n_tokens());
        CHECK(sessions[i]->cache().n_evicted() == alone[i]->cache().n_evicted());
        CHECK(sessions[i]->cache().positions(1, 1) == alone[i]->cache().positions(1, 1));
        CHECK(sessions[i]->cache().scores(1, 0) == alone[i]->cache().scores(1, 0));
    }
}

TEST_CASE("a step that cannot be taken by all is taken by none") {
    SessionOptions options = with("full", 0);
    const auto workspace = make_workspace(*tiny().model, options, 2);
    Session a(tiny().model, options, workspace), b(tiny().model, options, workspace);
    Session foreign(tiny().model, options);
    a.feed(some_ids(3));
    b.feed(some_ids(256));  // the whole context
    foreign.feed(some_ids(3));
    const int32_t ids[] = {1, 2};
    Session *const pair[] = {&a, &b}, *const mixed[] = {&a, &foreign};
    CHECK_THROWS_AS(Session::step(pair, ids), OptionError);
    CHECK_THROWS_AS(Session::step(mixed, ids), OptionError);
    const int32_t wrong[] = {1, 999};
    CHECK_THROWS_AS(Session::step(pair, wrong), OptionError);
    CHECK(a.n_tokens() == 3);
    CHECK(copied(a.feed({ids, 1})) == copied(foreign.feed({ids, 1})));
    CHECK_THROWS_AS(make_workspace(*tiny().model, options, 0), OptionError);
}

TEST_CASE("a prompt read chunk by chunk is a prompt") {
    for (const Policy *policy : policies()) {
        CAPTURE(policy->name);
        const auto ids = some_ids(100);
        Session whole(tiny().model, with(policy->name, 40)),
            parts(tiny().model, with(policy->name, 40));
        whole.feed(ids);
        size_t n_calls = 0;
        for (size_t done = 0; done < ids.size(); ++n_calls) done = parts.feed_chunk(ids, done);
        CHECK(n_calls == 4);
        CHECK(copied(whole.logits()) == copied(parts.logits()));
        CHECK(whole.cache().n_evicted() == parts.cache().n_evicted());
    }
}
