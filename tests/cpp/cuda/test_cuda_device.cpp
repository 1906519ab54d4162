// What a card shows and an emulated GPU cannot, or not as well: memory that the driver has given
// away, and streams that run at once.
#include <doctest/doctest.h>

#include <thread>

#include "cuda_fixture.h"
#include "small_sessions.h"

using namespace a2sf;
using namespace a2sf::testing;
using namespace a2sf_test;

namespace {

size_t n_free_bytes() {
    size_t n_free = 0, n_total = 0;
    REQUIRE(cudaMemGetInfo(&n_free, &n_total) == cudaSuccess);
    return n_free;
}

}  // namespace

TEST_CASE("cuda device: a thousand models and sessions leave the card's memory as it was") {
    const auto use = [](size_t i) {
        const auto model = load();
        Session session(model, evicting(i % 2 == 0 ? "a2sf" : "streaming"));
        if (i % 20 == 0) answer(session, 1, 5);
    };
    // The emulated card's thousand are counted elsewhere (test_cuda_lifetime.cpp).
    const size_t n_rounds = launches_so_far() ? 20 : 1000;
    for (size_t i = 0; i < 40; ++i) use(i);  // what the driver keeps for later
    const size_t before = n_free_bytes();
    for (size_t i = 0; i < n_rounds; ++i) use(i);
    // The driver takes memory in pieces of 2 MiB; one that is lost each time would be 2 GB.
    CHECK(n_free_bytes() + (size_t{64} << 20) >= before);
}

TEST_CASE("cuda device: two threads, each with an engine and sessions, get what each gets alone") {
    constexpr size_t kThreads = 2, kRounds = 3;
    const auto read = [](const std::shared_ptr<const Model> &model, size_t thread) {
        std::vector<int32_t> all;
        for (unsigned round = 0; round < kRounds; ++round) {
            Session session(model, evicting(thread == 0 ? "tova" : "h2o"));
            const std::vector<int32_t> ids = answer(session, 10 * round + unsigned(thread), 6);
            all.insert(all.end(), ids.begin(), ids.end());
        }
        return all;
    };
    const auto shared = load();
    std::vector<int32_t> alone[kThreads];
    for (size_t i = 0; i < kThreads; ++i) alone[i] = read(shared, i);
    for (const bool one_engine : {false, true}) {
        std::vector<int32_t> found[kThreads];
        std::vector<std::thread> threads;
        for (size_t i = 0; i < kThreads; ++i) {
            threads.emplace_back([&, i] { found[i] = read(one_engine ? shared : load(), i); });
        }
        for (std::thread &thread : threads) thread.join();
        for (size_t i = 0; i < kThreads; ++i) CHECK(found[i] == alone[i]);
    }
}
