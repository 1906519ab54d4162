// A model as loaded: configuration, weights, tokenizer. Const after load, shared by sessions and
// threads. Weights stay in the mapped file (CPU) or in device memory.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/registry.h"
#include "gguf/file.h"
#include "model/config.h"

namespace a2sf {

// One layer's weights. Absent parts have data == nullptr. Norms and biases are float vectors.
struct LayerWeights {
    const float *attn_norm = nullptr;       // [dim]
    const float *ffn_norm = nullptr;        // [dim]
    const float *attn_post_norm = nullptr;  // [dim], on the block's output
    const float *ffn_post_norm = nullptr;   // [dim]
    const float *q_norm = nullptr;          // [head_dim]
    const float *k_norm = nullptr;          // [head_dim]
    Weight q, k, v, o;                      // [q_dim|kv_dim|kv_dim, dim], [dim, q_dim]
    const float *q_bias = nullptr;          // [q_dim]
    const float *k_bias = nullptr;          // [kv_dim]
    const float *v_bias = nullptr;          // [kv_dim]
    const float *o_bias = nullptr;          // [dim]
    Weight gate, up, down;                  // [hidden_dim, dim] twice, [dim, hidden_dim]
};

class Model {
  public:
    // Opens, validates every shape and type against the architecture, and uploads the weights.
    // Throws GgufError, UnsupportedError (unknown architecture: lists the known), DeviceError.
    static std::shared_ptr<const Model> load(const std::string &path, const BackendEntry &device);

    const Config &config() const { return config_; }
    const GgufFile &file() const { return file_; }
    const BackendEntry &device() const { return *device_; }
    const std::vector<LayerWeights> &layers() const { return layers_; }
    const Weight &embedding() const { return embedding_; }  // [n_vocab, dim]
    const Weight &output() const { return output_; }        // [n_vocab, dim]; the embedding if tied
    const float *output_norm() const { return output_norm_; }

    // What `measure` gives, called once for all sessions; [n_layers * n_kv_heads].
    const std::vector<float> &head_need(const std::function<std::vector<float>()> &measure) const;

    size_t n_params() const;
    size_t n_weight_bytes() const;
    size_t bytes_per_token() const;        // weight bytes that decoding one token reads
    std::string weight_type_name() const;  // the type that most weights have

  private:
    explicit Model(GgufFile file) : file_(std::move(file)) {}
    friend class WeightLoader;

    GgufFile file_;
    const BackendEntry *device_ = nullptr;
    Config config_;
    std::vector<LayerWeights> layers_;
    Weight embedding_;
    Weight output_;
    const float *output_norm_ = nullptr;
    mutable std::mutex need_mutex_;
    mutable std::vector<float> need_;
    std::vector<std::unique_ptr<DeviceMemory>> memory_;  // what the pointers above point into
};

}  // namespace a2sf
