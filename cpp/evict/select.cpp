#include "evict/select.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "evict/victim_key.h"

namespace a2sf {

namespace {

// visit(i) for every token that nothing protects, oldest first.
template <typename Visit>
void each_candidate(const EvictionConfig &config, size_t n_recent, std::span<const int32_t> pos,
                    const Visit &visit) {
    const Unprotected range = unprotected(config, n_recent, pos);
    size_t i = range.first;
    for (const PositionRange &pinned : config.pinned) {
        for (; i < range.last && static_cast<size_t>(pos[i]) < pinned.first; ++i) visit(i);
        while (i < range.last && static_cast<size_t>(pos[i]) < pinned.last) ++i;
    }
    for (; i < range.last; ++i) visit(i);
}

// The tokens within reach of one, [first, last), that move_to() was last given; older ones first.
struct Neighbours {
    std::span<const int32_t> pos;
    int32_t reach;
    size_t first = 0;
    size_t last = 0;

    void move_to(size_t i) {
        while (pos[i] - pos[first] > reach) ++first;
        while (last < pos.size() && pos[last] - pos[i] <= reach) ++last;
    }
};

}  // namespace

void share_rows(size_t n_heads, size_t live, Matrix<float> rows) {
    float *total = rows.row(0);
    for (size_t h = 1; h < n_heads; ++h) {
        const float *own = rows.row(h);
        for (size_t i = 0; i < live; ++i) total[i] += own[i];
    }
    for (size_t h = 1; h < n_heads; ++h) std::copy(total, total + live, rows.row(h));
}

void guard_ranks(const EvictionConfig &config, size_t n_recent, const HeadView &head,
                 size_t n_victims, float *rank, std::span<uint64_t> scratch) {
    const float *similarity = head.similarity.data();
    Neighbours near{head.pos, kGuardReach};
    size_t n = 0;
    each_candidate(config, n_recent, head.pos, [&](size_t i) {
        near.move_to(i);
        const float total = std::accumulate(similarity + near.first, similarity + near.last, 0.0f);
        scratch[n++] = victim_key(-total / static_cast<float>(near.last - near.first), i);
    });
    const size_t n_guarded = floor_share(config.guard, n - n_victims);
    if (n_guarded == 0) return;
    const auto first = scratch.begin() + static_cast<std::ptrdiff_t>(n - n_guarded);
    std::nth_element(scratch.begin(), first, scratch.begin() + static_cast<std::ptrdiff_t>(n));
    for (const uint64_t key : scratch.subspan(n - n_guarded, n_guarded)) {
        rank[static_cast<uint32_t>(key)] = std::numeric_limits<float>::infinity();
    }
}

void pool_maximum(size_t pooling, std::span<const int32_t> pos, const float *from, float *to) {
    Neighbours near{pos, static_cast<int32_t>(pooling / 2)};
    for (size_t i = 0; i < pos.size(); ++i) {
        near.move_to(i);
        to[i] = *std::max_element(from + near.first, from + near.last);
    }
}

void spread_ranks(const EvictionConfig &config, const Policy &policy,
                  std::span<const HeadView> heads, Matrix<float> rank, std::span<float> scratch) {
    if (policy.spreads_itself()) return;
    if (config.scope == Scope::Layer) share_rows(heads.size(), heads[0].pos.size(), rank);
    if (config.pooling <= 1) return;
    for (size_t h = 0; h < heads.size(); ++h) {
        const size_t live = heads[h].pos.size();
        std::copy(rank.row(h), rank.row(h) + live, scratch.begin());
        pool_maximum(config.pooling, heads[h].pos, scratch.data(), rank.row(h));
    }
}

Unprotected unprotected(const EvictionConfig &config, size_t n_recent,
                        std::span<const int32_t> pos) {
    const int64_t newest = pos.back();
    const auto sinks_end =
        std::lower_bound(pos.begin(), pos.end(), static_cast<int64_t>(config.n_sinks));
    const auto recent_begin =
        std::upper_bound(pos.begin(), pos.end(), newest - static_cast<int64_t>(n_recent));
    const size_t first = static_cast<size_t>(sinks_end - pos.begin());
    return {first, std::max(first, static_cast<size_t>(recent_begin - pos.begin()))};
}

void select_victims(const EvictionConfig &config, size_t n_recent, std::span<const int32_t> pos,
                    std::span<const float> rank, std::span<uint32_t> victims,
                    std::span<uint64_t> scratch) {
    if (victims.size() == 1) {
        // A single step: a plain minimum, the first of equals.
        size_t lowest = pos.size();
        each_candidate(config, n_recent, pos, [&](size_t i) {
            if (lowest == pos.size() || victim_key(rank[i], i) < victim_key(rank[lowest], lowest)) {
                lowest = i;
            }
        });
        victims[0] = static_cast<uint32_t>(lowest);
        return;
    }
    size_t n = 0;
    each_candidate(config, n_recent, pos, [&](size_t i) { scratch[n++] = victim_key(rank[i], i); });
    const auto highest = scratch.begin() + static_cast<std::ptrdiff_t>(victims.size() - 1);
    std::nth_element(scratch.begin(), highest, scratch.begin() + static_cast<std::ptrdiff_t>(n));
    const uint64_t bound = *highest;
    size_t found = 0;
    each_candidate(config, n_recent, pos, [&](size_t i) {
        if (victim_key(rank[i], i) <= bound) victims[found++] = static_cast<uint32_t>(i);
    });
}

}  // namespace a2sf
