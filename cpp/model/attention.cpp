#include "model/attention.h"

namespace a2sf {

namespace {

// Stores tokens [first, first + n) of the chunk and says what their queries attend to.
AttentionArgs prepare(Backend &backend, const Config &config, size_t layer, const Chunk &chunk,
                      size_t first, size_t n, Matrix<const float> q, Matrix<const float> k,
                      Matrix<const float> v, Cache &cache, const Turns &turns, Matrix<float> out) {
    const auto slots = cache.append(layer, chunk.pos[first], n);
    AttentionArgs args;
    args.q = rows_of(q, first, n);
    const KvSlots into = cache.slots(layer);
    if (cache.config().compact()) args.turns = turns.read;
    if (cache.config().compact() || turns.fresh.angles.rows == 0) {
        backend.kv_write(into, rows_of(k, first, n), rows_of(v, first, n), slots.data());
    } else {
        NewTurns fresh = turns.fresh;
        fresh.angles = rows_of(fresh.angles, first, n);
        fresh.q = rows_of(fresh.q, first, n);
        fresh.k = rows_of(fresh.k, first, n);
        backend.turn_and_write(fresh, into, rows_of(v, first, n), slots.data());
    }
    args.out = rows_of(out, first, n);
    args.query_pos = chunk.pos.data() + first;
    args.n_heads = config.n_heads;
    args.window = config.window[layer];
    args.scale = config.attention_scale;
    args.turns.last_place = turns.place[first + n - 1];
    cache.bind_attention(layer, n, args);
    return args;
}

}  // namespace

void attend(Backend &backend, const Config &config, size_t layer, const Chunk &chunk,
            Matrix<const float> q, Matrix<const float> k, Matrix<const float> v, Cache &cache,
            const Turns &turns, Matrix<float> out) {
    // Eviction in a layer depends on that layer's attention alone. So `token` mode may walk the
    // queries of a chunk one by one here although the matrix products saw them all at once.
    const PromptMode mode = cache.config().prefill;
    const size_t step = mode == PromptMode::Token ? 1 : chunk.size();
    for (size_t first = 0; first < chunk.size(); first += step) {
        backend.attention(
            prepare(backend, config, layer, chunk, first, step, q, k, v, cache, turns, out));
        if (mode != PromptMode::Full || chunk.ends_prompt) cache.evict(layer);
    }
}

void attend_each(Backend &backend, const Config &config, size_t layer, const Chunk &chunk,
                 Matrix<const float> q, Matrix<const float> k, Matrix<const float> v,
                 std::span<Cache *const> caches, const Turns &turns, std::span<AttentionArgs> args,
                 Matrix<float> out) {
    for (size_t i = 0; i < chunk.size(); ++i) {
        args[i] = prepare(backend, config, layer, chunk, i, 1, q, k, v, *caches[i], turns, out);
    }
    backend.attention(args.first(chunk.size()));
    for (Cache *cache : caches) cache->evict(layer);
}

}  // namespace a2sf
