#include "evict/options.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "base/error.h"
#include "evict/parse.h"
#include "evict/policy.h"
#include "evict/registry.h"
#include "evict/victim_key.h"

namespace a2sf {

namespace {

void check_factor(double factor) {
    if (!(factor >= 0.0 && factor <= 1.0)) {
        throw OptionError(str("forgetting_factor: a number from 0 to 1 expected, found ", factor));
    }
}

void check_share(const Amount &amount, const char *what) {
    if (amount.tokens.has_value() == amount.share.has_value()) {
        throw OptionError(
            str(what, ": tokens or a share expected, found ", amount.tokens ? "both" : "neither"));
    }
    if (amount.share && !(*amount.share >= 0.0 && *amount.share <= 1.0)) {
        throw OptionError(
            str(what, ": a share from 0 % to 100 % expected, found ", *amount.share * 100.0, " %"));
    }
}

// Positions are 32-bit, so no number of tokens needs to be larger; sums of three fit in a size_t.
constexpr size_t kMostTokens = (size_t{1} << 31) - 1;

void check_tokens(const std::optional<size_t> &tokens, const char *what) {
    if (tokens && *tokens > kMostTokens) {
        throw OptionError(str(what, ": at most ", kMostTokens, " expected, found ", *tokens));
    }
}

// Options that the policy has no use for are errors, never ignored.
void check_unused(const EvictionOptions &options, const Policy &policy) {
    const auto refuse = [&](bool given, const char *option, const char *reason) {
        if (given) {
            throw OptionError(str(option, ": no such option expected for policy ", policy.name,
                                  ", ", reason, "; found one"));
        }
    };
    if (!policy.evicts()) {
        const char *reason = "which evicts nothing";
        refuse(options.budget.has_value(), "budget", reason);
        refuse(options.sinks.has_value(), "sinks", reason);
        refuse(options.recent.has_value(), "recent", reason);
        refuse(options.scope.has_value(), "scope", reason);
        refuse(options.prefill.has_value(), "prefill", reason);
        refuse(options.positions.has_value(), "positions", reason);
        refuse(options.pooling.has_value(), "pooling", reason);
        refuse(!options.pinned.empty(), "pinned", reason);
        refuse(options.guard.has_value(), "guard", reason);
        refuse(!options.allocation.empty() || options.division, "allocation", reason);
    }
    const char *unscored = "which accumulates no attention score";
    refuse(options.forgetting_factor && policy.n_lanes() == 0, "forgetting_factor", unscored);
    const bool ranked = policy.n_lanes() > 0 || policy.needs_similarity();
    const char *by_age = "which ranks by age alone";
    refuse(options.pooling && policy.evicts() && !ranked, "pooling", by_age);
    refuse(options.scope && policy.evicts() && !ranked, "scope", by_age);
    refuse(options.recent && policy.evicts() && !ranked, "recent", by_age);
    refuse(options.forgetting_factor && policy.uses_window(), "forgetting_factor",
           "which weighs queries by its window");
    refuse(options.guard && policy.evicts() && policy.n_lanes() == 0, "guard", unscored);
    refuse(options.window && !policy.uses_window(), "window", "which has no observation window");
}

// Heads that hold different numbers of tokens cannot hold the same ones.
void check_allocation(const EvictionOptions &options) {
    if (options.allocation.empty()) return;
    if (options.division) {
        throw OptionError(
            str("allocation: shares or ", name_of(*options.division), " expected, found both"));
    }
    for (const float share : options.allocation) {
        if (!is_share(share)) {
            throw OptionError(str("allocation: shares above 0 expected, found ", share));
        }
    }
    if (options.scope == Scope::Layer) {
        throw OptionError("allocation: scope head expected, found layer");
    }
}

size_t resolve_budget(const Amount &budget, size_t n_prompt) {
    if (budget.tokens) return *budget.tokens;
    const double exact = *budget.share * static_cast<double>(n_prompt);
    const size_t tokens = static_cast<size_t>(std::floor(exact + 0.5));
    return tokens == 0 ? 1 : tokens;
}

// Pinned positions that begin among the sinks become sinks, so that the others alone cost a search.
void extend_sinks(EvictionConfig &config) {
    for (const PositionRange &range : config.pinned) {
        if (range.first <= config.n_sinks) config.n_sinks = std::max(config.n_sinks, range.last);
    }
}

void check_protection(const EvictionConfig &config, size_t n_sinks_asked) {
    const size_t n_pinned = config.n_sinks - n_sinks_asked + config.n_pinned_behind_sinks();
    const size_t n_protected = n_sinks_asked + n_pinned + config.n_recent;
    if (n_protected <= config.budget) return;
    const std::string pinned = n_pinned > 0 ? str(" + ", n_pinned, " pinned") : "";
    throw OptionError(str("budget: at least ", n_protected, " tokens (", n_sinks_asked, " sinks",
                          pinned, " + ", config.n_recent, " recent) expected for policy ",
                          config.policy->name, ", found ", config.budget));
}

}  // namespace

bool is_share(float share) {
    return share > 0.0f && std::isfinite(share);
}

size_t floor_share(double share, size_t n) {
    return share_of(share, n);
}

size_t EvictionConfig::n_pinned_behind_sinks() const {
    size_t n = 0;
    for (const PositionRange &range : pinned) {
        if (range.first > n_sinks) n += range.last - range.first;
    }
    return n;
}

Amount Amount::parse(std::string_view text, std::string_view what) {
    const char *expected = "a number of tokens or a percentage such as 20%";
    if (!text.empty() && text.back() == '%') {
        const double percent =
            parse_number<double>(text.substr(0, text.size() - 1), what, expected);
        return of_share(percent / 100.0);
    }
    return of_tokens(parse_number<size_t>(text, what, expected));
}

std::string Amount::to_string() const {
    return tokens ? str(*tokens) : str(share.value_or(0.0) * 100.0, "%");
}

void EvictionOptions::validate() const {
    const Policy &chosen = find_policy(policy);
    check_unused(*this, chosen);
    if (budget) check_share(*budget, "budget");
    if (recent) check_share(*recent, "recent");
    if (budget) check_tokens(budget->tokens, "budget");
    if (recent) check_tokens(recent->tokens, "recent");
    check_tokens(sinks, "sinks");
    check_tokens(window, "window");
    check_tokens(pooling, "pooling");
    ordered_ranges(pinned);
    check_allocation(*this);
    if (guard && !(*guard >= 0.0 && *guard <= 1.0)) {
        throw OptionError(str("guard: a share from 0 to 1 expected, found ", *guard));
    }
    if (forgetting_factor) check_factor(*forgetting_factor);
    if (budget && (budget->tokens == size_t{0} || budget->share == 0.0)) {
        throw OptionError("budget: at least 1 token expected, found 0");
    }
    if (window && *window == 0) throw OptionError("window: at least 1 query expected, found 0");
    if (pooling && *pooling % 2 == 0) {
        throw OptionError(
            str("pooling: an odd number of positions expected, 1 for none, found ", *pooling));
    }
    if (chosen.evicts() && !needs_prompt_length()) resolve(*this, 0);
}

EvictionConfig resolve(const EvictionOptions &options, size_t n_prompt) {
    const Policy &policy = find_policy(options.policy);
    const Preset &preset = policy.preset;
    EvictionConfig config;
    config.policy = &policy;
    if (!policy.evicts()) return config;
    config.budget =
        resolve_budget(options.budget.value_or(Amount::of_tokens(kDefaultBudget)), n_prompt);
    config.n_sinks = options.sinks.value_or(preset.n_sinks);
    const Amount recent = options.recent.value_or(
        preset.recent_share > 0 ? Amount::of_share(static_cast<double>(preset.recent_share))
                                : Amount::of_tokens(preset.recent_tokens));
    config.recent_share = recent.share.value_or(0.0);
    config.n_recent = recent.tokens ? *recent.tokens : floor_share(*recent.share, config.budget);
    config.window = options.window.value_or(preset.window);
    config.forgetting_factor = options.forgetting_factor
                                   ? static_cast<float>(*options.forgetting_factor)
                                   : preset.factor_at(config.budget);
    const bool apart = !options.forgetting_factor && preset.chunk_forgetting_factor > 0;
    config.chunk_forgetting_factor =
        apart ? preset.chunk_forgetting_factor : config.forgetting_factor;
    config.fast_forgetting_factor = preset.fast_forgetting_factor;
    config.scope = options.scope.value_or(Scope::Head);
    config.pooling = options.pooling.value_or(preset.pooling);
    config.prefill = options.prefill.value_or(preset.prefill);
    config.positions = options.positions.value_or(Positions::Original);
    config.pinned = ordered_ranges(options.pinned);
    config.guard = options.guard.value_or(preset.guard);
    config.division = options.division.value_or(preset.division);
    config.allocation = options.allocation;
    if (!config.allocation.empty()) config.division = Division::Equal;
    const size_t n_sinks_asked = config.n_sinks;
    extend_sinks(config);
    check_protection(config, n_sinks_asked);
    return config;
}

std::vector<PositionRange> ordered_ranges(std::vector<PositionRange> ranges) {
    for (const PositionRange &range : ranges) {
        if (range.first > range.last || range.last > kMostTokens) {
            throw OptionError(str("pinned: ranges that begin before they end, at ", kMostTokens,
                                  " at most, expected, found ", range.first, "-", range.last));
        }
    }
    std::erase_if(ranges, [](const PositionRange &range) { return range.first == range.last; });
    std::sort(ranges.begin(), ranges.end(),
              [](const PositionRange &a, const PositionRange &b) { return a.first < b.first; });
    std::vector<PositionRange> joined;
    for (const PositionRange &range : ranges) {
        if (!joined.empty() && range.first <= joined.back().last) {
            joined.back().last = std::max(joined.back().last, range.last);
        } else {
            joined.push_back(range);
        }
    }
    return joined;
}

std::vector<PositionRange> parse_ranges(std::string_view text) {
    const char *expected = "the first N positions (57) or ranges without their ends (0-57,100-120)";
    std::vector<PositionRange> ranges;
    for (bool more = true; more;) {
        const size_t comma = std::min(text.find(','), text.size());
        const std::string_view part = text.substr(0, comma);
        const size_t dash = part.find('-');
        PositionRange range;
        if (dash != part.npos) {
            range.first = parse_number<size_t>(part.substr(0, dash), "pinned", expected);
        }
        range.last = parse_number<size_t>(part.substr(dash + 1), "pinned", expected);
        ranges.push_back(range);
        more = comma < text.size();
        if (more) text.remove_prefix(comma + 1);
    }
    return ordered_ranges(std::move(ranges));
}

std::string to_text(const std::vector<PositionRange> &ranges) {
    std::string text;
    for (const PositionRange &range : ranges) {
        text += str(text.empty() ? "" : ",", range.first, "-", range.last);
    }
    return text;
}

const char *name_of(PromptMode mode) {
    switch (mode) {
        case PromptMode::Token:
            return "token";
        case PromptMode::Chunk:
            return "chunk";
        case PromptMode::Full:
            return "full";
    }
    return "";
}

const char *name_of(Scope scope) {
    return scope == Scope::Head ? "head" : "layer";
}

const char *name_of(Positions positions) {
    return positions == Positions::Original ? "original" : "compact";
}

const char *name_of(Division division) {
    return division == Division::Equal ? "equal" : "auto";
}

Division parse_division(std::string_view text) {
    for (Division division : {Division::Equal, Division::Auto}) {
        if (text == name_of(division)) return division;
    }
    throw OptionError(str("allocation: auto or equal expected, found \"", text, "\""));
}

Positions parse_positions(std::string_view text) {
    for (Positions positions : {Positions::Original, Positions::Compact}) {
        if (text == name_of(positions)) return positions;
    }
    throw OptionError(str("positions: original or compact expected, found \"", text, "\""));
}

PromptMode parse_prompt_mode(std::string_view text) {
    for (PromptMode mode : {PromptMode::Token, PromptMode::Chunk, PromptMode::Full}) {
        if (text == name_of(mode)) return mode;
    }
    throw OptionError(str("prefill: token, chunk or full expected, found \"", text, "\""));
}

Scope parse_scope(std::string_view text) {
    for (Scope scope : {Scope::Head, Scope::Layer}) {
        if (text == name_of(scope)) return scope;
    }
    throw OptionError(str("scope: head or layer expected, found \"", text, "\""));
}

}  // namespace a2sf
