#include "evict/eviction_file.h"

#include <array>
#include <charconv>
#include <functional>
#include <set>
#include <vector>

#include "base/error.h"
#include "evict/parse.h"

namespace a2sf {

namespace {

constexpr std::string_view kFirstLine = "# a2sf eviction 1";

constexpr const char *kNumber = "a number";

std::vector<float> numbers(std::string_view text, std::string_view name) {
    std::vector<float> values;
    while (!text.empty()) {
        const size_t end = std::min(text.find(' '), text.size());
        if (end > 0) values.push_back(parse_number<float>(text.substr(0, end), name, kNumber));
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return values;
}

// One line's option: how it is read and how it is written, empty where it is not set.
struct Field {
    std::string_view name;
    std::function<void(EvictionOptions &, std::string_view)> read;
    std::function<std::string(const EvictionOptions &)> write;
};

// A float as the shortest text that reads back as itself.
std::string shortest(auto value) {
    std::array<char, 64> text;
    const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value);
    return std::string(text.data(), error == std::errc{} ? end : text.data());
}

// "auto", "equal", or shares.
void read_allocation(EvictionOptions &options, std::string_view text) {
    if (text == name_of(Division::Auto) || text == name_of(Division::Equal)) {
        options.division = parse_division(text);
    } else {
        options.allocation = numbers(text, "allocation");
    }
}

std::string allocation_text(const EvictionOptions &options) {
    std::string text = options.division ? name_of(*options.division) : "";
    for (const float share : options.allocation) {
        if (!text.empty()) text += ' ';
        text += shortest(share);
    }
    return text;
}

const std::vector<Field> &fields() {
    using Options = EvictionOptions;
    using Text = std::string_view;
    const auto amount = [](const std::optional<Amount> &value) {
        if (!value) return std::string();
        return value->tokens ? str(*value->tokens) : shortest(*value->share * 100.0) + "%";
    };
    const auto count = [](const std::optional<size_t> &value) {
        return value ? str(*value) : std::string();
    };
    const auto name = [](const auto &value) {
        return value ? std::string(name_of(*value)) : std::string();
    };
    static const std::vector<Field> list = {
        {"policy", [](Options &o, Text t) { o.policy = t; },
         [](const Options &o) { return o.policy; }},
        {"budget", [](Options &o, Text t) { o.budget = Amount::parse(t, "budget"); },
         [=](const Options &o) { return amount(o.budget); }},
        {"forgetting_factor",
         [](Options &o, Text t) {
             o.forgetting_factor = parse_number<double>(t, "forgetting_factor", kNumber);
         },
         [](const Options &o) {
             return o.forgetting_factor ? shortest(*o.forgetting_factor) : std::string();
         }},
        {"sinks", [](Options &o, Text t) { o.sinks = parse_number<size_t>(t, "sinks", kNumber); },
         [=](const Options &o) { return count(o.sinks); }},
        {"recent", [](Options &o, Text t) { o.recent = Amount::parse(t, "recent"); },
         [=](const Options &o) { return amount(o.recent); }},
        {"window",
         [](Options &o, Text t) { o.window = parse_number<size_t>(t, "window", kNumber); },
         [=](const Options &o) { return count(o.window); }},
        {"scope", [](Options &o, Text t) { o.scope = parse_scope(t); },
         [=](const Options &o) { return name(o.scope); }},
        {"pooling",
         [](Options &o, Text t) { o.pooling = parse_number<size_t>(t, "pooling", kNumber); },
         [=](const Options &o) { return count(o.pooling); }},
        {"prefill", [](Options &o, Text t) { o.prefill = parse_prompt_mode(t); },
         [=](const Options &o) { return name(o.prefill); }},
        {"positions", [](Options &o, Text t) { o.positions = parse_positions(t); },
         [=](const Options &o) { return name(o.positions); }},
        {"pinned", [](Options &o, Text t) { o.pinned = parse_ranges(t); },
         [](const Options &o) { return to_text(o.pinned); }},
        {"guard", [](Options &o, Text t) { o.guard = parse_number<double>(t, "guard", kNumber); },
         [](const Options &o) { return o.guard ? shortest(*o.guard) : std::string(); }},
        {"allocation", &read_allocation, &allocation_text},
    };
    return list;
}

const Field &find_field(std::string_view name) {
    std::vector<std::string> known;
    for (const Field &field : fields()) {
        if (field.name == name) return field;
        known.emplace_back(field.name);
    }
    throw OptionError(str("option: one of ", join(known), " expected, found \"", name, "\""));
}

std::string_view trimmed(std::string_view text) {
    const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
    while (!text.empty() && blank(text.front())) text.remove_prefix(1);
    while (!text.empty() && blank(text.back())) text.remove_suffix(1);
    return text;
}

}  // namespace

EvictionOptions parse_eviction_file(std::string_view text) {
    EvictionOptions options;
    options.policy.clear();
    std::set<std::string, std::less<>> seen;
    for (size_t line = 1; !text.empty(); ++line) {
        const size_t end = std::min(text.find('\n'), text.size());
        const std::string_view content = trimmed(text.substr(0, end));
        text.remove_prefix(std::min(end + 1, text.size()));
        if (line == 1 && content != kFirstLine) {
            throw OptionError(str("line 1: \"", kFirstLine, "\" expected, found \"",
                                  content.substr(0, 40), "\""));
        }
        if (content.empty() || content.front() == '#') continue;
        const size_t gap = std::min(content.find(' '), content.size());
        const std::string_view name = content.substr(0, gap);
        try {
            const Field &field = find_field(name);
            if (!seen.emplace(name).second) {
                throw OptionError(str(name, ": once expected, found again"));
            }
            field.read(options, trimmed(content.substr(gap)));
        } catch (const OptionError &error) {
            throw OptionError(str("line ", line, ": ", error.what()));
        }
    }
    if (options.policy.empty()) throw OptionError("policy: a line with it expected, found none");
    options.validate();
    return options;
}

std::string eviction_file(const EvictionOptions &options, std::string_view note) {
    std::string text = str(kFirstLine, "\n");
    while (!note.empty()) {
        const size_t end = std::min(note.find('\n'), note.size());
        text += str("# ", note.substr(0, end), "\n");
        note.remove_prefix(std::min(end + 1, note.size()));
    }
    for (const Field &field : fields()) {
        const std::string value = field.write(options);
        if (!value.empty()) text += str(field.name, " ", value, "\n");
    }
    return text;
}

}  // namespace a2sf
