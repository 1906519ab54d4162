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
    return rows_of(x, x.rows - n, n);
}

}  // namespace

void Decoder::forward(const Chunk &chunk, std::span<Cache *const> caches,
                      const std::function<bool()> &proceed) {
    const Config &config = model_.config();
    const size_t m = chunk.size();
    const Matrix<float> x = view(x_, m, config.dim);

    backend_.embed(model_.embedding(), chunk.ids, config.embedding_scale, x);
    set_angles(config.rope, chunk, caches, angles_);
    if (local_angles_.chunk) set_angles(config.local_rope, chunk, caches, local_angles_);
    for (size_t layer = 0; layer < config.n_layers; ++layer) {
        if (proceed && !proceed()) throw Interrupted();
        // Behind the last attention only the tokens whose logits are wanted matter.
        const bool last = layer + 1 == config.n_layers;
        const Matrix<float> rest = last ? last_rows(x, chunk.n_outputs) : x;
        attention_block(layer, chunk, caches, x, rest);
        ffn_block(model_.layers()[layer], chunk.independent, rest);
    }
}

// A compact cache turns queries by their place behind the live tokens, which evictions between the
// steps of PromptMode::Token hold at the budget, and keys by theirs when they are read. Where heads
// have budgets of their own, queries stand behind the largest.
void Decoder::set_angles(const Rope &rope, const Chunk &chunk, std::span<Cache *const> caches,
                         Angles &angles) {
    const size_t m = chunk.size(), n_rot = 2 * rope.frequency.size();
    size_t n_places = 0;
    std::copy_n(chunk.pos.data(), m, rope_pos_.data());
    const size_t n_each = chunk.independent ? 1 : m;  // tokens of one cache
    for (size_t first = 0; first < m; first += n_each) {
        const Cache &cache = *caches[first];
        const EvictionConfig &eviction = cache.config();
        if (!eviction.compact()) continue;
        const size_t place = cache.place();
        const size_t most =
            eviction.prefill == PromptMode::Token ? cache.most_budget() : cache.capacity();
        for (size_t i = 0; i < n_each; ++i) {
            rope_pos_[first + i] = static_cast<int32_t>(std::min(place + i, most));
        }
        n_places = std::max(n_places, cache.capacity());
    }
    const std::span<const int32_t> at(rope_pos_.data(), m);
    backend_.rope_angles(at, rope.frequency, rope.magnitude, view(angles.chunk, m, n_rot));
    if (angles.n_places >= n_places) return;
    std::vector<int32_t> places(n_places);
    std::iota(places.begin(), places.end(), 0);
    angles.places = backend_.allocate(n_places * n_rot * sizeof(float), "angles of RoPE");
    angles.n_places = n_places;
    backend_.rope_angles(places, rope.frequency, rope.magnitude,
                         view(angles.places, n_places, n_rot));
}

// Adds what attention makes of x to the rows of `rest`, the last ones of x.
void Decoder::attention_block(size_t layer, const Chunk &chunk, std::span<Cache *const> caches,
                              Matrix<float> x, Matrix<float> rest) {
    const Config &config = model_.config();
    const LayerWeights &w = model_.layers()[layer];
    const size_t m = chunk.size();
    const bool independent = chunk.independent;
    const Matrix<float> q = view(q_, m, config.q_dim());
    const Matrix<float> k = view(k_, m, config.kv_dim());
    const Matrix<float> v = view(v_, m, config.kv_dim());
    const Matrix<float> attended = view(attended_, m, config.q_dim());

    const Product qkv[] = {{&w.q, w.q_bias, q}, {&w.k, w.k_bias, k}, {&w.v, w.v_bias, v}};
    Input normed = Input::normed(x, w.attn_norm, config.norm_eps);
    normed.independent = independent;
    backend_.matmul(normed, qkv);
    if (w.q_norm != nullptr) {
        backend_.rms_norm(q, config.head_dim, w.q_norm, config.norm_eps, q, false);
        backend_.rms_norm(k, config.head_dim, w.k_norm, config.norm_eps, k, false);
    }
    const Turns turns = rotate(layer, caches, q, k);
    if (independent) {
        attend_each(backend_, config, layer, chunk, q, k, v, caches, turns, args_, attended);
    } else {
        attend(backend_, config, layer, chunk, q, k, v, *caches[0], turns, attended);
    }
    if (observer_ != nullptr) observer_->attended(layer, chunk, q, k, v, attended, x);

    Input mixed = last_rows(attended, rest.rows);
    mixed.independent = independent;
    if (w.attn_post_norm == nullptr) {
        const Product out[] = {{&w.o, w.o_bias, rest, true}};
        backend_.matmul(mixed, out);
    } else {
        const Matrix<float> added = view(added_, rest.rows, config.dim);
        const Product out[] = {{&w.o, w.o_bias, added}};
        backend_.matmul(mixed, out);
        backend_.rms_norm(added, config.dim, w.attn_post_norm, config.norm_eps, rest, true);
    }
}

// RoPE of queries whose cache is compact: its keys are turned when they are read. Attention turns
// the others with their keys, on their way into the cache.
Turns Decoder::rotate(size_t layer, std::span<Cache *const> caches, Matrix<float> q,
                      Matrix<float> k) {
    const Config &config = model_.config();
    const bool local = config.window[layer] > 0 && local_angles_.chunk != nullptr;
    const Rope &rope = local ? config.local_rope : config.rope;
    const Angles &angles = local ? local_angles_ : angles_;
    const size_t n_rot = 2 * rope.frequency.size(), n_each = q.rows / caches.size();
    const Matrix<float> at = view(angles.chunk, q.rows, n_rot);
    Turns turns = {{rope.style, at, q, k}, {}, rope_pos_.data()};
    for (size_t i = 0; i < caches.size(); ++i) {
        if (!caches[i]->config().compact()) continue;
        turns.read = {rope.style, view(angles.places, angles.n_places, n_rot), nullptr};
        backend_.rope(rope.style, config.head_dim, rows_of(at, i * n_each, n_each),
                      rows_of(q, i * n_each, n_each));
    }
    return turns;
}

void Decoder::ffn_block(const LayerWeights &w, bool independent, Matrix<float> x) {
    const Config &config = model_.config();
    Input normed = Input::normed(x, w.ffn_norm, config.norm_eps);
    normed.independent = independent;
    const GatedFfn ffn = {&w.gate, &w.up, config.activation};

    if (w.ffn_post_norm == nullptr) {
        backend_.gated_ffn(normed, ffn, {&w.down, nullptr, x, true});
    } else {
        const Matrix<float> added = view(added_, x.rows, config.dim);
        backend_.gated_ffn(normed, ffn, {&w.down, nullptr, added});
        backend_.rms_norm(added, config.dim, w.ffn_post_norm, config.norm_eps, x, true);
    }
}

void Decoder::logits(size_t first, size_t n, bool independent, float *to) {
    compute_logits(first, n, independent);
    copy_logits(n, to);
}

void Decoder::compute_logits(size_t first, size_t n, bool independent) {
    const Config &config = model_.config();
    const Matrix<float> logits = view(logits_, n, config.n_vocab);

    const Product output[] = {{&model_.output(), nullptr, logits}};
    Input normed = Input::normed(rows_of(view(x_, first + n, config.dim), first, n),
                                 model_.output_norm(), config.norm_eps);
    normed.independent = independent;
    backend_.matmul(normed, output);
}

void Decoder::copy_logits(size_t n, float *to) const {
    const Config &config = model_.config();
    backend_.copy_to_host(to, logits_->data(), n * config.n_vocab * sizeof(float));
    for (size_t i = 0; config.logit_scale != 1.0f && i < n * config.n_vocab; ++i) {
        to[i] *= config.logit_scale;
    }
}

Likeliest Decoder::likeliest() const {
    const Config &config = model_.config();
    return backend_.likeliest(view(logits_, 1, config.n_vocab), config.logit_scale);
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
    rope_pos_ = Buffer<int32_t>(batch, "positions");
    args_.resize(batch);
}

size_t Decoder::n_bytes() const {
    size_t total = rope_pos_.n_bytes();
    for (const auto *memory :
         {&x_, &added_, &q_, &k_, &v_, &attended_, &angles_.chunk, &angles_.places,
          &local_angles_.chunk, &local_angles_.places, &logits_}) {
        if (*memory) total += (*memory)->n_bytes();
    }
    return total;
}

}  // namespace a2sf
