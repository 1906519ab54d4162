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

// Of the host's memory, and of the device's own where it has some.
template <typename T>
struct Each {
    T host = {};
    T device = {};
};

bool has_own_memory(const Model &model) {
    return model.device().memory().n_total > 0;
}

// By this thread, as far as it is counted.
Each<size_t> taken(const Model &model) {
    return {buffer_bytes(), model.device().memory().n_by_thread};
}

// What the allocator keeps of reading a text and making tokens of it.
constexpr size_t kTextBytes = size_t{4} << 20;

// After that: sampling, which ranks the vocabulary, and what is generated.
size_t aside_bytes(const Model &model) {
    return (size_t{1} << 20) + 32 * model.config().n_vocab;
}

// Activations of a token, about.
size_t token_bytes(const Model &model) {
    const Config &config = model.config();
    return (6 * config.dim + 2 * config.q_dim() + 2 * config.hidden_dim) * sizeof(float);
}

// What the allocator keeps of finding out what heads need, seen to be about what a decoder takes.
size_t need_bytes(const Model &model, const EvictionConfig &eviction) {
    constexpr size_t kNeedTokens = 128;  // at a time
    if (eviction.division != Division::Auto) return 0;
    return kNeedTokens * token_bytes(model);
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

// Protected tokens take no memory of their own, and might not fit a small budget.
EvictionConfig bare(EvictionConfig eviction) {
    eviction.n_sinks = eviction.n_recent = 0;
    eviction.allocation.clear();
    eviction.pinned.clear();
    // What mode `full` holds until a prompt ends is a matter of slots.
    if (eviction.prefill == PromptMode::Full) eviction.prefill = PromptMode::Chunk;
    return eviction;
}

// What a cache takes for each slot. What of it is on a device with memory of its own is for the
// cache and the backend to say: caches of one and of two layers show it.
Each<SlotBytes> slot_bytes(const Model &model, KvType type, const EvictionConfig &eviction) {
    constexpr size_t kSlots = 64;
    const CacheShape shape = shape_of(model, type);
    const size_t n_lanes = eviction.policy->n_lanes();
    const SlotBytes all = Cache::slot_bytes(shape, n_lanes);
    if (!has_own_memory(model)) return {all, {}};
    const auto backend = model.device().create({.n_threads = 1});
    EvictionConfig config = bare(eviction);
    if (config.evicts()) config.budget = kSlots;
    const auto of_layers = [&](size_t n_layers) {
        Cache cache(*backend, {n_layers, shape.n_kv_heads, shape.head_dim, type});
        cache.configure(config);
        const size_t before = taken(model).device;
        cache.reserve(kSlots);
        return (taken(model).device - before + kSlots - 1) / kSlots;
    };
    of_layers(1);  // takes what a backend takes once
    const size_t one = of_layers(1), layer = of_layers(2) - one;
    const SlotBytes device = {shape.n_layers * layer, less(one, layer)};
    const size_t mirror = backend->keeps_slots() ? Cache::mirror_bytes(shape, n_lanes) : 0;
    return {{less(all.kept, device.kept) + mirror, less(all.scratch, device.scratch)}, device};
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
        eviction = bare(eviction);
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
        if (m == 1) backend_->begin_pass();  // as a step of decoding
        Cache *const cache = &cache_;
        size_t n_layers = 0;
        try {
            decoder_.forward({{ids_.data(), m}, {pos_.data(), m}, false, std::min<size_t>(m, 16)},
                             {&cache, 1}, [&] { return ++n_layers <= 1; });
        } catch (const Interrupted &) {
            // Asked for before the second layer.
        }
        decoder_.logits(m - 1, 1, false, logits_.data());
        if (m == 1 && backend_->keeps_logits()) decoder_.likeliest();
    }

    size_t scratch_bytes() const { return backend_->scratch_bytes(); }

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
Each<Scratch> measure_scratch(const Model &model, const SessionOptions &options, KvType type,
                              const EvictionConfig &eviction, size_t n_slots) {
    OneLayer layer(model, options, type, eviction, n_slots);
    Each<size_t> before = taken(model);
    // What the cache has put on a device went through arguments that stay there.
    if (has_own_memory(model)) before.device -= layer.scratch_bytes();
    const size_t m = std::min(options.batch, n_slots - 1);
    const size_t n_tokens = n_slots + (eviction.evicts() ? m : 0) - 1;
    Each<size_t> half = before;
    for (size_t i = 0; i < n_tokens; i += m) {
        layer.read(std::min(m, n_tokens - i));
        if (i <= n_slots / 2) half = taken(model);
    }
    layer.read(1);
    const Each<size_t> after = taken(model);
    const auto scratch = [&](size_t Each<size_t>::*memory) -> Scratch {
        const double all = static_cast<double>(after.*memory - before.*memory);
        const double grown = all - static_cast<double>(half.*memory - before.*memory);
        return {n_slots, all, grown / (static_cast<double>(n_slots) / 2)};
    };
    return {scratch(&Each<size_t>::host), scratch(&Each<size_t>::device)};
}

// Slots of the text that is read to see what n_slots take.
size_t tried_slots(const SessionOptions &options, size_t n_slots) {
    return std::min(n_slots, std::clamp<size_t>(16 * options.batch, 1024, 8192));
}

// For n_slots. Very long texts, and those for which there is no memory to try, need in proportion
// to a shorter one.
Each<Scratch> scratch_for(const Model &model, const SessionOptions &options, KvType type,
                          const EvictionConfig &eviction, size_t n_slots) {
    constexpr size_t kFewSlots = 64;  // to give up at
    for (size_t tried = tried_slots(options, n_slots);; tried /= 2) {
        try {
            return measure_scratch(model, options, type, eviction, tried);
        } catch (const DeviceError &) {
            if (tried < kFewSlots) throw;
        }
    }
}

bool holds(size_t n_bytes, const SlotBytes &slot, const Scratch &scratch, const CacheRoom &room) {
    return static_cast<double>(slot.of(room)) + scratch.at(room.most) <=
           static_cast<double>(n_bytes);
}

// The largest budget, or the longest text of a full cache, `most` or less, that fits into n_bytes
// with the scratch it needs.
size_t most_within(const Model &model, const SessionOptions &options, KvType type,
                   const EvictionConfig &eviction, const Each<size_t> &n_bytes, size_t most) {
    const Each<SlotBytes> slot = slot_bytes(model, type, eviction);
    const auto room_of = [&](size_t n) -> CacheRoom {
        if (!eviction.evicts()) return {n, n};
        EvictionConfig config = eviction;
        config.budget = n;
        const size_t chunk = chunk_of(eviction, options);
        return {n + chunk, longest_budget(config, model.config().n_ctx) + chunk};
    };
    const auto search = [&](const Each<Scratch> &scratch) {
        size_t low = 0,
               high = std::min(most, n_bytes.host / std::max<size_t>(slot.host.kept, 1)) + 1;
        while (high - low > 1) {
            const size_t middle = low + (high - low) / 2;
            const CacheRoom room = room_of(middle);
            const bool fits = holds(n_bytes.host, slot.host, scratch.host, room) &&
                              holds(n_bytes.device, slot.device, scratch.device, room);
            (fits ? low : high) = middle;
        }
        return low;
    };
    // Scratch depends on the room, and the room on what scratch leaves. Less room needs no more.
    size_t n = search({}), tried = 0;
    for (int i = 0; i < 2; ++i) {
        if (room_of(n).most < 2 || n == 0) return 0;
        if (tried == tried_slots(options, room_of(n).most)) break;
        tried = tried_slots(options, room_of(n).most);
        n = std::min(n, search(scratch_for(model, options, type, eviction, room_of(n).most)));
    }
    return room_of(n).most < 2 ? 0 : n;
}

// Bytes that the system would still give. Memory that was promised is not there yet, so resident
// pages are held against the limits of memory, to which swap adds. A device gives what it promises,
// but for what it rounds up.
struct Left {
    size_t space = 0;
    size_t resident = 0;
    size_t device = SIZE_MAX;

    explicit Left(const Model &model) {
        const MemoryLimits limits = memory_limits();
        const ProcessMemory used = process_memory();
        const size_t memory = std::min(limits.group, limits.machine);
        space = less(limits.address_space, used.address_space);
        resident =
            less(memory < SIZE_MAX - used.swap ? memory + used.swap : memory, used.anonymous);
        constexpr size_t kRoundedShare = 256;
        const OwnMemory own = model.device().memory();
        if (own.n_total > 0) device = less(own.n_free, own.n_total / kRoundedShare);
    }
};

// What a cache can take without pushing weights out of memory, where they are the host's.
Each<size_t> bytes_for_cache(const Model &model) {
    const Left left(model);
    const size_t n_weights = has_own_memory(model) ? 0 : model.file().n_bytes();
    return {std::min(left.space, less(left.resident, n_weights)), left.device};
}

std::vector<Fit> fits_in(const Model &model, const SessionOptions &options,
                         const Each<size_t> &n_bytes) {
    const EvictionConfig full = resolve({}, 1), bounded = evicting(options.eviction);
    const Each<size_t> left = {less(n_bytes.host, kTextBytes + aside_bytes(model)), n_bytes.device};
    const size_t n_need = need_bytes(model, bounded);
    std::vector<Fit> fits;
    for (const KvType type : kKvTypes) {
        if (!can_store(type, model.config().head_dim)) continue;
        const SlotBytes slot = Cache::slot_bytes(shape_of(model, type), bounded.policy->n_lanes());
        Fit fit{type, slot.of({1, 1})};
        fit.context = most_within(model, options, type, full, left, model.config().n_ctx);
        fit.budget = most_within(model, options, type, bounded,
                                 {less(left.host, n_need), less(left.device, n_need)}, INT32_MAX);
        fits.push_back(fit);
    }
    return fits;
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

std::string advice(const Model &model, const SessionOptions &options, const Each<size_t> &n_bytes) {
    std::string text = str("; in the ", n_bytes.host >> 20, " MiB that are left ");
    if (has_own_memory(model)) {
        text = str("; in the ", n_bytes.device >> 20, " MiB that are left on the device and ",
                   n_bytes.host >> 20, " MiB on the host ");
    }
    const char *nothing = "no budget fits; a smaller batch or fewer threads take less";
    try {
        const std::vector<Fit> fits = fits_in(model, options, n_bytes);
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
    constexpr size_t kNoLimit = SIZE_MAX;
    return fits_in(
        model, options,
        has_own_memory(model) ? Each<size_t>{kNoLimit, n_bytes} : Each<size_t>{n_bytes, kNoLimit});
}

void reserve_room(const Model &model, const SessionOptions &options, Cache &cache,
                  const Room &room) {
    const EvictionConfig &eviction = cache.config();
    const KvType type = cache.shape().type;
    const SlotBytes slot = Cache::slot_bytes(cache.shape(), eviction.policy->n_lanes());
    const CacheRoom all = cache.room_for(room.n_slots, room.extra);
    const bool own = has_own_memory(model);
    const auto refuse = [&](const std::string &found) {
        std::string advised;
        if (room.advises) {
            // A session made anew has no old cache, and this one's scratch to take.
            Each<size_t> left = bytes_for_cache(model);
            left.host += own ? 0 : cache.n_bytes() + room.n_scratch;
            const size_t n_kv = cache.n_bytes_full(cache.room_for(0, 0).mean);
            if (own) left.device += n_kv + room.n_scratch;
            advised = advice(model, options, left);
        }
        throw DeviceError(str("KV cache: room for ", all.mean, " tokens wanted, ",
                              slot.of(all) >> 20, " MiB and scratch", found, advised));
    };
    // Scratch is a small part of the cache, and asked for only where it decides. On a device, where
    // products make other forms of their inputs, it may be more than a short cache.
    const size_t n_scratch_most = 4 * options.batch * token_bytes(model);
    const auto fits = [&](size_t n_bytes, const CacheRoom &wanted, bool on_device) {
        if (slot.of(wanted) <= less(n_bytes, on_device ? n_scratch_most : 0) / 2) return true;
        try {
            const Each<SlotBytes> slots = slot_bytes(model, type, eviction);
            const size_t n_cache = (on_device ? slots.device : slots.host).of(wanted);
            const size_t left = less(n_bytes, on_device ? 0 : aside_bytes(model));
            if (n_cache > left) return false;
            if (!room.advises) return true;
            const Each<Scratch> scratch = scratch_for(model, options, type, eviction, wanted.most);
            const size_t n_scratch = on_device == own ? room.n_scratch : 0;
            return (on_device ? scratch.device : scratch.host).at(wanted.most) <=
                   static_cast<double>(left - n_cache + n_scratch);
        } catch (const DeviceError &) {
            return false;
        } catch (const std::bad_alloc &) {
            return false;
        }
    };
    // Before anything is taken: a system that has promised memory it does not have ends the process
    // later, and scratch that is missed in the middle of a text loses what was read.
    const Left left(model);
    if (!fits(left.space, all, false) ||
        !fits(left.resident, cache.room_for(room.n_needed, room.extra), false)) {
        refuse(", more than is left");
    }
    if (!fits(left.device, all, true)) {
        refuse(str(", more than the ", left.device >> 20, " MiB that are free on the device"));
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
    const Each<size_t> n_bytes = bytes_for_cache(model);
    const size_t n_lanes = evicting(options.eviction).policy->n_lanes();
    const SlotBytes slot = Cache::slot_bytes(shape_of(model, options.kv_type), n_lanes);
    const size_t least = std::min(n_bytes.host, n_bytes.device);
    if (n_tokens <= least / 2 / slot.of({1, 1})) return {};
    return advice(model, options, n_bytes);
}

}  // namespace a2sf
