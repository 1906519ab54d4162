// UTF-8 and code point categories: what the pre-tokenizers and the stream decoder know of Unicode.
// No normalisation, no case mapping, no locale. The category table is generated
// (generate_unicode_tables.py).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace a2sf {

// General categories as far as the patterns tell them apart. Space is \s: Unicode White_Space.
// The numbers are those of the generated table.
enum class Category : uint8_t {
    Other = 0,
    UpperLetter = 1,
    LowerLetter = 2,
    TitleLetter = 3,
    ModifierLetter = 4,
    OtherLetter = 5,
    Mark = 6,
    Number = 7,
    Punctuation = 8,
    Symbol = 9,
    Space = 10,
};

inline bool is_letter(Category category) {
    return category >= Category::UpperLetter && category <= Category::OtherLetter;
}

Category category_of(uint32_t code_point);

constexpr uint32_t kReplacementCharacter = 0xFFFD;

// One step of a UTF-8 decoder over text[pos..]. Ill-formed bytes are taken as Unicode recommends
// (standard section 3.9, "maximal subparts"): Invalid covers the longest start of a character that
// cannot be completed, Truncated one that the end of the text cuts off.
struct Utf8Step {
    enum class State : uint8_t { Valid, Invalid, Truncated } state;
    uint32_t n_bytes;     // at least 1
    uint32_t code_point;  // kReplacementCharacter unless Valid
};
Utf8Step utf8_step(std::string_view text, size_t pos);

void append_utf8(std::string &out, uint32_t code_point);

// A text as code points, each with its category and where its bytes start. Owner: one encode call.
// Each ill-formed piece is one U+FFFD here; its bytes are still those between the offsets.
struct CodePoints {
    std::vector<uint32_t> values;      // [n]
    std::vector<Category> categories;  // [n]
    std::vector<uint32_t> offsets;     // [n + 1], bytes

    explicit CodePoints(std::string_view text);
    size_t size() const { return values.size(); }
};

// The generated table: each entry opens a run of one category, first code point << 4 | Category.
extern const uint32_t kCategoryRuns[];  // [kCategoryRunCount], ascending
extern const size_t kCategoryRunCount;

}  // namespace a2sf
