// A conversation: one session that reads each message once and answers it. Under a budget it goes
// on for as long as one likes, at constant memory and time per token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/engine.h"
#include "engine/generate.h"
#include "engine/session.h"
#include "token/chat_template.h"

namespace a2sf {

// What a caller may do while an answer comes; each may be empty.
struct ChatListener {
    std::function<void(std::string_view text)> on_text;              // pieces of the answer
    std::function<void(size_t n_done, size_t n_total)> on_progress;  // of reading the message
    std::function<bool()> stops;  // asked often; true ends the answer: FinishReason::Interrupted
};

class Conversation {
  public:
    // Everything before the first message is pinned if the policy evicts. Throws OptionError where
    // it does not fit into the budget.
    Conversation(Engine engine, ChatFormat format, const SessionOptions &options,
                 std::optional<std::string> system);

    // Reads a message and answers it. However that ends, the conversation can go on: an answer cut
    // short is closed as a whole one would be. Throws OptionError, and changes nothing, where a
    // full cache has no room for the message.
    Generation ask(std::string_view message, const GenerateOptions &options,
                   const ChatListener &listener = {});

    // Starts anew, with the same system prompt or another one.
    void clear();
    void set_system(std::optional<std::string> system);

    // Takes effect at once, and holds for conversations that clear() starts, unless this one was
    // loaded. Throws OptionError, and changes nothing, for one that cannot be held.
    void set_budget(const Amount &budget);

    // engine/saved_session.h. A loaded conversation has the options that it was saved with until
    // clear() starts one with those of the constructor.
    void save(const std::string &path);
    void load(const std::string &path);

    const Session &session() const { return *session_; }
    const ChatFormat &format() const { return format_; }
    size_t n_pinned() const { return n_pinned_; }  // positions before the first message
    size_t n_turns() const { return n_turns_; }    // answered since the start or load()

  private:
    enum class Open { Nothing, Answer, Message };  // what the next turn has to end first

    std::vector<int32_t> encode(const std::string &text) const;
    std::vector<int32_t> prompt_ids(std::string_view message);
    EvictionOptions pinning(const EvictionOptions &eviction, size_t n_pinned) const;
    std::string pending_close() const;
    void note_read(std::span<const int32_t> ids, size_t n_before);

    Engine engine_;
    ChatFormat format_;
    SessionOptions options_;  // of conversations that start here, without what pins their opening
    std::optional<std::string> system_;
    std::unique_ptr<Session> session_;
    std::vector<int32_t> ids_;  // all that was read
    size_t n_pinned_ = 0;
    size_t n_turns_ = 0;
    bool loaded_ = false;
    Open open_ = Open::Nothing;
};

}  // namespace a2sf
