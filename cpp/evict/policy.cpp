#include "evict/policy.h"

#include <algorithm>

namespace a2sf {

float Preset::factor_at(size_t budget) const {
    if (memory_share <= 0) return forgetting_factor;
    const double remembered = std::max(1.0, memory_share * static_cast<double>(budget));
    return std::min(forgetting_factor, static_cast<float>(1.0 - 1.0 / remembered));
}

float Policy::query_weights(const EvictionConfig &config, size_t lane,
                            std::span<float> weight) const {
    const float slow =
        weight.size() > 1 ? config.chunk_forgetting_factor : config.forgetting_factor;
    const float factor = lane == 0 ? slow : config.fast_forgetting_factor;
    // factor^age for the newest query first; 0^0 = 1, so factor 0 keeps the newest query alone.
    float power = 1.0f;
    for (size_t i = weight.size(); i-- > 0;) {
        weight[i] = power;
        power *= factor;
    }
    return power;
}

void Policy::rank(const EvictionConfig &, std::span<const HeadView> heads,
                  Matrix<float> rank) const {
    for (size_t h = 0; h < heads.size(); ++h) {
        std::copy(heads[h].score[0].begin(), heads[h].score[0].end(), rank.row(h));
    }
}

}  // namespace a2sf
