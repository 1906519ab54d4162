#include "cli/bench_limits.h"

#include <algorithm>
#include <charconv>
#include <string>

#include "base/error.h"
#include "base/process_memory.h"
#include "cli/json.h"
#include "cli/terminal.h"
#include "engine/limits.h"
#include "evict/registry.h"

namespace a2sf::cli {
namespace {

struct LimitsReport {
    SessionOptions options;
    size_t n_threads = 0;
    size_t n_ctx = 0;
    size_t n_weight_bytes = 0;   // the mapped file
    size_t n_process_bytes = 0;  // the whole process with a session that has no cache, or what it
                                 // has taken of the device's own memory
    struct Row {
        size_t memory = 0;
        Fit fit;
    };
    std::vector<Row> rows;
};

std::string to_json(const LimitsReport &report) {
    JsonWriter json;
    json.begin_object();
    json.field("policy", report.options.eviction.policy);
    json.field("batch", report.options.batch);
    json.field("threads", report.n_threads);
    json.field("n_ctx", report.n_ctx);
    json.field("process_bytes", report.n_process_bytes);
    json.field("weight_file_bytes", report.n_weight_bytes);
    json.key("limits").begin_array();
    for (const auto &[memory, fit] : report.rows) {
        json.begin_object();
        json.field("memory_bytes", memory);
        json.field("kv_type", name_of(fit.kv_type));
        json.field("context", fit.context);
        json.field("budget", fit.budget);
        json.field("slot_bytes", fit.slot_bytes);
        json.end_object();
    }
    json.end_array().end_object();
    return json.text() + "\n";
}

std::string to_markdown(const LimitsReport &report) {
    std::string text =
        str("Without a cache: ", human_bytes(report.n_process_bytes), ", of them ",
            human_bytes(report.n_weight_bytes), " the model's file. Policy ",
            report.options.eviction.policy, ", chunks of ", grouped(report.options.batch),
            " tokens, threads: ", report.n_threads, ".\n\n",
            "|   memory | kv_type | full cache: most tokens | largest budget | bytes per slot |\n"
            "|---------:|---------|------------------------:|---------------:|---------------:|\n");
    const auto cell = [](std::string content, size_t width) {
        content.insert(0, width - std::min(width, content.size()), ' ');
        return "| " + content + " ";
    };
    const auto count = [](size_t n) { return n > 0 ? grouped(n) : std::string("-"); };
    bool all = false;
    for (const auto &[memory, fit] : report.rows) {
        const bool whole = fit.context == report.n_ctx;
        all |= whole;
        std::string type = name_of(fit.kv_type);
        type.resize(7, ' ');
        text += cell(human_bytes(memory), 8) + "| " + type + " " +
                cell(count(fit.context) + (whole ? " *" : ""), 23) + cell(count(fit.budget), 14) +
                cell(grouped(fit.slot_bytes), 14) + "|\n";
    }
    return text + (all ? "\n* the model's context\n" : "");
}

bool any_fits(const LimitsReport &report) {
    return std::any_of(report.rows.begin(), report.rows.end(), [](const LimitsReport::Row &row) {
        return row.fit.context > 0 || row.fit.budget > 0;
    });
}

SessionOptions limits_options(SharedArguments shared) {
    if (!shared.policy) shared.policy = "a2sf";
    return session_options(shared);
}

}  // namespace

size_t parse_size(std::string_view text) {
    double number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    const std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
    const std::string_view prefixes = "KMGT";
    bool known = unit.empty();
    for (size_t i = 0; i < prefixes.size(); ++i) {
        const std::string prefix(1, prefixes[i]);
        if (unit == prefix || unit == prefix + "B" || unit == prefix + "iB") {
            number *= static_cast<double>(size_t{1} << (10 * (i + 1)));
            known = true;
        }
    }
    if (error != std::errc() || !known || !(number >= 1) || number > 1e18) {
        throw UsageError(str("a size such as 256M, 1.5G or 4GiB expected, found \"", text, "\""));
    }
    return static_cast<size_t>(number);
}

void show_limits(const SharedArguments &shared, const LimitsArguments &limits, BenchFormat format) {
    if (format == BenchFormat::Csv) {
        throw UsageError("--output: md or json expected with --limits, found csv");
    }
    LimitsReport report;
    report.options = limits_options(shared);
    const Engine engine = load_engine(shared);
    const Session session(engine.model, report.options);
    report.options.batch = session.options().batch;
    report.n_threads = session.backend().n_threads();
    report.n_ctx = engine.model->config().n_ctx;
    report.n_weight_bytes = engine.model->file().n_bytes();
    const OwnMemory own = engine.model->device().memory();
    const bool on_device = own.n_total > 0;
    report.n_process_bytes = on_device ? own.n_taken : process_memory().address_space;
    std::vector<size_t> all = limits.memory;
    if (all.empty()) all.push_back(on_device ? own.n_taken + own.n_free : memory_limits().lowest());
    for (const size_t memory : all) {
        const size_t left = memory - std::min(memory, report.n_process_bytes);
        for (const Fit &fit : what_fits(*engine.model, report.options, left)) {
            if (limits.kv_type.value_or(fit.kv_type) == fit.kv_type) {
                report.rows.push_back({memory, fit});
            }
        }
    }
    if (!any_fits(report)) {
        throw Error(str("memory: more than ", human_bytes(report.n_process_bytes),
                        ", which the model takes without a cache, expected, found ",
                        human_bytes(*std::max_element(all.begin(), all.end())),
                        "; a smaller --batch or fewer --threads take less"));
    }
    print(format == BenchFormat::Json ? to_json(report) : to_markdown(report));
}

}  // namespace a2sf::cli
