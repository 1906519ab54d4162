// What happens to a session when the system has no memory for a longer cache: nothing.
#include <doctest/doctest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <vector>

#include "base/error.h"
#include "engine/session.h"
#include "tiny_model.h"

using namespace a2sf;
using namespace a2sf_test;

namespace {

constexpr size_t kMiB = size_t{1} << 20;

// While it lives the process may take only so many bytes more.
class AddressLimit {
  public:
    explicit AddressLimit(size_t spare) {
        getrlimit(RLIMIT_AS, &before_);
        size_t n_pages = 0;
        std::ifstream("/proc/self/statm") >> n_pages;
        rlimit limit = before_;
        limit.rlim_cur = n_pages * static_cast<size_t>(sysconf(_SC_PAGESIZE)) + spare;
        setrlimit(RLIMIT_AS, &limit);
    }
    ~AddressLimit() { setrlimit(RLIMIT_AS, &before_); }
    AddressLimit(const AddressLimit &) = delete;
    AddressLimit &operator=(const AddressLimit &) = delete;

  private:
    rlimit before_{};
};

// Sanitizers and emulators need more of it than they can count.
bool limits_hold() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return false;
#else
    const AddressLimit limit(kMiB);
    try {
        const RawBuffer buffer(64 * kMiB, "probe");
    } catch (const DeviceError &) {
        return true;
    }
    return false;
#endif
}

std::vector<std::vector<int32_t>> all_positions(const Session &session) {
    std::vector<std::vector<int32_t>> all;
    for (size_t layer = 0; layer < 2; ++layer) {
        for (size_t head = 0; head < 2; ++head) {
            all.push_back(session.cache().positions(layer, head));
        }
    }
    return all;
}

}  // namespace

TEST_CASE("a cache that cannot grow stays as it was, whichever buffer has no room") {
    if (!limits_hold()) return;
    constexpr size_t kMany = 150'000;
    SessionOptions options{.n_threads = 1, .batch = 32};
    options.eviction.policy = "a2sf";
    options.eviction.budget = Amount::of_tokens(kMany);
    Session session(tiny().model, options);
    session.feed(some_ids(50));
    const auto untouched = session.fork();
    const size_t capacity = session.cache().capacity();
    const auto positions = all_positions(session);
    session.reserve(kMany);
    const auto next = some_ids(64, 2);
    size_t n_failed = 0;
    bool grown = false;
    for (size_t spare = 0; !grown; spare += kMiB) {
        const AddressLimit limit(spare);
        try {
            session.feed(next);
            grown = true;
        } catch (const DeviceError &) {
            ++n_failed;
        }
        if (grown) continue;
        REQUIRE(session.n_tokens() == 50);
        REQUIRE(session.cache().capacity() == capacity);
        REQUIRE(all_positions(session) == positions);
    }
    CHECK(n_failed > 20);  // keys, values, scores, order, holes: 2 MiB and more each
    CHECK(session.cache().capacity() >= kMany);
    const auto expected = untouched->feed(next);
    CHECK(std::equal(expected.begin(), expected.end(), session.logits().begin()));
    CHECK(all_positions(session) == all_positions(*untouched));
    CHECK(session.cache().scores(1, 1) == untouched->cache().scores(1, 1));
}
