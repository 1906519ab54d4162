// Reading the merges and applying them. See bpe.h.
#include "token/bpe.h"

#include <algorithm>
#include <bit>
#include <unordered_map>

#include "base/error.h"
#include "gguf/file.h"
#include "token/byte_alphabet.h"

namespace a2sf {
namespace {

const GgufValue::Strings &merge_lines(const GgufFile &file) {
    const GgufValue::Strings *lines = file.find_strings("tokenizer.ggml.merges");
    if (!lines) throw GgufError("tokenizer.ggml.merges: an array of strings expected, found none");
    if (lines->size() > INT32_MAX) {
        throw GgufError(
            str("tokenizer.ggml.merges: fewer than 2^31 entries expected, found ", lines->size()));
    }
    return *lines;
}

// Gives each text an id: its token's, or one of its own after the vocabulary.
class Symbols {
  public:
    explicit Symbols(const Vocabulary &vocabulary) : vocabulary_(vocabulary) {}

    int32_t id_of(std::string_view text) { return id_of(text, vocabulary_.find_ordinary(text)); }

    // As id_of(), for the result of a merge: -1 for a Control or Unknown token, which no merge may
    // make (see find_ordinary).
    int32_t merged_id_of(std::string_view text) {
        const int32_t token = vocabulary_.find(text);
        if (token >= 0 && vocabulary_.is_hidden(token)) return -1;
        return id_of(text, token);
    }

  private:
    int32_t id_of(std::string_view text, int32_t token) {
        if (token >= 0) return token;
        const size_t next = vocabulary_.size() + others_.size();
        if (next >= INT32_MAX) {
            throw GgufError("tokenizer.ggml.merges: fewer than 2^31 symbols expected, found more");
        }
        return others_.try_emplace(std::string(text), static_cast<int32_t>(next)).first->second;
    }

    const Vocabulary &vocabulary_;
    std::unordered_map<std::string, int32_t> others_;
};

}  // namespace

MergeTable::MergeTable(size_t n_merges) : slots_(std::bit_ceil(n_merges * 2 + 1)) {}

size_t MergeTable::slot_of(int32_t left, int32_t right) const {
    // A 64-bit finaliser (the multipliers are those of SplitMix64): near ids spread over the table.
    uint64_t hash = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
    hash = (hash ^ hash >> 30) * 0xBF58476D1CE4E5B9u;
    hash = (hash ^ hash >> 27) * 0x94D049BB133111EBu;
    hash ^= hash >> 31;
    size_t at = hash & (slots_.size() - 1);
    while (slots_[at].left >= 0 && (slots_[at].left != left || slots_[at].right != right)) {
        at = (at + 1) & (slots_.size() - 1);
    }
    return at;
}

void MergeTable::insert(int32_t left, int32_t right, Merge merge) {
    Slot &slot = slots_[slot_of(left, right)];
    if (slot.left < 0) slot = {left, right, merge};
}

Merge MergeTable::find(int32_t left, int32_t right) const {
    return slots_[slot_of(left, right)].merge;
}

BpeEncoder::BpeEncoder(const GgufFile &file, const Vocabulary &vocabulary,
                       const PreTokenizer &pre_tokenizer, int32_t unknown)
    : vocabulary_(vocabulary),
      pre_tokenizer_(pre_tokenizer),
      unknown_(unknown),
      merges_(merge_lines(file).size()) {
    Symbols symbols(vocabulary);
    for (size_t byte = 0; byte < byte_symbols_.size(); ++byte) {
        byte_symbols_[byte] = symbols.id_of(byte_character(static_cast<uint8_t>(byte)));
    }
    const GgufValue::Strings &lines = merge_lines(file);
    std::string merged;
    for (size_t i = 0; i < lines.size(); ++i) {
        const std::string_view line = lines[i];
        const size_t space = line.find(' ', 1);  // a symbol may itself be a space
        if (space == std::string_view::npos || space + 1 == line.size()) {
            throw GgufError(str("tokenizer.ggml.merges[", i,
                                "]: two symbols separated by a space expected, found \"",
                                printable(line, 40), "\""));
        }
        const std::string_view left = line.substr(0, space);
        const std::string_view right = line.substr(space + 1);
        merged.assign(left).append(right);
        const Merge merge = {static_cast<uint32_t>(i), symbols.merged_id_of(merged)};
        if (merge.id < 0) continue;
        merges_.insert(symbols.id_of(left), symbols.id_of(right), merge);
    }
}

void BpeEncoder::encode(std::string_view text, std::vector<int32_t> &ids) const {
    Merger merger;
    uint32_t begin = 0;
    for (const uint32_t end : split_words(pre_tokenizer_, text)) {
        encode_word(text.substr(begin, end - begin), merger, ids);
        begin = end;
    }
}

bool BpeEncoder::take_whole(std::string_view word, std::vector<int32_t> &ids) const {
    if (word.size() > vocabulary_.max_text_bytes()) return false;
    std::string text;
    for (const char c : word) text += byte_character(static_cast<uint8_t>(c));
    const int32_t id = vocabulary_.find_ordinary(text);
    if (id >= 0) ids.push_back(id);
    return id >= 0;
}

void BpeEncoder::encode_word(std::string_view word, Merger &merger,
                             std::vector<int32_t> &ids) const {
    if (pre_tokenizer_.ignore_merges && take_whole(word, ids)) return;
    const auto n_vocab = static_cast<int32_t>(vocabulary_.size());
    const auto byte_symbol = [&](size_t at) {
        return byte_symbols_[static_cast<uint8_t>(word[at])];
    };
    merger.clear();
    for (size_t i = 0; i < word.size(); ++i) {
        merger.add_symbol(static_cast<uint32_t>(i), 1, byte_symbol(i));
    }
    merger.run([this](const Symbol &left, const Symbol &right) {
        return merges_.find(left.id, right.id);
    });
    merger.for_each([&](const Symbol &symbol) {
        if (symbol.id < n_vocab) {
            ids.push_back(symbol.id);
            return;
        }
        // The merges ended on a text that is no token: its bytes, as far as they are tokens.
        for (uint32_t i = 0; i < symbol.n_bytes; ++i) {
            const int32_t id = byte_symbol(symbol.begin + i);
            if (id < n_vocab) {
                ids.push_back(id);
            } else if (unknown_ >= 0) {
                ids.push_back(unknown_);
            }
        }
    });
}

size_t BpeEncoder::n_missing_bytes() const {
    return static_cast<size_t>(std::count_if(
        byte_symbols_.begin(), byte_symbols_.end(),
        [this](int32_t symbol) { return static_cast<size_t>(symbol) >= vocabulary_.size(); }));
}

}  // namespace a2sf
