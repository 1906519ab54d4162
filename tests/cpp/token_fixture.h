// Small vocabularies built in memory, for the tokenizer's tests and its fuzz target.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/file.h"
#include "gguf_writer.h"
#include "token/byte_alphabet.h"
#include "token/tokenizer.h"

namespace a2sf_test {

// The tokenizer.ggml.* metadata of a file. What is empty or nullopt is not written.
struct VocabularySpec {
    std::optional<std::string> model, pre;
    std::vector<std::string> tokens, merges;
    std::vector<float> scores;
    std::vector<int32_t> types;
    std::vector<std::pair<std::string, uint32_t>> ids;  // {"bos", 1} is bos_token_id
    std::vector<std::pair<std::string, bool>> flags;    // {"add_bos_token", true}
    std::string chat_template;

    int32_t add(const std::string &text, a2sf::TokenType type = a2sf::TokenType::Normal,
                float score = 0) {
        tokens.push_back(text);
        types.push_back(static_cast<int32_t>(type));
        scores.push_back(score);
        return static_cast<int32_t>(tokens.size()) - 1;
    }

    std::vector<std::byte> bytes() const {
        GgufWriter writer;
        writer.add("general.architecture", "llama");
        if (model) writer.add("tokenizer.ggml.model", *model);
        if (pre) writer.add("tokenizer.ggml.pre", *pre);
        if (!tokens.empty()) writer.add_array("tokenizer.ggml.tokens", tokens);
        if (!scores.empty()) writer.add_array("tokenizer.ggml.scores", scores);
        if (!types.empty()) writer.add_array("tokenizer.ggml.token_type", types);
        if (!merges.empty()) writer.add_array("tokenizer.ggml.merges", merges);
        for (const auto &[name, id] : ids) writer.add("tokenizer.ggml." + name + "_token_id", id);
        for (const auto &[name, flag] : flags) writer.add("tokenizer.ggml." + name, flag);
        if (!chat_template.empty()) writer.add("tokenizer.chat_template", chat_template);
        return writer.bytes();
    }

    // Through a file that is gone when this returns: the tokenizer must have copied.
    a2sf::Tokenizer load() const {
        const std::vector<std::byte> data = bytes();
        return a2sf::Tokenizer(a2sf::GgufFile::parse(data, "test"));
    }
};

inline std::string in_alphabet(std::string_view bytes) {
    std::string text;
    for (const char c : bytes) text += a2sf::byte_character(static_cast<uint8_t>(c));
    return text;
}

// Byte-level BPE: ids 0 to 255 are the bytes, then one token for each merge of `pairs` (given as
// bytes), then <|begin|> and <|end|> (Control), <tool> (UserDefined), <unk> (Unknown).
inline VocabularySpec bpe_spec(const std::string &pre = "gpt-2") {
    VocabularySpec spec;
    spec.model = "gpt2";
    spec.pre = pre;
    for (int byte = 0; byte < 256; ++byte) {
        spec.add(in_alphabet(std::string(1, static_cast<char>(byte))));
    }
    const std::pair<const char *, const char *> pairs[] = {
        {"h", "e"},   {"l", "l"},   {"he", "ll"},     {"hell", "o"},        {" ", "w"},
        {"o", "r"},   {" w", "or"}, {" wor", "l"},    {" worl", "d"},       {" ", " "},
        {"  ", "  "}, {"1", "2"},   {"\xC3", "\xA9"}, {"\xF0\x9F", "\x98"}, {"\xF0", "\x9F"},
        {"a", "a"},   {"aa", "aa"}, {"aaaa", "aaaa"}};
    for (const auto &[left, right] : pairs) {
        spec.merges.push_back(in_alphabet(left) + " " + in_alphabet(right));
        spec.add(in_alphabet(std::string(left) + right));
    }
    spec.ids.emplace_back("bos", spec.add("<|begin|>", a2sf::TokenType::Control));
    spec.ids.emplace_back("eos", spec.add("<|end|>", a2sf::TokenType::Control));
    spec.add("<tool>", a2sf::TokenType::UserDefined);
    spec.ids.emplace_back("unknown", spec.add("<unk>", a2sf::TokenType::Unknown));
    return spec;
}

// SentencePiece: 0 <unk>, 1 <s>, 2 </s>, 3 to 258 the bytes, then words and <tool> (UserDefined).
inline VocabularySpec spm_spec() {
    VocabularySpec spec;
    spec.model = "llama";
    spec.add("<unk>", a2sf::TokenType::Unknown);
    spec.add("<s>", a2sf::TokenType::Control);
    spec.add("</s>", a2sf::TokenType::Control);
    for (int byte = 0; byte < 256; ++byte) {
        const char digits[] = "0123456789ABCDEF";
        spec.add(std::string("<0x") + digits[byte >> 4] + digits[byte & 15] + ">",
                 a2sf::TokenType::Byte);
    }
    float score = 0;
    for (const char *text :
         {"\u2581h", "el",   "lo",        "\u2581hel",   "\u2581hello", "\u2581w",
          "or",      "ld",   "\u2581wor", "\u2581world", "<s",          "\u2581\u2581",
          "aa",      "aaaa", "\u2581",    "h",           "e",           "l",
          "o",       "w",    "r",         "d",           "a",           "<",
          "s",       ">",    "é"}) {
        spec.add(text, a2sf::TokenType::Normal, score -= 1);
    }
    spec.add("<tool>", a2sf::TokenType::UserDefined);
    return spec;
}

}  // namespace a2sf_test
