// a2sf chat: a conversation in the terminal, or one over a pipe, a line a turn.
#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/common.h"
#include "cli/line_input.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "engine/conversation.h"
#include "evict/registry.h"

namespace a2sf::cli {
namespace {

struct ChatArguments {
    SharedArguments shared;
    std::optional<std::string> system;
    std::optional<std::string> system_file;
    std::optional<std::string> template_name;
    std::optional<std::string> load;
    GenerateOptions generate{.max_tokens = 512};
};

// What the chat of one run of the program holds. Owner: run_chat.
struct Chat {
    const ChatArguments &arguments;
    Conversation conversation;
    std::optional<Stats> last;  // of the newest answer
    bool quits = false;
};

// What a line may be besides a message. THE list: /help and the reading of lines follow it.
struct ChatCommand {
    const char *name;
    const char *argument;  // "" for none; in brackets: may be left out
    const char *help;
    void (*call)(Chat &chat, const std::string &argument);
};

std::span<const ChatCommand> chat_commands();

void tell(const Chat &chat, std::string_view text) {
    note(chat.arguments.shared, text);
}

// Before the first message: what is to come, unless that depends on it.
std::string cache_text(const Session &session) {
    const EvictionOptions &options = session.options().eviction;
    const bool waits = session.n_tokens() == 0 && !options.needs_prompt_length();
    return describe_cache(waits ? resolve(options, 0) : session.cache().config());
}

void call_help(Chat &, const std::string &) {
    std::string text;
    for (const ChatCommand &command : chat_commands()) {
        std::string left = str("  ", command.name, " ", command.argument);
        left.resize(std::max<size_t>(left.size() + 2, 20), ' ');
        text += left + command.help + '\n';
    }
    print_error(text +
                "  Ctrl-C stops an answer, and leaves where none is written. Ctrl-D leaves.\n");
}

void call_stats(Chat &chat, const std::string &) {
    const Session &session = chat.conversation.session();
    const Cache &cache = session.cache();
    std::string text = str("  turns      ", grouped(chat.conversation.n_turns()), ", ",
                           grouped(session.n_tokens()), " tokens read\n");
    text += str("  kept       ", grouped(cache.mean_live()), " tokens per head, ",
                grouped(cache.n_evicted()), " evicted (tokens x heads)\n");
    text += str("  KV cache   ", human_bytes(cache.n_bytes()), " allocated, ",
                human_bytes(cache.n_bytes_full(session.n_tokens())), " would keep everything\n");
    text += str("  eviction   ", cache_text(session), "\n");
    if (chat.last) {
        text += str("  last turn  ", grouped(chat.last->n_prompt), " tokens read, ",
                    decimals(chat.last->prompt_per_s(), 1), " tokens/s; ",
                    grouped(chat.last->n_generated), " written, ",
                    decimals(chat.last->decode_per_s(), 1), " tokens/s\n");
    }
    print_error(text);
}

void call_save(Chat &chat, const std::string &path) {
    chat.conversation.save(path);
    note_saved(chat.arguments.shared, chat.conversation.session(), path);
}

void call_load(Chat &chat, const std::string &path) {
    chat.conversation.load(path);
    chat.last.reset();
    const Session &session = chat.conversation.session();
    tell(chat, str("loaded ", grouped(session.n_tokens()), " tokens from ", path, "; ",
                   cache_text(session)));
}

void call_clear(Chat &chat, const std::string &) {
    chat.conversation.clear();
    chat.last.reset();
    tell(chat, "a new conversation");
}

void call_budget(Chat &chat, const std::string &text) {
    chat.conversation.set_budget(Amount::parse(text, "budget"));
    tell(chat, "budget " + text);
}

void call_system(Chat &chat, const std::string &text) {
    chat.conversation.set_system(text.empty() ? std::nullopt : std::optional(text));
    chat.last.reset();
    tell(chat, str("a new conversation, with ", text.empty() ? "no" : "another",
                   " system prompt of yours"));
}

void call_quit(Chat &chat, const std::string &) {
    chat.quits = true;
}

constexpr ChatCommand kChatCommands[] = {
    {"/help", "", "this list", call_help},
    {"/stats", "", "what was read, what is kept, memory and speed", call_stats},
    {"/save", "PATH", "save the conversation", call_save},
    {"/load", "PATH", "go on with a saved one, and with its cache options", call_load},
    {"/clear", "", "forget the conversation; the system prompt stays", call_clear},
    {"/budget", "N", "keep N tokens per head from now on", call_budget},
    {"/system", "[TEXT]", "start anew with another system prompt", call_system},
    {"/quit", "", "leave", call_quit},
};

std::span<const ChatCommand> chat_commands() {
    return kChatCommands;
}

void run_command(Chat &chat, std::string_view line) {
    const size_t end = std::min(line.find(' '), line.size());
    const std::string_view name = line.substr(0, end);
    const size_t begin = std::min(line.find_first_not_of(' ', end), line.size());
    std::string argument(line.substr(begin));
    while (!argument.empty() && argument.back() == ' ') argument.pop_back();
    std::vector<std::string> known;
    for (const ChatCommand &command : kChatCommands) {
        known.push_back(command.name);
        if (name != command.name) continue;
        const std::string_view wanted = command.argument;
        if (wanted.empty() && !argument.empty()) {
            throw OptionError(str(name, ": nothing behind it expected, found \"", argument, "\""));
        }
        if (!wanted.empty() && wanted[0] != '[' && argument.empty()) {
            throw OptionError(str(name, ": ", wanted, " expected, found nothing"));
        }
        return command.call(chat, argument);
    }
    const std::string guess = nearest(name, known);
    throw OptionError(str("command: one of ", join(known), " expected, found \"", name, "\"",
                          guess.empty() ? "" : str("; did you mean ", guess, "?")));
}

// A Ctrl-C that came while an answer was written was meant for that one, however it ended.
struct ForgetInterrupt {
    ~ForgetInterrupt() { LineInput::forget_interrupt(); }
};

// Reads a message and writes the answer as it comes, on lines of its own.
void run_turn(Chat &chat, std::string_view message) {
    const SharedArguments &shared = chat.arguments.shared;
    char last_byte = '\n';
    bool begun = false;
    ProgressBar bar("Reading the message", !shared.quiet);
    ChatListener listener;
    listener.on_progress = [&](size_t n_done, size_t n_total) { bar.update(n_done, n_total); };
    listener.stops = LineInput::interrupted;
    listener.on_text = [&](std::string_view text) {
        bar.erase();
        // Some families' answers begin with a space that belongs to the template.
        if (!begun) text.remove_prefix(std::min(text.find_first_not_of(" \n"), text.size()));
        if (text.empty()) return;
        begun = true;
        print(text);
        last_byte = text.back();
    };
    const ForgetInterrupt at_end;
    const Generation answer = chat.conversation.ask(message, chat.arguments.generate, listener);
    bar.erase();
    chat.last = answer.stats;
    if (last_byte != '\n' || !begun) print("\n");
    if (answer.finish_reason == FinishReason::Interrupted) tell(chat, "stopped");
    if (answer.finish_reason == FinishReason::Length) {
        tell(chat, str("stopped after ", grouped(answer.ids.size()), " tokens",
                       answer.ids.size() < chat.arguments.generate.max_tokens
                           ? ", the model's context is full; --budget N goes on beyond it"
                           : "; -n N allows more"));
    }
}

// A terminal cuts lines that are longer, without a word.
void check_typed(const std::string &line) {
    constexpr size_t kMostTyped = 4094;  // Linux holds 4,095 bytes of a line until it ends
    if (line.size() <= kMostTyped) return;
    throw OptionError(str("message: at most ", grouped(kMostTyped),
                          " bytes in a line typed at a terminal expected, found ",
                          grouped(line.size()), " or more; through a pipe there is no limit"));
}

// One line after another, until /quit, the end of input, or Ctrl-C where a line is waited for.
void talk(Chat &chat) {
    LineInput input;
    const bool at_terminal = stdin_is_terminal();
    std::string line;
    while (!chat.quits) {
        if (at_terminal) print_error("> ");
        if (input.read(line) != LineInput::Event::Line) {
            if (at_terminal) print_error("\n");
            return;
        }
        if (line.find_first_not_of(" \t") == line.npos) continue;
        // At a terminal an error is something to try again; over a pipe nobody would.
        try {
            if (at_terminal) check_typed(line);
            line[0] == '/' ? run_command(chat, line) : run_turn(chat, line);
        } catch (const Error &error) {
            if (!at_terminal) throw;
            print_error(str("a2sf: ", error.what(), "\n"));
        }
    }
}

std::optional<std::string> system_prompt(const ChatArguments &arguments) {
    if (arguments.system && arguments.system_file) {
        throw UsageError("--system, --system-file: one of them expected, found both");
    }
    if (!arguments.system_file) return arguments.system;
    if (*arguments.system_file == "-") {
        throw UsageError("--system-file: a file expected, found - (messages come from there)");
    }
    return read_prompt_file(*arguments.system_file);
}

// The defaults of a chat: it may go on for ever.
SessionOptions chat_session_options(ChatArguments &arguments) {
    SharedArguments &shared = arguments.shared;
    if (!shared.policy) shared.policy = "a2sf";
    if (find_policy(*shared.policy).evicts() && !shared.eviction.positions) {
        shared.eviction.positions = Positions::Compact;
    }
    return session_options(shared);
}

std::string template_names() {
    std::vector<const char *> names;
    for (const ChatTemplate &family : chat_templates()) names.push_back(family.name);
    return join(names);
}

OptionGroup chat_group(ChatArguments &chat) {
    constexpr size_t kMostTokens = INT32_MAX;  // positions are 32-bit
    return {"Chat",
            {{"--system", "", "TEXT", "system prompt; never evicted", "the template's, if any",
              to_text(chat.system)},
             {"--system-file", "", "PATH", "file that holds it", "", to_text(chat.system_file)},
             {"--max-tokens", "-n", "N", "most tokens of an answer", str(chat.generate.max_tokens),
              to_count(chat.generate.max_tokens, 1, kMostTokens)},
             {"--load", "", "PATH", "go on with a saved conversation, as /load does", "",
              to_text(chat.load)},
             {"--template", "", "NAME", "how the model writes conversations: " + template_names(),
              "recognised from the model's own", to_text(chat.template_name)}}};
}

CommandLine describe(ChatArguments &chat) {
    CommandLine line;
    line.command = "a2sf chat";
    line.usage = "[-m PATH] [options]";
    line.summary =
        "talk with a model, turn by turn; /help lists what else can be typed. Without options the "
        "cache is a2sf's with its default budget and compact positions, so that a conversation has "
        "no longest length";
    line.groups = {model_group(chat.shared),
                   chat_group(chat),
                   sampling_group(chat.generate.sampling),
                   cache_group(chat.shared),
                   machine_group(chat.shared),
                   {"Output",
                    {{"--quiet", "-q", "", "nothing on standard error but errors", "",
                      to_switch(chat.shared.quiet)}}}};
    line.notes = policy_notes();
    line.hint = "messages are read from standard input";
    return line;
}

void run_chat(ChatArguments &arguments) {
    const SharedArguments &shared = arguments.shared;
    arguments.generate.sampling.seed = shared.seed;
    arguments.generate.validate();
    const SessionOptions options = chat_session_options(arguments);
    const std::optional<std::string> system = system_prompt(arguments);
    note_greedy(shared, arguments.generate.sampling);
    const Engine engine = load_engine(shared);
    const ChatFormat format(*engine.tokenizer, arguments.template_name);
    Chat chat{arguments, Conversation(engine, format, options, system), {}, false};
    if (arguments.load) call_load(chat, *arguments.load);
    if (stdin_is_terminal()) {
        tell(chat, str(engine.model->config().name, ", ", format.name(),
                       " template; /help for commands"));
    }
    talk(chat);
}

}  // namespace

void command_chat(Arguments arguments) {
    ChatArguments chat;
    const CommandLine line = describe(chat);
    if (!line.parse(arguments)) return print(line.help());
    line.guard([&] { run_chat(chat); });
}

}  // namespace a2sf::cli
