// Parsing of option tables, their --help, and suggestions for mistyped names.
#include "cli/options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace a2sf::cli {
namespace {

constexpr size_t kHelpWidth = 80;
constexpr size_t kHelpColumn = 29;  // where explanations start

// Appends words at `column`, breaking lines before they reach kHelpWidth.
void append_wrapped(std::string &out, std::string_view text, size_t column) {
    size_t used = column;
    bool first = true;
    while (!text.empty()) {
        const size_t length = std::min(text.find(' '), text.size());
        const std::string_view word = text.substr(0, length);
        text.remove_prefix(std::min(length + 1, text.size()));
        if (!first && used + 1 + word.size() > kHelpWidth) {
            out += '\n' + std::string(column, ' ');
            used = column;
        } else if (!first) {
            out += ' ';
            ++used;
        }
        out += word;
        used += word.size();
        first = false;
    }
    out += '\n';
}

void append_option(std::string &out, const Option &option) {
    std::string left = option.short_name.empty() ? "      " : "  " + option.short_name + ", ";
    left += option.name;
    if (!option.value.empty()) left += ' ' + option.value;
    const bool fits = left.size() + 2 <= kHelpColumn;
    out += left;
    if (!fits) out += '\n';
    out += std::string(fits ? kHelpColumn - left.size() : kHelpColumn, ' ');
    std::string text = option.help;
    if (!option.fallback.empty()) text += " (default: " + option.fallback + ")";
    append_wrapped(out, text, kHelpColumn);
}

// Edits that turn a into b: insertions, deletions, substitutions, swapped neighbours (optimal
// string alignment, a restricted Damerau-Levenshtein distance).
size_t edit_distance(std::string_view a, std::string_view b) {
    const size_t width = b.size() + 1;
    std::vector<size_t> table((a.size() + 1) * width);
    const auto at = [&](size_t i, size_t j) -> size_t & { return table[i * width + j]; };
    for (size_t i = 0; i <= a.size(); ++i) at(i, 0) = i;
    for (size_t j = 0; j <= b.size(); ++j) at(0, j) = j;
    for (size_t i = 1; i <= a.size(); ++i) {
        for (size_t j = 1; j <= b.size(); ++j) {
            const size_t change = at(i - 1, j - 1) + (a[i - 1] != b[j - 1]);
            at(i, j) = std::min({at(i - 1, j) + 1, at(i, j - 1) + 1, change});
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                at(i, j) = std::min(at(i, j), at(i - 2, j - 2) + 1);
            }
        }
    }
    return at(a.size(), b.size());
}

template <typename T>
T parse_whole(std::string_view text, T least, T most) {
    T value{};
    const char *end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    if (error != std::errc{} || stop != end || value < least || value > most) {
        const bool open = most == std::numeric_limits<T>::max();
        throw UsageError(open
                             ? str("a whole number from ", least, " expected, found \"", text, "\"")
                             : str("a whole number from ", least, " to ", most,
                                   " expected, found \"", text, "\""));
    }
    return value;
}

template <typename T>
T parse_number(std::string_view text) {
    T value{};
    const char *end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    if (error != std::errc{} || stop != end || !std::isfinite(value)) {
        throw UsageError(str("a number expected, found \"", text, "\""));
    }
    return value;
}

}  // namespace

std::string nearest(std::string_view name, std::span<const std::string> known) {
    const auto bare = [](std::string_view text) {
        return text.substr(text.find_first_not_of('-'));
    };
    if (name.find_first_not_of('-') == std::string_view::npos) return {};
    const std::string_view wanted = bare(name);
    // Strangers in more than a third of their letters are no help. A beginning counts as one edit,
    // so that --forgetting finds --forgetting-factor.
    size_t best = std::max<size_t>(1, wanted.size() / 3) + 1;
    std::string found;
    for (const std::string &candidate : known) {
        const std::string_view other = bare(candidate);
        const bool beginning = std::min(wanted.size(), other.size()) > 2 &&
                               (other.starts_with(wanted) || wanted.starts_with(other));
        const size_t distance = beginning ? 1 : edit_distance(wanted, other);
        if (distance < best) {
            best = distance;
            found = candidate;
        }
    }
    return found;
}

const Option *CommandLine::find(std::string_view name) const {
    for (const OptionGroup &group : groups) {
        for (const Option &option : group.options) {
            if (name == option.name) return &option;
            if (!option.short_name.empty() && name == option.short_name) return &option;
        }
    }
    return nullptr;
}

void CommandLine::refuse_unknown(std::string_view name) const {
    std::vector<std::string> known = {"--help"};
    for (const OptionGroup &group : groups) {
        for (const Option &option : group.options) {
            known.push_back(option.name);
            // "-n5", as other programs take it.
            const std::string &brief = option.short_name;
            if (!brief.empty() && !option.value.empty() && name.starts_with(brief)) {
                throw UsageError(str(name, ": unknown option; did you mean ", brief, " ",
                                     name.substr(brief.size()), "?"));
            }
        }
    }
    const std::string guess = nearest(name, known);
    throw UsageError(guess.empty() ? str(name, ": unknown option of ", command)
                                   : str(name, ": unknown option; did you mean ", guess, "?"));
}

std::string CommandLine::in_users_words(const std::string &message) const {
    const size_t colon = message.find(':');
    if (colon == std::string::npos) return message;
    const std::string where = message.substr(0, colon);
    for (const OptionGroup &group : groups) {
        for (const Option &option : group.options) {
            std::string field = option.field;
            if (field.empty()) {
                field = option.name.substr(2);
                std::replace(field.begin(), field.end(), '-', '_');
            }
            if (where == field) return option.name + message.substr(colon);
        }
    }
    return message;
}

void CommandLine::guard(const std::function<void()> &body) const {
    try {
        body();
    } catch (const OptionError &error) {
        throw UsageError(in_users_words(error.what()));
    }
}

void CommandLine::apply(const Option &option, std::string_view value) const {
    try {
        guard([&] { option.set(value); });
    } catch (const UsageError &error) {
        const std::string message = error.what();
        const bool named = message.starts_with(option.name + ":");
        throw UsageError(named ? message : option.name + ": " + message);
    }
}

// Handles the option at arguments[at] and returns the index of what follows it.
size_t CommandLine::parse_option(std::span<const char *const> arguments, size_t at) const {
    const std::string_view argument = arguments[at];
    const size_t equals = argument.find('=');
    const std::string_view name = argument.substr(0, equals);
    const Option *option = find(name);
    if (option == nullptr) refuse_unknown(name);
    if (option->value.empty()) {
        if (equals != std::string_view::npos) {
            throw UsageError(
                str(name, ": no value expected, found \"", argument.substr(equals + 1), "\""));
        }
        apply(*option, {});
        return at + 1;
    }
    if (equals != std::string_view::npos) {
        apply(*option, argument.substr(equals + 1));
        return at + 1;
    }
    if (at + 1 == arguments.size()) {
        throw UsageError(str(name, ": ", option->value, " expected, found the end of the line"));
    }
    const std::string_view value = arguments[at + 1];
    if (value == "--help" || find(value) != nullptr) {
        throw UsageError(str(name, ": ", option->value, " expected, found the option ", value,
                             " (if that is the value, write ", name, "=", value, ")"));
    }
    apply(*option, value);
    return at + 2;
}

bool CommandLine::parse(std::span<const char *const> arguments) const {
    bool options_end = false;  // after "--"
    for (size_t at = 0; at < arguments.size();) {
        const std::string_view argument = arguments[at];
        if (!options_end && argument == "--") {
            options_end = true;
            ++at;
        } else if (!options_end && (argument == "--help" || argument == "-h")) {
            return false;
        } else if (!options_end && argument.size() > 1 && argument[0] == '-') {
            at = parse_option(arguments, at);
        } else if (positional) {
            positional(argument);
            ++at;
        } else {
            throw UsageError(
                str("\"", argument, "\": an option expected", hint.empty() ? "" : "; ", hint));
        }
    }
    return true;
}

std::string CommandLine::help() const {
    std::string out;
    append_wrapped(out, str(command, ": ", summary), 0);
    out += str("\nUsage: ", command, " ", usage, "\n");
    for (const OptionGroup &group : groups) {
        out += '\n' + group.title + ":\n";
        for (const Option &option : group.options) append_option(out, option);
    }
    out += "\nEvery --option VALUE may also be written --option=VALUE.\n";
    if (!notes.empty()) out += '\n' + notes;
    return out;
}

Setter to_text(std::string &target) {
    return [&target](std::string_view value) { target = value; };
}

Setter to_text(std::optional<std::string> &target) {
    return [&target](std::string_view value) { target = std::string(value); };
}

Setter to_list(std::vector<std::string> &target, std::string (*convert)(std::string_view)) {
    return [&target, convert](std::string_view value) { target.push_back(convert(value)); };
}

Setter to_switch(bool &target) {
    return [&target](std::string_view) { target = true; };
}

Setter to_count(size_t &target, size_t least, size_t most) {
    return [&target, least, most](std::string_view value) {
        target = parse_whole<size_t>(value, least, most);
    };
}

Setter to_count(std::optional<size_t> &target, size_t least, size_t most) {
    return [&target, least, most](std::string_view value) {
        target = parse_whole<size_t>(value, least, most);
    };
}

Setter to_uint64(uint64_t &target) {
    return [&target](std::string_view value) {
        target = parse_whole<uint64_t>(value, 0, std::numeric_limits<uint64_t>::max());
    };
}

Setter to_number(float &target) {
    return [&target](std::string_view value) { target = parse_number<float>(value); };
}

Setter to_number(std::optional<double> &target) {
    return [&target](std::string_view value) { target = parse_number<double>(value); };
}

std::string unescape(std::string_view text) {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '\\') {
            out += text[i];
            continue;
        }
        const char next = i + 1 < text.size() ? text[++i] : '\0';
        switch (next) {
            case 'n':
                out += '\n';
                break;
            case 't':
                out += '\t';
                break;
            case 'r':
                out += '\r';
                break;
            case '\\':
                out += '\\';
                break;
            default:
                throw UsageError(
                    str("one of the escapes \\n \\t \\r \\\\ expected, found \"", text, "\""));
        }
    }
    return out;
}

}  // namespace a2sf::cli
