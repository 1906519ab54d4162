#include "engine/session.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
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
    if (options.kv_type == KvType::Q8_0 && head_dim % 32 != 0) {
        throw OptionError(
            str("kv_type: a head_dim divisible by 32 expected for q8_0, found ", head_dim));
    }
}

}  // namespace

struct Session::Parts {
    std::unique_ptr<Backend> backend;
    Decoder decoder;
    Cache cache;
    std::vector<int32_t> pos;       // [batch]
    std::span<const float> logits;  // of the last token; in the decoder, or loaded ones
    Buffer<float> loaded_logits;    // [n_vocab]

    Parts(const Model &model, const SessionOptions &options)
        : backend(model.device().create({.n_threads = options.n_threads})),
          decoder(model, *backend, options.batch),
          cache(*backend, {model.config().n_layers, model.config().n_kv_heads,
                           model.config().head_dim, options.kv_type}),
          pos(options.batch) {}
};

Session::Session(std::shared_ptr<const Model> model, const SessionOptions &options)
    : model_(std::move(model)), options_(options) {
    check(options_, *model_);
    options_.batch = std::min(options_.batch, std::max<size_t>(model_->config().n_ctx, 1));
    parts_ = std::make_unique<Parts>(*model_, options_);
}

Session::~Session() = default;

const Cache &Session::cache() const {
    return parts_->cache;
}
const Backend &Session::backend() const {
    return *parts_->backend;
}
std::span<const float> Session::logits() const {
    return parts_->logits;
}

void Session::reset() {
    parts_->cache.clear();
    parts_->logits = {};
    n_tokens_ = 0;
    n_reserved_ = 0;
    n_prompt_ = 0;
    configured_ = false;
    broken_ = false;
}

void Session::reserve(size_t n_tokens) {
    n_reserved_ = n_tokens_ + std::min(n_tokens, kMostPositions);
}

void Session::check_ids(std::span<const int32_t> ids) const {
    const int64_t n_vocab = static_cast<int64_t>(model_->config().n_vocab);
    if (broken_) {
        throw Error(
            "session: a complete state expected, found one interrupted in the middle of a "
            "chunk; reset it first");
    }
    if (ids.empty()) throw OptionError("ids: at least 1 token expected, found 0");
    for (size_t i = 0; i < ids.size(); ++i) {
        if (ids[i] < 0 || ids[i] >= n_vocab) {
            throw OptionError(
                str("ids[", i, "]: a token from 0 to ", n_vocab - 1, " expected, found ", ids[i]));
        }
    }
}

// Configures the cache for the first prompt and makes room for what comes.
void Session::prepare(size_t n_ids) {
    Cache &cache = parts_->cache;
    if (!configured_) {
        cache.configure(resolve(options_.eviction, n_ids));
        n_prompt_ = n_ids;
        configured_ = true;
    }
    const EvictionConfig &config = cache.config();
    const size_t n_ctx = model_->config().n_ctx;
    const size_t n_total = n_tokens_ + n_ids;
    if (!config.evicts() && n_total > n_ctx) {
        throw OptionError(str("ids: at most ", n_ctx,
                              " tokens in all (the model's context) expected "
                              "without eviction, found ",
                              n_total, "; give a budget to read more"));
    }
    if (n_total > kMostPositions) {
        throw OptionError(
            str("ids: at most ", kMostPositions, " tokens in all expected, found ", n_total));
    }
    // The most slots that can ever be live: the context, or the budget and what enters at once.
    size_t chunk = std::min(n_ids, options_.batch);
    if (config.prefill == PromptMode::Token) chunk = 1;
    if (config.prefill == PromptMode::Full) chunk = n_ids;
    const size_t bound = config.evicts() ? config.budget + chunk : n_ctx;
    const size_t n_needed = std::min(n_total, bound);
    if (n_needed <= cache.capacity()) return;
    // Without a reservation the room doubles, so that growing is rare.
    const size_t doubled = cache.capacity() == 0 ? 0 : std::max<size_t>(2 * cache.capacity(), 64);
    cache.reserve(std::min(bound, std::max({n_needed, n_reserved_, doubled})));
}

void Session::run(std::span<const int32_t> ids, const LogitsSink *sink, const Progress &progress) {
    check_ids(ids);
    prepare(ids.size());
    Parts &parts = *parts_;
    for (size_t done = 0; done < ids.size();) {
        const size_t m = std::min(options_.batch, ids.size() - done);
        std::iota(parts.pos.begin(), parts.pos.begin() + static_cast<ptrdiff_t>(m),
                  static_cast<int32_t>(n_tokens_));
        const bool last = done + m == ids.size();
        // A whole tile of tokens for the one that is wanted: what it gives must not depend on
        // whether others were asked for.
        const size_t n_outputs = sink != nullptr ? m : last ? std::min(m, kTileTokens) : 0;
        const Chunk chunk{ids.subspan(done, m), {parts.pos.data(), m}, last, n_outputs};
        std::function<bool()> proceed;
        if (progress) proceed = [&] { return progress(done, ids.size()); };
        broken_ = true;
        parts.decoder.forward(chunk, parts.cache, proceed);
        broken_ = false;
        n_tokens_ += m;
        if (sink != nullptr) {
            for (size_t i = 0; i < m; i += parts.decoder.logit_rows()) {
                const size_t n = std::min(parts.decoder.logit_rows(), m - i);
                (*sink)(done + i, n, parts.decoder.logits(i, n).data());
            }
        }
        done += m;
        if (done == ids.size()) parts.logits = parts.decoder.logits(m - 1, 1);
        if (progress && !progress(done, ids.size()) && done < ids.size()) throw Interrupted();
    }
}

std::span<const float> Session::feed(std::span<const int32_t> ids, const Progress &progress) {
    run(ids, nullptr, progress);
    return parts_->logits;
}

void Session::feed_all(std::span<const int32_t> ids, const LogitsSink &sink,
                       const Progress &progress) {
    run(ids, &sink, progress);
}

void Session::save(ByteWriter &out) const {
    if (broken_) {
        throw Error(
            "session: a complete state expected, found one interrupted in the middle of a "
            "chunk; reset it first");
    }
    out.put<uint64_t>(n_tokens_);
    out.put<uint64_t>(n_prompt_);
    if (n_tokens_ == 0) return;
    out.put_all(parts_->logits);
    parts_->cache.save(out);
}

void Session::load(ByteReader &in) {
    reset();
    try {
        const uint64_t n_tokens = in.get<uint64_t>("tokens");
        const uint64_t n_prompt = in.get<uint64_t>("tokens of the first prompt");
        if (n_tokens > kMostPositions || n_prompt > n_tokens || (n_prompt == 0) != (n_tokens == 0)) {
            in.fail("tokens: at most ", kMostPositions, ", the first prompt's among them, expected, ",
                    "found ", n_tokens, " and ", n_prompt);
        }
        if (n_tokens == 0) return;
        const size_t n_vocab = model_->config().n_vocab;
        parts_->loaded_logits = Buffer<float>(n_vocab, "logits");
        in.get_all(parts_->loaded_logits.span(), "logits");
        parts_->cache.configure(resolve(options_.eviction, static_cast<size_t>(n_prompt)));
        parts_->cache.load(in, static_cast<size_t>(n_tokens));
        parts_->logits = parts_->loaded_logits.span();
        n_tokens_ = static_cast<size_t>(n_tokens);
        n_prompt_ = static_cast<size_t>(n_prompt);
        configured_ = true;
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
