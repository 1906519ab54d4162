// The generation loop: prompt, then sample and feed until something ends it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/session.h"
#include "sample/sampler.h"
#include "token/tokenizer.h"

namespace a2sf {

struct GenerateOptions {
    size_t max_tokens = 128;
    SamplingOptions sampling;
    std::vector<std::string> stop;  // the text ends before the first of these
    bool ignore_end = false;        // go on after end-of-text tokens (bench, perplexity of endings)

    void validate() const;  // throws OptionError
};

enum class FinishReason { Length, End, Stop, Interrupted };
const char *name_of(FinishReason reason);  // "length" "end" "stop" "interrupted"

// Times are wall-clock seconds.
struct Stats {
    size_t n_prompt = 0;
    size_t n_generated = 0;
    double prompt_s = 0;
    double decode_s = 0;
    size_t kv_bytes = 0;       // allocated by the cache
    size_t kv_bytes_full = 0;  // what K and V of all tokens read would take
    size_t n_evicted = 0;      // by this generation, tokens x heads
    size_t n_live = 0;         // most slots live in any head at the end
    size_t budget = 0;         // 0 = none

    double prompt_per_s() const { return prompt_s > 0 ? n_prompt / prompt_s : 0; }
    // The first token costs no pass through the model: its logits came with the prompt.
    double decode_per_s() const {
        return n_generated > 1 && decode_s > 0 ? (n_generated - 1) / decode_s : 0;
    }
};

// One generated token. text is what became readable with it: complete characters, minus anything
// that may still turn out to be the beginning of a stop string; it can be empty.
struct GeneratedToken {
    int32_t id;
    std::string text;
    float logprob;
};

struct Generation {
    std::string text;
    std::vector<int32_t> ids;  // all that were generated, without the end token
    std::vector<float> logprobs;
    FinishReason finish_reason = FinishReason::Length;
    Stats stats;
};

// Step by step, so that a caller can stream. Usage:
//   Generator g(session, tokenizer, options); g.start(prompt, progress);
//   while (g.next(token)) ...;   g.result()
class Generator {
  public:
    Generator(Session &session, const Tokenizer &tokenizer, const GenerateOptions &options);

    // Reads the prompt; empty only if the session has read something before.
    // max_tokens may be cut by the model's context under a full cache.
    void start(std::span<const int32_t> prompt, const Progress &progress = {});

    // The same bit by bit: reads one chunk of the prompt, the same at every call; true when all of
    // it has been read.
    bool start_chunk(std::span<const int32_t> prompt, const Progress &progress = {});

    // One more token; false when the generation is over (the last text, if any was held back, is
    // given with the last token or by rest()).
    bool next(GeneratedToken &token);

    // What next() does, for several generations whose sessions share a workspace, in one pass over
    // the weights. more[i], tokens[i]: of generators[i]. A generation that is over costs nothing.
    static void next_each(std::span<Generator *const> generators, std::span<bool> more,
                          std::span<GeneratedToken> tokens);

    // Whether text of the tokens so far is still held back.
    bool holds_text() const { return !held_.empty() || decoder_.holds_bytes(); }

    // Text that was held back when the generation ended.
    std::string rest();

    // Feeds the last generated token, which next() leaves out, so that the session can go on with
    // more text after it or be saved; nothing where a full cache has no room for it.
    void settle();

    // Ends it from outside: FinishReason::Interrupted.
    void interrupt();

    const Generation &result() const { return result_; }

  private:
    bool check_room();
    bool take(GeneratedToken &token);
    void begin(std::span<const int32_t> prompt);
    void finish(FinishReason reason);
    std::string release(std::string text, bool last);

    Session &session_;
    const Tokenizer &tokenizer_;
    GenerateOptions options_;
    Sampler sampler_;
    StreamDecoder decoder_;
    Generation result_;
    std::string held_;      // may begin a stop string
    std::string rest_;      // given by rest()
    int32_t pending_ = -1;  // sampled, not fed yet
    size_t n_evicted_before_ = 0;
    size_t n_before_ = 0;  // tokens of the session
    size_t n_read_ = 0;    // of the prompt
    bool done_ = false;
};

}  // namespace a2sf
