// What the binding files share: one function per subsystem, called by module.cpp, and the types
// that more than one of them wraps. Nothing here is used outside python/src.
#pragma once

#include <nanobind/nanobind.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "base/error.h"
#include "engine/engine.h"
#include "engine/session.h"

namespace a2sf::python {

namespace nb = nanobind;

// Session options as Python built and validated them; EvictionOptions and the others likewise are
// bound as they are.
void bind_errors(nb::module_ &m);
void bind_registry(nb::module_ &m);
void bind_options(nb::module_ &m);
void bind_tokenizer(nb::module_ &m);
void bind_engine(nb::module_ &m);
void bind_session(nb::module_ &m);
void bind_cache(nb::module_ &m);
void bind_generator(nb::module_ &m);

// Threads and activations that sessions share: what one thread at a time may use.
struct PyWorkspace {
    std::shared_ptr<Workspace> work;
    std::shared_ptr<std::atomic<bool>> busy = std::make_shared<std::atomic<bool>>(false);
};

// An a2sf::Session and what it takes to share it with Python safely. Owner: the Python Session, its
// Cache and its Generators, whichever lives longest.
struct SharedSession {
    SharedSession(
        const Engine &model, std::unique_ptr<Session> made,
        std::shared_ptr<std::atomic<bool>> in_use = std::make_shared<std::atomic<bool>>(false))
        : engine(model), owned(std::move(made)), session(*owned), busy(std::move(in_use)) {}

    Engine engine;
    std::unique_ptr<Session> owned;
    Session &session;
    std::shared_ptr<std::atomic<bool>> busy;  // of all sessions with the same workspace
    uint64_t n_uses = 0;  // feeds, resets, generations started; a suspended generation compares it
};

// The right to use a session until the end of the scope. A second thread gets Error, not a race.
class Lease {
  public:
    explicit Lease(SharedSession &shared) : shared_(shared) {
        if (shared.busy->exchange(true, std::memory_order_acquire)) {
            throw Error("session: one thread at a time expected, found it in use by another call");
        }
    }
    ~Lease() { shared_.busy->store(false, std::memory_order_release); }
    Lease(const Lease &) = delete;
    Lease &operator=(const Lease &) = delete;

  private:
    SharedSession &shared_;
};

// The Python objects. Copyable handles, so that nanobind need not know who owns what.
struct PySession {
    std::shared_ptr<SharedSession> shared;
};
struct PyCache {
    std::shared_ptr<SharedSession> shared;
};

}  // namespace a2sf::python
