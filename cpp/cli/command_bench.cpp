// a2sf bench: speed and memory of a model on this machine, against what the machine can do.
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "cli/bench_limits.h"
#include "cli/bench_report.h"
#include "cli/bench_session.h"
#include "cli/commands.h"
#include "cli/common.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "engine/engine.h"
#include "engine/work.h"
#include "evict/policy.h"
#include "evict/registry.h"

namespace a2sf::cli {
namespace {

constexpr size_t kMostTokens = INT32_MAX / 4;  // positions are 32-bit
constexpr size_t kMostRepetitions = 1000;

struct BenchArguments {
    SharedArguments shared;  // its policy and budget are those of a row
    std::vector<std::string> policies;
    std::vector<Amount> budgets;
    std::vector<size_t> prompts = {512};
    std::vector<size_t> generations = {128};
    std::vector<size_t> depths = {0};
    size_t n_repetitions = 3;
    BenchFormat format = BenchFormat::Markdown;
    LimitsArguments limits;
};

// One line of the result that is to be. The budget is a number of tokens or none.
struct PlannedRow {
    SessionOptions options;
    BenchTest test;
    size_t depth = 0;

    size_t n_tokens() const { return depth + test.n_tokens; }
};

// Calls one(part) for the parts of "a,b,c".
template <typename One>
void for_each_part(std::string_view list, const One &one) {
    for (size_t begin = 0; begin <= list.size();) {
        const size_t comma = std::min(list.find(',', begin), list.size());
        one(list.substr(begin, comma - begin));
        begin = comma + 1;
    }
}

Setter to_counts(std::vector<size_t> &target) {
    return [&target](std::string_view value) {
        target.clear();
        for_each_part(value, [&](std::string_view part) {
            size_t count = 0;
            to_count(count, 0, kMostTokens)(part);
            target.push_back(count);
        });
    };
}

Setter to_policies(std::vector<std::string> &target) {
    return [&target](std::string_view value) {
        target.clear();
        for_each_part(value,
                      [&](std::string_view part) { target.emplace_back(find_policy(part).name); });
    };
}

Setter to_budgets(std::vector<Amount> &target) {
    return [&target](std::string_view value) {
        target.clear();
        for_each_part(value, [&](std::string_view part) {
            target.push_back(Amount::parse(part, "--budget"));
        });
    };
}

Setter to_format(BenchFormat &target) {
    return [&target](std::string_view value) {
        if (value != "md" && value != "json" && value != "csv") {
            throw UsageError(str("md, json or csv expected, found \"", value, "\""));
        }
        target = value == "md"     ? BenchFormat::Markdown
                 : value == "json" ? BenchFormat::Json
                                   : BenchFormat::Csv;
    };
}

OptionGroup test_group(BenchArguments &bench) {
    return {"Tests (each list is separated by commas; all are crossed)",
            {{"--prompts", "-p", "N,...", "pp tests: tokens of a prompt read at once; 0 is none",
              join(bench.prompts, ","), to_counts(bench.prompts)},
             {"--generate", "-n", "N,...", "tg tests: tokens read one by one; 0 is none",
              join(bench.generations, ","), to_counts(bench.generations)},
             {"--depth", "-d", "N,...", "tokens read before the test begins, not timed",
              join(bench.depths, ","), to_counts(bench.depths)},
             {"--repetitions", "-r", "N", "times that each test is measured, after a warm-up",
              str(bench.n_repetitions), to_count(bench.n_repetitions, 1, kMostRepetitions)},
             {"--output", "-o", "FORMAT", "md, json or csv", "md", to_format(bench.format)}}};
}

OptionGroup limits_group(BenchArguments &bench) {
    return {"Limits",
            {{"--limits", "", "",
              "instead of speed, print what fits into memory: the most tokens of a full cache and "
              "the largest budget of --policy (a2sf) with --batch and --threads",
              "", to_switch(bench.limits.wanted)},
             {"--memory", "", "SIZE,...", "amounts of memory for --limits: 256M, 1.5G",
              "what the process may use, of the device's own memory if it has some",
              [&bench](std::string_view value) {
                  bench.limits.memory.clear();
                  for_each_part(value, [&](std::string_view part) {
                      bench.limits.memory.push_back(parse_size(part));
                  });
              }}}};
}

// The shared groups, with lists where this command takes them.
OptionGroup lists_of(OptionGroup group, BenchArguments &bench) {
    for (Option &option : group.options) {
        if (option.name == "--policy") {
            option.value = "NAME,...";
            option.set = to_policies(bench.policies);
        } else if (option.name == "--budget") {
            option.value = "N|R%,...";
            option.help = "most tokens kept per head, or a share of a row's tokens, depth included";
            option.set = to_budgets(bench.budgets);
        } else if (option.name == "--kv-type") {
            option.set = [&bench](std::string_view value) {
                bench.limits.kv_type = bench.shared.kv_type = parse_kv_type(value);
            };
        } else if (option.name == "--json") {
            option.help = "the same as --output json";
            option.set = [&bench](std::string_view) { bench.format = BenchFormat::Json; };
        }
    }
    return group;
}

constexpr const char *kNotes =
    "\n"
    "A row shows the median of its repetitions, measured after a warm-up. Texts are\n"
    "pseudo-random (--seed), and the tokens of a tg test are given one at a time:\n"
    "sampling is not part of it, but on cuda finding the likeliest token. Repetitions\n"
    "start at the same depth, or up to an eighth deeper to save reading a long text\n"
    "again; a cache that has reached its budget just goes on. A policy that evicts\n"
    "nothing (full) runs once beside others, whatever the budgets. Ctrl-C leaves the\n"
    "rows that were finished.\n"
    "\n"
    "The machine's peaks are measured beside the repetitions with the same threads\n"
    "and instruction set, and are medians too: read_gb_s, 1e9 bytes/s from memory;\n"
    "int8_gops and float_gflops, 1e9 operations/s of vectors, two per multiply-add;\n"
    "bfloat16_gflops the same of tiles (AMX, tensor cores), 0 without them.\n"
    "fraction_of_peak is\n"
    "  tg: tokens_per_s x (weight_bytes_per_token + K and V bytes read per token)\n"
    "      / read_gb_s\n"
    "  pp: tokens_per_s x 2 x (weights multiplied per token) / int8_gops, or\n"
    "      / float_gflops for weights of float types; with tiles / bfloat16_gflops\n"
    "      for all but F32\n"
    "Counted are the weight matrices, a tied output once. A prompt multiplies the\n"
    "output only for its last token, and its attention is not counted. What fits in\n"
    "the processor's caches may be read faster than memory's peak.\n"
    "\n"
    "weight_type holds most bytes. kv_bytes is the cache as allocated, with room for\n"
    "the repetitions; kv_bytes_full is K and V of every token. peak_rss_bytes is the\n"
    "most memory that the process had resident while the row was measured,\n"
    "device_bytes the most that it had taken of a device's own memory: weights, cache\n"
    "and scratch. On such a device copy_gb_s is 1e9 bytes/s of a copy within that\n"
    "memory, bytes read and bytes written both counted, and read_gb_s is the same.\n"
    "On others both are null.\n";

CommandLine describe(BenchArguments &bench) {
    SharedArguments &shared = bench.shared;
    CommandLine line;
    line.command = "a2sf bench";
    line.usage = "[-m PATH] [-p N,...] [-n N,...] [-d N,...] [options]";
    line.summary = "measure speed and memory, and the share of the machine's peak they reach";
    line.groups = {model_group(shared),   test_group(bench),
                   limits_group(bench),   lists_of(cache_group(shared), bench),
                   machine_group(shared), lists_of(output_group(shared), bench)};
    line.notes = policy_notes() + kNotes;
    line.hint = "the model is given with -m PATH";
    return line;
}

std::vector<BenchTest> tests_of(const BenchArguments &bench) {
    std::vector<BenchTest> tests;
    for (const size_t n : bench.prompts) {
        if (n > 0) tests.push_back({true, n});
    }
    for (const size_t n : bench.generations) {
        if (n > 0) tests.push_back({false, n});
    }
    if (tests.empty()) {
        throw UsageError("--prompts, --generate: at least one test expected, found 0 in both");
    }
    return tests;
}

// Every policy with every budget, validated. Those that evict nothing take no budget and none of
// the other options either, but may stand beside policies that do.
std::vector<SessionOptions> configurations(const BenchArguments &bench) {
    SharedArguments shared = bench.shared;
    std::vector<std::optional<Amount>> budgets(bench.budgets.begin(), bench.budgets.end());
    if (budgets.empty()) budgets.emplace_back();
    shared.eviction.budget = budgets.front();
    std::vector<std::string> policies = bench.policies;
    if (policies.empty()) policies.push_back(eviction_options(shared).policy);
    const auto evicts = [](const std::string &name) { return find_policy(name).evicts(); };
    const bool any_evicts = std::any_of(policies.begin(), policies.end(), evicts);

    std::vector<SessionOptions> all;
    for (const std::string &policy : policies) {
        if (any_evicts && !evicts(policy)) {
            SharedArguments plain = shared;
            plain.eviction = {};
            plain.policy = policy;
            all.push_back(session_options(plain));
            continue;
        }
        for (const std::optional<Amount> &budget : budgets) {
            shared.policy = policy;
            shared.eviction.budget = budget;
            all.push_back(session_options(shared));
        }
    }
    return all;
}

// The rows that can be measured. Throws OptionError when there is none; notes the others.
std::vector<PlannedRow> plan(const BenchArguments &bench,
                             const std::vector<SessionOptions> &configurations, size_t n_ctx) {
    std::vector<PlannedRow> rows;
    std::string skipped;
    const std::vector<BenchTest> tests = tests_of(bench);
    for (const SessionOptions &options : configurations) {
        for (const size_t depth : bench.depths) {
            for (const BenchTest &test : tests) {
                PlannedRow row{options, test, depth};
                EvictionOptions &eviction = row.options.eviction;
                const EvictionConfig config = resolve(eviction, row.n_tokens());
                if (config.evicts()) eviction.budget = Amount::of_tokens(config.budget);
                if (config.evicts() || row.n_tokens() <= n_ctx) {
                    rows.push_back(row);
                    continue;
                }
                skipped = str("depth: at most ", grouped(n_ctx),
                              " tokens with the test's (the model's context) expected without "
                              "eviction, found ",
                              grouped(depth), " and ", grouped(test.n_tokens));
                note(bench.shared,
                     str("no row for ", test.name(), " at depth ", grouped(depth), " with policy ",
                         eviction.policy, ": ", grouped(row.n_tokens()),
                         " tokens are more than the model's context of ", grouped(n_ctx)));
            }
        }
    }
    if (rows.empty()) throw OptionError(skipped + "; give a budget to read more");
    return rows;
}

std::string model_name(const BenchArguments &bench, const Model &model) {
    const std::string &name = model.config().name;
    return name.empty() ? std::filesystem::path(model_path(bench.shared)).stem().string() : name;
}

BenchRow row_of(const std::string &name, const PlannedRow &planned, const Measurement &measured,
                const Session &session) {
    const Model &model = session.model();
    const EvictionConfig &config = session.cache().config();
    const std::vector<double> &speeds = measured.tokens_per_s;
    BenchRow row;
    row.model = name;
    row.weight_type = main_weight_type(model);
    row.n_params = model.n_params();
    row.policy = config.policy->name;
    if (config.evicts()) {
        row.budget = config.budget;
        row.prefill = name_of(config.prefill);
    }
    row.kv_type = name_of(session.options().kv_type);
    row.device = session.backend().device();
    row.isa = session.backend().isa();
    row.threads = session.backend().n_threads();
    row.test = planned.test.name();
    row.depth = planned.depth;
    row.tokens_per_s = median_of(speeds);
    row.tokens_per_s_min = *std::min_element(speeds.begin(), speeds.end());
    row.tokens_per_s_max = *std::max_element(speeds.begin(), speeds.end());
    row.kv_bytes = measured.kv_bytes;
    row.kv_bytes_full = measured.kv_bytes_full;
    row.peak_rss_bytes = measured.peak_rss_bytes;
    row.device_bytes = measured.device_bytes;
    row.weight_bytes_per_token = weight_bytes_per_token(model);
    row.peaks = measured.peaks;
    row.fraction_of_peak =
        planned.test.is_prompt
            ? prompt_fraction(model, planned.test.n_tokens, row.tokens_per_s, row.peaks)
            : decode_fraction(model, measured.kv_bytes_per_token, row.tokens_per_s, row.peaks);
    return row;
}

void note_machine(const BenchArguments &bench, const Backend &machine, const MachinePeaks &peaks) {
    const std::string tiles =
        peaks.bfloat16_gflops == 0
            ? std::string()
            : str(" and ", decimals(peaks.bfloat16_gflops, 0), " bfloat16 on tiles");
    note(bench.shared, str(machine.device(), " ", machine.isa(), ", ", machine.n_threads(),
                           machine.n_threads() == 1 ? " thread" : " threads", ": beside the rows ",
                           peaks.copy_gb_s > 0 ? "copied " : "read ", decimals(peaks.read_gb_s, 1),
                           " GB/s, did ", decimals(peaks.int8_gops, 0), " GOPS int8, ",
                           decimals(peaks.float_gflops, 0), " GFLOPS float", tiles));
}

// One session for as long as policy and budget stay the same.
void measure_rows(const BenchArguments &bench, const Engine &engine,
                  const std::vector<PlannedRow> &rows) {
    const std::string name = model_name(bench, *engine.model);
    const auto machine = engine.model->device().create({.n_threads = bench.shared.n_threads});
    BenchSession session(engine, *machine, bench.shared.seed, bench.n_repetitions,
                         bench.shared.quiet);
    std::vector<MachinePeaks> peaks;  // of each row
    BenchReport report(bench.format, name.size());
    const auto same = [](const EvictionOptions &a, const EvictionOptions &b) {
        return a.policy == b.policy && (a.budget ? a.budget->tokens : std::nullopt) ==
                                           (b.budget ? b.budget->tokens : std::nullopt);
    };
    size_t n_done = 0;
    report.begin();
    try {
        for (const PlannedRow &row : rows) {
            if (interrupted()) throw Interrupted();
            const bool first = n_done == 0;
            if (!first && !same(rows[n_done - 1].options.eviction, row.options.eviction)) {
                session.close();
            }
            const Measurement measured = session.measure(row.options, row.test, row.depth);
            report.add(row_of(name, row, measured, session.session()));
            peaks.push_back(measured.peaks);
            ++n_done;
        }
    } catch (const Interrupted &) {
        report.end();
        return note(bench.shared, str("interrupted after ", n_done, " of ", rows.size(), " rows"));
    } catch (...) {
        report.end();  // what was measured stays readable
        throw;
    }
    report.end();
    note_machine(bench, *machine, median_of(peaks));
}

void run_limits(const BenchArguments &bench) {
    const BenchArguments plain;
    if (bench.prompts != plain.prompts || bench.generations != plain.generations ||
        bench.depths != plain.depths || bench.n_repetitions != plain.n_repetitions ||
        !bench.budgets.empty()) {
        throw UsageError(
            "--limits: none of --prompts, --generate, --depth, --repetitions and --budget expected "
            "with it, found one");
    }
    if (bench.policies.size() > 1) {
        throw UsageError(
            str("--policy: one expected with --limits, found ", bench.policies.size()));
    }
    SharedArguments shared = bench.shared;
    if (!bench.policies.empty()) shared.policy = bench.policies.front();
    show_limits(shared, bench.limits, bench.format);
}

void run_bench(const BenchArguments &bench) {
    if (bench.limits.wanted) return run_limits(bench);
    if (!bench.limits.memory.empty()) throw UsageError("--memory: --limits expected, found none");
    const std::vector<SessionOptions> sessions = configurations(bench);
    tests_of(bench);  // before the model, which may be large
    const Engine engine = load_engine(bench.shared);
    const std::vector<PlannedRow> rows = plan(bench, sessions, engine.model->config().n_ctx);
    catch_interrupt();
    measure_rows(bench, engine, rows);
}

}  // namespace

void command_bench(Arguments arguments) {
    BenchArguments bench;
    const CommandLine line = describe(bench);
    if (!line.parse(arguments)) return print(line.help());
    line.guard([&] { run_bench(bench); });
}

}  // namespace a2sf::cli
