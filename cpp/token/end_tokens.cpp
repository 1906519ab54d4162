// The list of end-of-generation tokens. See end_tokens.h.
#include "token/end_tokens.h"

#include <string_view>

namespace a2sf {
namespace {

// Source: the chat formats of the models; llama.cpp recognises the same ones.
constexpr std::string_view kEndTexts[] = {
    "<|eot_id|>",                               // Llama 3
    "<|eom_id|>",                               // Llama 3, tool calls
    "<|eot|>",                                  // Llama 4
    "<|im_end|>",                               // ChatML
    "<|end|>",                                  // Phi 3
    "<|return|>",                               // gpt-oss
    "<|call|>",                                 // gpt-oss, tool calls
    "<end_of_turn>",                            // Gemma
    "<|endoftext|>",                            // GPT-2 and many others
    "<|end_of_text|>",                          // Llama 3, Granite
    "<EOT>",                                    // CodeLlama
    "_<EOT>",                                   // CodeLlama
    "\u2581<EOT>",                              // CodeLlama
    "<end_of_utterance>",                       // SmolVLM
    "<\uFF5Cend\u2581of\u2581sentence\uFF5C>",  // DeepSeek
};

}  // namespace

std::vector<bool> find_end_tokens(const GgufFile &file, const Vocabulary &vocabulary, int32_t eos) {
    std::vector<bool> ends(vocabulary.size());
    const auto mark = [&ends](int32_t id) {
        if (id >= 0) ends[static_cast<size_t>(id)] = true;
    };
    mark(eos);
    mark(vocabulary.special_id(file, "eot"));
    mark(vocabulary.special_id(file, "eom"));
    for (const std::string_view text : kEndTexts) {
        const int32_t id = vocabulary.find(text);
        // An ordinary token of such a text is text. llama.cpp takes it for a control token.
        if (id < 0) continue;
        const TokenType type = vocabulary.type(id);
        if (type == TokenType::Control || type == TokenType::UserDefined) mark(id);
    }
    // In gpt-oss "<|end|>" only ends a message of several.
    const int32_t end = vocabulary.find("<|end|>");
    if (end >= 0 && vocabulary.find("<|return|>") >= 0 && vocabulary.find("<|call|>") >= 0) {
        ends[static_cast<size_t>(end)] = false;
    }
    return ends;
}

}  // namespace a2sf
