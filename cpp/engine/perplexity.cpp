#include "engine/perplexity.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "sample/sampler.h"

namespace a2sf {

std::vector<float> score(Session &session, std::span<const int32_t> ids, const Progress &progress) {
    const size_t n_vocab = session.model().config().n_vocab;
    std::vector<float> log_probs(ids.empty() ? 0 : ids.size() - 1);
    session.feed_all(
        ids,
        [&](size_t first, size_t n, const float *logits) {
            for (size_t i = 0; i < n && first + i + 1 < ids.size(); ++i) {
                log_probs[first + i] = static_cast<float>(
                    log_probability({logits + i * n_vocab, n_vocab}, ids[first + i + 1]));
            }
        },
        progress);
    return log_probs;
}

PerplexityResult perplexity(Session &session, std::span<const int32_t> ids, size_t n_ctx,
                            const Progress &progress) {
    if (n_ctx < 2) throw OptionError(str("ctx: at least 2 tokens expected, found ", n_ctx));
    if (ids.size() < 2)
        throw OptionError(str("text: at least 2 tokens expected, found ", ids.size()));
    PerplexityResult result;
    double sum = 0.0;
    double sum_of_squares = 0.0;
    for (size_t first = 0; first + 1 < ids.size(); first += n_ctx) {
        const size_t n = std::min(n_ctx, ids.size() - first);
        session.reset();
        session.reserve(n);
        const Progress in_all = [&](size_t done, size_t) {
            return !progress || progress(first + done, ids.size());
        };
        for (float log_prob : score(session, ids.subspan(first, n), in_all)) {
            sum -= static_cast<double>(log_prob);
            sum_of_squares += static_cast<double>(log_prob) * static_cast<double>(log_prob);
            ++result.n_scored;
        }
        ++result.n_windows;
    }
    const double n = static_cast<double>(result.n_scored);
    result.mean_nll = sum / n;
    const double variance = std::max(0.0, sum_of_squares / n - result.mean_nll * result.mean_nll);
    result.standard_error = n > 1 ? std::sqrt(variance / (n - 1)) : 0.0;
    result.perplexity = std::exp(result.mean_nll);
    return result;
}

}  // namespace a2sf
