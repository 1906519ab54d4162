// What an emulated GPU has left when backends, models and sessions are gone, however they ended.
#include <doctest/doctest.h>

#include "cuda_fixture.h"
#include "small_sessions.h"

using namespace a2sf;
using namespace a2sf::testing;
using namespace a2sf_test;

namespace {

// All that was made on the GPU since is gone, and the library's own count says so.
struct NothingLeft {
    const cuda_emulator::Counts before = cuda_emulator::counts;
    const size_t n_taken = find_backend("cuda").memory().n_taken;

    bool holds() const {
        const cuda_emulator::Counts &now = cuda_emulator::counts;
        return now.n_allocations == before.n_allocations && now.n_streams == before.n_streams &&
               now.n_events == before.n_events && now.n_graphs == before.n_graphs &&
               now.n_bytes == before.n_bytes && find_backend("cuda").memory().n_taken == n_taken;
    }
};

}  // namespace

TEST_CASE("cuda lifetime: nothing is left of a thousand backends, models and sessions") {
    load();  // what is made once
    const NothingLeft left;
    for (size_t i = 0; i < 1000; ++i) {
        const auto model = load();
        Session session(model, evicting(i % 2 == 0 ? "streaming" : "tova"));
        if (i % 10 == 0) session.feed(some_ids(20));
        if (i % 100 == 0) CudaBackend(1).wait();
    }
    CHECK(left.holds());
}

TEST_CASE("cuda lifetime: nothing is left where any one thing could not be made") {
    const Restored restored;
    const NothingLeft left;
    size_t n_failures = 0;
    for (;; ++n_failures) {
        CAPTURE(n_failures);
        cuda_emulator::machine.n_makes_left = n_failures;
        const std::string message = message_of([] {
            const auto model = load();
            Session session(model, evicting("a2sf-dual"));
            session.feed(some_ids(30));
            session.fork();
            Session greedy(model, evicting("streaming"));
            const int32_t id = 7;
            for (int i = 0; i < 6; ++i) {  // the last ones graphs
                greedy.feed_chunk({&id, 1}, 0);
                greedy.likeliest();
            }
        });
        REQUIRE(left.holds());
        if (cuda_emulator::machine.n_makes_left > 0) break;
        if (message.empty()) continue;  // a step can do without a graph
        const bool says = message.find(" wanted") != std::string::npos ||
                          message.find("making a stream") != std::string::npos;
        CHECK_MESSAGE(says, message);
    }
    CHECK(n_failures > 30);
}

TEST_CASE("cuda lifetime: nothing is left of what measuring the peaks could not make") {
    const Restored restored;
    cuda_emulator::machine.n_memory = size_t{1} << 20;
    const NothingLeft left;
    for (size_t n_makes = 0; n_makes < 8; ++n_makes) {
        cuda_emulator::machine.n_makes_left = n_makes;
        CHECK(!message_of([] { CudaBackend(1).measure_peaks(); }).empty());
        CHECK(left.holds());
    }
}

TEST_CASE(
    "cuda lifetime: after a failure in the middle a session can be reset, or leaves nothing") {
    const Restored restored;
    const NothingLeft left;
    {
        const auto model = load();
        Session session(model, evicting());
        const std::vector<int32_t> expected = answer(session, 1, 3);
        for (const size_t n_launches : {0, 1, 7, 30, 61}) {
            CAPTURE(n_launches);
            session.reset();
            cuda_emulator::machine.n_launches_left = n_launches;
            const std::string message = message_of([&] { answer(session, 1, 3); });
            CHECK(message.find("told to fail") != std::string::npos);
            cuda_emulator::machine.n_launches_left = SIZE_MAX;
            session.reset();
            CHECK(answer(session, 1, 3) == expected);
        }
        session.reset();
        CHECK_THROWS_AS(
            session.feed(some_ids(30), [](size_t n_done, size_t) { return n_done < 8; }),
            Interrupted);
        session.reset();
        CHECK(answer(session, 1, 3) == expected);
        // Neither is what nobody waits for any more.
        Session other(model, evicting());
        cuda_emulator::machine.n_launches_left = 20;
        CHECK(message_of([&] { answer(other, 2, 3); }) != "");
    }
    CHECK(left.holds());
}
