// The vocabulary as tokenizer.ggml.* states it: token texts, types and the special ids.
// Knows nothing of merging or of pre-tokenizers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "token/tokenizer.h"

namespace a2sf {

// Token texts in one block, by id and by text. Owner: Tokenizer::State. Not movable: the encoders
// refer to it.
class Vocabulary {
  public:
    // Throws GgufError where the arrays contradict each other.
    explicit Vocabulary(const GgufFile &file);
    Vocabulary(const Vocabulary &) = delete;
    Vocabulary &operator=(const Vocabulary &) = delete;

    size_t size() const { return types_.size(); }
    std::string_view text(int32_t id) const {
        const auto i = static_cast<size_t>(id);
        return std::string_view(block_).substr(ends_[i], ends_[i + 1] - ends_[i]);
    }
    TokenType type(int32_t id) const { return types_[static_cast<size_t>(id)]; }
    size_t max_text_bytes() const { return max_text_bytes_; }

    // The id of a text, -1 when there is none. Of equal texts the last counts, as in llama.cpp.
    int32_t find(std::string_view text) const { return slots_[slot_of(text)].id; }

    // As find(), but never a Control or Unknown token nor one that spells a byte ("<0x0A>"): what
    // ordinary text may become by merging. As in SentencePiece; llama.cpp takes any token here, so
    // that a prompt could forge control tokens.
    int32_t find_ordinary(std::string_view text) const;

    // Control and Unknown tokens: no text of their own unless asked for.
    bool is_hidden(int32_t id) const {
        return type(id) == TokenType::Control || type(id) == TokenType::Unknown;
    }

    // tokenizer.ggml.<name>_token_id, or `fallback` (when that is a special token), or -1.
    int32_t special_id(const GgufFile &file, std::string_view name, int32_t fallback = -1) const;

  private:
    // Open addressing: where a text is, or the free slot where it would go.
    struct Slot {
        uint32_t hash = 0;
        int32_t id = -1;  // -1: free
    };
    size_t slot_of(std::string_view text) const;
    void read_types(const GgufFile &file);
    void index_texts();

    std::string block_;
    std::vector<size_t> ends_;      // [n_vocab + 1], ends_[0] = 0
    std::vector<TokenType> types_;  // [n_vocab]
    std::vector<Slot> slots_;       // a power of two, at most half full
    size_t max_text_bytes_ = 0;
};

// "<0x0A>" is byte 10; -1 for any other text.
int byte_of_text(std::string_view text);

}  // namespace a2sf
