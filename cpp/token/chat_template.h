// How models write conversations: what stands around a system prompt, a user's message and an
// answer. A model brings a Jinja template for that (tokenizer.chat_template). It is not interpreted
// here but recognised: nearly all belong to a few families. What a template adds beyond its family
// (dates, tools, thoughts) is left out; the default system prompt of chatml templates is kept.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace a2sf {

class Tokenizer;

// One family. {bos} and {eos} in the texts stand for the model's special tokens.
struct ChatTemplate {
    const char *name;
    // What a Jinja template of the family contains; nullptr: no second text needed.
    const char *mark;
    const char *second_mark;
    const char *system_open;
    const char *system_close;
    const char *user_open;
    const char *user_close;      // and what the answer begins behind
    const char *assistant_lead;  // what the model itself writes before an answer's first word
    const char *assistant_close;
    bool system_in_message =
        false;                    // the system prompt stands in the first message, behind user_open
    bool trims_messages = false;  // the system prompt and messages lose outer white space
    bool trims_answers = false;
};

// THE list of families, in the order in which they are looked for.
std::span<const ChatTemplate> chat_templates();

// A conversation's text in pieces, each to be read after what is there already:
//   opening(system) + message(first) | answer | close() + open_message() + message(second) | ...
// Owner: a conversation.
class ChatFormat {
  public:
    // The family of the model's own template, or of that name if one is given. Throws
    // UnsupportedError where there is none or it is not known, OptionError for an unknown name;
    // both list the known names.
    ChatFormat(const Tokenizer &tokenizer, const std::optional<std::string> &name);
    ChatFormat(std::string_view jinja, const std::optional<std::string> &name, std::string bos,
               std::string eos);

    const char *name() const { return family_->name; }

    // Everything before the first message. Without a system prompt: the template's default, if any.
    std::string opening(const std::optional<std::string> &system) const;
    // A message, up to where the answer begins.
    std::string message(std::string_view text) const;
    // An answer as the template writes one that is known.
    std::string answer(std::string_view text) const;
    // What ends an answer.
    std::string close() const;
    // What stands between the end of an answer and the next message.
    std::string open_message() const;
    // What ends a message that is to have no answer, as far as the family can say that.
    std::string close_message() const;

  private:
    std::string fill(std::string_view text) const;

    const ChatTemplate *family_;
    std::string bos_, eos_;
    bool begins_with_bos_;
    std::optional<std::string> default_system_;
};

}  // namespace a2sf
