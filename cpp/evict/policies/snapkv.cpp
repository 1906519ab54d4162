// snapkv: the attention of the last 32 queries of the prompt, spread over 7 neighbours, decides
// once at the prompt's end (arXiv 2404.14469). SnapKV stops there; so that the budget holds while
// decoding, a new query of weight 1 joins and the rest fades by 1 - 1/window, the recursion with
// the same total weight. A chunk shorter than the window fades the rest by 1 - m/window likewise.
#include <algorithm>

#include "evict/policy.h"

namespace a2sf {

namespace {

class SnapKv final : public Policy {
  public:
    SnapKv()
        : Policy(
              "snapkv", "attention of the prompt's last 32 queries, pooled over neighbours",
              Preset{
                  .recent_tokens = 32, .window = 32, .pooling = 7, .prefill = PromptMode::Full}) {}
    bool uses_window() const override { return true; }

    float query_weights(const EvictionConfig &config, size_t,
                        std::span<float> weight) const override {
        const size_t m = weight.size();
        const size_t inside = std::min(m, config.window);
        std::fill(weight.begin(), weight.end() - static_cast<ptrdiff_t>(inside), 0.0f);
        std::fill(weight.end() - static_cast<ptrdiff_t>(inside), weight.end(), 1.0f);
        return 1.0f - static_cast<float>(inside) / static_cast<float>(config.window);
    }
};

}  // namespace

const Policy &snapkv_policy() {
    static const SnapKv policy;
    return policy;
}

}  // namespace a2sf
