#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>

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

// Of a worker. The system's default, often 8 MiB, counts against a limit of address space in full.
constexpr size_t kStackBytes = size_t{1} << 20;

void pause_cpu() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

bool start_thread(pthread_t &thread, void *(*call)(void *), void *argument) {
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0) return false;
    pthread_attr_setstacksize(&attributes, kStackBytes);
    const int status = pthread_create(&thread, &attributes, call, argument);
    pthread_attr_destroy(&attributes);
    return status == 0;
}

// How many forks lie between the first pool's process and this one: asking the system at every loop
// would cost more than a small loop does.
std::atomic<unsigned> forks{0};

unsigned count_forks() {
    static const int registered = pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1); });
    static_cast<void>(registered);
    return forks.load();
}

// Tasks [begin, end) that are still to do, in one word so that owner and thieves agree.
class alignas(64) TaskRange {
  public:
    void set(size_t begin, size_t end) {
        word_.store(static_cast<uint64_t>(begin) << 32 | end, std::memory_order_relaxed);
    }
    bool take_first(size_t &task) {
        return take([&](uint64_t begin, uint64_t end) {
            task = begin;
            return (begin + 1) << 32 | end;
        });
    }
    bool take_last(size_t &task) {
        return take([&](uint64_t begin, uint64_t end) {
            task = end - 1;
            return begin << 32 | (end - 1);
        });
    }

  private:
    template <typename Rest>
    bool take(const Rest &rest) {
        uint64_t word = word_.load(std::memory_order_relaxed);
        for (;;) {
            const uint64_t begin = word >> 32, end = word & 0xffffffffu;
            if (begin >= end) return false;
            if (word_.compare_exchange_weak(word, rest(begin, end), std::memory_order_relaxed)) {
                return true;
            }
        }
    }
    std::atomic<uint64_t> word_{0};
};

}  // namespace

struct ThreadPool::State {
    // One loop. Written by the caller before `generation` moves, read by workers after.
    Erased call = nullptr;
    const void *context = nullptr;
    std::vector<TaskRange> ranges;  // [n_threads]

    alignas(64) std::atomic<size_t> n_working{0};
    alignas(64) std::atomic<uint64_t> generation{0};
    std::atomic<bool> stop{false};

    std::atomic<size_t> n_sleeping{0};
    std::mutex mutex;
    std::condition_variable wake;
    std::vector<pthread_t> workers;

    struct Start {
        ThreadPool *pool;
        size_t worker;
    };
    std::vector<Start> starts;  // [n_threads]

    explicit State(size_t n_threads) : ranges(n_threads) {}

    // A worker's own tasks in order, so that it reads memory in order, then the others' last.
    void take_tasks(size_t worker) {
        size_t task = 0;
        while (ranges[worker].take_first(task)) call(context, task, worker);
        for (size_t i = 1; i < ranges.size(); ++i) {
            TaskRange &other = ranges[(worker + i) % ranges.size()];
            while (other.take_last(task)) call(context, task, worker);
        }
    }
};

ThreadPool::ThreadPool(size_t n_threads)
    : n_threads_(n_threads == 0 ? 1 : n_threads),
      n_forks_(count_forks()),
      state_(std::make_unique<State>(n_threads_)) {
    state_->workers.reserve(n_threads_ - 1);
    state_->starts.resize(n_threads_);
    bool started = true;
    for (size_t worker = 1; worker < n_threads_ && started; ++worker) {
        state_->starts[worker] = {this, worker};
        pthread_t thread;
        started = start_thread(
            thread,
            [](void *start) -> void * {
                const auto [pool, index] = *static_cast<State::Start *>(start);
                pool->worker_loop(index);
                return nullptr;
            },
            &state_->starts[worker]);
        if (started) state_->workers.push_back(thread);
    }
    if (!started) {
        const size_t n_started = state_->workers.size() + 1;
        stop();
        throw DeviceError(str("threads: ", n_threads, " expected, the system gave ", n_started));
    }
}

ThreadPool::~ThreadPool() {
    if (count_forks() == n_forks_) {
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
    for (const pthread_t worker : state_->workers) pthread_join(worker, nullptr);
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
    if (n_threads_ > 1 && forks.load(std::memory_order_relaxed) != n_forks_) {
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
    for (size_t i = 0; i < n_threads_; ++i) {
        state.ranges[i].set(n_tasks * i / n_threads_, n_tasks * (i + 1) / n_threads_);
    }
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
