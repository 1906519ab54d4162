#include "base/thread_pool.h"

#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "base/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace a2sf {

namespace {

// Spins before a worker sleeps: about 50 microseconds, longer than the gap between two operations.
constexpr int kSpins = 2000;

void pause_cpu() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

struct ThreadPool::State {
    // One loop. Written by the caller before `generation` moves, read by workers after.
    Erased call = nullptr;
    const void *context = nullptr;
    size_t n_tasks = 0;

    alignas(64) std::atomic<size_t> next_task{0};
    alignas(64) std::atomic<size_t> n_working{0};
    alignas(64) std::atomic<uint64_t> generation{0};
    std::atomic<bool> stop{false};

    std::atomic<size_t> n_sleeping{0};
    std::mutex mutex;
    std::condition_variable wake;
    std::vector<std::thread> workers;

    void take_tasks(size_t worker) {
        for (;;) {
            const size_t task = next_task.fetch_add(1, std::memory_order_relaxed);
            if (task >= n_tasks) return;
            call(context, task, worker);
        }
    }
};

ThreadPool::ThreadPool(size_t n_threads)
    : n_threads_(n_threads == 0 ? 1 : n_threads),
      pid_(getpid()),
      state_(std::make_unique<State>()) {
    try {
        for (size_t worker = 1; worker < n_threads_; ++worker) {
            state_->workers.emplace_back([this, worker] { worker_loop(worker); });
        }
    } catch (const std::exception &) {
        const size_t n_started = state_->workers.size() + 1;
        stop();
        throw DeviceError(str("threads: ", n_threads, " expected, the system gave ", n_started));
    }
}

ThreadPool::~ThreadPool() {
    if (getpid() == pid_) {
        stop();
    } else {
        // A fork has the handles of threads that do not exist in it: nothing to join or to wake.
        static_cast<void>(state_.release());
    }
}

void ThreadPool::stop() {
    {
        std::lock_guard lock(state_->mutex);
        state_->stop.store(true);
        state_->generation.fetch_add(1);
    }
    state_->wake.notify_all();
    for (std::thread &worker : state_->workers) worker.join();
}

void ThreadPool::worker_loop(size_t worker) {
    State &state = *state_;
    uint64_t seen = 0;
    for (;;) {
        for (int spin = 0; spin < kSpins && state.generation.load() == seen; ++spin) pause_cpu();
        if (state.generation.load() == seen) {
            std::unique_lock lock(state.mutex);
            state.n_sleeping.fetch_add(1);
            state.wake.wait(lock, [&] { return state.generation.load() != seen; });
            state.n_sleeping.fetch_sub(1);
        }
        seen = state.generation.load();
        if (state.stop.load()) return;
        state.take_tasks(worker);
        state.n_working.fetch_sub(1, std::memory_order_release);
    }
}

void ThreadPool::run_erased(size_t n_tasks, Erased call, const void *context) {
    if (n_threads_ > 1 && getpid() != pid_) {
        throw Error(
            "threads: the process that made the session expected, found a fork of it; make "
            "a new session there");
    }
    if (n_threads_ == 1 || n_tasks <= 1) {
        for (size_t task = 0; task < n_tasks; ++task) call(context, task, 0);
        return;
    }
    State &state = *state_;
    state.call = call;
    state.context = context;
    state.n_tasks = n_tasks;
    state.next_task.store(0, std::memory_order_relaxed);
    state.n_working.store(n_threads_ - 1, std::memory_order_relaxed);
    state.generation.fetch_add(1);
    if (state.n_sleeping.load() != 0) {
        // A worker that is about to sleep holds the mutex until it waits, so none misses the call.
        {
            std::lock_guard lock(state.mutex);
        }
        state.wake.notify_all();
    }
    state.take_tasks(0);
    // A worker that has no processor to run on gets this one after a while.
    for (int spin = 0; state.n_working.load(std::memory_order_acquire) != 0; ++spin) {
        spin < kSpins ? pause_cpu() : std::this_thread::yield();
    }
}

size_t default_threads() {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) {
        return static_cast<size_t>(CPU_COUNT(&set));
    }
    const unsigned n_threads = std::thread::hardware_concurrency();
    return n_threads == 0 ? 1 : n_threads;
}

}  // namespace a2sf
