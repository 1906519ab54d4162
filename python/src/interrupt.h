// Long work without the GIL that Ctrl-C can still stop, and that can report its progress to Python.
#pragma once

#include <nanobind/nanobind.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <optional>
#include <utility>

#include "base/error.h"
#include "engine/session.h"

namespace a2sf::python {

namespace nb = nanobind;

// Asked by the engine between layers. It takes the GIL at most every kPeriod (a busy Python thread
// keeps the GIL for 5 ms at a time), runs Python's signal handlers, and calls the callback whenever
// more tokens are done. What Python raises is kept until the engine has unwound.
class Watch {
  public:
    explicit Watch(nb::handle callback) : callback_(callback) {}

    // Called without the GIL.
    bool operator()(size_t n_done, size_t n_total) {
        const Clock::time_point now = Clock::now();
        const bool reports = !callback_.is_none() && n_done != n_reported_;
        if (!reports && now - last_ < kPeriod) return true;
        last_ = now;
        const nb::gil_scoped_acquire gil;
        try {
            if (PyErr_CheckSignals() != 0) throw nb::python_error();
            if (reports) {
                n_reported_ = n_done;
                callback_(n_done, n_total);
            }
        } catch (nb::python_error &error) {
            error_.emplace(std::move(error));
            return false;
        }
        return true;
    }

    // Throws what stopped the work, if it was Python. Called with the GIL.
    void rethrow() {
        if (error_) throw nb::python_error(std::move(*error_));
    }

  private:
    using Clock = std::chrono::steady_clock;
    static constexpr Clock::duration kPeriod = std::chrono::milliseconds(20);

    nb::handle callback_;
    std::optional<nb::python_error> error_;
    Clock::time_point last_ = Clock::now();
    size_t n_reported_ = 0;
};

// work(progress) without the GIL. callback: None, or called as callback(n_done, n_total). What
// Python raised in the meantime comes out even if it came too late to stop anything.
template <typename Work>
void run_interruptible(nb::handle callback, Work &&work) {
    Watch watch(callback);
    try {
        const nb::gil_scoped_release release;
        work(Progress(std::ref(watch)));
    } catch (const Interrupted &) {
        watch.rethrow();
        throw;
    }
    watch.rethrow();
}

}  // namespace a2sf::python
