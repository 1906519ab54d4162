// Byte-level BPE ("gpt2"): words are cut by a pre-tokenizer, then their bytes are merged by rank.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "token/merge.h"
#include "token/pre_tokenizer.h"
#include "token/vocabulary.h"

namespace a2sf {

// (left id, right id) -> Merge: open addressing in one block. Filled once, then only read.
class MergeTable {
  public:
    explicit MergeTable(size_t n_merges);
    void insert(int32_t left, int32_t right, Merge merge);  // the first of equals stays
    Merge find(int32_t left, int32_t right) const;

  private:
    struct Slot {
        int32_t left = -1, right = -1;  // left < 0: free
        Merge merge;
    };
    size_t slot_of(int32_t left, int32_t right) const;

    std::vector<Slot> slots_;  // a power of two, at most half full
};

// The merges, in terms of symbol ids: token ids, and from n_vocab on ids for texts that are no
// tokens of ordinary text (merges may pass through them). Owner: Tokenizer::State.
class BpeEncoder {
  public:
    // Throws GgufError when tokenizer.ggml.merges is missing or malformed.
    BpeEncoder(const GgufFile &file, const Vocabulary &vocabulary,
               const PreTokenizer &pre_tokenizer, int32_t unknown);

    // Appends the ids of a text without special tokens.
    void encode(std::string_view text, std::vector<int32_t> &ids) const;

    // How many of the 256 bytes have no token: text that holds one gives `unknown`, or nothing.
    size_t n_missing_bytes() const;

  private:
    void encode_word(std::string_view word, Merger &merger, std::vector<int32_t> &ids) const;
    bool take_whole(std::string_view word, std::vector<int32_t> &ids) const;

    const Vocabulary &vocabulary_;
    const PreTokenizer &pre_tokenizer_;
    int32_t unknown_;
    std::array<int32_t, 256> byte_symbols_{};  // symbol of each byte
    MergeTable merges_;
};

}  // namespace a2sf
