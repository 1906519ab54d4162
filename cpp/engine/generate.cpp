#include "engine/generate.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"

namespace a2sf {

namespace {

// More than any generation: keeps sums of lengths far from overflow.
constexpr size_t kMostReserved = size_t{1} << 31;

class Timer {
  public:
    double seconds() const {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    }

  private:
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// How many bytes at the end of text could begin one of the stop strings.
size_t n_held(const std::string &text, const std::vector<std::string> &stop) {
    size_t most = 0;
    for (const std::string &s : stop) {
        for (size_t n = std::min(s.size() - 1, text.size()); n > most; --n) {
            if (text.compare(text.size() - n, n, s, 0, n) == 0) most = n;
        }
    }
    return most;
}

}  // namespace

void GenerateOptions::validate() const {
    sampling.validate();
    for (const std::string &s : stop) {
        if (s.empty()) throw OptionError("stop: non-empty strings expected, found an empty one");
    }
}

const char *name_of(FinishReason reason) {
    switch (reason) {
        case FinishReason::Length:
            return "length";
        case FinishReason::End:
            return "end";
        case FinishReason::Stop:
            return "stop";
        case FinishReason::Interrupted:
            return "interrupted";
    }
    return "";
}

Generator::Generator(Session &session, const Tokenizer &tokenizer, const GenerateOptions &options)
    : session_(session),
      tokenizer_(tokenizer),
      options_(options),
      sampler_(options.sampling, session.model().config().n_vocab),
      decoder_(tokenizer, /*show_special=*/false, /*continues_text=*/true) {
    options.validate();
}

void Generator::begin(std::span<const int32_t> prompt) {
    if (prompt.empty() && session_.logits().empty() && session_.is_full()) {
        throw OptionError(str("prompt: room for a token expected, found the model's context of ",
                              session_.model().config().n_ctx,
                              " full; a budget goes on beyond it"));
    }
    if (prompt.empty() && session_.logits().empty()) {
        throw OptionError("prompt: at least 1 token expected, found 0");
    }
    // The last token generated is never fed, so a full context still yields one more.
    session_.reserve(prompt.size() + std::min(options_.max_tokens, kMostReserved));
    n_evicted_before_ = session_.cache().n_evicted();
    n_before_ = session_.n_tokens();
}

void Generator::start(std::span<const int32_t> prompt, const Progress &progress) {
    while (!start_chunk(prompt, progress)) {
    }
}

bool Generator::start_chunk(std::span<const int32_t> prompt, const Progress &progress) {
    if (n_read_ == 0) begin(prompt);
    const Timer timer;
    const auto note = [&] {
        result_.stats.prompt_s += timer.seconds();
        result_.stats.n_prompt = session_.n_tokens() - n_before_;
    };
    try {
        if (!prompt.empty()) n_read_ = session_.feed_chunk(prompt, n_read_, progress);
    } catch (const Interrupted &) {
        note();
        throw;
    }
    note();
    if (n_read_ < prompt.size()) return false;
    for (int32_t id : prompt) sampler_.accept(id);
    return true;
}

// Whether one more token may be generated; ends the generation if not.
bool Generator::check_room() {
    if (done_) return false;
    const bool fits = pending_ < 0 || !session_.is_full();
    if (result_.ids.size() < options_.max_tokens && fits) return true;
    finish(FinishReason::Length);
    return false;
}

bool Generator::next(GeneratedToken &token) {
    if (!check_room()) return false;
    const Timer timer;
    settle();
    result_.stats.decode_s += timer.seconds();
    return take(token);
}

void Generator::next_each(std::span<Generator *const> generators, std::span<bool> more,
                          std::span<GeneratedToken> tokens) {
    std::vector<Session *> sessions;
    std::vector<int32_t> ids;
    const Timer timer;
    for (size_t i = 0; i < generators.size(); ++i) {
        Generator &own = *generators[i];
        more[i] = own.check_room();
        if (!more[i] || own.pending_ < 0) continue;
        sessions.push_back(&own.session_);
        ids.push_back(own.pending_);
    }
    Session::step(sessions, ids);
    const double time_s = timer.seconds();
    // All have read theirs before any takes the next: what throws there must not feed one twice.
    for (size_t i = 0; i < generators.size(); ++i) {
        if (!more[i]) continue;
        generators[i]->pending_ = -1;
        generators[i]->result_.stats.decode_s += time_s;
    }
    for (size_t i = 0; i < generators.size(); ++i) {
        if (more[i]) more[i] = generators[i]->take(tokens[i]);
    }
}

// The token that the session's logits give.
bool Generator::take(GeneratedToken &token) {
    const Timer timer;
    const Sampled sampled =
        sampler_.is_greedy() ? session_.likeliest() : sampler_.sample(session_.logits());
    result_.stats.decode_s += timer.seconds();
    if (tokenizer_.is_end(sampled.id) && !options_.ignore_end) {
        finish(FinishReason::End);
        return false;
    }
    sampler_.accept(sampled.id);
    pending_ = sampled.id;
    result_.ids.push_back(sampled.id);
    result_.logprobs.push_back(sampled.logprob);
    token.id = sampled.id;
    token.logprob = sampled.logprob;
    token.text = release(decoder_.push(sampled.id), false);
    return true;
}

void Generator::settle() {
    if (pending_ < 0) return;
    if (session_.is_full()) return session_.forget_logits();  // they gave this token
    const int32_t id = pending_;
    session_.feed_chunk({&id, 1}, 0);
    pending_ = -1;
}

// Adds text to what is held back and gives what no stop string can begin with any more.
std::string Generator::release(std::string text, bool last) {
    held_ += text;
    size_t first = std::string::npos;
    for (const std::string &s : options_.stop) first = std::min(first, held_.find(s));
    if (first != std::string::npos) {
        std::string out = held_.substr(0, first);
        held_.clear();
        result_.text += out;
        if (!last) finish(FinishReason::Stop);
        return out;
    }
    const size_t n = last ? 0 : n_held(held_, options_.stop);
    std::string out = held_.substr(0, held_.size() - n);
    held_.erase(0, held_.size() - n);
    result_.text += out;
    return out;
}

void Generator::finish(FinishReason reason) {
    if (done_) return;
    done_ = true;
    result_.finish_reason = reason;
    if (reason != FinishReason::Stop) rest_ = release(decoder_.finish(), true);
    const Cache &cache = session_.cache();
    Stats &stats = result_.stats;
    stats.n_generated = result_.ids.size();
    stats.kv_bytes = cache.n_bytes();
    stats.kv_bytes_full = cache.n_bytes_full(session_.n_tokens());
    stats.n_evicted = cache.n_evicted() - n_evicted_before_;
    stats.budget = cache.config().budget;
    stats.n_live = cache.mean_live();
}

std::string Generator::rest() {
    return std::exchange(rest_, {});
}

void Generator::interrupt() {
    finish(FinishReason::Interrupted);
}

}  // namespace a2sf
