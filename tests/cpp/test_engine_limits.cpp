// What fits into memory, held against what sessions take.
#include <doctest/doctest.h>

#include "base/buffer.h"
#include "base/process_memory.h"
#include "engine/limits.h"
#include "tiny_model.h"

using namespace a2sf;
using namespace a2sf_test;

namespace {

constexpr size_t kBytes = size_t{8} << 20;

SessionOptions options_of(const char *policy, KvType type) {
    SessionOptions options{.kv_type = type, .n_threads = 2, .batch = 32};
    options.eviction.policy = policy;
    return options;
}

}  // namespace

TEST_CASE("a session with the largest budget takes no more than the memory it was found for") {
    const Model &model = *tiny().model;
    // One policy, for emulated processors take a minute for it: that slots take what is said of
    // them is tested for every policy with the cache.
    const char *policy = "a2sf-dual";
    for (const Fit &fit : what_fits(model, options_of(policy, KvType::F16), kBytes)) {
        CAPTURE(name_of(fit.kv_type));
        REQUIRE(fit.budget > 0);
        SessionOptions options = options_of(policy, fit.kv_type);
        options.eviction.budget = Amount::of_tokens(fit.budget);
        Session session(tiny().model, options);
        const size_t before = buffer_bytes();
        session.reserve(2 * fit.budget);
        session.feed(some_ids(fit.budget + 100));
        const size_t taken = buffer_bytes() - before;
        CHECK(taken <= kBytes);
        CHECK(taken > kBytes / 20);
        CHECK(fit.slot_bytes * session.cache().capacity() <= taken);
    }
}

TEST_CASE("more memory fits more, and none fits nothing") {
    const Model &model = *tiny().model;
    const SessionOptions options = options_of("full", KvType::F16);
    const auto none = what_fits(model, options, 0), some = what_fits(model, options, kBytes),
               more = what_fits(model, options, 2 * kBytes);
    for (size_t i = 0; i < none.size(); ++i) {
        CHECK(none[i].budget == 0);
        CHECK(none[i].context == 0);
        CHECK(some[i].budget < more[i].budget);
        CHECK(some[i].context <= more[i].context);
        CHECK(more[i].context <= model.config().n_ctx);
    }
}

TEST_CASE("a process has memory, and no more of it than its limits say") {
    const MemoryLimits limits = memory_limits();
    const ProcessMemory used = process_memory();
    CHECK(limits.lowest() <= limits.machine);
    CHECK(used.address_space > 0);
    CHECK(used.address_space <= limits.address_space);
}
