// One layer's attention over the session's cache: the order of storing, attending and evicting that
// each prompt mode asks for.
#pragma once

#include "backend/backend.h"
#include "kv/cache.h"
#include "model/config.h"

namespace a2sf {

// The tokens that go through the model together: a run of one text, or the next token of each of
// several texts.
struct Chunk {
    std::span<const int32_t> ids;  // [m]
    std::span<const int32_t> pos;  // [m], consecutive in one text
    bool ends_prompt = true;       // PromptMode::Full evicts after this chunk
    size_t n_outputs = 0;          // of how many tokens, the last ones, logits may be asked
    bool independent = false;      // each token is of a text of its own

    size_t size() const { return ids.size(); }
};

// RoPE of a layer. `fresh`: q and k, to be turned on their way into a cache that is not compact;
// empty where they have been. `read`: how keys of compact caches are turned when they are read;
// their queries have been. place [m]: where RoPE has seen the queries.
struct Turns {
    NewTurns fresh;
    KeyTurns read;
    const int32_t *place = nullptr;
};

// q [m, n_heads * head_dim], k and v [m, n_kv_heads * head_dim]. out like q.
void attend(Backend &backend, const Config &config, size_t layer, const Chunk &chunk,
            Matrix<const float> q, Matrix<const float> k, Matrix<const float> v, Cache &cache,
            const Turns &turns, Matrix<float> out);

// The same for independent tokens: caches[i] is token i's. args [m] is scratch.
void attend_each(Backend &backend, const Config &config, size_t layer, const Chunk &chunk,
                 Matrix<const float> q, Matrix<const float> k, Matrix<const float> v,
                 std::span<Cache *const> caches, const Turns &turns, std::span<AttentionArgs> args,
                 Matrix<float> out);

}  // namespace a2sf
