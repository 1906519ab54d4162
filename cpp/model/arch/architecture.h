// What distinguishes one architecture from another, as data. A new one is a file arch/<name>.cpp
// with such a description and one line in model/registry.cpp; the loader and the forward pass read
// it.
#pragma once

#include "backend/backend.h"

namespace a2sf {

// Metadata keys behind the architecture's prefix ("llama.block_count").
namespace keys {
constexpr const char *kArchitecture = "general.architecture";
constexpr const char *kName = "general.name";
constexpr const char *kLayers = "block_count";
constexpr const char *kContext = "context_length";
constexpr const char *kDim = "embedding_length";
constexpr const char *kHiddenDim = "feed_forward_length";
constexpr const char *kHeads = "attention.head_count";
constexpr const char *kKvHeads = "attention.head_count_kv";
constexpr const char *kKeyDim = "attention.key_length";
constexpr const char *kValueDim = "attention.value_length";
constexpr const char *kNormEps = "attention.layer_norm_rms_epsilon";
constexpr const char *kAttentionScale = "attention.scale";
constexpr const char *kWindow = "attention.sliding_window";
constexpr const char *kExperts = "expert_count";
constexpr const char *kLogitScale = "logit_scale";
constexpr const char *kRopeDim = "rope.dimension_count";
constexpr const char *kRopeBase = "rope.freq_base";
constexpr const char *kRopeLocalBase = "rope.freq_base_swa";
constexpr const char *kRopeScaling = "rope.scaling.type";
constexpr const char *kRopeFactor = "rope.scaling.factor";
constexpr const char *kRopeLinear = "rope.scale_linear";  // older files
constexpr const char *kRopeContext = "rope.scaling.original_context_length";
constexpr const char *kRopeMagnitude = "rope.scaling.attn_factor";
constexpr const char *kYarnFast = "rope.scaling.yarn_beta_fast";
constexpr const char *kYarnSlow = "rope.scaling.yarn_beta_slow";
}  // namespace keys

// Tensor names; those of a layer stand behind "blk.<layer>.".
namespace tensors {
constexpr const char *kEmbedding = "token_embd.weight";
constexpr const char *kOutputNorm = "output_norm.weight";
constexpr const char *kOutput = "output.weight";
constexpr const char *kRopeFreqs = "rope_freqs.weight";
constexpr const char *kRopeLong = "rope_factors_long.weight";
constexpr const char *kRopeShort = "rope_factors_short.weight";
constexpr const char *kAttnNorm = "attn_norm.weight";
constexpr const char *kAttnPostNorm = "post_attention_norm.weight";
constexpr const char *kFfnNorm = "ffn_norm.weight";
constexpr const char *kFfnPostNorm = "post_ffw_norm.weight";
constexpr const char *kQNorm = "attn_q_norm.weight";
constexpr const char *kKNorm = "attn_k_norm.weight";
constexpr const char *kQ = "attn_q";
constexpr const char *kK = "attn_k";
constexpr const char *kV = "attn_v";
constexpr const char *kQkv = "attn_qkv";
constexpr const char *kO = "attn_output";
constexpr const char *kGate = "ffn_gate";
constexpr const char *kUp = "ffn_up";
constexpr const char *kDown = "ffn_down";
}  // namespace tensors

struct Architecture {
    const char *name;  // general.architecture, and the prefix of its keys
    RopeStyle rope_style = RopeStyle::Halves;
    Activation activation = Activation::Silu;
    bool qk_norm = false;           // per-head norm on queries and keys before RoPE
    bool post_norms = false;        // norms on what attention and FFN add to the stream
    bool fused = false;             // attn_qkv holds q, k, v; ffn_up holds gate, up
    bool scaled_embedding = false;  // embeddings times sqrt(dim)
    // Layers with a sliding window: of every `window_period` the last has none. 1: all have one
    // (when the file names a size), 0: the architecture has no windows.
    int window_period = 0;
    // The one size of the family (by its layers) whose queries are scaled by sqrt(dim / n_heads)
    // instead of sqrt(head_dim); no key says so.
    size_t dim_scaled_layers = 0;
    float local_rope_base = 10000.0f;  // RoPE base of windowed layers when window_period > 1
    double default_rope_base = 10000.0;
};

}  // namespace a2sf
