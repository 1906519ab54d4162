// Steps played as CUDA graphs: one launch for all of a token, the same results bit for bit as
// kernel by kernel, and a new graph where memory has moved.
#include <doctest/doctest.h>

#include <cstdlib>
#include <memory>
#include <vector>

#include "cuda_fixture.h"
#include "engine/generate.h"
#include "tiny_model.h"

using namespace a2sf;
using namespace a2sf::testing;
using namespace a2sf_test;

namespace {

const Engine &on_cuda() {
    static const Engine engine = load_tiny({}, "cuda");
    return engine;
}

SessionOptions options_for(const char *policy, KvType type = KvType::F16) {
    SessionOptions options{.kv_type = type, .n_threads = 1, .batch = 24};
    options.eviction.policy = policy;
    if (std::string(policy) == "full") return options;
    options.eviction.division = Division::Equal;
    options.eviction.budget = Amount::of_tokens(30);
    return options;
}

struct Outcome {
    std::vector<std::vector<float>> logits;
    std::vector<std::vector<int32_t>> positions;
    std::vector<std::vector<float>> scores;
    bool operator==(const Outcome &) const = default;
};

// asks: after every token for what a head holds, so that no step is like the one before.
Outcome run(const SessionOptions &options, bool asks) {
    Session session(on_cuda().model, options);
    session.feed(some_ids(40));
    Outcome outcome;
    for (const int32_t id : some_ids(18, 2)) {
        const auto logits = session.feed({&id, 1});
        outcome.logits.emplace_back(logits.begin(), logits.end());
        if (asks) session.cache().positions(0, 0);
    }
    const Cache &cache = session.cache();
    for (size_t layer = 0; layer < cache.shape().n_layers; ++layer) {
        for (size_t head = 0; head < cache.shape().n_kv_heads; ++head) {
            outcome.positions.push_back(cache.positions(layer, head));
            outcome.scores.push_back(cache.scores(layer, head));
        }
    }
    return outcome;
}

}  // namespace

TEST_CASE("cuda graphs: a token is one play of one graph") {
    Session session(on_cuda().model, options_for("a2sf"));
    Generator generator(session, *on_cuda().tokenizer, {.max_tokens = 40, .ignore_end = true});
    const size_t n_captures = cuda_emulator::counts.n_captures;
    generator.start(some_ids(50));
    GeneratedToken token;
    for (int i = 0; i < 6; ++i) generator.next(token);
    CHECK(cuda_emulator::counts.n_captures == n_captures + 1);
    const auto before = cuda_emulator::counts;
    for (int i = 0; i < 12; ++i) generator.next(token);
    const auto after = cuda_emulator::counts;
    CHECK(after.n_plays - before.n_plays == 12);
    CHECK(after.n_captures == before.n_captures);
    CHECK(after.n_asked == before.n_asked);
    CHECK(after.n_waits - before.n_waits == 12);
    CHECK(after.n_launches - before.n_launches > 12 * 10 * session.cache().shape().n_layers);
}

TEST_CASE("cuda graphs: what is played is what the kernels give one by one") {
    for (const char *policy : {"a2sf", "h2o", "tova", "streaming", "full"}) {
        for (const KvType type : {KvType::F16, KvType::F32}) {
            if (type == KvType::F32 && std::string(policy) != "a2sf") continue;
            CAPTURE(std::string(policy));
            const SessionOptions options = options_for(policy, type);
            const size_t n_plays = cuda_emulator::counts.n_plays;
            const Outcome expected = run(options, true);
            CHECK(cuda_emulator::counts.n_plays == n_plays);
            CHECK(run(options, false) == expected);
            CHECK(cuda_emulator::counts.n_plays > n_plays + 10);
        }
    }
}

TEST_CASE("cuda graphs: launches overlap where card and kernels can, and give the same") {
    const Outcome expected = run(options_for("a2sf"), false);
    struct Case {
        int major, ptx_version;
        const char *wanted;
        bool overlaps;
    };
    for (const Case &at :
         {Case{9, 90, nullptr, true}, Case{9, 80, nullptr, false}, Case{8, 90, nullptr, false},
          Case{12, 120, "1", true}, Case{12, 120, "0", false}}) {
        CAPTURE(at.major);
        CAPTURE(at.ptx_version);
        const Restored restored;
        cuda_emulator::machine.major = at.major;
        cuda_emulator::machine.ptx_version = at.ptx_version;
        if (at.wanted != nullptr) setenv("A2SF_CUDA_OVERLAP", at.wanted, 1);
        const auto before = cuda_emulator::counts;
        CHECK(run(options_for("a2sf"), false) == expected);
        const auto after = cuda_emulator::counts;
        CHECK(after.n_plays > before.n_plays);
        CHECK(after.n_overlapping - before.n_overlapping ==
              (at.overlaps ? after.n_launches - before.n_launches : 0));
        unsetenv("A2SF_CUDA_OVERLAP");
    }
}

TEST_CASE("cuda graphs: a cache that grows is captured again") {
    const SessionOptions options = options_for("full");
    Session grown(on_cuda().model, options), whole(on_cuda().model, options);
    whole.reserve(120);
    grown.feed(some_ids(10));
    whole.feed(some_ids(10));
    const size_t n_captures = cuda_emulator::counts.n_captures;
    for (const int32_t id : some_ids(70, 2)) {
        const auto expected = whole.feed({&id, 1});
        const auto found = grown.feed({&id, 1});
        REQUIRE(std::equal(expected.begin(), expected.end(), found.begin()));
    }
    CHECK(cuda_emulator::counts.n_captures >= n_captures + 3);  // one of `whole`
    CHECK(grown.cache().positions(1, 0) == whole.cache().positions(1, 0));
}

TEST_CASE("cuda graphs: sessions that step together play one, until others do") {
    const SessionOptions options = options_for("a2sf");
    const auto workspace = make_workspace(*on_cuda().model, options, 3);
    std::vector<std::unique_ptr<Session>> together, alone;
    for (unsigned i = 0; i < 3; ++i) {
        together.push_back(std::make_unique<Session>(on_cuda().model, options, workspace));
        alone.push_back(std::make_unique<Session>(on_cuda().model, options));
        together[i]->feed(some_ids(30 + 7 * i, i));
        alone[i]->feed(some_ids(30 + 7 * i, i));
    }
    const auto step = [&](size_t n) {
        const size_t n_plays = cuda_emulator::counts.n_plays;
        std::vector<Session *> all;
        for (size_t i = 0; i < n; ++i) all.push_back(together[i].get());
        const std::vector<int32_t> ids = some_ids(n, static_cast<unsigned>(all[0]->n_tokens()));
        Session::step(all, ids);
        const size_t n_played = cuda_emulator::counts.n_plays - n_plays;
        for (size_t i = 0; i < n; ++i) {
            const auto expected = alone[i]->feed({&ids[i], 1});
            CHECK(std::equal(expected.begin(), expected.end(), all[i]->logits().begin()));
        }
        return n_played;
    };
    for (int i = 0; i < 4; ++i) step(3);
    CHECK(step(3) == 1);
    CHECK(step(2) == 0);
    CHECK(step(2) == 1);
    CHECK(step(3) == 1);
    together.erase(together.begin() + 2);
    CHECK(step(2) == 1);
}

TEST_CASE("cuda graphs: other ways of asking have graphs of their own") {
    const SessionOptions options = options_for("a2sf");
    Session session(on_cuda().model, options), other(on_cuda().model, options);
    session.feed(some_ids(40));
    other.feed(some_ids(40));
    const std::vector<int32_t> ids = some_ids(24, 2);
    for (size_t i = 0; i < ids.size(); ++i) {
        session.feed_chunk({&ids[i], 1}, 0);
        const auto expected = other.feed({&ids[i], 1});
        const Sampled likely = likeliest(expected);
        // Greedy, then logits, then neither; now and then what makes the host ask.
        if (i % 3 == 0) CHECK(session.likeliest().id == likely.id);
        if (i % 3 == 1) {
            CHECK(std::equal(expected.begin(), expected.end(), session.logits().begin()));
        }
        if (i == 15) CHECK(session.cache().scores(1, 1) == other.cache().scores(1, 1));
    }
    CHECK(session.fork()->likeliest().id == other.likeliest().id);
}

TEST_CASE("cuda graphs: a step that is stopped, or that nobody waits for, leaves nothing behind") {
    const auto before = cuda_emulator::counts;
    {
        const Engine engine = load_tiny({}, "cuda");
        Session session(engine.model, options_for("a2sf"));
        const int32_t id = 7;
        session.feed(some_ids(40));
        for (int i = 0; i < 6; ++i) session.feed({&id, 1});
        int n_asked = 0;
        CHECK_THROWS_AS(session.feed({&id, 1}, [&](size_t, size_t) { return ++n_asked < 2; }),
                        Interrupted);
        session.reset();
        const auto again = session.feed(some_ids(40));
        Session other(engine.model, options_for("a2sf"));
        const auto expected = other.feed(some_ids(40));
        CHECK(std::equal(expected.begin(), expected.end(), again.begin()));
        for (int i = 0; i < 6; ++i) session.feed({&id, 1});
        session.feed_chunk({&id, 1}, 0);
        // What nobody has waited for may not outlive the scores it adds to.
        session.reset();
        session.set_eviction(options_for("full").eviction);
        session.feed(some_ids(40));
        for (int i = 0; i < 6; ++i) session.feed({&id, 1});
        session.feed_chunk({&id, 1}, 0);
    }
    CHECK(cuda_emulator::counts.n_graphs == before.n_graphs);
    CHECK(cuda_emulator::counts.n_allocations == before.n_allocations);
}

TEST_CASE("cuda graphs: where there is no memory for one, its kernels are asked for one by one") {
    const Restored restored;
    const auto before = cuda_emulator::counts;
    const Outcome expected = run(options_for("a2sf"), false);
    for (const size_t n_makes : {0, 1}) {  // none for the graph, none for it on the GPU
        Session session(on_cuda().model, options_for("a2sf"));
        session.feed(some_ids(40));
        const std::vector<int32_t> ids = some_ids(18, 2);
        const size_t n_plays = cuda_emulator::counts.n_plays;
        for (size_t i = 0; i < ids.size(); ++i) {
            const auto logits = session.feed({&ids[i], 1});
            CHECK(std::equal(logits.begin(), logits.end(), expected.logits[i].begin()));
            if (i == 1) cuda_emulator::machine.n_makes_left = n_makes;  // a step's needs are there
        }
        CHECK(cuda_emulator::machine.n_makes_left == 0);
        CHECK(cuda_emulator::counts.n_plays == n_plays);
        CHECK(cuda_emulator::counts.n_graphs == before.n_graphs);
        cuda_emulator::machine.n_makes_left = SIZE_MAX;
    }
}

TEST_CASE("cuda graphs: a session whose step has failed says so until it is reset") {
    const Restored restored;
    for (const size_t n_steps : {0, 1, 6}) {  // kernel by kernel, captured, played
        for (const std::string what : {"logits", "likeliest", "positions", "eviction"}) {
            if (n_steps != 1 && (what == "positions" || what == "eviction")) continue;
            CAPTURE(what);
            Session session(on_cuda().model, options_for("a2sf"));
            const int32_t id = 7;
            session.feed(some_ids(40));
            for (size_t i = 0; i < 2 + n_steps; ++i) session.feed({&id, 1});
            const std::vector<float> before(session.logits().begin(), session.logits().end());
            session.feed_chunk({&id, 1}, 0);
            cuda_emulator::machine.n_launches_left = 9;
            if (what == "logits") CHECK_THROWS_AS(session.logits(), DeviceError);
            if (what == "likeliest") CHECK_THROWS_AS(session.likeliest(), DeviceError);
            if (what == "positions") CHECK_THROWS_AS(session.cache().positions(0, 0), DeviceError);
            EvictionOptions others = options_for("a2sf").eviction;
            others.budget = Amount::of_tokens(20);
            if (what == "eviction") CHECK_THROWS_AS(session.set_eviction(others), DeviceError);
            cuda_emulator::machine.n_launches_left = SIZE_MAX;
            CHECK_THROWS_AS(session.logits(), Error);
            CHECK_THROWS_AS(session.likeliest(), Error);
            CHECK_THROWS_AS(session.feed({&id, 1}), Error);
            CHECK_THROWS_AS(session.feed(some_ids(3)), Error);
            session.reset();
            session.feed(some_ids(40));
            for (size_t i = 0; i < 2 + n_steps; ++i) session.feed({&id, 1});
            CHECK(std::equal(before.begin(), before.end(), session.logits().begin()));
        }
    }
}

TEST_CASE("cuda graphs: a prompt that is given up leaves no step for those it shared with") {
    SessionOptions options = options_for("a2sf");
    options.batch = 1;
    const auto workspace = make_workspace(*on_cuda().model, options, 1);
    Session alone(on_cuda().model, options);
    Session stays(on_cuda().model, options, workspace);
    {
        Session goes(on_cuda().model, options, workspace);
        const std::vector<int32_t> prompt = some_ids(20);
        for (size_t n = 0; n < 12;) n = goes.feed_chunk(prompt, n);
    }
    const auto expected = alone.feed(some_ids(9));
    const auto found = stays.feed(some_ids(9));
    CHECK(std::equal(expected.begin(), expected.end(), found.begin()));
}

TEST_CASE("cuda graphs: many kinds of steps share few graphs, inputs are each step's own") {
    const size_t n_before = cuda_emulator::counts.n_graphs;
    CudaBackend cuda(1);
    const std::vector<float> frequency = {1.0f, 0.5f};
    const size_t n_kinds = 6, n_most = 17000;
    std::vector<OnDevice<float>> angles;
    for (size_t kind = 0; kind < n_kinds; ++kind) {
        angles.emplace_back(cuda, std::vector<float>(n_most * 4));
    }
    for (int32_t round = 0; round < 3; ++round) {
        for (size_t kind = 0; kind < n_kinds; ++kind) {
            // The last kind has more inputs than are kept for a step.
            const size_t n = kind + 1 == n_kinds ? n_most : kind + 1;
            for (int32_t step = 0; step < (n == n_most ? 1 : 4); ++step) {
                const std::vector<int32_t> pos(n, 100 * round + step);
                const Matrix<float> to(angles[kind].data(), n, 4);
                cuda.begin_pass();
                cuda.rope_angles(pos, frequency, 1.0f, to);
                if (step == 2) continue;  // the next begins before anything waits
                const std::vector<float> found = angles[kind].fetch();
                CHECK(found[4 * n - 4] == static_cast<float>(std::cos(pos[0] * 1.0)));
                CHECK(found[4 * n - 1] == static_cast<float>(std::sin(pos[0] * 0.5)));
            }
        }
    }
    CHECK(cuda_emulator::counts.n_graphs > n_before + 1);
    CHECK(cuda_emulator::counts.n_graphs <= n_before + 4);
}
