// Where each pre-tokenizer cuts a text. Expected words follow from the models' patterns; they were
// checked with a regular-expression engine that has Unicode categories.
#include <ctime>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "token/pre_tokenizer.h"
#include "token/tokenizer.h"
#include "token/unicode.h"

using namespace a2sf;

namespace {

// The words with bars between them.
std::string split(std::string_view name, std::string_view text) {
    const PreTokenizer *pre_tokenizer = find_pre_tokenizer(name);
    REQUIRE(pre_tokenizer);
    std::string words;
    uint32_t begin = 0;
    for (const uint32_t end : split_words(*pre_tokenizer, text)) {
        CHECK(begin < end);
        if (begin > 0) words += '|';
        words += text.substr(begin, end - begin);
        begin = end;
    }
    CHECK(begin == text.size());
    return words;
}

}  // namespace

TEST_CASE("pre-tokenizers cut a text as their patterns say") {
    const std::string text = "I'd say 'Hello'  12345,\n\n don't`\u00e9a WE'LL\t!/\n";
    const std::pair<const char *, const char *> cases[] = {
        {"default",
         "I|'|d| say| |'|Hello|'| | |123|45|,|\n\n| don|'|t|`|\u00e9a| WE|'|LL|\t|!/|\n"},
        {"gpt-2", "I|'d| say| '|Hello|'| | 12345|,|\n\n| don|'t|`|\u00e9a| WE|'|LL|\t|!/|\n"},
        {"falcon", "I|'|d| say| |'|Hello|'| | |123|45|,|\n\n| don|'|t|`|\u00e9a| WE|'|LL|\t|!/|\n"},
        {"smollm", "I|'d| say| '|Hello|'|  |1|2|3|4|5|,|\n\n| don|'t|`|\u00e9a| WE|'|LL|\t|!/|\n"},
        {"starcoder",
         "I|'d| say| '|Hello|'|  |1|2|3|4|5|,|\n\n| don|'t|`|\u00e9a| WE|'|LL|\t|!/|\n"},
        {"llama-bpe", "I|'d| say| '|Hello|'| | |123|45|,\n\n| don|'t|`\u00e9a| WE|'LL|\t|!/\n"},
        {"qwen2", "I|'d| say| '|Hello|'| | |1|2|3|4|5|,\n\n| don|'t|`\u00e9a| WE|'LL|\t|!/\n"},
        {"deepseek-llm",
         "I|'|d| say| '|Hello|'|  |12345|,|\n|\n| don|'|t|`|\u00e9|a| WE|'|LL|\t!/|\n"},
        {"gpt-4o", "I'd| say| '|Hello|'| | |123|45|,\n\n| don't|`\u00e9a| WE'LL|\t|!/\n"},
        {"tekken", "I|'d| say| '|Hello|'| | |1|2|3|4|5|,\n\n| don|'t|`\u00e9a| WE|'LL|\t|!/\n"},
    };
    for (const auto &[name, words] : cases) {
        CAPTURE(std::string(name));
        CHECK(split(name, text) == words);
    }
}

TEST_CASE("letters, marks and cases beyond ASCII") {
    CHECK(split("gpt-4o", "HelloWorld") == "Hello|World");
    CHECK(split("gpt-4o", "\u4e2d\u0141A") == "\u4e2d|\u0141A");
    CHECK(split("gpt-4o", "\u0301x\u0301") == "\u0301x\u0301");
    CHECK(split("llama-bpe", "e\u0301t") == "e|\u0301t");
    CHECK(split("gpt-2", "e\u0301t") == "e|\u0301|t");
    CHECK(split("gpt-2", "\u00bd\u0663x\u3000\u3000y") == "\u00bd\u0663|x|\u3000|\u3000|y");
    CHECK(split("deepseek-llm", "ab\u4e2d\u6587\u3002 c\u0430\u3042") ==
          "ab|\u4e2d\u6587|\u3002| c|\u0430|\u3042");
    CHECK(split("deepseek-llm", "a  ") == "a|  ");
}

TEST_CASE("every pre-tokenizer covers every text") {
    std::mt19937 random(1);
    const std::string alphabet[] = {"a",    "B",        "'", "s",      "1",      " ",
                                    "\n",   "\t",       ".", "\u4e2d", "\u0301", "\u00a0",
                                    "\xFF", "\xE2\x80", "`", "/",      "\u01c5"};
    for (const PreTokenizer &row : pre_tokenizer_registry()) {
        CAPTURE(std::string(row.name));
        CHECK(split(row.name, "").empty());
        for (int i = 0; i < 500; ++i) {
            std::string text;
            for (size_t n = random() % 12; n > 0; --n) {
                text += alphabet[random() % std::size(alphabet)];
            }
            split(row.name, text);
        }
    }
}

TEST_CASE("no text makes a pre-tokenizer slow") {
    const size_t n = size_t{1} << 17;
    std::vector<std::string> texts(6);
    const char *const units[] = {" ", " \n", "'", "A\u4e00", "\u0301.", "1a"};
    for (size_t i = 0; i < texts.size(); ++i) {
        while (texts[i].size() < n) texts[i] += units[i];
    }
    texts.push_back("\u4e00" + std::string(n, 'A'));
    texts.push_back(std::string(n, ' ') + "x");
    for (const PreTokenizer &row : pre_tokenizer_registry()) {
        CAPTURE(std::string(row.name));
        const std::clock_t start = std::clock();
        for (const std::string &text : texts) CHECK(split_words(row, text).back() == text.size());
        CHECK(double(std::clock() - start) / CLOCKS_PER_SEC < 5);  // of CPU time
    }
}

TEST_CASE("the registry names each pre-tokenizer once and holds the required ones") {
    const std::vector<std::string> names = pre_tokenizers();
    CHECK(std::set<std::string>(names.begin(), names.end()).size() == names.size());
    CHECK(pre_tokenizer_registry().front().name == "default");
    for (const char *name : {"default", "gpt-2", "llama-bpe", "qwen2", "smollm", "falcon",
                             "starcoder", "deepseek-llm", "gpt-4o"}) {
        CAPTURE(std::string(name));
        CHECK(find_pre_tokenizer(name) != nullptr);
    }
    CHECK(find_pre_tokenizer("klingon") == nullptr);
}

TEST_CASE("categories") {
    CHECK(category_of('A') == Category::UpperLetter);
    CHECK(category_of(0xE9) == Category::LowerLetter);
    CHECK(category_of(0x1C5) == Category::TitleLetter);
    CHECK(category_of(0x2B0) == Category::ModifierLetter);
    CHECK(category_of(0x4E2D) == Category::OtherLetter);
    CHECK(category_of(0x301) == Category::Mark);
    CHECK(category_of(0xBD) == Category::Number);
    CHECK(category_of(0x3002) == Category::Punctuation);
    CHECK(category_of(0x1F999) == Category::Symbol);
    for (const uint32_t space : {0x09, 0x0D, 0x20, 0x85, 0xA0, 0x2028, 0x3000}) {
        CHECK(category_of(space) == Category::Space);
    }
    for (const uint32_t other : {0x00, 0x1C, 0x200B, 0xE000, 0x10FFFF, 0x110000}) {
        CHECK(category_of(other) == Category::Other);
    }
}
