// The a2sf program: picks the sub-command and turns exceptions into messages and exit codes:
// 0 done, 1 run-time error, 2 bad usage.
#include <signal.h>

#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "engine/engine.h"

namespace a2sf::cli {
namespace {

struct Command {
    const char *name;
    const char *summary;
    void (*call)(Arguments arguments);
};

// THE list of sub-commands. To add one: write command_<name>.cpp, declare it in commands.h, list
// it.
constexpr Command kCommands[] = {
    {"run", "generate text from a prompt", command_run},
    {"chat", "talk with a model, turn by turn", command_chat},
    {"inspect", "show what is in a GGUF file", command_inspect},
    {"perplexity", "score a text file", command_perplexity},
    {"bench", "measure speed and memory", command_bench},
    {"serve", "answer over HTTP with OpenAI's interface (needs Python)", command_serve},
};

std::string main_help() {
    std::string text =
        "a2sf: runs GGUF language models with a KV cache of bounded size\n\n"
        "Usage: a2sf COMMAND [options]\n\nCommands:\n";
    for (const Command &command : kCommands) {
        std::string name = std::string("  ") + command.name;
        name.resize(15, ' ');
        text += name + command.summary + '\n';
    }
    return text +
           "\nOptions:\n"
           "  -h, --help     this text; a2sf COMMAND --help lists a command's options\n"
           "  --version      the version\n"
           "\nExit status: 0 done, 1 run-time error, 2 bad usage.\n";
}

void refuse_command(std::string_view name) {
    std::vector<std::string> known = {"--help", "--version"};
    for (const Command &command : kCommands) known.push_back(command.name);
    const std::string guess = nearest(name, known);
    const char *kind = name.starts_with("-") ? "option" : "command";
    throw UsageError(guess.empty() ? str(name, ": unknown ", kind)
                                   : str(name, ": unknown ", kind, "; did you mean ", guess, "?"));
}

void dispatch(Arguments arguments) {
    if (arguments.empty()) throw UsageError("a command expected, found none");
    const std::string_view name = arguments[0];
    if (name == "--help" || name == "-h") return print(main_help());
    if (name == "--version") return print(str("a2sf ", version(), "\n"));
    for (const Command &command : kCommands) {
        if (name == command.name) return command.call(arguments.subspan(1));
    }
    refuse_command(name);
}

// "a2sf run" when the command was recognised, for the advice under a usage error.
std::string program_name(Arguments arguments) {
    for (const Command &command : kCommands) {
        if (!arguments.empty() && std::string_view(arguments[0]) == command.name) {
            return str("a2sf ", command.name);
        }
    }
    return "a2sf";
}

int guarded_dispatch(Arguments arguments) {
    try {
        dispatch(arguments);
        return 0;
    } catch (const UsageError &error) {
        print_error(str("a2sf: ", error.what(), "\nTry '", program_name(arguments), " --help'.\n"));
        return 2;
    } catch (const OptionError &error) {
        print_error(str("a2sf: ", error.what(), "\n"));
        return 2;
    } catch (const std::bad_alloc &) {
        print_error("a2sf: not enough memory\n");
    } catch (const std::exception &error) {
        print_error(str("a2sf: ", error.what(), "\n"));
    }
    return 1;
}

}  // namespace
}  // namespace a2sf::cli

int main(int argc, char **argv) {
    // A reader that goes away is an error to report, not a silent death.
    signal(SIGPIPE, SIG_IGN);
    const size_t n = argc > 0 ? static_cast<size_t>(argc) - 1 : 0;
    return a2sf::cli::guarded_dispatch(a2sf::cli::Arguments(argv + (argc > 0 ? 1 : 0), n));
}
