// What an eviction policy is. It sees positions and scores in order of age, never K/V memory,
// slots, budgets or protections: those are the cache's, the same for all policies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/buffer.h"
#include "evict/options.h"

namespace a2sf {

// Scores a slot may carry; a lane is one accumulated score with its own query weights.
constexpr size_t kMaxScoreLanes = 2;

// A policy's numbers where the user gives none.
struct Preset {
    float forgetting_factor = 1.0f;
    // Where above 0, the factor is lower with small budgets: a score remembers 1 / (1 - factor)
    // queries, at most this share of the budget.
    double memory_share = 0;
    // Between queries that are read together, so that no token leaves before the last of them has
    // looked; 0: the same factor.
    float chunk_forgetting_factor = 0;
    float fast_forgetting_factor = 1.0f;
    size_t n_sinks = 0;
    size_t recent_tokens = 0;   // used when recent_share is 0
    float recent_share = 0.0f;  // of the budget, rounded down
    size_t window = 0;
    size_t pooling = 1;
    PromptMode prefill = PromptMode::Chunk;
    double guard = 0;
    Division division = Division::Equal;

    float factor_at(size_t budget) const;
};

// One head's live tokens, oldest first. All spans have the same length; similarity is the cosine
// of each key to the mean of the head's live keys, and empty unless the policy needs it.
struct HeadView {
    std::span<const int32_t> pos;
    std::span<const float> score[kMaxScoreLanes];
    std::span<const float> similarity;
};

// Where a policy's ranks come from: the score of lane 0, nothing (the oldest leaves), or how little
// a key is like the others (the one that is most like them leaves). What is not its own needs no
// call of rank(): a decoding step looks for the lowest score, or the oldest token, where they lie,
// and a device that keeps slots ranks a chunk's as well. TwoScores is a2sf-dual's, which such a
// device knows, too (policies/a2sf_dual.cpp).
enum class Ranking { Score, Age, Similarity, TwoScores, Own };

// Stateless and immortal: one instance each, listed in evict/registry.h.
class Policy {
  public:
    Policy(const char *the_name, const char *the_summary, Preset the_preset)
        : name(the_name), summary(the_summary), preset(the_preset) {}
    virtual ~Policy() = default;

    const char *const name;
    const char *const summary;  // one line for --help
    const Preset preset;

    virtual bool evicts() const { return true; }
    virtual size_t n_lanes() const { return 1; }
    virtual bool needs_similarity() const { return false; }
    virtual bool uses_window() const { return false; }
    virtual Ranking ranking() const { return Ranking::Score; }
    // True when rank() already applies scope and pooling (select.h's spread_ranks).
    virtual bool spreads_itself() const { return false; }

    // How a chunk of m queries enters lane `lane`:
    //   A[s] <- decay * A[s] + sum_i weight[i] * sum_g p_g[i, s]        weight [m], returns decay
    // The default is the forgetting factor's: decay = f^m, weight[i] = f^(m-1-i), with f^0 = 1; f
    // is that of chunks where m > 1.
    virtual float query_weights(const EvictionConfig &config, size_t lane,
                                std::span<float> weight) const;

    // rank[h][i] of the i-th oldest token of head h; the lowest goes first, the older on a tie.
    // heads: all KV heads of one layer. rank: [n_kv_heads, >= live]. Default: lane 0 as it is. One
    // that differs from the default must say so in ranking().
    virtual void rank(const EvictionConfig &config, std::span<const HeadView> heads,
                      Matrix<float> rank) const;
};

}  // namespace a2sf
