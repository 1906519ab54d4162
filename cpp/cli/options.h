// A small declarative option parser: a command is a table of options, and parsing, --help and the
// suggestions for mistyped names all come from that table. Knows nothing of models or sessions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace a2sf::cli {

// Bad usage: the program ends with status 2.
class UsageError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// Receives the value as written. Throws UsageError without the option's name ("a whole number
// expected, found ..."), or lets the library's OptionError through; the parser adds the name.
using Setter = std::function<void(std::string_view value)>;

struct Option {
    std::string name;        // "--model"
    std::string short_name;  // "-m", or empty
    std::string value;       // "PATH"; empty for a switch
    std::string help;        // one or two sentences, without a final stop
    std::string fallback;    // what holds when it is not given; empty: nothing worth showing
    Setter set;
    std::string field = {};  // the library's name in messages, if not that of the option
};

struct OptionGroup {
    std::string title;  // "Cache"
    std::vector<Option> options;
};

// One sub-command: its options bound to the variables that they set.
class CommandLine {
  public:
    std::string command;  // "a2sf run"
    std::string usage;    // "[options]"
    std::string summary;  // one line
    std::vector<OptionGroup> groups;
    std::string notes = {};  // shown after the options, already laid out
    Setter positional = {};  // takes arguments that are no options; empty: there are none
    std::string hint = {};   // what to write instead of an argument that is no option

    // Calls the setters. Returns false when --help was asked for. Throws UsageError.
    // An option given twice counts as written last, except where its setter collects.
    bool parse(std::span<const char *const> arguments) const;

    std::string help() const;

    // Runs body, turning the library's OptionError into a UsageError that names the option as the
    // user wrote it: "forgetting_factor: ..." becomes "--forgetting-factor: ...".
    void guard(const std::function<void()> &body) const;

  private:
    const Option *find(std::string_view name) const;
    [[noreturn]] void refuse_unknown(std::string_view name) const;
    std::string in_users_words(const std::string &message) const;
    void apply(const Option &option, std::string_view value) const;
    size_t parse_option(std::span<const char *const> arguments, size_t at) const;
};

// The closest of `known` to a mistyped name; empty when none is close.
std::string nearest(std::string_view name, std::span<const std::string> known);

// Setters. Each keeps a reference to its target.
Setter to_text(std::string &target);
Setter to_text(std::optional<std::string> &target);
Setter to_list(std::vector<std::string> &target, std::string (*convert)(std::string_view));
Setter to_switch(bool &target);
Setter to_count(size_t &target, size_t least, size_t most);
Setter to_count(std::optional<size_t> &target, size_t least = 0, size_t most = SIZE_MAX);
Setter to_uint64(uint64_t &target);
Setter to_number(float &target);
Setter to_number(std::optional<double> &target);

// "a\nb" as typed -> a, newline, b. Knows \n \t \r \\; any other escape is a UsageError.
std::string unescape(std::string_view text);

}  // namespace a2sf::cli
