// Shared options, and the road from them to a session.
#include "cli/common.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <system_error>

#include "backend/registry.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "cli/terminal.h"
#include "engine/saved_session.h"
#include "evict/eviction_file.h"
#include "evict/policy.h"
#include "evict/registry.h"

namespace a2sf::cli {
namespace {

// Limits that keep a typing error from asking for terabytes of activations or a million threads.
constexpr size_t kMostThreads = 1024;
constexpr size_t kMostBatch = 65536;

Setter to_amount(std::optional<Amount> &target, const char *option) {
    return [&target, option](std::string_view value) { target = Amount::parse(value, option); };
}

// A setter that parses, and has the library check the sampling options as they then are.
Setter checked(Setter set, const SamplingOptions &sampling) {
    return [set = std::move(set), &sampling](std::string_view value) {
        set(value);
        sampling.validate();
    };
}

std::string policy_names() {
    std::string names;
    for (const Policy *policy : policies()) {
        names += (names.empty() ? "" : ", ") + std::string(policy->name);
    }
    return names;
}

std::string device_names() {
    std::string names;
    for (const BackendEntry &entry : backend_entries()) names += std::string(entry.device) + ", ";
    return names + "or auto for the best usable";
}

// "forgetting factor 0.99, sinks 4, recent 25%".
std::string preset_text(const Policy &policy) {
    if (!policy.evicts()) return {};
    const Preset &preset = policy.preset;
    std::string text;
    const auto add = [&](const std::string &part) { text += (text.empty() ? "" : ", ") + part; };
    if (policy.uses_window()) {
        add(str("window ", preset.window));
    } else if (policy.n_lanes() > 0) {
        const char *most = preset.memory_share > 0 ? "up to " : "";
        add(str("forgetting factor ", most, preset.forgetting_factor));
    }
    if (preset.n_sinks > 0) add(str("sinks ", preset.n_sinks));
    if (preset.recent_share > 0) {
        add("recent " + Amount::of_share(static_cast<double>(preset.recent_share)).to_string());
    } else if (preset.recent_tokens > 0) {
        add(str("recent ", preset.recent_tokens));
    }
    if (preset.pooling > 1) add(str("pooling ", preset.pooling));
    if (preset.guard > 0) add(str("guard ", preset.guard));
    if (preset.division == Division::Auto) add("allocation auto");
    if (preset.prefill != PromptMode::Chunk) add(str("prefill ", name_of(preset.prefill)));
    return text;
}

bool any_eviction_option(const EvictionOptions &options) {
    return options.budget || options.forgetting_factor || options.sinks || options.recent ||
           options.window || options.scope || options.pooling || options.prefill ||
           options.positions || !options.pinned.empty() || !options.allocation.empty() ||
           options.division || options.guard;
}

void read_eviction_file(const std::string &path, SharedArguments &shared) {
    try {
        shared.eviction = parse_eviction_file(read_text(path));
    } catch (const OptionError &error) {
        throw OptionError(str("--eviction-file ", path, ": ", error.what()));
    }
    shared.policy = find_policy(shared.eviction.policy).name;
}

}  // namespace

OptionGroup model_group(SharedArguments &shared) {
    return {"Model",
            {{"--model", "-m", "PATH", "GGUF file", "$A2SF_MODEL, else the bundled model",
              to_text(shared.model)}}};
}

OptionGroup machine_group(SharedArguments &shared) {
    return {"Machine",
            {{"--threads", "-t", "N", "threads that compute", str(default_threads(), ", all here"),
              to_count(shared.n_threads, 1, kMostThreads)},
             {"--device", "", "NAME", device_names(), shared.device,
              [&shared](std::string_view value) {
                  find_backend(value);  // now, so that a device that is missing is told first
                  shared.device = value;
              }},
             {"--batch", "", "N", "prompt tokens computed together, one chunk",
              str(SessionOptions().batch), to_count(shared.batch, 1, kMostBatch)},
             {"--seed", "", "N", "seed of all random draws", str(shared.seed),
              to_uint64(shared.seed)}}};
}

OptionGroup cache_group(SharedArguments &shared) {
    EvictionOptions &eviction = shared.eviction;
    return {
        "KV cache (without any option of eviction, nothing is evicted)",
        {{"--policy", "", "NAME", str("what is evicted: ", policy_names()),
          "a2sf if any option below is given, else full",
          [&shared](std::string_view value) { shared.policy = find_policy(value).name; }},
         {"--eviction-file", "", "FILE",
          "options of the cache from a file that a2sf-eval calibrate wrote; those that follow "
          "override it",
          "none",
          [&shared](std::string_view value) { read_eviction_file(std::string(value), shared); }},
         {"--budget", "", "N|R%", "most tokens kept per head, or a share of the prompt",
          str(kDefaultBudget, " if evicting"), to_amount(eviction.budget, "--budget")},
         {"--forgetting-factor", "", "F", "weight of each older query, 0 to 1, or auto",
          "auto, the policy's",
          [&eviction, number = to_number(eviction.forgetting_factor)](std::string_view value) {
              if (value == "auto") {
                  eviction.forgetting_factor.reset();
              } else {
                  number(value);
              }
          }},
         {"--sinks", "", "N", "first tokens of the text that always stay", "the policy's",
          to_count(eviction.sinks)},
         {"--recent", "", "N|R%", "newest tokens that always stay, or a share of the budget",
          "the policy's", to_amount(eviction.recent, "--recent")},
         {"--window", "", "N", "newest queries that vote (snapkv)", "the policy's",
          to_count(eviction.window)},
         {"--scope", "", "WHICH", "head: each KV head keeps its own tokens; layer: all the same",
          "head", [&eviction](std::string_view value) { eviction.scope = parse_scope(value); }},
         {"--pooling", "", "N", "a token keeps neighbours within N/2 alive; odd, 1 is none",
          "the policy's", to_count(eviction.pooling)},
         {"--prefill", "", "MODE", "evict after every prompt token, chunk, or the full prompt",
          "the policy's",
          [&eviction](std::string_view value) { eviction.prefill = parse_prompt_mode(value); }},
         {"--positions", "", "WHICH",
          "original: tokens stay at their positions in the text; compact: those that are kept "
          "stand one after the other, for texts longer than the model's context",
          "original",
          [&eviction](std::string_view value) { eviction.positions = parse_positions(value); }},
         {"--pinned", "", "RANGES",
          "positions that always stay: N for the first N, FIRST-END for those from FIRST to before "
          "END, several as 0-57,100-120",
          "none", [&eviction](std::string_view value) { eviction.pinned = parse_ranges(value); }},
         {"--allocation", "", "HOW",
          "of the budget to heads: equal, or auto for more where more is looked up far back, which "
          "is measured once",
          "the policy's",
          [&eviction](std::string_view value) {
              eviction.division = parse_division(value);
              eviction.allocation.clear();
          }},
         {"--guard", "", "SHARE",
          "of what a chunk leaves, 0 to 1, kept because its keys are unlike the others",
          "the policy's", to_number(eviction.guard)},
         {"--kv-type", "", "TYPE", "how K and V are stored: f32, f16, q8_0",
          name_of(SessionOptions().kv_type),
          [&shared](std::string_view value) { shared.kv_type = parse_kv_type(value); }}}};
}

OptionGroup output_group(SharedArguments &shared) {
    return {"Output",
            {{"--json", "", "", "one JSON object on standard output instead", "",
              to_switch(shared.json)},
             {"--quiet", "-q", "", "nothing on standard error but errors", "",
              to_switch(shared.quiet)}}};
}

OptionGroup sampling_group(SamplingOptions &s) {
    return {"Sampling",
            {{"--temp", "", "T", "temperature; 0 takes the likeliest token", str(s.temperature),
              checked(to_number(s.temperature), s), "temperature"},
             {"--top-k", "", "N", "draw among the N likeliest; 0 is all", str(s.top_k),
              checked(to_count(s.top_k, 0, INT32_MAX), s)},
             {"--top-p", "", "P", "draw among the likeliest that hold the share P", str(s.top_p),
              checked(to_number(s.top_p), s)},
             {"--min-p", "", "P", "draw among those with P times the likeliest's probability",
              str(s.min_p), checked(to_number(s.min_p), s)},
             {"--repeat-penalty", "", "X",
              str("penalty on the newest ", s.repeat_window, " tokens; 1 is none"),
              str(s.repeat_penalty), checked(to_number(s.repeat_penalty), s)}}};
}

std::string policy_notes() {
    std::string text = "Policies and their presets:\n";
    for (const Policy *policy : policies()) {
        std::string name = std::string("  ") + policy->name;
        name.resize(std::max<size_t>(name.size() + 2, 15), ' ');
        text += name + policy->summary + '\n';
        const std::string preset = preset_text(*policy);
        if (!preset.empty()) text += std::string(15, ' ') + preset + '\n';
    }
    return text;
}

EvictionOptions eviction_options(const SharedArguments &shared) {
    EvictionOptions options = shared.eviction;
    options.policy = shared.policy.value_or(any_eviction_option(options) ? "a2sf" : "full");
    if (find_policy(options.policy).evicts() && !options.budget) {
        options.budget = Amount::of_tokens(kDefaultBudget);
    }
    return options;
}

SessionOptions session_options(const SharedArguments &shared) {
    SessionOptions options;
    options.eviction = eviction_options(shared);
    options.eviction.validate();
    options.kv_type = shared.kv_type.value_or(options.kv_type);
    options.n_threads = shared.n_threads;
    options.batch = shared.batch.value_or(options.batch);
    return options;
}

std::unique_ptr<Session> open_saved(const SharedArguments &shared, const Engine &engine,
                                    const std::string &path) {
    const bool evicts = shared.policy || any_eviction_option(shared.eviction);
    const EvictionOptions eviction = eviction_options(shared);
    SavedSession saved =
        load_session(engine.model, path, shared.n_threads, evicts ? &eviction : nullptr);
    const SessionOptions &options = saved.session->options();
    const auto refuse = [&](const char *option, const auto &expected, const auto &found) {
        throw UsageError(str(option, ": ", expected, ", with which ", path,
                             " was saved, expected, found ", found));
    };
    if (shared.kv_type && *shared.kv_type != options.kv_type) {
        refuse("--kv-type", name_of(options.kv_type), name_of(*shared.kv_type));
    }
    // No batch is larger than the model's context.
    if (shared.batch && std::min(*shared.batch, engine.model->config().n_ctx) != options.batch) {
        refuse("--batch", options.batch, *shared.batch);
    }
    return std::move(saved.session);
}

std::string model_path(const SharedArguments &shared) {
    const std::string path = shared.model.empty() ? bundled_model_path() : shared.model;
    if (path.starts_with("hf:")) {
        throw UsageError(str("--model: a GGUF file expected, found \"", path,
                             "\"; hf: works from Python only, which downloads the file: "
                             "a2sf.Engine(\"",
                             path, "\")"));
    }
    return path;
}

Engine load_engine(const SharedArguments &shared) {
    Engine engine = Engine::load(model_path(shared), shared.device);
    for (const std::string &warning : engine.tokenizer->warnings()) note(shared, warning);
    return engine;
}

std::string read_text(const std::string &path) {
    const std::string name = path == "-" ? "standard input" : path;
    const auto fail = [&](const char *action) {
        throw Error(str(name, ": cannot ", action, ": ", std::generic_category().message(errno)));
    };
    const auto close = [](std::FILE *file) {
        if (file != stdin) std::fclose(file);
    };
    const std::unique_ptr<std::FILE, decltype(close)> file(
        path == "-" ? stdin : std::fopen(path.c_str(), "rb"), close);
    if (file == nullptr) fail("open");
    std::string text;
    char part[65536];
    while (const size_t n = std::fread(part, 1, sizeof(part), file.get())) text.append(part, n);
    if (std::ferror(file.get())) fail("read");
    return text;
}

std::string read_prompt_file(const std::string &path) {
    std::string text = read_text(path);
    if (!text.empty() && text.back() == '\n') text.pop_back();
    return text;
}

void note(const SharedArguments &shared, std::string_view text) {
    if (!shared.quiet) print_error(str("a2sf: ", text, "\n"));
}

void note_greedy(const SharedArguments &shared, const SamplingOptions &sampling) {
    const SamplingOptions plain;
    if (sampling.temperature > 0) return;
    if (sampling.top_k != plain.top_k || sampling.top_p != plain.top_p ||
        sampling.min_p != plain.min_p) {
        note(shared, "--top-k, --top-p, --min-p: no effect at --temp 0, the likeliest token");
    }
}

void note_saved(const SharedArguments &shared, const Session &session, const std::string &path) {
    note(shared, str("saved ", grouped(session.n_tokens()), " tokens as ", path, ", ",
                     human_bytes(std::filesystem::file_size(path))));
}

std::string describe_cache(const EvictionConfig &config) {
    if (!config.evicts()) return "none";
    std::string text = str(config.policy->name, ", budget ", grouped(config.budget));
    if (config.n_sinks > 0) text += str(", sinks ", config.n_sinks);
    if (config.n_recent > 0) text += str(", recent ", grouped(config.n_recent));
    if (config.policy->uses_window()) {
        text += str(", window ", config.window);
    } else if (config.policy->n_lanes() > 0) {
        text += ", factor " + shortened(config.forgetting_factor, 4);
        if (config.prefill != PromptMode::Token &&
            config.chunk_forgetting_factor != config.forgetting_factor) {
            text += str(" (", shortened(config.chunk_forgetting_factor, 4), " in chunks)");
        }
    }
    if (config.scope == Scope::Layer) text += ", scope layer";
    if (config.pooling > 1) text += str(", pooling ", config.pooling);
    if (config.compact()) text += ", positions compact";
    if (!config.pinned.empty()) text += ", pinned " + to_text(config.pinned);
    if (config.division == Division::Auto) {
        text += ", divided among heads by their need";
    } else if (!config.allocation.empty()) {
        text += ", divided among heads by an allocation";
    }
    if (config.guard > 0) text += str(", guard ", config.guard);
    return text + str(", prefill ", name_of(config.prefill));
}

void write_model(JsonWriter &json, const std::string &path, const Model &model) {
    const Config &config = model.config();
    json.key("model").begin_object();
    json.field("path", path);
    json.field("name", config.name);
    json.field("architecture", config.architecture);
    json.field("weight_type", model.weight_type_name());
    json.field("n_params", model.n_params());
    json.field("weight_bytes", model.n_weight_bytes());
    json.field("n_ctx", config.n_ctx);
    json.end_object();
}

void write_eviction(JsonWriter &json, const EvictionConfig &config) {
    json.field("policy", config.policy != nullptr ? config.policy->name : "full");
    if (!config.evicts()) {
        for (const char *name : {"budget", "forgetting_factor", "chunk_forgetting_factor", "sinks",
                                 "recent", "window", "scope", "pooling", "prefill", "positions",
                                 "pinned", "guard", "division", "allocation"}) {
            json.key(name).null();
        }
        return;
    }
    json.field("budget", config.budget);
    json.field("forgetting_factor", config.forgetting_factor);
    json.field("chunk_forgetting_factor", config.chunk_forgetting_factor);
    json.field("sinks", config.n_sinks);
    json.field("recent", config.n_recent);
    json.field("window", config.window);
    json.field("scope", name_of(config.scope));
    json.field("pooling", config.pooling);
    json.field("prefill", name_of(config.prefill));
    json.field("positions", name_of(config.positions));
    json.key("pinned").begin_array();
    for (const PositionRange &range : config.pinned) {
        json.begin_array().value(range.first).value(range.last).end_array();
    }
    json.end_array();
    json.field("guard", config.guard);
    json.field("division", name_of(config.division));
    json.key("allocation").begin_array();
    for (const float share : config.allocation) json.value(static_cast<double>(share));
    json.end_array();
}

void write_session_options(JsonWriter &json, const Session &session) {
    write_eviction(json, session.cache().config());
    json.field("kv_type", name_of(session.options().kv_type));
    json.field("batch", session.options().batch);
    json.field("device", session.backend().device());
    json.field("isa", session.backend().isa());
    json.field("threads", session.backend().n_threads());
}

}  // namespace a2sf::cli
