#include "engine/conversation.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "engine/saved_session.h"
#include "evict/registry.h"

namespace a2sf {
namespace {

void check_budget(const EvictionOptions &eviction) {
    if (!eviction.needs_prompt_length()) return;
    throw OptionError(str("budget: a number of tokens expected (a conversation has no length to ",
                          "take a share of), found ", eviction.budget->to_string()));
}

}  // namespace

Conversation::Conversation(Engine engine, ChatFormat format, const SessionOptions &options,
                           std::optional<std::string> system)
    : engine_(std::move(engine)),
      format_(std::move(format)),
      options_(options),
      system_(std::move(system)) {
    clear();
}

void Conversation::clear() {
    const size_t n_pinned = encode(format_.opening(system_)).size();
    SessionOptions options = options_;
    options.eviction = pinning(options_.eviction, n_pinned);
    check_budget(options.eviction);
    options.eviction.validate();
    session_ = std::make_unique<Session>(engine_.model, options);
    loaded_ = false;
    n_pinned_ = n_pinned;
    n_turns_ = 0;
    open_ = Open::Nothing;
    ids_.clear();
}

void Conversation::set_system(std::optional<std::string> system) {
    std::swap(system_, system);
    try {
        clear();
    } catch (...) {
        system_ = std::move(system);
        throw;
    }
}

void Conversation::set_budget(const Amount &budget) {
    EvictionOptions eviction = session_->options().eviction;
    eviction.budget = budget;
    check_budget(eviction);
    session_->set_eviction(eviction);
    if (!loaded_) options_.eviction.budget = budget;
}

EvictionOptions Conversation::pinning(const EvictionOptions &eviction, size_t n_pinned) const {
    EvictionOptions options = eviction;
    const PositionRange opening{0, n_pinned};
    std::vector<PositionRange> &pinned = options.pinned;
    if (find_policy(eviction.policy).evicts() &&
        std::find(pinned.begin(), pinned.end(), opening) == pinned.end()) {
        pinned.push_back(opening);
    }
    return options;
}

// The beginning-of-text token comes once: where the text has it, the tokenizer adds none.
std::vector<int32_t> Conversation::encode(const std::string &text) const {
    const Tokenizer &tokenizer = *engine_.tokenizer;
    const bool written =
        tokenizer.bos() >= 0 && text.starts_with(tokenizer.token_text(tokenizer.bos()));
    EncodeOptions options;
    if (written) options.add_bos = false;
    std::vector<int32_t> ids = tokenizer.encode(text, options);
    // An end-of-text token, which some vocabularies ask for, has no place inside a conversation.
    if (!written && tokenizer.adds_eos()) ids.pop_back();
    return ids;
}

std::string Conversation::pending_close() const {
    if (open_ == Open::Answer) return format_.close();
    if (open_ == Open::Message) return format_.close_message();
    return {};
}

// What is to be read for a message. Of a first one, the opening's tokens are pinned as far as the
// message does not change them.
std::vector<int32_t> Conversation::prompt_ids(std::string_view message) {
    if (session_->n_tokens() > 0) {
        return engine_.tokenizer->encode(
            pending_close() + format_.open_message() + format_.message(message),
            {.add_bos = false, .continues_text = true});
    }
    const std::string opening = format_.opening(system_);
    const std::vector<int32_t> before = encode(opening);
    const std::vector<int32_t> ids = encode(opening + format_.message(message));
    const auto differ = std::mismatch(before.begin(), before.end(), ids.begin(), ids.end());
    n_pinned_ = static_cast<size_t>(differ.first - before.begin());
    session_->set_eviction(
        pinning(loaded_ ? session_->options().eviction : options_.eviction, n_pinned_));
    return ids;
}

void Conversation::note_read(std::span<const int32_t> ids, size_t n_before) {
    const size_t n = std::min(ids.size(), session_->n_tokens() - n_before);
    ids_.insert(ids_.end(), ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(n));
}

Generation Conversation::ask(std::string_view message, const GenerateOptions &options,
                             const ChatListener &listener) {
    const std::vector<int32_t> prompt = prompt_ids(message);
    Generator generator(*session_, *engine_.tokenizer, options);
    const auto stops = [&] { return listener.stops && listener.stops(); };
    const auto tell = [&](std::string_view text) {
        if (listener.on_text && !text.empty()) listener.on_text(text);
    };
    const size_t n_before = session_->n_tokens();
    try {
        generator.start(prompt, between_chunks([&](size_t n_done, size_t n_total) {
                            if (listener.on_progress) listener.on_progress(n_done, n_total);
                            return !stops();
                        }));
    } catch (const Interrupted &) {
        generator.interrupt();
        open_ = Open::Message;
        note_read(prompt, n_before);
        // Prompt mode `full` would have evicted at the end that did not come.
        session_->set_eviction(session_->options().eviction);
        return generator.result();
    }
    note_read(prompt, n_before);
    open_ = Open::Answer;
    ++n_turns_;
    GeneratedToken token;
    while (!stops() && generator.next(token)) tell(token.text);
    generator.interrupt();  // nothing, if it has ended by itself
    tell(generator.rest());
    const auto note_answer = [&] { note_read(generator.result().ids, n_before + prompt.size()); };
    try {
        generator.settle();
    } catch (...) {
        note_answer();
        throw;
    }
    note_answer();
    return generator.result();
}

void Conversation::save(const std::string &path) {
    // Closed first, so that whoever loads it need not know in the middle of what it was.
    if (open_ != Open::Nothing) {
        const std::vector<int32_t> ids =
            engine_.tokenizer->encode(pending_close(), {.add_bos = false, .continues_text = true});
        // Where a full cache has no room for them, no message can follow either.
        if (!ids.empty() && ids.size() <= session_->room()) {
            session_->feed(ids);
            ids_.insert(ids_.end(), ids.begin(), ids.end());
        }
        open_ = Open::Nothing;
    }
    save_session(*session_, path, ids_);
}

void Conversation::load(const std::string &path) {
    SavedSession saved = load_session(engine_.model, path, options_.n_threads);
    session_ = std::move(saved.session);
    loaded_ = true;
    ids_ = std::move(saved.ids);
    n_pinned_ = 0;
    n_turns_ = 0;
    // Python's conversations, which alone have a note, end in an answer that nothing closes yet.
    open_ = saved.note.empty() ? Open::Nothing : Open::Answer;
}

}  // namespace a2sf
