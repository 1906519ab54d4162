// From logits to the next token: penalties, temperature, truncation, a seeded draw.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace a2sf {

struct SamplingOptions {
    float temperature = 0.0f;  // 0 = greedy
    size_t top_k = 0;          // 0 = all
    float top_p = 1.0f;
    float min_p = 0.0f;
    float repeat_penalty = 1.0f;
    size_t repeat_window = 64;  // newest tokens that are penalised; prompt included
    uint64_t seed = 0;

    void validate() const;  // throws OptionError
};

struct Sampled {
    int32_t id;
    float logprob;  // natural log, of the model's own softmax, before any option
};

// The state of one generation. Same options, logits and history -> same tokens.
class Sampler {
  public:
    Sampler(const SamplingOptions &options, size_t n_vocab);

    // Remembers a token for the repetition penalty.
    void accept(int32_t id);

    // Whether the likeliest token is taken, whatever came before.
    bool is_greedy() const {
        return options_.temperature == 0.0f && options_.repeat_penalty == 1.0f;
    }

    // logits [n_vocab]; left unchanged. NaN logits throw Error ("logits: finite numbers expected").
    Sampled sample(std::span<const float> logits);

  private:
    struct Candidate {
        int32_t id;
        float logit;
    };
    uint64_t next_random();
    double next_uniform();
    void penalise(std::span<const float> logits);
    size_t truncate(float most);

    SamplingOptions options_;
    std::vector<Candidate> candidates_;  // [n_vocab]
    std::vector<int32_t> recent_;        // ring of repeat_window ids
    size_t n_accepted_ = 0;
    uint64_t state_[4];
};

// The likeliest token, the first of equals. Throws as Sampler::sample() does.
Sampled likeliest(std::span<const float> logits);
[[noreturn]] void throw_not_finite();

// log softmax(logits)[id], in double.
double log_probability(std::span<const float> logits, int32_t id);

}  // namespace a2sf
