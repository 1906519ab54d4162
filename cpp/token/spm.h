// SentencePiece-BPE ("llama"): characters are merged into the token of the best score; what is no
// token falls back to its bytes.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "token/vocabulary.h"

namespace a2sf {

// U+2581, which stands for a space in the vocabulary.
constexpr std::string_view kSpaceMark = "\u2581";

// Owner: Tokenizer::State.
class SpmEncoder {
  public:
    // Throws GgufError when tokenizer.ggml.scores is missing, of another length or holds a NaN.
    SpmEncoder(const GgufFile &file, const Vocabulary &vocabulary, int32_t unknown);

    // Appends the ids of a text without special tokens, after a space when space_prefix.
    void encode(std::string_view text, bool space_prefix, std::vector<int32_t> &ids) const;

    // How many of the 256 bytes have no token: text that needs one gives `unknown`, or nothing.
    size_t n_missing_bytes() const;

  private:
    void append_bytes(std::string_view character, std::vector<int32_t> &ids) const;

    const Vocabulary &vocabulary_;
    int32_t unknown_;
    std::vector<uint32_t> ranks_;             // [n_vocab], 0: best score; equal scores share one
    std::array<int32_t, 256> byte_tokens_{};  // -1: none
};

}  // namespace a2sf
