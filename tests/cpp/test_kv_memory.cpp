// What happens to a cache when the system has no memory for a longer one: nothing.
#include <doctest/doctest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <vector>

#include "backend/registry.h"
#include "base/error.h"
#include "evict/registry.h"
#include "kv/cache.h"

using namespace a2sf;

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

constexpr size_t kLayers = 3, kHeads = 2, kTokens = 50;

// A cache of 50 tokens, a few evicted, whose rows hold bytes that tell them apart.
struct Filled {
    std::unique_ptr<Backend> backend = find_backend("cpu").create({.n_threads = 1});
    Cache cache{*backend, {kLayers, kHeads, 64, KvType::F16}};

    Filled() {
        EvictionOptions options{.policy = "a2sf", .budget = Amount::of_tokens(40)};
        options.positions = Positions::Compact;
        cache.configure(resolve(options, kTokens));
        cache.reserve(kTokens);
        for (size_t layer = 0; layer < kLayers; ++layer) {
            cache.append(layer, 0, kTokens);
            cache.evict(layer);
            for (size_t head = 0; head < kHeads; ++head) {
                positions.push_back(cache.positions(layer, head));
                for (std::byte *row : rows(layer, head)) {
                    std::fill_n(row, 128, static_cast<std::byte>(++n_rows));
                }
            }
        }
    }
    // Of slots [0, 40): K's, then V's.
    std::vector<std::byte *> rows(size_t layer, size_t head) const {
        const KvSlots slots = cache.slots(layer);
        std::vector<std::byte *> all;
        for (void *memory : {slots.k, slots.v}) {
            for (size_t slot = 0; slot < 40; ++slot) {
                all.push_back(static_cast<std::byte *>(memory) +
                              (head * slots.capacity + slot) * 128);
            }
        }
        return all;
    }
    // Whether it holds what it did, wherever that lies now.
    void check() const {
        size_t n = 0, n_wrong = 0;
        for (size_t layer = 0; layer < kLayers; ++layer) {
            for (size_t head = 0; head < kHeads; ++head) {
                REQUIRE(cache.live(layer, head) == 40);
                CHECK(cache.positions(layer, head) == positions[layer * kHeads + head]);
                for (const std::byte *row : rows(layer, head)) {
                    const auto expected = static_cast<std::byte>(++n);
                    n_wrong += row[0] != expected || row[127] != expected;
                }
            }
        }
        CHECK(n_wrong == 0);
    }

    size_t n_rows = 0;
    std::vector<std::vector<int32_t>> positions;  // by layer and head
};

}  // namespace

TEST_CASE("a cache that cannot grow stays as it was, whichever buffer has no room") {
    if (!limits_hold()) return;
    constexpr size_t kMany = 150'000;
    Filled filled;
    filled.check();
    size_t n_failed = 0;
    bool grown = false;
    for (size_t spare = 0; !grown; spare += kMiB) {
        const AddressLimit limit(spare);
        try {
            filled.cache.reserve(kMany);
            grown = true;
        } catch (const DeviceError &) {
            ++n_failed;
        }
        if (!grown) REQUIRE(filled.cache.capacity() == kTokens);
        filled.check();
    }
    CHECK(n_failed > 100);  // K and V take 220 MiB, each other buffer 1 MiB or more
    CHECK(filled.cache.capacity() == kMany);
    filled.cache.append(0, kTokens, 100);
    CHECK(filled.cache.live(0, 1) == 140);
}
