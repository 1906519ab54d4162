// keydiff: keys that point away from the others stay (arXiv 2504.15364). Needs no attention scores.
#include "evict/policy.h"

namespace a2sf {

namespace {

class KeyDiff final : public Policy {
  public:
    KeyDiff()
        : Policy("keydiff", "keys least similar to the mean key stay; attention is not used",
                 Preset{.n_sinks = 4, .recent_share = 0.25f}) {}
    size_t n_lanes() const override { return 0; }
    bool needs_similarity() const override { return true; }
    Ranking ranking() const override { return Ranking::Similarity; }

    void rank(const EvictionConfig &, std::span<const HeadView> heads,
              Matrix<float> rank) const override {
        for (size_t h = 0; h < heads.size(); ++h) {
            for (size_t i = 0; i < heads[h].pos.size(); ++i)
                rank.row(h)[i] = -heads[h].similarity[i];
        }
    }
};

}  // namespace

const Policy &keydiff_policy() {
    static const KeyDiff policy;
    return policy;
}

}  // namespace a2sf
