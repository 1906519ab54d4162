// A session reads tokens and predicts the next one. It owns everything that changes: cache,
// activations, threads. Several sessions may share one Model, each used by one thread at a time.
// Sessions of one Workspace share activations and threads as well, and can take a step together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "evict/options.h"
#include "kv/cache.h"
#include "model/model.h"
#include "sample/sampler.h"

namespace a2sf {

struct SessionOptions {
    EvictionOptions eviction;
    KvType kv_type = KvType::F16;
    size_t n_threads = 0;  // 0 = default_threads()
    size_t batch = 512;    // tokens per chunk
};

// Told after every chunk, and asked between layers whether to go on: false stops with Interrupted.
using Progress = std::function<bool(size_t n_done, size_t n_total)>;

// Asked to stop only where a session can go on: between chunks.
Progress between_chunks(Progress progress);

// Receives the logits of consecutive tokens: [n, n_vocab], the first belongs to token `first` of
// the fed ids. The memory is the session's.
using LogitsSink = std::function<void(size_t first, size_t n, const float *logits)>;

// Threads and activations. Owner: one session, or all that were made with it; then one thread at a
// time may use any of them.
class Workspace;

class Session {
  public:
    // Throws OptionError for options that no prompt could satisfy. With a workspace, its threads
    // and its batch hold instead of the options'.
    Session(std::shared_ptr<const Model> model, const SessionOptions &options,
            std::shared_ptr<Workspace> workspace = nullptr);
    ~Session();
    Session(const Session &) = delete;
    Session &operator=(const Session &) = delete;

    // Reads ids after what was read before; returns the logits [n_vocab] that follow the last one,
    // valid until the next call. One call is one prompt: PromptMode::Full evicts at its end.
    // Throws OptionError for no ids, ids outside the vocabulary, or a full cache that would outgrow
    // the model's context. After Interrupted or a failure inside a chunk the session must be reset.
    std::span<const float> feed(std::span<const int32_t> ids, const Progress &progress = {});

    // Reads one chunk of a prompt of which the first n_done tokens have been read, and returns how
    // many then are: what feed() does again and again.
    size_t feed_chunk(std::span<const int32_t> ids, size_t n_done, const Progress &progress = {});

    // Each session reads its token, all in one pass over the weights. Sessions of one workspace, no
    // more than its batch, each once. A session gets bit for bit what feed() would give it. Throws
    // like feed(), before anything is read.
    static void step(std::span<Session *const> sessions, std::span<const int32_t> ids);

    // The same as feed(), but gives every token's logits to the sink.
    void feed_all(std::span<const int32_t> ids, const LogitsSink &sink,
                  const Progress &progress = {});

    // Announces that n_tokens more will come, so that nothing needs to grow on the way.
    void reserve(size_t n_tokens);

    // Other options from here on: a smaller budget evicts at once, a larger one lets the cache
    // grow. Throws OptionError for options that what was read cannot satisfy; once something was
    // read, policy and positions have to stay as they are.
    void set_eviction(const EvictionOptions &eviction);

    // Forgets everything read.
    void reset();

    // Forgets what follows the last token, for whoever has taken a token that cannot be read.
    void forget_logits();

    // What was read, as bytes (engine/saved_session.h makes files of them). save() throws for a
    // session that was interrupted. load() expects a session of the same model and options as the
    // saved one's, and throws SavedSessionError for bytes that no session could have saved; the
    // session is then reset.
    void save(ByteWriter &out) const;
    void load(ByteReader &in);

    // A session of its own that has read the same.
    std::unique_ptr<Session> fork() const;

    const Model &model() const { return *model_; }
    const SessionOptions &options() const { return options_; }
    const Cache &cache() const;
    const Backend &backend() const;
    size_t n_tokens() const { return n_tokens_; }  // read so far
    size_t room() const;  // tokens that can still be read: a cache that keeps all has its context
    bool is_full() const { return room() == 0; }
    std::span<const float> logits() const;  // that follow what was read; empty if not known

    // The token that the logits make likeliest: all that crosses over where the device has kept
    // them. Logits must be known. Throws as Sampler::sample() does.
    Sampled likeliest() const;

  private:
    struct Parts;
    void check_complete() const;
    template <typename Ask>
    void end_step(const Ask &ask) const;
    std::vector<float> shares(const EvictionOptions &eviction, const EvictionConfig &config,
                              size_t n_tokens) const;
    void check_ids(std::span<const int32_t> ids) const;
    void prepare(size_t n_ids);
    size_t read_chunk(std::span<const int32_t> ids, size_t n_done, const LogitsSink *sink,
                      const Progress &progress);
    void run(std::span<const int32_t> ids, const LogitsSink *sink, const Progress &progress);

    std::shared_ptr<const Model> model_;
    SessionOptions options_;
    std::unique_ptr<Parts> parts_;
    size_t n_tokens_ = 0;
    size_t n_reserved_ = 0;
    size_t n_prompt_ = 0;  // of the first prompt, for which budgets given as a share wait
    mutable bool broken_ = false;
};

// For sessions that take steps together: the model and the options of each must be those here but
// for the eviction; `most` is how many can take a step together.
std::shared_ptr<Workspace> make_workspace(const Model &model, SessionOptions options, size_t most);

}  // namespace a2sf
