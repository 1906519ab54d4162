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
#include "evict/allocation.h"
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

// What the allocator keeps of finding out what heads need, seen to be about what a decoder takes.
size_t need_bytes(const Model &model, const EvictionConfig &eviction) {
    constexpr size_t kNeedTokens = 128;  // at a time
    if (eviction.division != Division::Auto) return 0;
    const Config &config = model.config();
    const size_t n_floats = 6 * config.dim + 2 * config.q_dim() + 2 * config.hidden_dim;
    return kNeedTokens * n_floats * sizeof(float);
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
size_t chunk_of(const EvictionConfig &eviction, const SessionOptions &options) {
    return eviction.prefill == PromptMode::Token ? 1 : options.batch;
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
        if (eviction.evicts()) {
            eviction.budget = n_slots - std::min(chunk_of(eviction, options), n_slots - 1);
        }
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

// For n_slots. Very long texts, and those for which there is no memory to try, need in proportion
// to a shorter one.
Scratch scratch_for(const Model &model, const SessionOptions &options, KvType type,
                    const EvictionConfig &eviction, size_t n_slots) {
    constexpr size_t kFewSlots = 64;  // to give up at
    const size_t most = std::clamp<size_t>(16 * options.batch, 1024, 8192);
    for (size_t tried = std::min(n_slots, most);; tried /= 2) {
        try {
            return measure_scratch(model, options, type, eviction, tried);
        } catch (const DeviceError &) {
            if (tried < kFewSlots) throw;
        }
    }
}

// The largest budget, or the longest text of a full cache, `most` or less, that fits into n_bytes
// with the scratch it needs.
size_t most_within(const Model &model, const SessionOptions &options, KvType type,
                   const EvictionConfig &eviction, size_t n_bytes, size_t most) {
    const SlotBytes slot = Cache::slot_bytes(shape_of(model, type), eviction.policy->n_lanes());
    const auto room_of = [&](size_t n) -> CacheRoom {
        if (!eviction.evicts()) return {n, n};
        EvictionConfig config = eviction;
        config.budget = n;
        const size_t chunk = chunk_of(eviction, options);
        return {n + chunk, longest_budget(config, model.config().n_ctx) + chunk};
    };
    const auto search = [&](const Scratch &scratch) {
        size_t low = 0, high = std::min(most, n_bytes / slot.kept) + 1;
        while (high - low > 1) {
            const size_t middle = low + (high - low) / 2;
            const CacheRoom room = room_of(middle);
            const double wanted = static_cast<double>(slot.of(room)) + scratch.at(room.most);
            (wanted <= static_cast<double>(n_bytes) ? low : high) = middle;
        }
        return low;
    };
    // Scratch depends on the room, and the room on what scratch leaves. Less room needs no more.
    size_t n = search({});
    for (int i = 0; i < 2; ++i) {
        if (room_of(n).most < 2 || n == 0) return 0;
        n = std::min(n, search(scratch_for(model, options, type, eviction, room_of(n).most)));
    }
    return room_of(n).most < 2 ? 0 : n;
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
    const size_t left = less(n_bytes, kTextBytes + aside_bytes(model));
    std::vector<Fit> fits;
    for (const KvType type : kKvTypes) {
        if (!can_store(type, model.config().head_dim)) continue;
        const SlotBytes slot = Cache::slot_bytes(shape_of(model, type), bounded.policy->n_lanes());
        Fit fit{type, slot.of({1, 1})};
        fit.context = most_within(model, options, type, full, left, model.config().n_ctx);
        fit.budget = most_within(model, options, type, bounded,
                                 less(left, need_bytes(model, bounded)), INT32_MAX);
        fits.push_back(fit);
    }
    return fits;
}

void reserve_room(const Model &model, const SessionOptions &options, Cache &cache,
                  const Room &room) {
    const EvictionConfig &eviction = cache.config();
    const KvType type = cache.shape().type;
    const SlotBytes slot = Cache::slot_bytes(cache.shape(), eviction.policy->n_lanes());
    const CacheRoom all = cache.room_for(room.n_slots, room.extra);
    const auto refuse = [&](const std::string &found) {
        // A session made anew has no old cache, and this one's scratch to take.
        const size_t freed = cache.n_bytes() + room.n_scratch;
        throw DeviceError(
            str("KV cache: room for ", all.mean, " tokens wanted, ", slot.of(all) >> 20,
                " MiB and scratch", found,
                room.advises ? advice(model, options, bytes_for_cache(model) + freed) : ""));
    };
    // Scratch is a small part of the cache, and asked for only where it decides.
    const auto fits = [&](size_t n_bytes, const CacheRoom &wanted) {
        const size_t n_cache = slot.of(wanted);
        if (n_cache <= n_bytes / 2) return true;
        const size_t left = less(n_bytes, aside_bytes(model));
        if (n_cache > left) return false;
        if (!room.advises) return true;
        try {
            const Scratch scratch = scratch_for(model, options, type, eviction, wanted.most);
            return scratch.at(wanted.most) <= static_cast<double>(left - n_cache + room.n_scratch);
        } catch (const DeviceError &) {
            return false;
        } catch (const std::bad_alloc &) {
            return false;
        }
    };
    // Before anything is taken: a system that has promised memory it does not have ends the process
    // later, and scratch that is missed in the middle of a text loses what was read.
    const Left left;
    if (!fits(left.space, all) || !fits(left.resident, cache.room_for(room.n_needed, room.extra))) {
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
    const SlotBytes slot = Cache::slot_bytes(shape_of(model, options.kv_type), n_lanes);
    if (n_tokens <= n_bytes / 2 / slot.of({1, 1})) return {};
    return advice(model, options, n_bytes);
}

}  // namespace a2sf
