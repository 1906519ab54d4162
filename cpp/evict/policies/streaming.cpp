// streaming: the first tokens and the newest ones, attention ignored (arXiv 2309.17453).
#include <algorithm>

#include "evict/policy.h"

namespace a2sf {

namespace {

class Streaming final : public Policy {
  public:
    Streaming()
        : Policy("streaming", "the first 4 tokens and the newest ones", Preset{.n_sinks = 4}) {}
    size_t n_lanes() const override { return 0; }
    Ranking ranking() const override { return Ranking::Age; }

    // All equal: on a tie the older goes, which is the order of positions.
    void rank(const EvictionConfig &, std::span<const HeadView> heads,
              Matrix<float> rank) const override {
        for (size_t h = 0; h < heads.size(); ++h) {
            std::fill_n(rank.row(h), heads[h].pos.size(), 0.0f);
        }
    }
};

}  // namespace

const Policy &streaming_policy() {
    static const Streaming policy;
    return policy;
}

}  // namespace a2sf
