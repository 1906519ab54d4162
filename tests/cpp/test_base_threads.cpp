// The thread pool: every task exactly once, for any number of threads, loop after loop.
#include <doctest/doctest.h>

#include <atomic>
#include <vector>

#include "base/thread_pool.h"

using namespace a2sf;

namespace {

// Runs one loop and returns how many tasks did not run exactly once or ran on a worker that is not
// there.
size_t count_faults(ThreadPool &pool, size_t n_tasks) {
    std::vector<std::atomic<int>> runs(n_tasks);
    std::atomic<size_t> n_bad_workers{0};
    pool.run(n_tasks, [&](size_t task, size_t worker) {
        runs[task].fetch_add(1, std::memory_order_relaxed);
        if (worker >= pool.n_threads()) n_bad_workers.fetch_add(1);
    });
    size_t n_faults = n_bad_workers;
    for (const std::atomic<int> &run : runs) n_faults += run.load(std::memory_order_relaxed) != 1;
    return n_faults;
}

}  // namespace

TEST_CASE("every task runs exactly once") {
    for (size_t n_threads = 1; n_threads <= 8; ++n_threads) {
        CAPTURE(n_threads);
        ThreadPool pool(n_threads);
        CHECK(pool.n_threads() == n_threads);
        for (const size_t n_tasks : {0, 1, 2, 3, 7, 8, 9, 100, 1000}) {
            CAPTURE(n_tasks);
            CHECK(count_faults(pool, n_tasks) == 0);
        }
    }
}

TEST_CASE("results are visible to the caller without further synchronisation") {
    ThreadPool pool(4);
    std::vector<size_t> squares(5000);
    pool.run(squares.size(), [&](size_t task, size_t) { squares[task] = task * task; });
    size_t n_wrong = 0;
    for (size_t i = 0; i < squares.size(); ++i) n_wrong += squares[i] != i * i;
    CHECK(n_wrong == 0);
}

TEST_CASE("thousands of loops in a row") {
    for (const size_t n_threads : {1, 2, 3, 8}) {
        CAPTURE(n_threads);
        // More threads than processors take turns, which is slow: fewer loops.
        const size_t n_loops = n_threads <= 3 ? 10000 : 300;
        ThreadPool pool(n_threads);
        std::vector<size_t> sums(n_threads * 16);  // one cache line and more for each worker
        for (size_t loop = 0; loop < n_loops; ++loop) {
            pool.run(5, [&](size_t task, size_t worker) { sums[worker * 16] += task + loop; });
        }
        size_t total = 0;
        for (const size_t sum : sums) total += sum;
        CHECK(total == n_loops * 10 + 5 * (n_loops * (n_loops - 1) / 2));
    }
}

TEST_CASE("pools come and go, idle or used, and zero threads mean one") {
    for (int i = 0; i < 50; ++i) {
        ThreadPool pool(3);
        if (i % 2 == 0) CHECK(count_faults(pool, 10) == 0);
    }
    ThreadPool pool(0);
    CHECK(pool.n_threads() == 1);
    CHECK(count_faults(pool, 10) == 0);
    CHECK(default_threads() >= 1);
}
