// a2sf perplexity: scores a text file in windows, with any policy.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/common.h"
#include "cli/json.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "engine/engine.h"
#include "engine/perplexity.h"
#include "engine/session.h"

namespace a2sf::cli {
namespace {

constexpr size_t kDefaultWindow = 2048;

struct PerplexityArguments {
    SharedArguments shared;
    std::string file;
    size_t n_ctx = 0;  // 0: min(the model's context, kDefaultWindow)
    size_t n_tokens = std::numeric_limits<size_t>::max();
};

CommandLine describe(PerplexityArguments &arguments) {
    SharedArguments &shared = arguments.shared;
    const OptionGroup text = {
        "Text",
        {{"--file", "-f", "PATH", "the text to score, - for standard input; required", "",
          to_text(arguments.file)},
         {"--ctx", "-c", "N",
          "cut the text into windows of N tokens, each read with an empty cache and scored from "
          "its "
          "second token, the first that has a predecessor",
          str("the model's context, ", kDefaultWindow, " at most"),
          to_count(arguments.n_ctx, 2, INT32_MAX), "ids"},
         {"--tokens", "", "N", "score only the first N tokens of the text", "all",
          to_count(arguments.n_tokens, 2, INT32_MAX)}}};
    CommandLine line;
    line.command = "a2sf perplexity";
    line.usage = "[-m PATH] -f PATH [options]";
    line.summary = "score a text file: mean negative log-likelihood and perplexity";
    line.groups = {model_group(shared), text, cache_group(shared), machine_group(shared),
                   output_group(shared)};
    line.notes = policy_notes() +
                 "\nA share given to --budget is one of each window. Tokens of one prompt chunk "
                 "still see each\nother, so with --prefill chunk a small --batch, or --prefill "
                 "token, shows what a policy costs.\n";
    line.hint = "the text is given with -f PATH";
    return line;
}

std::string result_json(const PerplexityResult &result, size_t n_ctx, double time_s,
                        const PerplexityArguments &arguments, const Session &session) {
    JsonWriter json;
    json.begin_object();
    json.field("mean_nll", result.mean_nll);
    json.field("perplexity", result.perplexity);
    json.field("standard_error", result.standard_error);
    json.field("n_scored", result.n_scored);
    json.field("n_windows", result.n_windows);
    json.field("time_s", time_s);
    json.field("file", arguments.file);
    json.key("options").begin_object();
    json.field("ctx", n_ctx);
    write_session_options(json, session);
    json.field("seed", arguments.shared.seed);
    json.end_object();
    write_model(json, model_path(arguments.shared), session.model());
    json.end_object();
    return json.text() + "\n";
}

std::string result_text(const PerplexityResult &result, size_t n_ctx) {
    return str("mean nll        ", decimals(result.mean_nll, 5),
               " nats per token\nperplexity      ", decimals(result.perplexity, 4),
               "\nstandard error  ", decimals(result.standard_error, 5),
               " of the mean nll\ntokens scored   ", grouped(result.n_scored), " in ",
               grouped(result.n_windows), " window", result.n_windows == 1 ? "" : "s", " of up to ",
               grouped(n_ctx), "\n");
}

// The ids to score. Throws Error when the text is too short to score anything.
std::vector<int32_t> tokenize(const Engine &engine, const std::string &text,
                              const PerplexityArguments &arguments) {
    // The text is scored as it stands: "<unk>" in it is five characters, not a token.
    std::vector<int32_t> ids = engine.tokenizer->encode(text, {.parse_special = false});
    if (ids.size() > arguments.n_tokens) ids.resize(arguments.n_tokens);
    if (ids.size() < 2) {
        throw Error(str(arguments.file, ": at least 2 tokens expected, found ", ids.size()));
    }
    return ids;
}

void score_file(const PerplexityArguments &arguments) {
    const SharedArguments &shared = arguments.shared;
    if (arguments.file.empty())
        throw UsageError("--file: a text to score expected (-f PATH), found none");
    const SessionOptions options = session_options(shared);
    const std::string text = read_text(arguments.file);  // before the model, which may be large
    const Engine engine = load_engine(shared);
    const std::vector<int32_t> ids = tokenize(engine, text, arguments);
    const size_t n_ctx_model = engine.model->config().n_ctx;
    const size_t n_ctx =
        arguments.n_ctx > 0 ? arguments.n_ctx : std::min(n_ctx_model, kDefaultWindow);
    if (n_ctx > n_ctx_model) {
        note(shared, str("--ctx ", n_ctx, " is more than the context of ", grouped(n_ctx_model),
                         " that the model was trained for"));
    }
    Session session(engine.model, options);
    catch_interrupt();
    const auto start = std::chrono::steady_clock::now();
    PerplexityResult result;
    {
        ProgressBar bar("Scoring", !shared.quiet);
        result = perplexity(session, ids, n_ctx, [&](size_t n_done, size_t n_total) {
            bar.update(n_done, n_total);
            return !interrupted();
        });
    }
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    print(shared.json ? result_json(result, n_ctx, time.count(), arguments, session)
                      : result_text(result, n_ctx));
    if (!shared.quiet) {
        print_error(str("  ", decimals(time.count(), 2), " s, ",
                        decimals(static_cast<double>(ids.size()) / time.count(), 1),
                        " tokens/s\n  eviction: ", describe_cache(session.cache().config()), "\n"));
    }
}

}  // namespace

void command_perplexity(Arguments arguments) {
    PerplexityArguments parsed;
    const CommandLine line = describe(parsed);
    if (!line.parse(arguments)) return print(line.help());
    line.guard([&] { score_file(parsed); });
}

}  // namespace a2sf::cli
