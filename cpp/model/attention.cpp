#include "model/attention.h"

namespace a2sf {

namespace {

template <typename T>
Matrix<T> rows_of(Matrix<T> matrix, size_t first, size_t n) {
    return {matrix.row(first), n, matrix.cols, matrix.stride};
}

}  // namespace

void attend(Backend &backend, const Config &config, size_t layer, const Chunk &chunk,
            Matrix<const float> q, Matrix<const float> k, Matrix<const float> v, Cache &cache,
            const KeyTurns &turns, Matrix<float> out) {
    // Eviction in a layer depends on that layer's attention alone. So `token` mode may walk the
    // queries of a chunk one by one here although the matrix products saw them all at once.
    const PromptMode mode = cache.config().prefill;
    const size_t step = mode == PromptMode::Token ? 1 : chunk.size();
    for (size_t first = 0; first < chunk.size(); first += step) {
        const auto slots = cache.append(layer, chunk.pos[first], step);
        backend.kv_write(cache.slots(layer), rows_of(k, first, step), rows_of(v, first, step),
                         slots.data());
        AttentionArgs args;
        args.q = rows_of(q, first, step);
        args.out = rows_of(out, first, step);
        args.query_pos = chunk.pos.data() + first;
        args.n_heads = config.n_heads;
        args.window = config.window[layer];
        args.scale = config.attention_scale;
        args.turns = turns;
        cache.bind_attention(layer, step, args);
        backend.attention(args);
        if (mode != PromptMode::Full || chunk.ends_prompt) cache.evict(layer);
    }
}

}  // namespace a2sf
