// Scores a text: the mean negative log-likelihood of its tokens in non-overlapping windows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/session.h"

namespace a2sf {

struct PerplexityResult {
    size_t n_scored = 0;
    size_t n_windows = 0;
    double mean_nll = 0;        // nats per token
    double standard_error = 0;  // of mean_nll
    double perplexity = 0;      // exp(mean_nll)
};

// log p(ids[i+1] | ids[0..i]) for i in [0, n-1), from a fresh session. Natural logs.
std::vector<float> score(Session &session, std::span<const int32_t> ids,
                         const Progress &progress = {});

// Cuts ids into windows of n_ctx (the last may be shorter, at least 2), each read by a reset
// session and scored from its second token (the first that has a predecessor).
PerplexityResult perplexity(Session &session, std::span<const int32_t> ids, size_t n_ctx,
                            const Progress &progress = {});

}  // namespace a2sf
