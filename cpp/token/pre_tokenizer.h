// Pre-tokenizers of byte-level BPE: where a text is cut into words before any merge.
// The patterns are regular expressions in the models' own files; here each is written by hand as a
// scan over code points, so that no text makes it slow and no regex library is needed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "token/unicode.h"

namespace a2sf {

// Cuts text[begin, end) into words: appends the end of each, the last one being `end`.
using SplitStage = void (*)(const CodePoints &text, size_t begin, size_t end,
                            std::vector<uint32_t> &word_ends);

// A name that tokenizer.ggml.pre may hold. Each stage cuts the pieces that the one before it left.
struct PreTokenizer {
    std::string_view name;
    std::array<SplitStage, 6> stages;  // unused ones are null
    bool ignore_merges;                // a word that is a token is that token, whatever the merges
    bool add_bos;                      // when the metadata does not say
};

// THE list of pre-tokenizers. The first is "default".
std::span<const PreTokenizer> pre_tokenizer_registry();
const PreTokenizer *find_pre_tokenizer(std::string_view name);

// Byte offset of the end of each word; the last is text.size(). Empty for an empty text.
std::vector<uint32_t> split_words(const PreTokenizer &pre_tokenizer, std::string_view text);

}  // namespace a2sf
