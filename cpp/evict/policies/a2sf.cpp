// a2sf: accumulated attention with a forgetting factor (arXiv 2407.20485), with sinks and the
// newest quarter of the budget protected, the budget divided among heads by what they need, and a
// guard against losing what a chunk has just read. All but the score is this project's: protection
// is what lets the factor rise, division what perplexity gains by, division and guard what is found
// again. A score that remembers more queries than the budget has room for keeps what is no longer
// asked for, so the factor is 0.99 from 250 tokens on and lower below. While a chunk is read
// nothing leaves, and what comes behind it may ask for any of it: its queries count nearly alike.
#include "evict/policy.h"

namespace a2sf {

const Policy &a2sf_policy() {
    static const Policy policy("a2sf",
                               "accumulated attention with a forgetting factor, recent protected",
                               Preset{.forgetting_factor = 0.99f,
                                      .memory_share = 0.4,
                                      .chunk_forgetting_factor = 0.998f,
                                      .n_sinks = 4,
                                      .recent_share = 0.25f,
                                      .guard = 0.65,
                                      .division = Division::Auto});
    return policy;
}

}  // namespace a2sf
