// a2sf-dual: two memories, a token lives on either (this project's; algorithm: two A2SF scores).
//   fast[p]   = max over |p' - p| <= pooling/2 of sum over the layer's KV heads of A_fast[p']
//   rank_h[p] = max(fast[p] / sum_p' of that sum, A_h,slow[p] / sum_s A_h,slow[s])
// A head that no longer holds p' adds nothing; with scope layer A_h,slow is summed over the heads
// too. The slow score keeps what each head uses, which perplexity rewards; the fast one, shared and
// spread, keeps what was just looked up, which retrieval rewards.
#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "evict/policy.h"
#include "evict/select.h"

namespace a2sf {

namespace {

class A2sfDual final : public Policy {
  public:
    A2sfDual()
        : Policy("a2sf-dual",
                 "a slow score per head and a fast one per layer; either keeps a token",
                 Preset{.forgetting_factor = 0.99f,
                        .fast_forgetting_factor = 0.9f,
                        .n_sinks = 4,
                        .recent_share = 0.25f,
                        .pooling = 7}) {}
    size_t n_lanes() const override { return 2; }
    bool spreads_itself() const override { return true; }
    Ranking ranking() const override { return Ranking::TwoScores; }

    void rank(const EvictionConfig &config, std::span<const HeadView> heads,
              Matrix<float> rank) const override {
        thread_local Union shared;
        shared.gather(heads);
        const float fast_total =
            static_cast<float>(std::accumulate(shared.sum.begin(), shared.sum.end(), 0.0));
        shared.pooled.resize(shared.sum.size());
        pool_maximum(config.pooling, shared.pos, shared.sum.data(), shared.pooled.data());
        const bool layer = config.scope == Scope::Layer;
        for (size_t h = 0; h < heads.size(); ++h) {
            const HeadView &head = heads[h];
            const size_t live = head.pos.size();
            // The same order of sums for every head, so that all heads agree on every tie.
            const HeadView &first = layer ? heads[0] : head;
            shared.slow.assign(first.score[0].begin(), first.score[0].end());
            for (size_t other = 1; layer && other < heads.size(); ++other) {
                for (size_t i = 0; i < live; ++i) shared.slow[i] += heads[other].score[0][i];
            }
            const float slow_total =
                static_cast<float>(std::accumulate(shared.slow.begin(), shared.slow.end(), 0.0));
            size_t u = 0;
            for (size_t i = 0; i < live; ++i) {
                while (shared.pos[u] != head.pos[i]) ++u;
                const float fast = fast_total > 0 ? shared.pooled[u] / fast_total : 0.0f;
                const float slow = slow_total > 0 ? shared.slow[i] / slow_total : 0.0f;
                rank.row(h)[i] = std::max(fast, slow);
            }
        }
    }

  private:
    // The fast score over all positions that any head of the layer holds. Scratch of one thread:
    // grows to the layer's size once.
    struct Union {
        std::vector<int32_t> pos;    // [n], ascending
        std::vector<float> sum;      // [n]
        std::vector<float> pooled;   // [n]
        std::vector<float> slow;     // [live] of one head, or of all where they share
        std::vector<size_t> cursor;  // [n_kv_heads]

        void gather(std::span<const HeadView> heads) {
            pos.clear();
            sum.clear();
            cursor.assign(heads.size(), 0);
            for (;;) {
                int32_t next = std::numeric_limits<int32_t>::max();
                for (size_t h = 0; h < heads.size(); ++h) {
                    if (cursor[h] < heads[h].pos.size())
                        next = std::min(next, heads[h].pos[cursor[h]]);
                }
                if (next == std::numeric_limits<int32_t>::max()) return;
                float total = 0.0f;
                for (size_t h = 0; h < heads.size(); ++h) {
                    const size_t i = cursor[h];
                    if (i < heads[h].pos.size() && heads[h].pos[i] == next) {
                        total += heads[h].score[1][i];
                        ++cursor[h];
                    }
                }
                pos.push_back(next);
                sum.push_back(total);
            }
        }
    };
};

}  // namespace

const Policy &a2sf_dual_policy() {
    static const A2sfDual policy;
    return policy;
}

}  // namespace a2sf
