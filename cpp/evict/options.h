// What a user asks of the eviction, and what that comes to for one prompt.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace a2sf {

class Policy;

// When a prompt's tokens are evicted (algorithm.md, section 2; the paper's order is Token).
enum class PromptMode { Token, Chunk, Full };

// Whether each KV head keeps its own tokens, or all KV heads of a layer the same ones.
enum class Scope { Head, Layer };

// Where RoPE sees the tokens of a head: at their positions in the text, or one after the other
// (StreamingLLM, arXiv 2309.17453, section 3.2), so that a text may be longer than what the model
// was trained on.
enum class Positions { Original, Compact };

// How the budget is divided among heads where nobody gives shares: the same for all, or by what
// each head of the model was measured to need (engine/head_need.h).
enum class Division { Equal, Auto };

// A number of tokens, or a share of something ("25%"): the budget's of the prompt, recent's of the
// budget. Exactly one of the two is set.
struct Amount {
    std::optional<size_t> tokens;
    std::optional<double> share;  // 0..1

    // "1024" or "20%". Throws OptionError naming `what`.
    static Amount parse(std::string_view text, std::string_view what);
    static Amount of_tokens(size_t n) { return {n, std::nullopt}; }
    static Amount of_share(double share) { return {std::nullopt, share}; }
    bool operator==(const Amount &) const = default;
    std::string to_string() const;
};

// Positions of the text, [first, last).
struct PositionRange {
    size_t first = 0;
    size_t last = 0;
    bool operator==(const PositionRange &) const = default;
};

constexpr size_t kDefaultBudget = 1024;

// Unset members take the policy's preset.
struct EvictionOptions {
    std::string policy = "full";
    std::optional<Amount> budget;
    std::optional<double> forgetting_factor;
    std::optional<size_t> sinks;
    std::optional<Amount> recent;
    std::optional<size_t> window;
    std::optional<Scope> scope;
    std::optional<size_t> pooling;
    std::optional<PromptMode> prefill;
    std::optional<Positions> positions;
    std::vector<PositionRange> pinned;  // never evicted; any order, may overlap
    // Of the slots that the eviction of a prompt's chunk leaves, beside the protected ones, the
    // share that goes to the keys least like the others, whatever attention says of them.
    std::optional<double> guard;
    std::optional<Division> division;  // not beside an allocation
    // What each KV head of each layer gets of the budget, relative to the others: [n_layers,
    // n_kv_heads]; empty for the same in all. The mean over heads is the budget.
    std::vector<float> allocation;

    // Throws OptionError if no prompt could make these valid: unknown names, numbers out of range,
    // options that the policy would ignore, protections larger than a fixed budget.
    void validate() const;
    bool needs_prompt_length() const { return budget && budget->share; }
    bool operator==(const EvictionOptions &) const = default;
};

// The same for one session: every number decided.
struct EvictionConfig {
    const Policy *policy = nullptr;
    size_t budget = 0;   // live slots per head after a step; 0 = no limit (policy full)
    size_t n_sinks = 0;  // a range of pinned positions that begins among them counts as sinks
    size_t n_recent = 0;
    double recent_share = 0;  // of a head's own budget, where heads differ; 0: n_recent in all
    size_t window = 0;        // queries in a box window; 0 = none
    float forgetting_factor = 1.0f;
    float chunk_forgetting_factor = 1.0f;  // of queries that are read together
    float fast_forgetting_factor = 1.0f;   // the second lane of a2sf-dual
    Scope scope = Scope::Head;
    size_t pooling = 1;
    PromptMode prefill = PromptMode::Chunk;
    Positions positions = Positions::Original;
    std::vector<PositionRange> pinned;  // as ordered_ranges() gives them
    double guard = 0;
    Division division = Division::Equal;
    // As in EvictionOptions, with Division::Auto once the session has measured the heads.
    std::vector<float> allocation;

    bool evicts() const { return budget != 0; }
    bool compact() const { return positions == Positions::Compact; }
    bool pins_behind_sinks() const { return !pinned.empty() && pinned.back().last > n_sinks; }
    size_t n_pinned_behind_sinks() const;
};

// Whether an allocation may hold it.
bool is_share(float share);

// A share of n, rounded down, but not because 29 % has no exact binary form.
size_t floor_share(double share, size_t n);

// Decides every number for a prompt of n_prompt tokens (used when the budget is a share).
// Throws OptionError as validate() does, and when the protections exceed the budget.
EvictionConfig resolve(const EvictionOptions &options, size_t n_prompt);

// Sorted, those that touch joined, empty ones dropped. Throws OptionError for a range that ends
// before it begins, or behind the last position there can be.
std::vector<PositionRange> ordered_ranges(std::vector<PositionRange> ranges);

// "57" for the first 57 positions, "100-120" for 100 to 119, several with commas. to_text() is the
// second form, whatever was parsed.
std::vector<PositionRange> parse_ranges(std::string_view text);
std::string to_text(const std::vector<PositionRange> &ranges);

const char *name_of(PromptMode mode);
const char *name_of(Scope scope);
const char *name_of(Positions positions);
const char *name_of(Division division);
PromptMode parse_prompt_mode(std::string_view text);  // OptionError lists the known ones
Scope parse_scope(std::string_view text);
Positions parse_positions(std::string_view text);
Division parse_division(std::string_view text);

}  // namespace a2sf
