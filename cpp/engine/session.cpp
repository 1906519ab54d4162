#include "engine/session.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "engine/head_need.h"
#include "engine/limits.h"
#include "model/decoder.h"

namespace a2sf {

namespace {

constexpr size_t kMostPositions = (size_t{1} << 31) - 1;  // positions are 32-bit
constexpr size_t kMostThreads = 1024;
constexpr size_t kTileTokens = 16;

void check(const SessionOptions &options, const Model &model) {
    options.eviction.validate();
    if (options.batch == 0) throw OptionError("batch: at least 1 token expected, found 0");
    if (options.n_threads > kMostThreads) {
        throw OptionError(
            str("threads: at most ", kMostThreads, " expected, found ", options.n_threads));
    }
    const size_t head_dim = model.config().head_dim;
    if (!can_store(options.kv_type, head_dim)) {
        throw OptionError(
            str("kv_type: a head_dim divisible by 32 expected for q8_0, found ", head_dim));
    }
    check_n_shares(options.eviction.allocation,
                   model.config().n_layers * model.config().n_kv_heads);
}

// A chunk longer than the model's context would only be room for nothing.
size_t chunk_tokens(const SessionOptions &options, const Model &model) {
    return std::min(options.batch, std::max<size_t>(model.config().n_ctx, 1));
}

// How many of `left` tokens go through the model next. A window of queries that looks at a prompt
// as a whole needs all of them in its last chunk: what was scored before has faded, not left.
size_t chunk_size(const EvictionConfig &config, size_t batch, size_t left) {
    const size_t m = std::min(batch, left), rest = left - m;
    const bool short_end = config.prefill == PromptMode::Full && batch >= config.window &&
                           rest > 0 && rest < config.window;
    return short_end ? m - (config.window - rest) : m;
}

// Before anything has to leave all heads may have the same; measuring them can wait until then.
bool divides(const EvictionConfig &config, size_t n_tokens) {
    return config.division == Division::Auto && config.allocation.empty() &&
           n_tokens > config.budget;
}

// What Division::Auto had come to when the session was saved.
void load_shares(ByteReader &in, const CacheShape &shape, EvictionConfig &config) {
    const auto measured = in.get<uint8_t>("shares");
    if (measured > (config.division == Division::Auto)) {
        in.fail("shares: none expected, found some");
    }
    if (measured == 0) return;
    config.allocation.resize(shape.n_layers * shape.n_kv_heads);
    in.get_all(std::span(config.allocation), "shares");
    for (const float share : config.allocation) {
        if (!is_share(share)) {
            in.fail("shares: numbers above 0 expected, found ", share);
        }
    }
}

// A step of decoding: a device that keeps the slots may do all of it at one go. Dropped where it
// does not come to its end.
class Step {
  public:
    Step(Backend &backend, bool is_kept) : backend_(backend), is_open_(is_kept) {
        if (is_kept) backend.begin_pass();
    }
    ~Step() {
        if (is_open_) backend_.drop_pass();
    }
    Step(const Step &) = delete;
    Step &operator=(const Step &) = delete;
    void end() { is_open_ = false; }

  private:
    Backend &backend_;
    bool is_open_;
};

}  // namespace

Progress between_chunks(Progress progress) {
    return [progress = std::move(progress), n_last = size_t{0}](size_t n_done,
                                                                size_t n_total) mutable {
        const bool between = n_done > std::exchange(n_last, n_done);
        return progress(n_done, n_total) || !between;
    };
}

class Workspace {
  public:
    Workspace(const Model &model, size_t n_threads, size_t most_tokens)
        : backend(model.device().create({.n_threads = n_threads})),
          decoder(model, *backend, most_tokens),
          pos(most_tokens) {}

    std::unique_ptr<Backend> backend;
    Decoder decoder;
    std::vector<int32_t> pos;     // [batch]
    std::vector<Cache *> caches;  // of a step
    Buffer<float> logits;         // [logit_rows, n_vocab], of more tokens than one

    // Calls give(first, n, rows) for the logits of the last chunk's m tokens, as many at a time as
    // the decoder computes.
    template <typename Give>
    void each_logits(size_t m, bool independent, size_t n_vocab, const Give &give) {
        const size_t n_rows = decoder.logit_rows();
        if (logits.size() == 0) logits = Buffer<float>(n_rows * n_vocab, "logits");
        for (size_t i = 0; i < m; i += n_rows) {
            const size_t n = std::min(n_rows, m - i);
            decoder.logits(i, n, independent, logits.data());
            give(i, n, logits.data());
        }
    }
};

namespace {

std::shared_ptr<Workspace> new_workspace(const Model &model, size_t n_threads, size_t batch) {
    try {
        return std::make_shared<Workspace>(model, n_threads, batch);
    } catch (const DeviceError &error) {
        throw DeviceError(str("session: room for batches of ", batch,
                              " tokens wanted: ", error.what(), "; a smaller batch takes less"));
    }
}

}  // namespace

std::shared_ptr<Workspace> make_workspace(const Model &model, SessionOptions options, size_t most) {
    check(options, model);
    if (most == 0) throw OptionError("batch: at least 1 sequence expected, found 0");
    return new_workspace(model, options.n_threads, std::max(chunk_tokens(options, model), most));
}

struct Session::Parts {
    const bool shares;  // work, with other sessions
    std::shared_ptr<Workspace> work;
    Cache cache;
    Buffer<float> logits;  // [n_vocab], of the last token
    bool has_logits = false;
    mutable bool on_device = false;  // they are the decoder's, and not here yet

    Parts(const Model &model, const SessionOptions &options, std::shared_ptr<Workspace> shared)
        : shares(shared != nullptr),
          work(shared ? std::move(shared) : new_workspace(model, options.n_threads, options.batch)),
          cache(*work->backend, {model.config().n_layers, model.config().n_kv_heads,
                                 model.config().head_dim, options.kv_type}),
          logits(model.config().n_vocab, "logits") {}
};

Session::Session(std::shared_ptr<const Model> model, const SessionOptions &options,
                 std::shared_ptr<Workspace> workspace)
    : model_(std::move(model)), options_(options) {
    check(options_, *model_);
    options_.batch = chunk_tokens(options_, *model_);
    if (workspace) options_.batch = std::min(options_.batch, workspace->decoder.batch());
    parts_ = std::make_unique<Parts>(*model_, options_, std::move(workspace));
}

Session::~Session() = default;

const Cache &Session::cache() const {
    return parts_->cache;
}
const Backend &Session::backend() const {
    return *parts_->work->backend;
}
std::span<const float> Session::logits() const {
    if (!parts_->has_logits) return {};
    if (parts_->on_device) {
        end_step([&] { parts_->work->decoder.copy_logits(1, parts_->logits.data()); });
        parts_->on_device = false;
    }
    return {parts_->logits.data(), parts_->logits.size()};
}

Sampled Session::likeliest() const {
    if (!parts_->on_device) return a2sf::likeliest(logits());
    Likeliest found;
    end_step([&] { found = parts_->work->decoder.likeliest(); });
    if (!found.is_finite) throw_not_finite();
    return {found.id, found.logprob};
}

// The first to ask for what a step has come to may be who has the device take it: what fails then
// has failed in the middle of it.
template <typename Ask>
void Session::end_step(const Ask &ask) const {
    check_complete();
    broken_ = true;
    ask();
    broken_ = false;
}

size_t Session::room() const {
    const size_t most = cache().config().evicts() ? kMostPositions : model_->config().n_ctx;
    return most - std::min(most, n_tokens_);
}

void Session::reset() {
    parts_->work->backend->drop_pass();
    parts_->cache.clear();
    parts_->has_logits = parts_->on_device = false;
    n_tokens_ = 0;
    n_reserved_ = 0;
    n_prompt_ = 0;
    broken_ = false;
}

void Session::forget_logits() {
    parts_->has_logits = parts_->on_device = false;
}

void Session::reserve(size_t n_tokens) {
    n_reserved_ = n_tokens_ + std::min(n_tokens, kMostPositions);
}

void Session::check_complete() const {
    if (broken_) {
        throw Error(
            "session: a complete state expected, found one interrupted in the middle of a "
            "chunk; reset it first");
    }
}

void Session::set_eviction(const EvictionOptions &eviction) {
    check_complete();
    eviction.validate();
    if (n_tokens_ > 0) {
        const EvictionOptions &before = options_.eviction;
        if (eviction.policy != before.policy) {
            throw OptionError(str("policy: ", before.policy, ", with which the session has read, ",
                                  "expected, found ", eviction.policy));
        }
        Cache &cache = parts_->cache;
        const EvictionConfig config = resolve(eviction, n_prompt_);
        if (config.positions != cache.config().positions) {
            throw OptionError(str("positions: ", name_of(cache.config().positions),
                                  ", with which the session has read, expected, found ",
                                  name_of(config.positions)));
        }
        std::vector<float> divided = shares(eviction, config, n_tokens_);
        cache.configure(config);
        if (!divided.empty()) cache.divide(std::move(divided));
        for (size_t layer = 0; layer < cache.shape().n_layers; ++layer) cache.evict(layer);
    }
    options_.eviction = eviction;
}

// What a head gets of the budget by what the model's heads need; nothing where the cache is not to
// be divided now. config: what the options came to; n_tokens: of the text, as far as it is known.
std::vector<float> Session::shares(const EvictionOptions &eviction, const EvictionConfig &config,
                                   size_t n_tokens) const {
    if (!divides(config, n_tokens)) return {};
    const Config &model = model_->config();
    const std::vector<float> &need =
        model_->head_need([&] { return head_need(*model_, *parts_->work->backend); });
    // No head has a use for more than the context, or the text of which the budget is a share.
    const bool of_text = eviction.needs_prompt_length();
    const size_t most_tokens = of_text ? std::min(n_tokens, model.n_ctx) : model.n_ctx;
    const double most = static_cast<double>(most_tokens) / static_cast<double>(config.budget);
    return shares_of_need(need, config.scope == Scope::Layer ? model.n_kv_heads : 1, most);
}

void Session::check_ids(std::span<const int32_t> ids) const {
    const int64_t n_vocab = static_cast<int64_t>(model_->config().n_vocab);
    check_complete();
    if (ids.empty()) throw OptionError("ids: at least 1 token expected, found 0");
    for (size_t i = 0; i < ids.size(); ++i) {
        if (ids[i] < 0 || ids[i] >= n_vocab) {
            throw OptionError(
                str("ids[", i, "]: a token from 0 to ", n_vocab - 1, " expected, found ", ids[i]));
        }
    }
}

// Configures the cache for the first prompt and makes room for what comes. Where that throws, the
// session is as it was.
void Session::prepare(size_t n_ids) {
    Cache &cache = parts_->cache;
    const bool first = n_tokens_ == 0;
    EvictionConfig resolved;
    if (first) resolved = resolve(options_.eviction, n_ids);
    const EvictionConfig &config = first ? resolved : cache.config();
    const size_t n_known = std::max(n_tokens_ + n_ids, n_reserved_);
    std::vector<float> divided = shares(options_.eviction, config, n_known);
    const size_t n_ctx = model_->config().n_ctx;
    const size_t n_total = n_tokens_ + n_ids;
    if (!config.evicts() && n_total > n_ctx) {
        throw OptionError(str("ids: at most ", n_ctx,
                              " tokens in all (the model's context) expected "
                              "without eviction, found ",
                              n_total, "; give a budget to read more",
                              most_budget(*model_, options_, n_total)));
    }
    if (n_total > kMostPositions) {
        throw OptionError(
            str("ids: at most ", kMostPositions, " tokens in all expected, found ", n_total));
    }
    if (first) {
        cache.configure(config);
        n_prompt_ = n_ids;
    }
    if (!divided.empty()) cache.divide(std::move(divided));
    // The most slots that can ever be live: the context, or the budget and what enters at once. A
    // prompt interrupted in mode `full`, and a budget that was larger, leave more than the budget.
    size_t chunk = std::min(n_ids, options_.batch);
    if (config.prefill == PromptMode::Token) chunk = 1;
    if (config.prefill == PromptMode::Full) chunk = n_ids;
    const size_t bound =
        config.evicts() ? std::max(cache.most_budget(), cache.most_live()) + chunk : n_ctx;
    const size_t n_needed = std::min(n_total, bound);
    if (cache.has_room(n_needed, chunk)) return;
    // Without a reservation the room doubles, so that growing is rare.
    const size_t doubled = cache.capacity() == 0 ? 0 : std::max<size_t>(2 * cache.capacity(), 64);
    const size_t n_slots = std::min(bound, std::max({n_needed, n_reserved_, doubled}));
    reserve_room(
        *model_, options_, cache,
        {n_needed, n_slots, chunk, parts_->work->backend->scratch_bytes(), !parts_->shares});
}

// One chunk of ids, of which the first n_done have been read.
size_t Session::read_chunk(std::span<const int32_t> ids, size_t n_done, const LogitsSink *sink,
                           const Progress &progress) {
    if (n_done == 0) {
        check_ids(ids);
        prepare(ids.size());
    }
    Workspace &work = *parts_->work;
    const size_t m = chunk_size(parts_->cache.config(), options_.batch, ids.size() - n_done);
    std::iota(work.pos.begin(), work.pos.begin() + static_cast<ptrdiff_t>(m),
              static_cast<int32_t>(n_tokens_));
    const bool last = n_done + m == ids.size();
    // A whole tile of tokens for the one that is wanted: what it gives must not depend on
    // whether others were asked for.
    const size_t n_outputs = sink != nullptr ? m : last ? std::min(m, kTileTokens) : 0;
    const Chunk chunk{ids.subspan(n_done, m), {work.pos.data(), m}, last, n_outputs};
    std::function<bool()> proceed;
    if (progress) proceed = [&] { return progress(n_done, ids.size()); };
    Cache *const cache = &parts_->cache;
    broken_ = true;
    // Those there were do not follow what is read now.
    parts_->has_logits = parts_->on_device = false;
    // Only where somebody will ask for what comes of it.
    Step step(*work.backend, m == 1 && last && sink == nullptr && cache->is_kept());
    work.decoder.forward(chunk, {&cache, 1}, proceed);
    if (last && sink == nullptr) work.decoder.compute_logits(m - 1, 1, false);
    broken_ = false;
    n_tokens_ += m;
    if (sink != nullptr) {
        work.each_logits(m, false, model_->config().n_vocab,
                         [&](size_t i, size_t n, float *rows) { (*sink)(n_done + i, n, rows); });
    }
    if (last) {
        if (sink != nullptr) work.decoder.compute_logits(m - 1, 1, false);
        parts_->has_logits = parts_->on_device = true;
        // Others that share the decoder would overwrite them.
        if (parts_->shares || !work.backend->keeps_logits()) logits();
        if (m > 1) work.backend->wait();  // whoever times a prompt wants it read
    }
    step.end();
    if (progress && !progress(n_done + m, ids.size()) && !last) throw Interrupted();
    return n_done + m;
}

void Session::run(std::span<const int32_t> ids, const LogitsSink *sink, const Progress &progress) {
    size_t n_done = 0;
    do {
        n_done = read_chunk(ids, n_done, sink, progress);
    } while (n_done < ids.size());
}

size_t Session::feed_chunk(std::span<const int32_t> ids, size_t n_done, const Progress &progress) {
    return read_chunk(ids, n_done, nullptr, progress);
}

void Session::step(std::span<Session *const> sessions, std::span<const int32_t> ids) {
    if (sessions.empty()) return;
    Workspace &work = *sessions[0]->parts_->work;
    if (sessions.size() > work.decoder.batch()) {
        throw OptionError(
            str("sessions: at most ", work.decoder.batch(), " expected, found ", sessions.size()));
    }
    for (size_t i = 0; i < sessions.size(); ++i) {
        if (sessions[i]->parts_->work.get() != &work) {
            throw OptionError("sessions: all of one workspace expected, found another's");
        }
        sessions[i]->check_ids(ids.subspan(i, 1));
    }
    const size_t m = sessions.size();
    work.caches.resize(m);
    bool is_kept = true;
    for (size_t i = 0; i < m; ++i) {
        sessions[i]->prepare(1);
        is_kept &= sessions[i]->cache().is_kept();
        work.caches[i] = &sessions[i]->parts_->cache;
        work.pos[i] = static_cast<int32_t>(sessions[i]->n_tokens_);
    }
    for (Session *session : sessions) {
        session->broken_ = true;
        session->parts_->has_logits = session->parts_->on_device = false;
    }
    Step step(*work.backend, is_kept);
    work.decoder.forward({ids, {work.pos.data(), m}, true, m, true}, work.caches, {});
    const size_t n_vocab = sessions[0]->model_->config().n_vocab;
    work.each_logits(m, true, n_vocab, [&](size_t i, size_t n, const float *rows) {
        for (size_t j = 0; j < n; ++j) {
            Parts &parts = *sessions[i + j]->parts_;
            std::copy_n(rows + j * n_vocab, n_vocab, parts.logits.data());
            parts.has_logits = true;
        }
    });
    step.end();
    for (Session *session : sessions) {
        session->broken_ = false;
        ++session->n_tokens_;
    }
}

std::span<const float> Session::feed(std::span<const int32_t> ids, const Progress &progress) {
    run(ids, nullptr, progress);
    return logits();
}

void Session::feed_all(std::span<const int32_t> ids, const LogitsSink &sink,
                       const Progress &progress) {
    run(ids, &sink, progress);
}

void Session::save(ByteWriter &out) const {
    check_complete();
    out.put<uint64_t>(n_tokens_);
    out.put<uint64_t>(n_tokens_ == 0 ? 0 : n_prompt_);
    if (n_tokens_ == 0) return;
    out.put<uint8_t>(parts_->has_logits);
    out.put_all(logits());
    const EvictionConfig &config = cache().config();
    const bool measured = config.division == Division::Auto && !config.allocation.empty();
    out.put<uint8_t>(measured);
    if (measured) out.put_all(std::span(config.allocation));
    parts_->cache.save(out);
}

void Session::load(ByteReader &in) {
    reset();
    try {
        const uint64_t n_tokens = in.get<uint64_t>("tokens");
        const uint64_t n_prompt = in.get<uint64_t>("tokens of the first prompt");
        // Of a prompt that was interrupted not all has been read.
        if (n_tokens > kMostPositions || n_prompt > kMostPositions ||
            (n_prompt == 0) != (n_tokens == 0)) {
            in.fail("tokens: at most ", kMostPositions,
                    ", and as many in a first prompt, expected, ", "found ", n_tokens, " and ",
                    n_prompt);
        }
        if (n_tokens == 0) return;
        const auto has_logits = in.get<uint8_t>("logits");
        if (has_logits > 1) in.fail("logits: 0 or 1 expected, found ", int{has_logits});
        if (has_logits == 1) in.get_all(parts_->logits.span(), "logits");
        EvictionConfig config = resolve(options_.eviction, static_cast<size_t>(n_prompt));
        load_shares(in, parts_->cache.shape(), config);
        parts_->cache.configure(config);
        parts_->cache.load(in, static_cast<size_t>(n_tokens));
        parts_->has_logits = has_logits == 1;
        n_tokens_ = static_cast<size_t>(n_tokens);
        n_prompt_ = static_cast<size_t>(n_prompt);
    } catch (...) {
        reset();
        throw;
    }
}

std::unique_ptr<Session> Session::fork() const {
    auto copy = std::make_unique<Session>(model_, options_);
    MemoryWriter bytes;
    save(bytes);
    const std::string name = "fork";
    ByteReader in(bytes.bytes(), name);
    copy->load(in);
    return copy;
}

}  // namespace a2sf
