// From ranks to victims, the same for every policy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "evict/options.h"
#include "evict/policy.h"
#include "evict/victim_key.h"

namespace a2sf {

// to[i] = the maximum of from over tokens whose positions lie within pooling / 2 of token i's.
// pos ascending; from and to like it, not overlapping.
void pool_maximum(size_t pooling, std::span<const int32_t> pos, const float *from, float *to);

// Every head's row becomes the sum of all rows, for heads that hold the same tokens.
void share_rows(size_t n_heads, size_t live, Matrix<float> rows);

// Turns a policy's ranks into those that count: for Scope::Layer every head gets the sum over heads
// (all heads then hold the same tokens), and pooling replaces a rank by the maximum over tokens
// whose positions lie within pooling / 2. rank [n_kv_heads, >= live]; scratch [live].
void spread_ranks(const EvictionConfig &config, const Policy &policy,
                  std::span<const HeadView> heads, Matrix<float> rank, std::span<float> scratch);

// Puts the share config.guard of what will be left above all other ranks: the candidates whose keys
// are least like the others (those that KeyDiff keeps, arXiv 2504.15364), each in the mean with
// those that are left within kGuardReach positions: a name or a number is several tokens, and found
// only whole. n_victims: how many are to leave. head.similarity is needed. rank [live]; scratch
// [live].
void guard_ranks(const EvictionConfig &config, size_t n_recent, const HeadView &head,
                 size_t n_victims, float *rank, std::span<uint64_t> scratch);

// The tokens that neither sinks nor recent protect: indices [first, last) of an age-ordered list.
// Pinned ones may be among them.
struct Unprotected {
    size_t first;
    size_t last;
};
Unprotected unprotected(const EvictionConfig &config, size_t n_recent,
                        std::span<const int32_t> pos);

// Picks the n lowest ranks of tokens that nothing protects, ties to the older, NaN lowest of all.
// Protected tokens are never looked at, so no rank can displace one. Writes indices in ascending
// order. pos [live] ascending; rank [live]; victims [n], n <= the unprotected; scratch [live].
void select_victims(const EvictionConfig &config, size_t n_recent, std::span<const int32_t> pos,
                    std::span<const float> rank, std::span<uint32_t> victims,
                    std::span<uint64_t> scratch);

}  // namespace a2sf
