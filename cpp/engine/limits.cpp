#include "engine/limits.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <new>
#include <numeric>
#include <string>

#include "base/error.h"
#include "base/process_memory.h"
#include "evict/registry.h"
#include "model/decoder.h"

namespace a2sf {

namespace {

size_t less(size_t a, size_t b) {
    return a > b ? a - b : 0;
}

// What the allocator keeps of reading a text and making tokens of it.
constexpr size_t kTextBytes = size_t{4} << 20;

// After that: sampling, which ranks the vocabulary, and what is generated.
size_t aside_bytes(const Model &model) {
    return (size_t{1} << 20) + 32 * model.config().n_vocab;
}

CacheShape shape_of(const Model &model, KvType type) {
    const Config &config = model.config();
    return {config.n_layers, config.n_kv_heads, config.head_dim, type};
}

EvictionConfig evicting(const EvictionOptions &options) {
    EvictionOptions some = options;
    if (!find_policy(options.policy).evicts()) some = {.policy = "a2sf"};
    if (!some.budget || some.budget->share) some.budget = Amount::of_tokens(kDefaultBudget);
    return resolve(some, kDefaultBudget);
}

// Slots that are needed beside the budget.
size_t chunk_of(const EvictionConfig &eviction, const SessionOptions &options, size_t n_slots) {
    const size_t chunk = eviction.prefill == PromptMode::Token ? 1 : options.batch;
    return std::min(chunk, n_slots - 1);
}

// The model's first layer as a session runs it, on a cache that has that layer alone.
class OneLayer {
  public:
    OneLayer(const Model &model, const SessionOptions &options, KvType type,
             EvictionConfig eviction, size_t n_slots)
        : backend_(model.device().create({.n_threads = options.n_threads})),
          decoder_(model, *backend_, options.batch),
          cache_(*backend_, {1, model.config().n_kv_heads, model.config().head_dim, type}),
          ids_(options.batch, 0),
          pos_(options.batch),
          logits_(model.config().n_vocab) {
        // Protected tokens take no memory of their own, and might not fit a budget this small.
        eviction.n_sinks = eviction.n_recent = 0;
        eviction.allocation.clear();
        eviction.pinned.clear();
        // What mode `full` holds until a prompt ends is in n_slots.
        if (eviction.prefill == PromptMode::Full) eviction.prefill = PromptMode::Chunk;
        if (eviction.evicts()) eviction.budget = n_slots - chunk_of(eviction, options, n_slots);
        cache_.configure(eviction);
        cache_.reserve(n_slots);
    }

    // Reads m more tokens.
    void read(size_t m) {
        std::iota(pos_.begin(), pos_.end(), n_tokens_);
        n_tokens_ += static_cast<int32_t>(m);
        Cache *const cache = &cache_;
        size_t n_layers = 0;
        try {
            decoder_.forward({{ids_.data(), m}, {pos_.data(), m}, false, std::min<size_t>(m, 16)},
                             {&cache, 1}, [&] { return ++n_layers <= 1; });
        } catch (const Interrupted &) {
            // Asked for before the second layer.
        }
        decoder_.logits(m - 1, 1, false, logits_.data());
    }

  private:
    std::unique_ptr<Backend> backend_;
    Decoder decoder_;
    Cache cache_;
    std::vector<int32_t> ids_;
    std::vector<int32_t> pos_;
    std::vector<float> logits_;
    int32_t n_tokens_ = 0;
};

// Bytes that backend and decoder take while texts are read.
struct Scratch {
    size_t n_slots = 0;  // of the longest text that was tried
    double n_bytes = 0;  // for it
    double per_slot = 0;

    double at(size_t n) const {
        return n_bytes + per_slot * (static_cast<double>(n) - static_cast<double>(n_slots));
    }
};

// Reads as a session does until its cache is full: scratch depends on what was asked for before.
Scratch measure_scratch(const Model &model, const SessionOptions &options, KvType type,
                        const EvictionConfig &eviction, size_t n_slots) {
    OneLayer layer(model, options, type, eviction, n_slots);
    const size_t before = buffer_bytes();
    const size_t m = std::min(options.batch, n_slots - 1);
    const size_t n_tokens = n_slots + (eviction.evicts() ? m : 0) - 1;
    size_t n_half = 0;
    for (size_t i = 0; i < n_tokens; i += m) {
        layer.read(std::min(m, n_tokens - i));
        if (i <= n_slots / 2) n_half = buffer_bytes() - before;
    }
    layer.read(1);
    const double all = static_cast<double>(buffer_bytes() - before);
    const double grown = all - static_cast<double>(n_half);
    return {n_slots, all, grown / (static_cast<double>(n_slots) / 2)};
}

// The same for any n_slots: that of very long texts, and of those for which there is no memory to
// try, is in proportion to a shorter one's.
double scratch_bytes(const Model &model, const SessionOptions &options, KvType type,
                     const EvictionConfig &eviction, size_t n_slots, double &per_slot) {
    constexpr size_t kFewSlots = 64;  // to give up at
    const size_t most = std::clamp<size_t>(16 * options.batch, 1024, 8192);
    for (size_t tried = std::min(n_slots, most);; tried /= 2) {
        try {
            const Scratch scratch = measure_scratch(model, options, type, eviction, tried);
            per_slot = scratch.per_slot;
            return scratch.at(n_slots);
        } catch (const DeviceError &) {
            if (tried < kFewSlots) throw;
        }
    }
}

// The most slots of a cache, `most` or fewer, that fit into n_bytes with the scratch they need.
size_t slots_within(const Model &model, const SessionOptions &options, KvType type,
                    const EvictionConfig &eviction, size_t n_bytes, size_t most) {
    const double slot =
        static_cast<double>(Cache::slot_bytes(shape_of(model, type), eviction.policy->n_lanes()));
    const double room = static_cast<double>(n_bytes);
    double n_slots = std::min(static_cast<double>(most), std::floor(room / slot));
    if (n_slots < 2) return 0;
    double per_slot = 0;
    const auto scratch = [&] {
        return scratch_bytes(model, options, type, eviction, static_cast<size_t>(n_slots),
                             per_slot);
    };
    const double excess = n_slots * slot + scratch() - room;
    if (excess <= 0) return static_cast<size_t>(n_slots);
    n_slots = std::floor(n_slots - excess / (slot + per_slot));
    if (n_slots < 2) return 0;
    // Fewer slots need no more scratch.
    n_slots = std::min(n_slots, std::floor((room - scratch()) / slot));
    return n_slots < 2 ? 0 : static_cast<size_t>(n_slots);
}

// Bytes that the system would still give. Memory that was promised is not there yet, so resident
// pages are held against the limits of memory, to which swap adds.
struct Left {
    size_t space = 0;
    size_t resident = 0;

    Left() {
        const MemoryLimits limits = memory_limits();
        const ProcessMemory used = process_memory();
        const size_t memory = std::min(limits.group, limits.machine);
        space = less(limits.address_space, used.address_space);
        resident =
            less(memory < SIZE_MAX - used.swap ? memory + used.swap : memory, used.anonymous);
    }
};

// What a cache can take without pushing weights out of memory.
size_t bytes_for_cache(const Model &model) {
    const Left left;
    return std::min(left.space, less(left.resident, model.file().n_bytes()));
}

// "5,376 with kv_type f16, 8,192 with kv_type q8_0" of the types that take no more than the given.
std::string list_fits(const std::vector<Fit> &fits, KvType type, size_t Fit::*most) {
    std::string text;
    for (const Fit &fit : fits) {
        if (fit.*most == 0 || kv_row_bytes(fit.kv_type, 32) > kv_row_bytes(type, 32)) continue;
        text += str(text.empty() ? "" : ", ", fit.*most, " with kv_type ", name_of(fit.kv_type));
    }
    return text;
}

std::string advice(const Model &model, const SessionOptions &options, size_t n_bytes) {
    std::string text = str("; in the ", n_bytes >> 20, " MiB that are left ");
    const char *nothing = "no budget fits; a smaller batch or fewer threads take less";
    try {
        const std::vector<Fit> fits = what_fits(model, options, n_bytes);
        const std::string budgets = list_fits(fits, options.kv_type, &Fit::budget);
        const std::string contexts = list_fits(fits, options.kv_type, &Fit::context);
        if (budgets.empty()) return text + nothing;
        text += "a budget of at most " + budgets + " fits";
        if (!contexts.empty()) text += ", or with a full cache a text of " + contexts;
        return text;
    } catch (const DeviceError &) {
        return text + nothing;
    } catch (const std::bad_alloc &) {
        return text + nothing;
    }
}

}  // namespace

std::vector<Fit> what_fits(const Model &model, const SessionOptions &options, size_t n_bytes) {
    const EvictionConfig full = resolve({}, 1), bounded = evicting(options.eviction);
    const size_t chunk = bounded.prefill == PromptMode::Token ? 1 : options.batch;
    const size_t left = less(n_bytes, kTextBytes + aside_bytes(model));
    std::vector<Fit> fits;
    for (const KvType type : kKvTypes) {
        if (!can_store(type, model.config().head_dim)) continue;
        Fit fit{type, Cache::slot_bytes(shape_of(model, type), bounded.policy->n_lanes())};
        fit.context = slots_within(model, options, type, full, left, model.config().n_ctx);
        fit.budget = less(slots_within(model, options, type, bounded, left, INT32_MAX), chunk);
        fits.push_back(fit);
    }
    return fits;
}

void reserve_room(const Model &model, const SessionOptions &options, Cache &cache,
                  const Room &room) {
    const EvictionConfig &eviction = cache.config();
    const KvType type = cache.shape().type;
    const size_t slot = Cache::slot_bytes(cache.shape(), eviction.policy->n_lanes());
    const auto refuse = [&](const std::string &found) {
        const size_t freed = cache.capacity() * slot;  // a session made anew has no old cache
        throw DeviceError(
            str("KV cache: room for ", room.n_slots, " tokens wanted, ",
                (room.n_slots * slot) >> 20, " MiB and scratch", found,
                room.advises ? advice(model, options, bytes_for_cache(model) + freed) : ""));
    };
    // Scratch is a small part of the cache, and asked for only where it decides.
    const auto fits = [&](size_t n_bytes, size_t n) {
        if (n <= n_bytes / 2 / slot) return true;
        const size_t left = less(n_bytes, aside_bytes(model));
        if (n > left / slot) return false;
        try {
            return !room.advises || slots_within(model, options, type, eviction, left, n) == n;
        } catch (const DeviceError &) {
            return false;
        } catch (const std::bad_alloc &) {
            return false;
        }
    };
    // Before anything is taken: a system that has promised memory it does not have ends the process
    // later, and scratch that is missed in the middle of a text loses what was read.
    const Left left;
    const size_t n_slots = cache.mean_room(room.n_slots, room.extra);
    const size_t n_needed = cache.mean_room(room.n_needed, room.extra);
    if (!fits(left.space, n_slots) || !fits(left.resident, n_needed)) {
        refuse(", more than is left");
    }
    try {
        cache.reserve(room.n_slots, room.extra);
    } catch (const DeviceError &error) {
        refuse(str(": ", error.what()));
    } catch (const std::bad_alloc &) {
        refuse(": the system gave none");
    }
}

std::string most_budget(const Model &model, const SessionOptions &options, size_t n_tokens) {
    const size_t n_bytes = bytes_for_cache(model);
    const size_t n_lanes = evicting(options.eviction).policy->n_lanes();
    if (n_tokens <= n_bytes / 2 / Cache::slot_bytes(shape_of(model, options.kv_type), n_lanes)) {
        return {};
    }
    return advice(model, options, n_bytes);
}

}  // namespace a2sf
