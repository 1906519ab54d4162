// a2sf perplexity: scores a text file in windows, with any policy.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
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
    line.notes =
        policy_notes() +
        "\nA share given to --budget is one of --ctx, or of the text where that is shorter. "
        "Tokens of one\nprompt chunk still see each other, so with --prefill chunk a "
        "small --batch, or --prefill token,\nshows what a policy costs. Ctrl-C ends "
        "with the result of the windows that are complete.\n";
    line.hint = "the text is given with -f PATH";
    return line;
}

// The result of the windows that were read, all of them unless Ctrl-C came.
struct Score {
    PerplexityResult result;  // its means are NaN before the first window is complete
    size_t n_read = 0;
    bool interrupted = false;
    double time_s = 0;
};

// Both together, as if one call had scored all windows.
PerplexityResult joined(const PerplexityResult &a, const PerplexityResult &b) {
    if (a.n_scored == 0) return b;
    const auto mean_of_squares = [](const PerplexityResult &r) {
        const double n = static_cast<double>(r.n_scored);
        return r.standard_error * r.standard_error * (n - 1) + r.mean_nll * r.mean_nll;
    };
    PerplexityResult both;
    both.n_scored = a.n_scored + b.n_scored;
    both.n_windows = a.n_windows + b.n_windows;
    const double n = static_cast<double>(both.n_scored);
    const double share = static_cast<double>(a.n_scored) / n;
    both.mean_nll = share * a.mean_nll + (1 - share) * b.mean_nll;
    const double squares = share * mean_of_squares(a) + (1 - share) * mean_of_squares(b);
    both.standard_error =
        std::sqrt(std::max(0.0, squares - both.mean_nll * both.mean_nll) / (n - 1));
    both.perplexity = std::exp(both.mean_nll);
    return both;
}

// One call a window, so that Ctrl-C leaves the result of those before.
Score score_windows(Session &session, std::span<const int32_t> ids, size_t n_ctx, bool quiet) {
    Score score;
    score.result.mean_nll = score.result.standard_error = score.result.perplexity = std::nan("");
    catch_interrupt();
    const auto start = std::chrono::steady_clock::now();
    ProgressBar bar("Scoring", !quiet);
    try {
        for (size_t first = 0; first + 1 < ids.size(); first += n_ctx) {
            const auto window = ids.subspan(first, std::min(n_ctx, ids.size() - first));
            const auto progress = [&](size_t n_done, size_t) {
                bar.update(first + n_done, ids.size());
                return !interrupted();
            };
            score.result = joined(score.result, perplexity(session, window, n_ctx, progress));
            score.n_read += window.size();
        }
    } catch (const Interrupted &) {
        score.interrupted = true;
    }
    score.time_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return score;
}

std::string result_json(const Score &score, size_t n_ctx, const PerplexityArguments &arguments,
                        const Session &session) {
    const PerplexityResult &result = score.result;
    JsonWriter json;
    json.begin_object();
    json.field("mean_nll", result.mean_nll);
    json.field("perplexity", result.perplexity);
    json.field("standard_error", result.standard_error);
    json.field("n_scored", result.n_scored);
    json.field("n_windows", result.n_windows);
    json.field("interrupted", score.interrupted);
    json.field("time_s", score.time_s);
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

// The window length to use. Notes one that is longer than the model is used to.
size_t window_length(const PerplexityArguments &arguments, const Engine &engine) {
    const size_t n_ctx_model = engine.model->config().n_ctx;
    if (arguments.n_ctx > n_ctx_model) {
        note(arguments.shared, str("--ctx ", arguments.n_ctx, " is more than the context of ",
                                   grouped(n_ctx_model), " that the model was trained for"));
    }
    return arguments.n_ctx > 0 ? arguments.n_ctx : std::min(n_ctx_model, kDefaultWindow);
}

// Turns a share into tokens once, or each window, the short last one too, would have its own.
void fix_budget(EvictionOptions &options, size_t n_window) {
    if (!options.needs_prompt_length()) return;
    options.budget = Amount::of_tokens(resolve(options, n_window).budget);
}

// Says so when the policy cannot change the result. n_window: tokens of the longest window.
void note_no_eviction(const SharedArguments &shared, const Session &session, size_t n_window) {
    const EvictionConfig config = resolve(session.options().eviction, n_window);
    if (!config.evicts()) return;
    if (config.budget >= n_window) {
        note(shared, str("nothing is evicted: the budget of ", grouped(config.budget),
                         " tokens holds a whole window of ", grouped(n_window)));
    } else if (config.prefill == PromptMode::Full) {
        note(shared,
             "no effect of eviction is measured: with --prefill full every token is scored before "
             "anything is evicted; --prefill token measures it");
    } else if (config.prefill == PromptMode::Chunk && n_window <= session.options().batch) {
        note(shared, str("no effect of eviction is measured: a window of ", grouped(n_window),
                         " tokens is one chunk (--batch ", session.options().batch,
                         "), scored before anything is evicted; --prefill token or a smaller "
                         "--batch measures it"));
    }
}

void tell_result(const PerplexityArguments &arguments, const Score &score, size_t n_ctx,
                 const Session &session) {
    const SharedArguments &shared = arguments.shared;
    if (shared.json) {
        print(result_json(score, n_ctx, arguments, session));
    } else if (score.result.n_scored > 0) {
        print(result_text(score.result, n_ctx));
    }
    if (score.interrupted) {
        note(shared, score.result.n_scored > 0
                         ? str("interrupted: the result is partial, of the first ",
                               grouped(score.n_read), " tokens")
                         : "interrupted before the first window was complete: no result");
    }
    if (shared.quiet || score.n_read == 0) return;
    print_error(str("  ", decimals(score.time_s, 2), " s, ",
                    decimals(static_cast<double>(score.n_read) / score.time_s, 1),
                    " tokens/s\n  eviction: ", describe_cache(session.cache().config()), "\n"));
}

void score_file(const PerplexityArguments &arguments) {
    const SharedArguments &shared = arguments.shared;
    if (arguments.file.empty())
        throw UsageError("--file: a text to score expected (-f PATH), found none");
    SessionOptions options = session_options(shared);
    const std::string text = read_text(arguments.file);  // before the model, which may be large
    const Engine engine = load_engine(shared);
    const std::vector<int32_t> ids = tokenize(engine, text, arguments);
    const size_t n_ctx = window_length(arguments, engine);
    const size_t n_window = std::min(n_ctx, ids.size());
    fix_budget(options.eviction, n_window);
    Session session(engine.model, options);
    note_no_eviction(shared, session, n_window);
    const Score score = score_windows(session, ids, n_ctx, shared.quiet);
    tell_result(arguments, score, n_ctx, session);
}

}  // namespace

void command_perplexity(Arguments arguments) {
    PerplexityArguments parsed;
    const CommandLine line = describe(parsed);
    if (!line.parse(arguments)) return print(line.help());
    line.guard([&] { score_file(parsed); });
}

}  // namespace a2sf::cli
