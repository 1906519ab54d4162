// The registry of pre-tokenizers and the scans it is made of. See pre_tokenizer.h.
// Each scan states its pattern. Cost: every scan is linear in its piece, whatever the text.
#include "token/pre_tokenizer.h"

#include <algorithm>
#include <iterator>

namespace a2sf {
namespace {

using Ends = std::vector<uint32_t>;

void push_end(Ends &ends, size_t end) {
    ends.push_back(static_cast<uint32_t>(end));
}

bool is_newline(uint32_t code_point) {
    return code_point == '\r' || code_point == '\n';
}

// [^\s\p{L}\p{N}]
bool is_other(Category category) {
    return !is_letter(category) && category != Category::Number && category != Category::Space;
}

// The first position in [pos, end) that `accept(text, position)` refuses.
template <typename Accept>
size_t run_end(const CodePoints &text, size_t pos, size_t end, Accept accept) {
    while (pos < end && accept(text, pos)) ++pos;
    return pos;
}

bool letter_at(const CodePoints &text, size_t pos) {
    return is_letter(text.categories[pos]);
}
bool number_at(const CodePoints &text, size_t pos) {
    return text.categories[pos] == Category::Number;
}
bool space_at(const CodePoints &text, size_t pos) {
    return text.categories[pos] == Category::Space;
}
bool other_at(const CodePoints &text, size_t pos) {
    return is_other(text.categories[pos]);
}
bool newline_at(const CodePoints &text, size_t pos) {
    return is_newline(text.values[pos]);
}
bool punctuation_at(const CodePoints &text, size_t pos) {
    return text.categories[pos] == Category::Punctuation;
}

// 's|'t|'re|'ve|'m|'ll|'d at pos: where it ends, or pos. Case: ASCII only (llama.cpp as well; a
// full (?i) would also take U+017F for s).
size_t contraction_end(const CodePoints &text, size_t pos, size_t end, bool any_case) {
    const auto letter = [&](size_t at) -> uint32_t {
        if (at >= end) return 0;
        const uint32_t c = text.values[at];
        return any_case && c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
    };
    if (text.values[pos] != '\'') return pos;
    const uint32_t first = letter(pos + 1);
    const uint32_t second = letter(pos + 2);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return pos + 2;
    if ((first == 'r' || first == 'v') && second == 'e') return pos + 3;
    return first == 'l' && second == 'l' ? pos + 3 : pos;
}

// \s+(?!\S)|\s+ at a space: the run, less its last space when a word follows and the run is longer.
size_t spaces_end(const CodePoints &text, size_t pos, size_t end) {
    const size_t run = run_end(text, pos, end, space_at);
    return run == end || run == pos + 1 ? run : run - 1;
}

// \s*[\r\n]+|\s+(?!\S)|\s+ at a space.
size_t lines_or_spaces_end(const CodePoints &text, size_t pos, size_t end) {
    for (size_t at = run_end(text, pos, end, space_at); at > pos; --at) {
        if (newline_at(text, at - 1)) return at;
    }
    return spaces_end(text, pos, end);
}

// Cuts a piece into consecutive matches: next(text, pos, end) > pos is where the match at pos ends.
template <size_t (*next)(const CodePoints &, size_t, size_t)>
void scan(const CodePoints &text, size_t begin, size_t end, Ends &ends) {
    while (begin < end) push_end(ends, begin = next(text, begin, end));
}

// Makes each match a word, and so each gap between matches. match(text, pos, end) is where the
// match at pos ends, or pos. It must fail in constant time.
template <size_t (*match)(const CodePoints &, size_t, size_t)>
void isolate(const CodePoints &text, size_t begin, size_t end, Ends &ends) {
    size_t gap = begin;
    for (size_t pos = begin; pos < end;) {
        const size_t matched = match(text, pos, end);
        if (matched == pos) {
            ++pos;
            continue;
        }
        if (gap < pos) push_end(ends, pos);
        push_end(ends, matched);
        gap = pos = matched;
    }
    if (gap < end) push_end(ends, end);
}

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
size_t gpt2_next(const CodePoints &text, size_t pos, size_t end) {
    const size_t contraction = contraction_end(text, pos, end, false);
    if (contraction > pos) return contraction;
    const size_t start = pos + (text.values[pos] == ' ' && pos + 1 < end);
    if (letter_at(text, start)) return run_end(text, start, end, letter_at);
    if (number_at(text, start)) return run_end(text, start, end, number_at);
    if (other_at(text, start)) return run_end(text, start, end, other_at);
    return spaces_end(text, pos, end);
}

// The part that the newer patterns share, after their words:
// \p{N}{1,max_digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+   ([\r\n/]* with slash)
size_t after_words(const CodePoints &text, size_t pos, size_t end, size_t max_digits, bool slash) {
    if (number_at(text, pos)) {
        return run_end(text, pos, std::min(end, pos + max_digits), number_at);
    }
    const size_t start = pos + (text.values[pos] == ' ' && pos + 1 < end);
    if (other_at(text, start)) {
        const size_t symbols = run_end(text, start, end, other_at);
        return run_end(text, symbols, end, [slash](const CodePoints &t, size_t at) {
            return newline_at(t, at) || (slash && t.values[at] == '/');
        });
    }
    return lines_or_spaces_end(text, pos, end);
}

// [^\r\n\p{L}\p{N}] at pos: what may stand before a word and belong to it.
bool prefix_at(const CodePoints &text, size_t pos) {
    return !newline_at(text, pos) && !letter_at(text, pos) && !number_at(text, pos);
}

// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+| and after_words without slash.
// max_digits 3: llama 3; 1: Qwen 2.
template <size_t max_digits>
size_t llama3_next(const CodePoints &text, size_t pos, size_t end) {
    const size_t contraction = contraction_end(text, pos, end, true);
    if (contraction > pos) return contraction;
    const size_t start = pos + prefix_at(text, pos);
    if (start < end && letter_at(text, start)) return run_end(text, start, end, letter_at);
    return after_words(text, pos, end, max_digits, false);
}

// [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
bool upper_at(const CodePoints &text, size_t pos) {
    const Category c = text.categories[pos];
    return (is_letter(c) && c != Category::LowerLetter) || c == Category::Mark;
}

// [\p{Ll}\p{Lm}\p{Lo}\p{M}]
bool lower_at(const CodePoints &text, size_t pos) {
    const Category c = text.categories[pos];
    return c == Category::LowerLetter || c == Category::ModifierLetter ||
           c == Category::OtherLetter || c == Category::Mark;
}

// upper*lower+ at pos, upper and lower as above: where it ends, or pos.
size_t capitalised_end(const CodePoints &text, size_t pos, size_t end) {
    const size_t uppers = run_end(text, pos, end, upper_at);
    const size_t lowers = run_end(text, uppers, end, lower_at);
    if (lowers > uppers) return lowers;
    // Nothing is left for lower+: upper* gives back down to the last of its letters that is both.
    for (size_t at = uppers; at > pos; --at) {
        if (lower_at(text, at - 1)) return at;
    }
    return pos;
}

// upper+lower* at pos: where it ends, or pos.
size_t upper_end(const CodePoints &text, size_t pos, size_t end) {
    const size_t uppers = run_end(text, pos, end, upper_at);
    return uppers == pos ? pos : run_end(text, uppers, end, lower_at);
}

// [^\r\n\p{L}\p{N}]?(upper*lower+)C|[^\r\n\p{L}\p{N}]?(upper+lower*)C| and after_words with slash,
// C being (?i:'s|'t|'re|'ve|'m|'ll|'d)? or nothing. This is the models' own pattern; llama.cpp
// approximates it (every letter outside ASCII counts as both cases, marks as neither).
template <size_t max_digits, bool contractions>
size_t gpt4o_next(const CodePoints &text, size_t pos, size_t end) {
    // The optional prefix is tried first with, then without: only a mark is both prefix and word.
    const size_t starts[] = {pos + prefix_at(text, pos), pos};
    for (const auto word_end : {capitalised_end, upper_end}) {
        for (const size_t start : starts) {
            const size_t word = word_end(text, start, end);
            if (word == start) continue;
            return contractions && word < end ? contraction_end(text, word, end, true) : word;
        }
    }
    return after_words(text, pos, end, max_digits, true);
}

size_t one_number(const CodePoints &text, size_t pos, size_t) {
    return pos + number_at(text, pos);
}

size_t numbers(const CodePoints &text, size_t pos, size_t end) {
    return run_end(text, pos, end, number_at);
}

// [0-9][0-9][0-9]
size_t three_digits(const CodePoints &text, size_t pos, size_t end) {
    if (end - pos < 3) return pos;
    const bool match = std::all_of(text.values.begin() + pos, text.values.begin() + pos + 3,
                                   [](uint32_t c) { return c >= '0' && c <= '9'; });
    return match ? pos + 3 : pos;
}

// [\p{P}$+<=>^~|]+ and, for falcon, the backtick.
template <bool backtick>
size_t punctuation(const CodePoints &text, size_t pos, size_t end) {
    return run_end(text, pos, end, [](const CodePoints &t, size_t at) {
        constexpr std::string_view kSymbols = "$+<=>^~|";
        const uint32_t c = t.values[at];
        return punctuation_at(t, at) || (backtick && c == '`') ||
               (c < 0x80 && kSymbols.find(static_cast<char>(c)) != std::string_view::npos);
    });
}

size_t one_newline(const CodePoints &text, size_t pos, size_t) {
    return pos + newline_at(text, pos);
}

// \s+$ of a piece as a word.
void trailing_spaces(const CodePoints &text, size_t begin, size_t end, Ends &ends) {
    size_t spaces = end;
    while (spaces > begin && space_at(text, spaces - 1)) --spaces;
    if (spaces > begin) push_end(ends, spaces);
    if (spaces < end) push_end(ends, end);
}

struct Range {
    uint32_t first, last;
};

template <size_t n>
bool in_ranges(const Range (&ranges)[n], uint32_t code_point) {
    const Range *above =
        std::upper_bound(std::begin(ranges), std::end(ranges), code_point,
                         [](uint32_t c, const Range &range) { return c < range.first; });
    return above != ranges && code_point <= above[-1].last;
}

// The letter class of deepseek-llm: cased letters, as its pattern enumerates them.
constexpr Range kDeepseekLetters[] = {
    {0x41, 0x5A},       {0x61, 0x7A},       {0xB5, 0xB5},       {0xC0, 0xD6},
    {0xD8, 0xF6},       {0xF8, 0x1BA},      {0x1BC, 0x1BF},     {0x1C4, 0x293},
    {0x295, 0x2AF},     {0x370, 0x373},     {0x376, 0x377},     {0x37B, 0x37D},
    {0x37F, 0x37F},     {0x386, 0x386},     {0x388, 0x38A},     {0x38C, 0x38C},
    {0x38E, 0x3A1},     {0x3A3, 0x3F5},     {0x3F7, 0x481},     {0x48A, 0x52F},
    {0x531, 0x556},     {0x10A0, 0x10C5},   {0x13A0, 0x13F5},   {0x13F8, 0x13FD},
    {0x1C90, 0x1CBA},   {0x1CBD, 0x1CBF},   {0x1D00, 0x1D2B},   {0x1D6B, 0x1D77},
    {0x1D79, 0x1D9A},   {0x1E00, 0x1F15},   {0x1F18, 0x1F1D},   {0x1F20, 0x1F45},
    {0x1F48, 0x1F4D},   {0x1F50, 0x1F57},   {0x1F59, 0x1F59},   {0x1F5B, 0x1F5B},
    {0x1F5D, 0x1F5D},   {0x1F5F, 0x1F7D},   {0x1F80, 0x1FB4},   {0x1FB6, 0x1FBC},
    {0x1FBE, 0x1FBE},   {0x1FC2, 0x1FC4},   {0x1FC6, 0x1FCC},   {0x1FD0, 0x1FD3},
    {0x1FD6, 0x1FDB},   {0x1FE0, 0x1FEC},   {0x1FF2, 0x1FF4},   {0x1FF6, 0x1FFC},
    {0x2102, 0x2102},   {0x2107, 0x2107},   {0x210A, 0x2113},   {0x2115, 0x2115},
    {0x2119, 0x211D},   {0x2124, 0x2124},   {0x2126, 0x2126},   {0x2128, 0x2128},
    {0x212A, 0x212D},   {0x212F, 0x2134},   {0x2139, 0x2139},   {0x213C, 0x213F},
    {0x2145, 0x2149},   {0x214E, 0x214E},   {0x2183, 0x2184},   {0x2C00, 0x2C7B},
    {0x2C7E, 0x2CE4},   {0x2CEB, 0x2CEE},   {0x2CF2, 0x2CF3},   {0xA640, 0xA66D},
    {0xA680, 0xA69B},   {0xA722, 0xA76F},   {0xA771, 0xA787},   {0xA78B, 0xA78E},
    {0xAB70, 0xABBF},   {0xFB00, 0xFB06},   {0xFB13, 0xFB17},   {0xFF21, 0xFF3A},
    {0xFF41, 0xFF5A},   {0x10400, 0x1044F}, {0x104B0, 0x104D3}, {0x104D8, 0x104FB},
    {0x10C80, 0x10CB2}, {0x10CC0, 0x10CF2}, {0x118A0, 0x118DF}, {0x1E900, 0x1E943},
};
constexpr Range kDeepseekPunctuation[] = {{0x21, 0x2F},     {0x3A, 0x7E},     {0x2018, 0x201F},
                                          {0x3000, 0x3002}, {0xFF01, 0xFF0F}, {0xFF1A, 0xFF5E}};
constexpr Range kDeepseekIdeographs[] = {{0x800, 0x9FA5}, {0xAC00, 0xD7FF}};

// \s?[ranges]+; \s is any Unicode space (llama.cpp's wide regex knows only the ASCII ones).
template <const auto &ranges>
size_t spaced_run(const CodePoints &text, size_t pos, size_t end) {
    const auto inside = [](const CodePoints &t, size_t at) {
        return in_ranges(ranges, t.values[at]);
    };
    const size_t start = pos + (space_at(text, pos) && pos + 1 < end && inside(text, pos + 1));
    const size_t run = run_end(text, start, end, inside);
    return run > start ? run : pos;
}

size_t ideographs(const CodePoints &text, size_t pos, size_t end) {
    return run_end(text, pos, end, [](const CodePoints &t, size_t at) {
        return in_ranges(kDeepseekIdeographs, t.values[at]);
    });
}

using Stages = std::array<SplitStage, 6>;
constexpr SplitStage kGpt2Stage = scan<gpt2_next>;
constexpr Stages kDefault = {isolate<punctuation<false>>, kGpt2Stage, isolate<numbers>,
                             isolate<three_digits>};
constexpr Stages kGpt2 = {kGpt2Stage};
constexpr Stages kLlama3 = {scan<llama3_next<3>>};
constexpr Stages kQwen2 = {scan<llama3_next<1>>};
constexpr Stages kDigitsThenGpt2 = {isolate<one_number>, kGpt2Stage};
constexpr Stages kFalcon = {isolate<punctuation<true>>, kGpt2Stage, isolate<three_digits>};
constexpr Stages kDeepseekLlm = {isolate<one_newline>,
                                 isolate<spaced_run<kDeepseekLetters>>,
                                 isolate<spaced_run<kDeepseekPunctuation>>,
                                 trailing_spaces,
                                 isolate<ideographs>,
                                 isolate<numbers>};
constexpr Stages kGpt4o = {scan<gpt4o_next<3, true>>};
constexpr Stages kTekken = {scan<gpt4o_next<1, false>>};

// Names as convert_hf_to_gguf.py writes them; flags as llama.cpp sets them.
constexpr PreTokenizer kRegistry[] = {
    // name, stages, ignore_merges, add_bos
    {"default", kDefault, false, false},
    {"gpt-2", kGpt2, false, false},
    {"phi-2", kGpt2, false, false},
    {"mpt", kGpt2, false, false},
    {"olmo", kGpt2, false, false},
    {"jais", kGpt2, false, false},
    {"llama-bpe", kLlama3, true, true},
    {"llama3", kLlama3, true, true},
    {"llama-v3", kLlama3, true, true},
    {"falcon3", kLlama3, true, true},
    {"pixtral", kLlama3, true, true},
    {"lfm2", kLlama3, true, true},
    {"smaug-bpe", kLlama3, false, false},
    {"dbrx", kLlama3, false, false},
    {"glm4", kLlama3, false, false},
    {"chatglm-bpe", kLlama3, false, false},
    {"qwen2", kQwen2, false, false},
    {"deepseek-r1-qwen", kQwen2, false, false},
    {"stablelm2", kQwen2, false, false},
    {"megrez", kQwen2, false, false},
    {"smollm", kDigitsThenGpt2, false, false},
    {"starcoder", kDigitsThenGpt2, false, false},
    {"refact", kDigitsThenGpt2, false, false},
    {"command-r", kDigitsThenGpt2, false, false},
    {"codeshell", kDigitsThenGpt2, false, false},
    {"exaone", kDigitsThenGpt2, false, false},
    {"minerva-7b", kDigitsThenGpt2, false, false},
    {"falcon", kFalcon, false, false},
    {"deepseek-llm", kDeepseekLlm, false, false},
    {"gpt-4o", kGpt4o, false, false},
    {"llama4", kGpt4o, false, false},
    {"tekken", kTekken, true, true},
};

}  // namespace

std::span<const PreTokenizer> pre_tokenizer_registry() {
    return kRegistry;
}

const PreTokenizer *find_pre_tokenizer(std::string_view name) {
    for (const PreTokenizer &row : kRegistry) {
        if (row.name == name) return &row;
    }
    return nullptr;
}

std::vector<uint32_t> split_words(const PreTokenizer &pre_tokenizer, std::string_view text) {
    if (text.empty()) return {};
    const CodePoints points(text);
    Ends ends = {static_cast<uint32_t>(points.size())};
    Ends finer;
    for (const SplitStage stage : pre_tokenizer.stages) {
        if (!stage) break;
        finer.clear();
        uint32_t begin = 0;
        for (const uint32_t end : ends) {
            stage(points, begin, end, finer);
            begin = end;
        }
        ends.swap(finer);
    }
    for (uint32_t &end : ends) end = points.offsets[end];
    return ends;
}

}  // namespace a2sf
