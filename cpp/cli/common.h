// What the sub-commands share: the options of model, cache and output, the road from these to a
// session, and the JSON and text that describe one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "cli/json.h"
#include "cli/options.h"
#include "engine/engine.h"
#include "engine/session.h"

namespace a2sf::cli {

// The shared options as given on the command line; unset where the library decides.
struct SharedArguments {
    std::string model;  // empty: the bundled one
    size_t n_threads = 0;
    std::string device = "auto";
    std::optional<std::string> policy;
    EvictionOptions eviction;  // its policy is decided by eviction_options()
    std::optional<size_t> batch;
    std::optional<KvType> kv_type;
    uint64_t seed = 0;
    bool json = false;
    bool quiet = false;
};

// The tables of the shared options, in the order in which --help shows them.
OptionGroup model_group(SharedArguments &shared);
OptionGroup machine_group(SharedArguments &shared);
OptionGroup cache_group(SharedArguments &shared);
OptionGroup output_group(SharedArguments &shared);
OptionGroup sampling_group(SamplingOptions &sampling);

// The end of --help: every policy of the registry with its summary and preset.
std::string policy_notes();

// No eviction option at all: the full cache. Eviction options without --policy: a2sf. A policy
// without --budget: kDefaultBudget.
EvictionOptions eviction_options(const SharedArguments &shared);
SessionOptions session_options(const SharedArguments &shared);  // validated: throws OptionError

// A saved session, whose options hold where none were given. Throws UsageError for options that
// were given and are others than the file's.
std::unique_ptr<Session> open_saved(const SharedArguments &shared, const Engine &engine,
                                    const std::string &path);

// Loads the model; tells the tokenizer's warnings on standard error unless quiet.
Engine load_engine(const SharedArguments &shared);
std::string model_path(const SharedArguments &shared);

// The bytes of a file, of standard input for "-". Throws Error.
std::string read_text(const std::string &path);

// The same without one newline at its end: a prompt.
std::string read_prompt_file(const std::string &path);

// Reports to standard error unless quiet: "a2sf: text".
void note(const SharedArguments &shared, std::string_view text);

// Says what would otherwise surprise: options that greedy sampling has no use for.
void note_greedy(const SharedArguments &shared, const SamplingOptions &sampling);

// Says what has just been saved as `path`.
void note_saved(const SharedArguments &shared, const Session &session, const std::string &path);

// A cache as configured for what the session has read: "a2sf, budget 1,024 (sinks 4, ...)".
std::string describe_cache(const EvictionConfig &config);

// The objects "model" and the members of "options" that describe a session.
void write_model(JsonWriter &json, const std::string &path, const Model &model);
void write_eviction(JsonWriter &json, const EvictionConfig &config);
void write_session_options(JsonWriter &json, const Session &session);

}  // namespace a2sf::cli
