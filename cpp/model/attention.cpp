#include "model/attention.h"

namespace a2sf {

namespace {

// Stores the tokens of k and v from position `pos` on and says what their queries attend to.
AttentionArgs prepare(Backend &backend, const Config &config, size_t layer, const int32_t *pos,
                      Matrix<const float> q, Matrix<const float> k, Matrix<const float> v,
                      Cache &cache, const KeyTurns &turns, int32_t last_place, Matrix<float> out) {
    const auto slots = cache.append(layer, *pos, q.rows);
    backend.kv_write(cache.slots(layer), k, v, slots.data());
    AttentionArgs args;
    args.q = q;
    args.out = out;
    args.query_pos = pos;
    args.n_heads = config.n_heads;
    args.window = config.window[layer];
    args.scale = config.attention_scale;
    args.turns = turns;
    args.turns.last_place = last_place;
    cache.bind_attention(layer, q.rows, args);
    return args;
}

}  // namespace

void attend(Backend &backend, const Config &config, size_t layer, const Chunk &chunk,
            Matrix<const float> q, Matrix<const float> k, Matrix<const float> v, Cache &cache,
            const KeyTurns &turns, const int32_t *place, Matrix<float> out) {
    // Eviction in a layer depends on that layer's attention alone. So `token` mode may walk the
    // queries of a chunk one by one here although the matrix products saw them all at once.
    const PromptMode mode = cache.config().prefill;
    const size_t step = mode == PromptMode::Token ? 1 : chunk.size();
    for (size_t first = 0; first < chunk.size(); first += step) {
        backend.attention(prepare(backend, config, layer, chunk.pos.data() + first,
                                  rows_of(q, first, step), rows_of(k, first, step),
                                  rows_of(v, first, step), cache, turns, place[first + step - 1],
                                  rows_of(out, first, step)));
        if (mode != PromptMode::Full || chunk.ends_prompt) cache.evict(layer);
    }
}

void attend_each(Backend &backend, const Config &config, size_t layer, const Chunk &chunk,
                 Matrix<const float> q, Matrix<const float> k, Matrix<const float> v,
                 std::span<Cache *const> caches, const KeyTurns &turns, const int32_t *place,
                 std::span<AttentionArgs> args, Matrix<float> out) {
    for (size_t i = 0; i < chunk.size(); ++i) {
        const KeyTurns own = caches[i]->config().compact() ? turns : KeyTurns{};
        args[i] = prepare(backend, config, layer, chunk.pos.data() + i, rows_of(q, i, 1),
                          rows_of(k, i, 1), rows_of(v, i, 1), *caches[i], own, place[i],
                          rows_of(out, i, 1));
    }
    backend.attention(args.first(chunk.size()));
    for (Cache *cache : caches) cache->evict(layer);
}

}  // namespace a2sf
