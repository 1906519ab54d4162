// Families of chat templates: recognised by what they contain, written piece by piece. The texts
// are compared with Jinja's in tests/python/test_chat_templates.py.
#include <doctest/doctest.h>

#include <set>
#include <string>

#include "base/error.h"
#include "token/chat_template.h"

using namespace a2sf;

namespace {

std::string family(const std::string &jinja) {
    return ChatFormat(jinja, std::nullopt, "<s>", "</s>").name();
}

}  // namespace

TEST_CASE("names are unique, and each family is found by its own marks") {
    std::set<std::string> names;
    for (const ChatTemplate &one : chat_templates()) {
        CAPTURE(one.name);
        CHECK(names.insert(one.name).second);
        const std::string jinja =
            std::string(one.mark) + (one.second_mark != nullptr ? one.second_mark : "");
        CHECK(family(jinja) == one.name);
        CHECK(ChatFormat("", std::string(one.name), "<s>", "</s>").name() == std::string(one.name));
    }
}

TEST_CASE("an unknown template says which are known, and how to name one") {
    for (const char *jinja : {"", "{{ messages }}"}) {
        CHECK_THROWS_WITH_AS(family(jinja), doctest::Contains("--template NAME"), UnsupportedError);
    }
    CHECK_THROWS_WITH_AS(ChatFormat("", std::string("none"), "", ""), doctest::Contains("zephyr"),
                         OptionError);
}

TEST_CASE("a default system prompt is a literal between the marks") {
    const auto opening = [](const std::string &jinja) {
        return ChatFormat(jinja, std::nullopt, "", "").opening(std::nullopt);
    };
    const std::string user = "<|im_start|>user\n";
    CHECK(opening("<|im_start|>system\nBe\\nkind<|im_end|>") ==
          "<|im_start|>system\nBe\nkind<|im_end|>\n" + user);
    CHECK(opening("'<|im_start|>system\\n' + text + '<|im_end|>'") == user);
    CHECK(
        opening("'<|im_start|>system\\n' + x + '<|im_end|>' '<|im_start|>system\\nHi<|im_end|>'") ==
        "<|im_start|>system\nHi<|im_end|>\n" + user);
    CHECK(opening("<|im_start|>") == user);
    CHECK(opening("<|im_start|>system\nno end") == "<|im_start|>system\nno end<|im_end|>\n" + user);
    const ChatFormat format("<|im_start|>system\nHi<|im_end|>", std::nullopt, "", "");
    CHECK(format.opening("") == "<|im_start|>system\n<|im_end|>\n" + user);
}

TEST_CASE("the beginning-of-text token stands where the template has it") {
    const ChatFormat with("{{ bos_token }}<|user|><|end|>", std::nullopt, "<s>", "</s>");
    const ChatFormat without("<|user|><|end|>", std::nullopt, "<s>", "</s>");
    CHECK(with.opening(std::nullopt) == "<s>" + without.opening(std::nullopt));
    const ChatFormat each("[INST]<<SYS>>{{ bos_token }}", std::nullopt, "<s>", "</s>");
    CHECK(each.opening("S") == "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\n");
    CHECK(each.message(" hi ") == "hi [/INST]");
    CHECK(each.close() + each.open_message() == " </s><s>[INST] ");
}
