// The families of chat templates. See chat_template.h.
#include "token/chat_template.h"

#include <vector>

#include "base/error.h"
#include "token/tokenizer.h"

namespace a2sf {
namespace {

// Sources: the chat templates of the models named.
constexpr ChatTemplate kTemplates[] = {
    {.name = "llama3",  // Llama 3.x; the dates of 3.1's system prompt are left out
     .mark = "<|start_header_id|>",
     .second_mark = nullptr,
     .system_open = "<|start_header_id|>system<|end_header_id|>\n\n",
     .system_close = "<|eot_id|>",
     .user_open = "<|start_header_id|>user<|end_header_id|>\n\n",
     .user_close = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
     .assistant_lead = "",
     .assistant_close = "<|eot_id|>",
     .trims_messages = true,
     .trims_answers = true},
    {.name = "chatml",  // Qwen, SmolLM2, Hermes
     .mark = "<|im_start|>",
     .second_mark = nullptr,
     .system_open = "<|im_start|>system\n",
     .system_close = "<|im_end|>\n",
     .user_open = "<|im_start|>user\n",
     .user_close = "<|im_end|>\n<|im_start|>assistant\n",
     .assistant_lead = "",
     .assistant_close = "<|im_end|>\n"},
    {.name = "gemma",  // Gemma 1 to 3; Gemma has no system role
     .mark = "<start_of_turn>",
     .second_mark = nullptr,
     .system_open = "",
     .system_close = "\n\n",
     .user_open = "<start_of_turn>user\n",
     .user_close = "<end_of_turn>\n<start_of_turn>model\n",
     .assistant_lead = "",
     .assistant_close = "<end_of_turn>\n",
     .system_in_message = true,
     .trims_messages = true,
     .trims_answers = true},
    {.name = "llama2",
     .mark = "[INST]",
     .second_mark = "<<SYS>>",
     .system_open = "<<SYS>>\n",
     .system_close = "\n<</SYS>>\n\n",
     .user_open = "{bos}[INST] ",
     .user_close = " [/INST]",
     .assistant_lead = " ",
     .assistant_close = " {eos}",
     .system_in_message = true,
     .trims_messages = true,
     .trims_answers = true},
    {.name = "mistral",  // Mistral 7B v0.1 and v0.2, Mixtral
     .mark = "[INST] ",
     .second_mark = " [/INST]",
     .system_open = "",
     .system_close = "\n\n",
     .user_open = "[INST] ",
     .user_close = " [/INST]",
     .assistant_lead = "",
     .assistant_close = "{eos}",
     .system_in_message = true},
    {.name = "mistral-v3",  // Mistral 7B v0.3
     .mark = "[INST] ",
     .second_mark = nullptr,
     .system_open = "",
     .system_close = "\n\n",
     .user_open = "[INST] ",
     .user_close = "[/INST]",
     .assistant_lead = " ",
     .assistant_close = "{eos}",
     .system_in_message = true,
     .trims_answers = true},
    {.name = "mistral-tekken",  // Mistral NeMo
     .mark = "[INST]",
     .second_mark = nullptr,
     .system_open = "",
     .system_close = "\n\n",
     .user_open = "[INST]",
     .user_close = "[/INST]",
     .assistant_lead = "",
     .assistant_close = "{eos}",
     .system_in_message = true},
    {.name = "phi3",
     .mark = "<|user|>",
     .second_mark = "<|end|>",
     .system_open = "<|system|>\n",
     .system_close = "<|end|>\n",
     .user_open = "<|user|>\n",
     .user_close = "<|end|>\n<|assistant|>\n",
     .assistant_lead = "",
     .assistant_close = "<|end|>\n"},
    {.name = "zephyr",  // Zephyr, TinyLlama
     .mark = "<|user|>",
     .second_mark = "eos_token",
     .system_open = "<|system|>\n",
     .system_close = "{eos}\n",
     .user_open = "<|user|>\n",
     .user_close = "{eos}\n<|assistant|>\n",
     .assistant_lead = "",
     .assistant_close = "{eos}\n"},
    {.name = "notes",  // the bundled model: the system prompt is the note that questions are about
     .mark = "Question: ",
     .second_mark = "Answer:",
     .system_open = "",
     .system_close = "",
     .user_open = "\nQuestion: ",
     .user_close = "\nAnswer:",
     .assistant_lead = " ",
     .assistant_close = "<|end|>",
     .trims_answers = true},
};

std::string_view trimmed(std::string_view text) {
    constexpr std::string_view kSpace = " \t\n\r\v\f";
    const size_t first = text.find_first_not_of(kSpace);
    if (first == text.npos) return {};
    return text.substr(first, text.find_last_not_of(kSpace) + 1 - first);
}

bool contains(std::string_view text, const char *part) {
    return part == nullptr || text.find(part) != text.npos;
}

std::vector<const char *> known_names() {
    std::vector<const char *> names;
    for (const ChatTemplate &family : kTemplates) names.push_back(family.name);
    return names;
}

const ChatTemplate *find_family(std::string_view jinja, const std::optional<std::string> &name) {
    for (const ChatTemplate &family : kTemplates) {
        const bool found =
            name ? *name == family.name
                 : contains(jinja, family.mark) && contains(jinja, family.second_mark);
        if (found) return &family;
    }
    if (name) {
        throw OptionError(
            str("template: one of ", join(known_names()), " expected, found \"", *name, "\""));
    }
    throw UnsupportedError(str("chat: a model with a chat template of the families ",
                               join(known_names()), " expected, found ",
                               jinja.empty() ? "none" : "another",
                               "; --template NAME says which one to write"));
}

// The system prompt that a chatml template writes where none is given: a literal between the two
// marks, in which Jinja may spell a line break as \n.
std::optional<std::string> default_system(std::string_view jinja) {
    constexpr std::string_view kOpen = "<|im_start|>system";
    constexpr std::string_view kClose = "<|im_end|>";
    for (size_t at = jinja.find(kOpen); at != jinja.npos; at = jinja.find(kOpen, at + 1)) {
        std::string_view text = jinja.substr(at + kOpen.size());
        text = text.substr(0, text.find(kClose));
        if (text.starts_with("\n")) {
            text.remove_prefix(1);
        } else if (text.starts_with("\\n")) {
            text.remove_prefix(2);
        } else {
            continue;
        }
        if (text.empty() || text.find_first_of("'\"{}") != text.npos) continue;
        std::string literal;
        for (size_t i = 0; i < text.size(); ++i) {
            const bool line_break = text.substr(i, 2) == "\\n";
            literal += line_break ? '\n' : text[i];
            i += line_break;
        }
        return literal;
    }
    return std::nullopt;
}

std::string special_text(const Tokenizer &tokenizer, int32_t id) {
    return id < 0 ? std::string() : std::string(tokenizer.token_text(id));
}

}  // namespace

std::span<const ChatTemplate> chat_templates() {
    return kTemplates;
}

ChatFormat::ChatFormat(const Tokenizer &tokenizer, const std::optional<std::string> &name)
    : ChatFormat(tokenizer.chat_template(), name, special_text(tokenizer, tokenizer.bos()),
                 special_text(tokenizer, tokenizer.eos())) {}

ChatFormat::ChatFormat(std::string_view jinja, const std::optional<std::string> &name,
                       std::string bos, std::string eos)
    : family_(find_family(jinja, name)), bos_(std::move(bos)), eos_(std::move(eos)) {
    const bool every_turn = contains(family_->user_open, "{bos}");
    begins_with_bos_ = !every_turn && contains(jinja, "bos_token");
    if (contains(family_->mark, "<|im_start|>")) default_system_ = default_system(jinja);
}

std::string ChatFormat::fill(std::string_view text) const {
    std::string filled;
    while (!text.empty()) {
        const bool bos = text.starts_with("{bos}");
        const bool eos = text.starts_with("{eos}");
        filled += bos ? bos_ : eos ? eos_ : std::string(1, text[0]);
        text.remove_prefix(bos || eos ? 5 : 1);
    }
    return filled;
}

std::string ChatFormat::opening(const std::optional<std::string> &system) const {
    std::string block;
    if (const auto &text = system ? system : default_system_) {
        block = fill(family_->system_open);
        block += family_->trims_messages ? trimmed(*text) : std::string_view(*text);
        block += fill(family_->system_close);
    }
    const std::string bos = begins_with_bos_ ? bos_ : "";
    const std::string open = fill(family_->user_open);
    return family_->system_in_message ? bos + open + block : bos + block + open;
}

std::string ChatFormat::message(std::string_view text) const {
    return std::string(family_->trims_messages ? trimmed(text) : text) + fill(family_->user_close);
}

std::string ChatFormat::answer(std::string_view text) const {
    return std::string(family_->assistant_lead)
        .append(family_->trims_answers ? trimmed(text) : text);
}

std::string ChatFormat::close() const {
    return fill(family_->assistant_close);
}

std::string ChatFormat::open_message() const {
    return fill(family_->user_open);
}

std::string ChatFormat::close_message() const {
    return fill(family_->user_close) + close();
}

}  // namespace a2sf
