// THE forward pass. A decoder owns the activations of one chunk; it serves one session at a time,
// or several whose next tokens go through the model together.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "kv/cache.h"
#include "model/attention.h"
#include "model/model.h"

namespace a2sf {

// Sees what a layer's attention read and gave. q, k, v and out as attend() has them, m rows; x
// [m, dim], the residual stream that what becomes of `out` is added to.
class AttentionObserver {
  public:
    virtual ~AttentionObserver() = default;
    virtual void attended(size_t layer, const Chunk &chunk, Matrix<const float> q,
                          Matrix<const float> k, Matrix<const float> v, Matrix<const float> out,
                          Matrix<const float> x) = 0;
};

class Decoder {
  public:
    // batch: the most tokens per chunk.
    Decoder(const Model &model, Backend &backend, size_t batch);

    // Runs one chunk through all layers, storing and evicting in the cache. Independent tokens have
    // a cache each, and each gets bit for bit what it would get alone.
    // `proceed` (may be empty) is asked between layers; false throws Interrupted and leaves the
    // caches half-way.
    void forward(const Chunk &chunk, std::span<Cache *const> caches,
                 const std::function<bool()> &proceed);

    // Shown every layer's attention from here on, until it is given null. Not of independent
    // tokens.
    void observe(AttentionObserver *observer) { observer_ = observer; }

    // Logits of tokens [first, first + n) of the last chunk, n <= logit_rows(). independent: the
    // chunk's tokens were of several texts. to [n, n_vocab], host memory.
    void logits(size_t first, size_t n, bool independent, float *to);

    // The same in two steps: they stay where the backend computes, until this is called again, and
    // can be copied, or asked for the likeliest token of the first.
    void compute_logits(size_t first, size_t n, bool independent);
    void copy_logits(size_t n, float *to) const;
    Likeliest likeliest() const;

    // How many tokens' logits one call computes: the whole chunk's would not fit a small machine.
    size_t logit_rows() const { return logit_rows_; }
    size_t batch() const { return rope_pos_.size(); }

    size_t n_bytes() const;  // activations

  private:
    Matrix<float> view(const std::unique_ptr<DeviceMemory> &memory, size_t rows,
                       size_t cols) const {
        return {static_cast<float *>(memory->data()), rows, cols};
    }
    // Angles of one kind of RoPE: the chunk's, and those of places in a compact cache.
    struct Angles {
        std::unique_ptr<DeviceMemory> chunk;   // [batch, n_rot]
        std::unique_ptr<DeviceMemory> places;  // [n_places, n_rot]
        size_t n_places = 0;
    };
    void set_angles(const Rope &rope, const Chunk &chunk, std::span<Cache *const> caches,
                    Angles &angles);
    void attention_block(size_t layer, const Chunk &chunk, std::span<Cache *const> caches,
                         Matrix<float> x, Matrix<float> rest);
    Turns rotate(size_t layer, std::span<Cache *const> caches, Matrix<float> q, Matrix<float> k);
    void ffn_block(const LayerWeights &w, bool independent, Matrix<float> x);

    const Model &model_;
    Backend &backend_;
    size_t logit_rows_;
    std::unique_ptr<DeviceMemory> x_;         // [batch, dim], the residual stream
    std::unique_ptr<DeviceMemory> added_;     // [batch, dim], where it is normed once more
    std::unique_ptr<DeviceMemory> q_;         // [batch, q_dim]
    std::unique_ptr<DeviceMemory> k_;         // [batch, kv_dim]
    std::unique_ptr<DeviceMemory> v_;         // [batch, kv_dim]
    std::unique_ptr<DeviceMemory> attended_;  // [batch, q_dim]
    Angles angles_;
    Angles local_angles_;                   // of layers with a window; may be empty
    std::unique_ptr<DeviceMemory> logits_;  // [logit_rows, n_vocab]
    Buffer<int32_t> rope_pos_;              // [batch], where RoPE sees the chunk's tokens
    std::vector<AttentionArgs> args_;       // [batch], of independent tokens
    AttentionObserver *observer_ = nullptr;
};

}  // namespace a2sf
