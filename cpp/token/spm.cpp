// Ranking tokens by score and merging characters. See spm.h.
#include "token/spm.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>

#include "base/error.h"
#include "gguf/file.h"
#include "token/byte_alphabet.h"
#include "token/merge.h"
#include "token/unicode.h"

namespace a2sf {
namespace {

std::vector<uint32_t> ranks_by_score(const GgufValue::Floats &scores) {
    GgufValue::Floats order = scores;
    std::sort(order.begin(), order.end(), std::greater<>());
    order.erase(std::unique(order.begin(), order.end()), order.end());
    std::vector<uint32_t> ranks(scores.size());
    for (size_t i = 0; i < scores.size(); ++i) {
        const auto at = std::lower_bound(order.begin(), order.end(), scores[i], std::greater<>());
        ranks[i] = static_cast<uint32_t>(at - order.begin());
    }
    return ranks;
}

}  // namespace

SpmEncoder::SpmEncoder(const GgufFile &file, const Vocabulary &vocabulary, int32_t unknown)
    : vocabulary_(vocabulary), unknown_(unknown) {
    const GgufValue::Floats *scores = file.find_floats("tokenizer.ggml.scores");
    if (!scores) throw GgufError("tokenizer.ggml.scores: an array of floats expected, found none");
    if (scores->size() != vocabulary.size()) {
        throw GgufError(str("tokenizer.ggml.scores: ", vocabulary.size(),
                            " entries expected (one per token), found ", scores->size()));
    }
    for (size_t i = 0; i < scores->size(); ++i) {
        if (std::isnan((*scores)[i])) {
            throw GgufError(str("tokenizer.ggml.scores[", i, "]: a number expected, found NaN"));
        }
    }
    ranks_ = ranks_by_score(*scores);
    byte_tokens_.fill(-1);
    for (uint32_t byte = 0; byte < byte_tokens_.size(); ++byte) {
        constexpr std::string_view kDigits = "0123456789ABCDEF";
        const char text[] = {'<', '0', 'x', kDigits[byte >> 4], kDigits[byte & 15], '>'};
        byte_tokens_[byte] = vocabulary.find({text, sizeof text});
    }
}

void SpmEncoder::encode(std::string_view text, bool space_prefix, std::vector<int32_t> &ids) const {
    std::string escaped(space_prefix ? kSpaceMark : "");
    for (const char c : text) {
        if (c == ' ') {
            escaped += kSpaceMark;
        } else {
            escaped += c;
        }
    }
    Merger merger;
    for (size_t pos = 0; pos < escaped.size();) {
        const uint32_t n_bytes = utf8_step(escaped, pos).n_bytes;
        const int32_t id = vocabulary_.find_ordinary({escaped.data() + pos, n_bytes});
        merger.add_symbol(static_cast<uint32_t>(pos), n_bytes, id);
        pos += n_bytes;
    }
    merger.run([&](const Symbol &left, const Symbol &right) -> Merge {
        const size_t n_bytes = left.n_bytes + right.n_bytes;
        if (n_bytes > vocabulary_.max_text_bytes()) return {};
        const int32_t id = vocabulary_.find_ordinary({escaped.data() + left.begin, n_bytes});
        return id < 0 ? Merge{} : Merge{ranks_[static_cast<size_t>(id)], id};
    });
    merger.for_each([&](const Symbol &symbol) {
        if (symbol.id >= 0) {
            ids.push_back(symbol.id);
        } else {
            append_bytes({escaped.data() + symbol.begin, symbol.n_bytes}, ids);
        }
    });
}

void SpmEncoder::append_bytes(std::string_view character, std::vector<int32_t> &ids) const {
    const auto token_of = [this](char c) { return byte_tokens_[static_cast<uint8_t>(c)]; };
    if (std::any_of(character.begin(), character.end(), [&](char c) { return token_of(c) < 0; })) {
        if (unknown_ >= 0) ids.push_back(unknown_);
        return;
    }
    for (const char c : character) ids.push_back(token_of(c));
}

size_t SpmEncoder::n_missing_bytes() const {
    return static_cast<size_t>(std::count(byte_tokens_.begin(), byte_tokens_.end(), -1));
}

}  // namespace a2sf
