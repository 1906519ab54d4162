// a2sf run: generates text from one prompt.
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/common.h"
#include "cli/json.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "engine/engine.h"
#include "engine/generate.h"
#include "engine/saved_session.h"
#include "engine/session.h"

namespace a2sf::cli {
namespace {

struct RunArguments {
    SharedArguments shared;
    std::optional<std::string> prompt;
    std::optional<std::string> file;
    std::optional<std::string> load_session;
    std::optional<std::string> save_session;
    GenerateOptions generate;
    bool echo = false;
    bool ids = false;
};

OptionGroup prompt_group(RunArguments &run) {
    constexpr size_t kMostTokens = INT32_MAX;  // positions are 32-bit
    return {
        "Prompt and text",
        {{"--prompt", "-p", "TEXT",
          "the prompt: no escapes, but special tokens such as <|im_start|> count as such", "",
          to_text(run.prompt)},
         {"--file", "-f", "PATH",
          "file that holds the prompt, - for standard input; one newline at its end is dropped",
          "standard input, if it is no terminal", to_text(run.file)},
         {"--max-tokens", "-n", "N", "most tokens to generate", str(run.generate.max_tokens),
          to_count(run.generate.max_tokens, 0, kMostTokens)},
         {"--stop", "", "TEXT",
          "end before this text; may be given several times; \\n \\t \\r \\\\ are escapes", "",
          to_list(run.generate.stop, unescape)},
         {"--echo", "", "", "write the prompt before the generated text", "", to_switch(run.echo)},
         {"--ids", "", "", "write token ids instead of text; with --json, add the prompt's", "",
          to_switch(run.ids)}}};
}

OptionGroup session_group(RunArguments &run) {
    return {
        "Sessions",
        {{"--load-session", "", "PATH",
          "go on after what a saved session has read; it brings its cache options, and a prompt "
          "may be left out",
          "", to_text(run.load_session)},
         {"--save-session", "", "PATH",
          "save what was read and generated at the end; -n 0 only reads the prompt", "",
          to_text(run.save_session)}}};
}

CommandLine describe(RunArguments &run) {
    CommandLine line;
    line.command = "a2sf run";
    line.usage = "[-m PATH] (-p TEXT | -f PATH | < FILE) [options]";
    line.summary = "generate text from a prompt";
    line.groups = {model_group(run.shared), prompt_group(run),
                   session_group(run),      sampling_group(run.generate.sampling),
                   cache_group(run.shared), machine_group(run.shared),
                   output_group(run.shared)};
    line.notes = policy_notes();
    line.hint = "a prompt is given with -p TEXT or -f PATH";
    return line;
}

std::string read_prompt(const RunArguments &run) {
    if (run.prompt && run.file) {
        throw UsageError("--prompt, --file: one of them expected, found both");
    }
    if (run.prompt) return *run.prompt;
    if (!run.file && stdin_is_terminal()) {
        if (run.load_session) return {};
        throw UsageError(
            "prompt: -p TEXT, -f PATH or a pipe on standard input expected, found none");
    }
    return read_prompt_file(run.file.value_or("-"));
}

// Writes the generation to standard output as it comes; nothing with --json.
class Stream {
  public:
    explicit Stream(const RunArguments &run) : json_(run.shared.json), ids_(run.ids) {}

    void text(std::string_view text) {
        if (!json_ && !ids_) put(text);
    }
    void id(int32_t id) {
        if (!json_ && ids_) put(str(last_ == '\0' ? "" : " ", id));
    }
    // Ids are a line. Text stays as it is, but a terminal gets its prompt on a line of its own.
    void end() {
        if (last_ != '\0' && last_ != '\n' && (ids_ || stdout_is_terminal())) put("\n");
    }

  private:
    void put(std::string_view text) {
        if (text.empty()) return;
        print(text);
        last_ = text.back();
    }

    bool json_;
    bool ids_;
    char last_ = '\0';  // last byte written; '\0': none yet
};

void start(Generator &generator, std::span<const int32_t> prompt, const RunArguments &run) {
    ProgressBar bar("Reading the prompt", !run.shared.quiet);
    Progress progress = [&](size_t n_done, size_t n_total) {
        bar.update(n_done, n_total);
        return !interrupted();
    };
    generator.start(prompt, run.save_session ? between_chunks(progress) : progress);
}

void generate(Generator &generator, std::span<const int32_t> prompt, Stream &stream,
              const RunArguments &run) {
    try {
        start(generator, prompt, run);
        GeneratedToken token;
        while (!interrupted() && generator.next(token)) {
            stream.id(token.id);
            stream.text(token.text);
        }
        if (interrupted()) generator.interrupt();
    } catch (const Interrupted &) {
        generator.interrupt();
        note(run.shared, str("interrupted after ", grouped(generator.result().stats.n_prompt),
                             " of ", grouped(prompt.size()), " prompt tokens"));
    }
    stream.text(generator.rest());
    stream.end();
}

// Without a speed where there is none: a first token costs no pass through the model.
std::string speed_text(size_t n, double time_s, double per_s) {
    std::string count = grouped(n);
    count.insert(0, count.size() < 9 ? 9 - count.size() : 0, ' ');
    std::string text = str(count, " tokens in ", decimals(time_s, 2), " s");
    if (per_s > 0) text += ", " + decimals(per_s, 1) + " tokens/s";
    return text;
}

void tell_statistics(const Generation &generation, const Session &session) {
    const Stats &stats = generation.stats;
    std::string text =
        "\n  prompt    " + speed_text(stats.n_prompt, stats.prompt_s, stats.prompt_per_s()) +
        "\n  generated " + speed_text(stats.n_generated, stats.decode_s, stats.decode_per_s()) +
        " (" + name_of(generation.finish_reason) + ")\n";
    text += "  KV cache   " + human_bytes(stats.kv_bytes) + " allocated, ";
    if (session.cache().config().evicts() && stats.kv_bytes_full > 0) {
        const double share =
            static_cast<double>(stats.kv_bytes) / static_cast<double>(stats.kv_bytes_full);
        text += decimals(100.0 * share, 0) + "% of the " + human_bytes(stats.kv_bytes_full) +
                " of a full one";
    } else {
        text += human_bytes(stats.kv_bytes_full) + " used";
    }
    text += "\n  eviction   " + describe_cache(session.cache().config());
    if (stats.n_evicted > 0) text += "; " + grouped(stats.n_evicted) + " evicted (tokens x heads)";
    print_error(text + "\n");
}

void write_stats(JsonWriter &json, const Stats &stats) {
    json.key("stats").begin_object();
    json.field("n_prompt", stats.n_prompt);
    json.field("n_generated", stats.n_generated);
    json.field("prompt_s", stats.prompt_s);
    json.field("decode_s", stats.decode_s);
    json.field("prompt_per_s", stats.prompt_per_s());
    json.field("decode_per_s", stats.decode_per_s());
    json.field("kv_bytes", stats.kv_bytes);
    json.field("kv_bytes_full", stats.kv_bytes_full);
    json.field("n_evicted", stats.n_evicted);
    json.field("n_live", stats.n_live);
    json.field("budget", stats.budget);
    json.end_object();
}

std::string to_json(const RunArguments &run, const std::string &prompt,
                    std::span<const int32_t> prompt_ids, const Generation &generation,
                    const Session &session) {
    JsonWriter json;
    json.begin_object();
    json.field("text", run.echo ? prompt + generation.text : generation.text);
    json.list("ids", generation.ids);
    json.list("logprobs", generation.logprobs);
    if (run.ids) json.list("prompt_ids", prompt_ids);
    json.field("finish_reason", name_of(generation.finish_reason));
    write_stats(json, generation.stats);
    json.key("options").begin_object();
    write_session_options(json, session);
    const SamplingOptions &sampling = run.generate.sampling;
    json.field("max_tokens", run.generate.max_tokens);
    json.field("temperature", sampling.temperature);
    json.field("top_k", sampling.top_k);
    json.field("top_p", sampling.top_p);
    json.field("min_p", sampling.min_p);
    json.field("repeat_penalty", sampling.repeat_penalty);
    json.field("seed", sampling.seed);
    json.list("stop", run.generate.stop);
    json.end_object();
    write_model(json, model_path(run.shared), session.model());
    json.end_object();
    return json.text() + "\n";
}

// Explains an end that the user did not ask for, and positions the model has never seen.
void note_context(const RunArguments &run, const Generation &generation, const Session &session) {
    const size_t n_ctx = session.model().config().n_ctx;
    const bool evicts = session.cache().config().evicts();
    if (!evicts && generation.finish_reason == FinishReason::Length &&
        generation.ids.size() < run.generate.max_tokens) {
        note(run.shared, str("stopped at the model's context of ", grouped(n_ctx),
                             " tokens; --budget N goes on beyond it"));
    }
    if (n_ctx > 0 && session.n_tokens() > n_ctx) {
        note(run.shared, str(grouped(session.n_tokens()), " tokens are more than the context of ",
                             grouped(n_ctx), " that the model was trained for"));
    }
}

void save(const RunArguments &run, Generator &generator, Session &session) {
    generator.settle();
    save_session(session, *run.save_session);
    note_saved(run.shared, session, *run.save_session);
}

// generate(), but an error of the prompt names where the prompt is from.
void generate_from(Generator &generator, std::span<const int32_t> prompt_ids, Stream &stream,
                   const RunArguments &run) {
    try {
        generate(generator, prompt_ids, stream, run);
    } catch (const OptionError &error) {
        const std::string message = error.what();
        if (!message.starts_with("ids:")) throw;
        const std::string from = run.prompt ? "--prompt" : run.file.value_or("-");
        throw UsageError((from == "-" ? "prompt" : from) + message.substr(3));
    }
}

void run_prompt(RunArguments &run) {
    SharedArguments &shared = run.shared;
    run.generate.sampling.seed = shared.seed;
    run.generate.validate();
    const SessionOptions options = session_options(shared);
    if (run.save_session) check_save_path(*run.save_session);
    const std::string prompt = read_prompt(run);
    note_greedy(shared, run.generate.sampling);
    const Engine engine = load_engine(shared);
    const std::unique_ptr<Session> owned = run.load_session
                                               ? open_saved(shared, engine, *run.load_session)
                                               : std::make_unique<Session>(engine.model, options);
    Session &session = *owned;
    // A text begins with the beginning-of-text token once.
    const std::optional<bool> bos =
        session.n_tokens() > 0 ? std::optional<bool>(false) : std::nullopt;
    const std::vector<int32_t> prompt_ids = engine.tokenizer->encode(prompt, {.add_bos = bos});
    if (prompt_ids.empty() && session.n_tokens() == 0) {
        throw UsageError("prompt: at least one token expected, found an empty text");
    }
    Generator generator(session, *engine.tokenizer, run.generate);
    Stream stream(run);
    if (run.echo) {
        stream.text(prompt);
        for (const int32_t id : prompt_ids) stream.id(id);
    }
    catch_interrupt();
    generate_from(generator, prompt_ids, stream, run);
    const Generation &generation = generator.result();
    if (shared.json) print(to_json(run, prompt, prompt_ids, generation, session));
    note_context(run, generation, session);
    if (!shared.quiet) tell_statistics(generation, session);
    if (run.save_session) save(run, generator, session);
}

}  // namespace

void command_run(Arguments arguments) {
    RunArguments run;
    const CommandLine line = describe(run);
    if (!line.parse(arguments)) return print(line.help());
    line.guard([&] { run_prompt(run); });
}

}  // namespace a2sf::cli
