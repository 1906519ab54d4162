// What is said when an emulated GPU has too little memory, and that what it advises works.
#include <doctest/doctest.h>

#include <regex>

#include "cuda_fixture.h"
#include "engine/limits.h"
#include "tiny_model.h"

using namespace a2sf;
using namespace a2sf::testing;
using namespace a2sf_test;

namespace {

constexpr size_t kStaging = size_t{4} << 20;  // what every backend takes for arguments

// Two heads: every type can store them, of four Q8_0 cannot. A context that no text here fills; so
// many layers that few tokens take much memory, for an emulator takes long for many.
TinyModel long_model(uint32_t n_heads = 2) {
    TinyModel model;
    model.n_heads = n_heads;
    model.n_layers = 64;
    model.n_ctx = 100'000;
    return model;
}

SessionOptions options_of(KvType type, size_t budget) {
    SessionOptions options{.kv_type = type, .n_threads = 1, .batch = 32};
    if (budget == 0) return options;
    options.eviction.policy = "streaming";
    options.eviction.budget = Amount::of_tokens(budget);
    return options;
}

// As much as a session takes for arguments, and n_bytes more.
void leave(size_t n_bytes) {
    cuda_emulator::machine.n_memory = cuda_emulator::counts.n_bytes + kStaging + n_bytes;
}

// "<number> with kv_type <type>" of what follows `words`; 0 where there is none.
size_t advised(const std::string &message, const std::string &words, KvType type) {
    const size_t at = message.find(words);
    if (at == std::string::npos) return 0;
    std::string rest = message.substr(at + words.size());
    rest = rest.substr(0, rest.find(" fits"));
    const std::regex number("([0-9]+) with kv_type " + std::string(name_of(type)));
    std::smatch found;
    return std::regex_search(rest, found, number) ? std::stoul(found[1]) : 0;
}

}  // namespace

TEST_CASE("cuda limits: a cache that is too large is told what fits, and that fits") {
    const Restored restored;
    const Engine engine = load_tiny(long_model(), "cuda");
    leave(size_t{2} << 20);
    std::string message;
    {
        Session session(engine.model, options_of(KvType::F32, 0));
        session.reserve(10'000);
        message = message_of([&] { session.feed(some_ids(5)); });
    }
    CAPTURE(message);
    CHECK(message.find("KV cache: room for 10000 tokens wanted, ") == 0);
    CHECK(message.find(" MiB that are free on the device; in the 5 MiB that are left on the device "
                       "and ") != std::string::npos);
    for (const KvType type : kKvTypes) {
        CAPTURE(std::string(name_of(type)));
        const size_t budget = advised(message, "a budget of at most ", type);
        REQUIRE(budget > 8);
        // The room is taken before the first token.
        const auto read = [&](size_t wanted, size_t n_tokens) {
            return message_of([&] {
                Session session(engine.model, options_of(type, wanted));
                session.reserve(10'000);
                session.feed(some_ids(n_tokens));
            });
        };
        CHECK(read(budget, type == KvType::F32 ? budget + 20 : 20) == "");
    }
    const size_t n_tokens =
        advised(message.substr(message.find("full cache")), "text of ", KvType::F16);
    REQUIRE(n_tokens > 16);
    Session session(engine.model, options_of(KvType::F16, 0));
    session.reserve(n_tokens);
    CHECK(session.feed(some_ids(20)).size() == kTinyVocab);
}

TEST_CASE("cuda limits: memory that is missed when it is taken is named, and the same advised") {
    const Restored restored;
    const Engine engine = load_tiny(long_model(4), "cuda");
    leave(size_t{16} << 20);
    Session session(engine.model, options_of(KvType::F32, 64));
    session.feed(some_ids(5));
    session.reset();
    // Some of what is free is taken by another process as the cache is made.
    session.set_eviction(options_of(KvType::F32, 96).eviction);
    cuda_emulator::machine.n_makes_left = 3;
    const std::string message = message_of([&] { session.feed(some_ids(100)); });
    CAPTURE(message);
    CHECK(message.find("KV cache: room for ") == 0);
    CHECK(message.find("of the KV cache: ") != std::string::npos);
    CHECK(message.find(" bytes of GPU memory wanted, ") != std::string::npos);
    CHECK(message.find(" are free; in the ") != std::string::npos);
    cuda_emulator::machine.n_makes_left = SIZE_MAX;
    session.reset();
    CHECK(session.feed(some_ids(5)).size() == kTinyVocab);
}

TEST_CASE("cuda limits: weights and activations that are too large are named") {
    const Restored restored;
    cuda_emulator::machine.n_memory = cuda_emulator::counts.n_bytes + 100'000;
    const std::string weights = message_of([] { load_tiny(long_model(), "cuda"); });
    CHECK_MESSAGE(weights.find(" bytes of weights wanted on cuda: weights: ") != std::string::npos,
                  weights);
    CHECK(weights.find(" bytes of GPU memory wanted, ") != std::string::npos);
    cuda_emulator::machine = restored.before;
    const Engine engine = load_tiny(long_model(), "cuda");
    cuda_emulator::machine.n_memory = cuda_emulator::counts.n_bytes + 100'000;
    SessionOptions options = options_of(KvType::F16, 64);
    options.batch = 4096;
    const std::string activations = message_of([&] { Session(engine.model, options); });
    CHECK_MESSAGE(
        activations.find("session: room for batches of 4096 tokens wanted: activations: ") == 0,
        activations);
    CHECK(activations.find(" are free; a smaller batch takes less") != std::string::npos);
    options.batch = 8;
    CHECK(message_of([&] { Session(engine.model, options); }) == "");
}

TEST_CASE("cuda limits: what a slot takes is on the device, on the host, or counted for both") {
    CudaBackend cuda(1);
    const CacheShape shape{3, 2, 32, KvType::F16};
    for (const char *policy : {"streaming", "a2sf", "a2sf-dual"}) {
        Cache cache(cuda, shape);
        EvictionOptions options{.policy = policy, .budget = Amount::of_tokens(64)};
        options.division = Division::Equal;
        cache.configure(resolve(options, 64));
        const size_t n_lanes = cache.config().policy->n_lanes(), n_slots = 65;
        // Without what the copies to the device go through.
        const auto taken = [&] {
            return buffer_bytes() + GpuMemory::taken().n_by_thread - cuda.scratch_bytes();
        };
        const size_t before = taken();
        cache.reserve(n_slots);
        // Similarities, which both share, are page-locked and counted nowhere.
        const size_t n_shared = n_slots * shape.n_kv_heads * sizeof(float);
        const size_t n_mirror = n_slots * Cache::mirror_bytes(shape, n_lanes);
        CHECK(taken() - before + n_shared ==
              Cache::slot_bytes(shape, n_lanes).of({n_slots, n_slots}) + n_mirror);
    }
}

TEST_CASE("cuda limits: what fits counts the device's memory alone, and a session takes no more") {
    const Restored restored;
    const Engine engine = load_tiny(long_model(4), "cuda");
    const size_t n_bytes = kStaging + (size_t{1} << 20);
    for (const Fit &fit : what_fits(*engine.model, options_of(KvType::F16, 64), n_bytes)) {
        CAPTURE(std::string(name_of(fit.kv_type)));
        REQUIRE(fit.budget > 8);
        Session session(engine.model, options_of(fit.kv_type, fit.budget));
        const size_t before = engine.model->device().memory().n_taken;
        session.reserve(2 * fit.budget);
        session.feed(some_ids(fit.kv_type == KvType::F32 ? fit.budget + 20 : 20));
        const size_t taken = engine.model->device().memory().n_taken - before;
        CHECK(taken <= n_bytes);
        CHECK(taken > n_bytes * 7 / 8);
    }
}
