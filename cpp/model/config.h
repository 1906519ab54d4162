// The numbers that define a decoder, in one form for every architecture.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "gguf/file.h"

namespace a2sf {

struct Architecture;

// One set of rotary frequencies. Models with sliding-window layers have two.
struct Rope {
    RopeStyle style = RopeStyle::Halves;
    std::vector<float> frequency;  // [n_rot / 2], scaling already applied
    float magnitude = 1.0f;        // YaRN and LongRoPE scale the rotated vectors by it
};

struct Config {
    std::string architecture;
    std::string name;  // general.name, may be empty
    size_t n_layers = 0;
    size_t n_heads = 0;
    size_t n_kv_heads = 0;
    size_t head_dim = 0;
    size_t dim = 0;
    size_t hidden_dim = 0;
    size_t n_vocab = 0;
    size_t n_ctx = 0;  // trained context length
    float norm_eps = 1e-5f;
    float attention_scale = 0.0f;
    float embedding_scale = 1.0f;
    float logit_scale = 1.0f;
    Activation activation = Activation::Silu;
    Rope rope;
    Rope local_rope;              // layers with a window; empty when the model has none
    std::vector<int32_t> window;  // [n_layers]: sliding window in tokens, 0 = none

    size_t q_dim() const { return n_heads * head_dim; }
    size_t kv_dim() const { return n_kv_heads * head_dim; }
    size_t group() const { return n_heads / n_kv_heads; }
};

// Reads and checks every number but n_vocab (which the embedding's shape gives). Throws GgufError,
// or UnsupportedError for mixtures of experts and unknown RoPE scalings.
Config read_config(const GgufFile &file, const Architecture &arch);

}  // namespace a2sf
