// A fixed set of worker threads that run one indexed loop at a time. Workers spin briefly for the
// next loop and then sleep. Owner: one session's backend; not for use from two threads at once.
#pragma once

#include <cstddef>
#include <memory>

namespace a2sf {

class ThreadPool {
  public:
    // n_threads counts the calling thread; 1 starts no worker. Throws DeviceError when the system
    // gives fewer.
    explicit ThreadPool(size_t n_threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool &) = delete;
    ThreadPool &operator=(const ThreadPool &) = delete;

    size_t n_threads() const { return n_threads_; }

    // Calls body(task, worker) for every task in [0, n_tasks), worker in [0, n_threads()), and
    // returns when all are done. Each worker starts on an equal share of neighbouring tasks and,
    // when done, takes what others have left, so a task's result must not depend on which worker
    // runs it. n_tasks < 2^32. The body must not throw.
    template <typename Body>
    void run(size_t n_tasks, const Body &body) {
        run_erased(
            n_tasks,
            [](const void *context, size_t task, size_t worker) {
                (*static_cast<const Body *>(context))(task, worker);
            },
            &body);
    }

  private:
    using Erased = void (*)(const void *context, size_t task, size_t worker);
    struct State;

    void run_erased(size_t n_tasks, Erased call, const void *context);
    void worker_loop(size_t worker);
    void stop();

    size_t n_threads_;
    unsigned n_forks_;  // before the pool was made: workers do not survive a fork
    std::unique_ptr<State> state_;
};

// Threads to use when nobody said: the processors this process may run on.
size_t default_threads();

}  // namespace a2sf
