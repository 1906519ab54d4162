// The forward pass, top to bottom: embed -> layers of (attention, FFN) -> norm -> logits.
// x is the residual stream [m, dim]; every block reads it normed and adds to it.
#include "model/decoder.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "base/error.h"

namespace a2sf {

namespace {

Matrix<float> last_rows(Matrix<float> x, size_t n) {
    return {x.row(x.rows - n), n, x.cols, x.stride};
}

}  // namespace

void Decoder::forward(const Chunk &chunk, Cache &cache, const std::function<bool()> &proceed) {
    const Config &config = model_.config();
    const size_t m = chunk.size();
    const Matrix<float> x = view(x_, m, config.dim);

    backend_.embed(model_.embedding(), chunk.ids, config.embedding_scale, x);
    set_angles(config.rope, chunk, cache, angles_);
    if (local_angles_.chunk) set_angles(config.local_rope, chunk, cache, local_angles_);
    for (size_t layer = 0; layer < config.n_layers; ++layer) {
        if (proceed && !proceed()) throw Interrupted();
        // Behind the last attention only the tokens whose logits are wanted matter.
        const bool last = layer + 1 == config.n_layers;
        const Matrix<float> rest = last ? last_rows(x, chunk.n_outputs) : x;
        attention_block(layer, chunk, cache, x, rest);
        ffn_block(model_.layers()[layer], rest);
    }
}

// A compact cache turns queries by their place behind the live tokens, which evictions between the
// steps of PromptMode::Token hold at the budget, and keys by theirs when they are read.
void Decoder::set_angles(const Rope &rope, const Chunk &chunk, const Cache &cache, Angles &angles) {
    const EvictionConfig &eviction = cache.config();
    const size_t m = chunk.size(), n_rot = 2 * rope.frequency.size();
    std::vector<int32_t> at(chunk.pos.begin(), chunk.pos.end());
    if (eviction.compact()) {
        const bool each = eviction.prefill == PromptMode::Token;
        for (size_t i = 0; i < m; ++i) {
            const size_t place = cache.place() + i;
            at[i] = static_cast<int32_t>(each ? std::min(place, eviction.budget) : place);
        }
    }
    backend_.rope_angles(at, rope.frequency, rope.magnitude, view(angles.chunk, m, n_rot));
    if (!eviction.compact() || angles.n_places >= cache.capacity()) return;
    angles.n_places = cache.capacity();
    angles.places = backend_.allocate(angles.n_places * n_rot * sizeof(float), "angles of RoPE");
    at.resize(angles.n_places);
    std::iota(at.begin(), at.end(), 0);
    backend_.rope_angles(at, rope.frequency, rope.magnitude,
                         view(angles.places, angles.n_places, n_rot));
}

// Adds what attention makes of x to the rows of `rest`, the last ones of x.
void Decoder::attention_block(size_t layer, const Chunk &chunk, Cache &cache, Matrix<float> x,
                              Matrix<float> rest) {
    const Config &config = model_.config();
    const LayerWeights &w = model_.layers()[layer];
    const size_t m = chunk.size();
    const Matrix<float> q = view(q_, m, config.q_dim());
    const Matrix<float> k = view(k_, m, config.kv_dim());
    const Matrix<float> v = view(v_, m, config.kv_dim());
    const Matrix<float> attended = view(attended_, m, config.q_dim());

    const Product qkv[] = {{&w.q, w.q_bias, q}, {&w.k, w.k_bias, k}, {&w.v, w.v_bias, v}};
    backend_.matmul(Input::normed(x, w.attn_norm, config.norm_eps), qkv);
    if (w.q_norm != nullptr) {
        backend_.rms_norm(q, config.head_dim, w.q_norm, config.norm_eps, q, false);
        backend_.rms_norm(k, config.head_dim, w.k_norm, config.norm_eps, k, false);
    }
    const bool local = config.window[layer] > 0 && local_angles_.chunk != nullptr;
    const Rope &rope = local ? config.local_rope : config.rope;
    const Angles &angles = local ? local_angles_ : angles_;
    const size_t n_rot = 2 * rope.frequency.size();
    KeyTurns turns;
    backend_.rope(rope.style, config.head_dim, view(angles.chunk, m, n_rot), q);
    if (cache.config().compact()) {
        turns = {rope.style, view(angles.places, angles.n_places, n_rot), nullptr};
    } else {
        backend_.rope(rope.style, config.head_dim, view(angles.chunk, m, n_rot), k);
    }

    attend(backend_, config, layer, chunk, q, k, v, cache, turns, attended);

    if (w.attn_post_norm == nullptr) {
        const Product out[] = {{&w.o, w.o_bias, rest, true}};
        backend_.matmul(last_rows(attended, rest.rows), out);
    } else {
        const Matrix<float> added = view(added_, rest.rows, config.dim);
        const Product out[] = {{&w.o, w.o_bias, added}};
        backend_.matmul(last_rows(attended, rest.rows), out);
        backend_.rms_norm(added, config.dim, w.attn_post_norm, config.norm_eps, rest, true);
    }
}

void Decoder::ffn_block(const LayerWeights &w, Matrix<float> x) {
    const Config &config = model_.config();
    const Input normed = Input::normed(x, w.ffn_norm, config.norm_eps);
    const GatedFfn ffn = {&w.gate, &w.up, config.activation};

    if (w.ffn_post_norm == nullptr) {
        backend_.gated_ffn(normed, ffn, {&w.down, nullptr, x, true});
    } else {
        const Matrix<float> added = view(added_, x.rows, config.dim);
        backend_.gated_ffn(normed, ffn, {&w.down, nullptr, added});
        backend_.rms_norm(added, config.dim, w.ffn_post_norm, config.norm_eps, x, true);
    }
}

std::span<const float> Decoder::logits(size_t first, size_t n) {
    const Config &config = model_.config();
    const Matrix<float> x(view(x_, first + n, config.dim).row(first), n, config.dim);
    const Matrix<float> logits = view(logits_, n, config.n_vocab);

    const Product output[] = {{&model_.output(), nullptr, logits}};
    backend_.matmul(Input::normed(x, model_.output_norm(), config.norm_eps), output);
    backend_.copy_to_host(host_logits_.data(), logits.data, n * config.n_vocab * sizeof(float));
    for (size_t i = 0; config.logit_scale != 1.0f && i < n * config.n_vocab; ++i) {
        host_logits_[i] *= config.logit_scale;
    }
    return {host_logits_.data(), n * config.n_vocab};
}

Decoder::Decoder(const Model &model, Backend &backend, size_t batch)
    : model_(model), backend_(backend), logit_rows_(std::min<size_t>(batch, 16)) {
    const Config &config = model.config();
    const auto floats = [&](size_t rows, size_t cols) {
        return backend.allocate(rows * cols * sizeof(float), "activations");
    };
    x_ = floats(batch, config.dim);
    if (model.layers()[0].attn_post_norm != nullptr) added_ = floats(batch, config.dim);
    q_ = floats(batch, config.q_dim());
    k_ = floats(batch, config.kv_dim());
    v_ = floats(batch, config.kv_dim());
    attended_ = floats(batch, config.q_dim());
    angles_.chunk = floats(batch, 2 * config.rope.frequency.size());
    if (!config.local_rope.frequency.empty()) {
        local_angles_.chunk = floats(batch, 2 * config.local_rope.frequency.size());
    }
    logits_ = floats(logit_rows_, config.n_vocab);
    host_logits_ = Buffer<float>(logit_rows_ * config.n_vocab, "logits");
}

size_t Decoder::n_bytes() const {
    size_t total = host_logits_.n_bytes();
    for (const auto *memory :
         {&x_, &added_, &q_, &k_, &v_, &attended_, &angles_.chunk, &angles_.places,
          &local_angles_.chunk, &local_angles_.places, &logits_}) {
        if (*memory) total += (*memory)->n_bytes();
    }
    return total;
}

}  // namespace a2sf
