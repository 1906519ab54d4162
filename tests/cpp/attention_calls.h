// Random calls of attention, what they must give by the definition, and the shapes that tests of
// every device go through.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/backend.h"
#include "test_kernels.h"

namespace a2sf::testing {

struct Shape {
    KvType type;
    size_t n_kv_heads, group, head_dim, m, live;
    int32_t window;
    size_t n_lanes;
    // Slots in order, as a chunk takes them; in the last third keys that give far higher logits, of
    // numbers that bfloat16 holds exactly.
    bool rising = false;
};

inline float eighths(float x) {
    return std::round(8.0f * x) / 8.0f;
}

// One random call of attention: slots filled in shuffled order, the last m positions as queries.
struct Call {
    Call(Rng &rng, const Shape &wanted) : shape(wanted), capacity(shape.live + 5) {
        const size_t rows = shape.n_kv_heads * capacity;
        const size_t row_bytes = kv_row_bytes(shape.type, shape.head_dim);
        k_bytes.assign(rows * row_bytes, 0);
        v_bytes.assign(rows * row_bytes, 0);
        k.resize(rows * shape.head_dim);
        v.resize(rows * shape.head_dim);
        pos.assign(rows, 7);  // unused slots hold visible positions: they must not be read
        q = random_floats(rng, shape.m * n_heads() * shape.head_dim);
        if (shape.rising) std::transform(q.begin(), q.end(), q.begin(), eighths);
        out.assign(q.size() + 1, -77.0f);
        for (size_t i = 0; i < shape.m; ++i) {
            query_pos.push_back(static_cast<int32_t>(3 * shape.live + i));
        }
        for (size_t h = 0; h < shape.n_kv_heads; ++h) fill_head(rng, h);
        for (size_t lane = 0; lane < shape.n_lanes; ++lane) {
            weights.push_back(random_floats(rng, shape.m));
            scores.push_back(random_floats(rng, rows));
        }
        before = scores;
    }

    size_t n_heads() const { return shape.n_kv_heads * shape.group; }
    float decay(size_t lane) const { return lane == 0 ? 0.9f : 0.0f; }

    void fill_head(Rng &rng, size_t h) {
        // Heads differ in length; every head holds the queries' own tokens.
        live.push_back(static_cast<uint32_t>(h == 1 && shape.live > shape.m + 20 ? shape.live - 20
                                                                                 : shape.live));
        std::vector<int32_t> positions(live[h]);
        for (size_t s = 0; s < live[h]; ++s) {
            positions[s] = s < shape.m ? query_pos[s] : static_cast<int32_t>(3 * (s - shape.m));
        }
        std::shuffle(positions.begin(), positions.end(), rng);
        if (shape.rising) std::sort(positions.begin(), positions.end());
        std::copy(positions.begin(), positions.end(), pos.begin() + h * capacity);
        const Kernels &scalar = kernels_for("scalar");
        const int format = static_cast<int>(shape.type);
        const size_t n = shape.head_dim, row_bytes = kv_row_bytes(shape.type, n);
        for (size_t s = 0; s < live[h]; ++s) {
            const size_t row = h * capacity + s;
            std::vector<float> key = random_floats(rng, n), value = random_floats(rng, n);
            const float size = 3 * s >= 2 * live[h] ? 8.0f : 1.0f;
            for (float &x : key) x = shape.rising ? size * eighths(x) : x;
            scalar.kv_store(format, key.data(), n, &k_bytes[row * row_bytes]);
            scalar.kv_store(format, value.data(), n, &v_bytes[row * row_bytes]);
            scalar.kv_load(format, &k_bytes[row * row_bytes], n, &k[row * n]);
            scalar.kv_load(format, &v_bytes[row * row_bytes], n, &v[row * n]);
        }
    }

    AttentionArgs args() {
        AttentionArgs a;
        const size_t cols = n_heads() * shape.head_dim;
        a.q = {q.data(), shape.m, cols};
        a.out = {out.data(), shape.m, cols};
        a.query_pos = query_pos.data();
        a.slots = {shape.type, shape.n_kv_heads, shape.head_dim,
                   capacity,   k_bytes.data(),   v_bytes.data()};
        a.pos = pos.data();
        a.live = live.data();
        a.n_heads = n_heads();
        a.window = shape.window;
        a.scale = 0.37f;
        lanes.clear();
        for (size_t lane = 0; lane < shape.n_lanes; ++lane) {
            lanes.push_back({scores[lane].data(), decay(lane), weights[lane].data()});
        }
        a.lanes = lanes;
        return a;
    }

    Shape shape;
    size_t capacity;
    std::vector<uint8_t> k_bytes, v_bytes;
    std::vector<float> k, v, q, out;  // k, v [n_kv_heads, capacity, head_dim] as stored
    std::vector<int32_t> pos, query_pos;
    std::vector<uint32_t> live;
    std::vector<std::vector<float>> weights, scores, before;  // [n_lanes][...]
    std::vector<ScoreLane> lanes;
};

// The attention probabilities of query i, head g, by the definition.
inline std::vector<double> probabilities(const Call &call, size_t i, size_t g) {
    const Shape &shape = call.shape;
    const size_t h = g / shape.group, n = shape.head_dim;
    std::vector<double> p(call.live[h]);
    double top = -1e300, total = 0.0;
    for (size_t s = 0; s < p.size(); ++s) {
        const int32_t at = call.pos[h * call.capacity + s], own = call.query_pos[i];
        const bool seen = at <= own && (shape.window == 0 || at > own - shape.window);
        p[s] = -INFINITY;
        if (!seen) continue;
        p[s] = 0.0;
        for (size_t d = 0; d < n; ++d) {
            p[s] += 0.37f * static_cast<double>(call.q[(i * call.n_heads() + g) * n + d]) *
                    call.k[(h * call.capacity + s) * n + d];
        }
        top = std::max(top, p[s]);
    }
    for (double &x : p) total += x = std::exp(x - top);
    for (double &x : p) x /= total;
    return p;
}

struct Errors {
    double out = 0.0, score = 0.0;
};

inline Errors errors_of(const Call &call) {
    const Shape &shape = call.shape;
    const size_t n = shape.head_dim;
    Errors errors;
    std::vector<std::vector<double>> sums(shape.n_lanes), sizes(shape.n_lanes);
    for (size_t lane = 0; lane < shape.n_lanes; ++lane) {
        for (float old : call.before[lane]) {
            const float decay = call.decay(lane);
            sums[lane].push_back(decay == 0.0f ? 0.0 : static_cast<double>(decay) * old);
            sizes[lane].push_back(std::fabs(sums[lane].back()) + 1e-3);
        }
    }
    for (size_t i = 0; i < shape.m; ++i) {
        for (size_t g = 0; g < call.n_heads(); ++g) {
            const size_t h = g / shape.group, first = h * call.capacity;
            const std::vector<double> p = probabilities(call, i, g);
            for (size_t d = 0; d < n; ++d) {
                double value = 0.0;
                for (size_t s = 0; s < p.size(); ++s) value += p[s] * call.v[(first + s) * n + d];
                const double found = call.out[(i * call.n_heads() + g) * n + d];
                errors.out = std::max(errors.out, std::fabs(found - value) / 4.0);
            }
            for (size_t lane = 0; lane < shape.n_lanes; ++lane) {
                for (size_t s = 0; s < p.size(); ++s) {
                    sums[lane][first + s] += call.weights[lane][i] * p[s];
                    sizes[lane][first + s] += std::fabs(call.weights[lane][i]) * p[s];
                }
            }
        }
    }
    for (size_t lane = 0; lane < shape.n_lanes; ++lane) {
        for (size_t at = 0; at < call.pos.size(); ++at) {
            const float found = call.scores[lane][at];
            if (at % call.capacity >= call.live[at / call.capacity]) {
                CHECK(found == call.before[lane][at]);  // slots that are not live are left alone
                continue;
            }
            errors.score =
                std::max(errors.score, std::fabs(found - sums[lane][at]) / sizes[lane][at]);
        }
    }
    return errors;
}

inline std::vector<Shape> shapes() {
    std::vector<Shape> list;
    for (const KvType type : {KvType::F32, KvType::F16, KvType::Q8_0}) {
        for (const size_t group : {1, 3, 4}) {
            list.push_back({type, 2, group, 64, 1, 1, 0, 1});
            list.push_back({type, 3, group, 64, 1, 700, 0, 2});
            list.push_back({type, 2, group, 32, 2, 37, 0, 0});
            list.push_back({type, 1, group, 96, 7, 65, 20, 1});
            list.push_back({type, 2, group, 128, 40, 333, 0, 2});
            list.push_back({type, 2, group, 64, 40, 300, 17, 2});
        }
        if (type == KvType::Q8_0) continue;
        list.push_back({type, 2, 2, 40, 7, 50, 0, 1});
        list.push_back({type, 2, 2, 17, 7, 33, 0, 1});
    }
    list.push_back({KvType::F16, 1, 20, 64, 40, 90, 0, 2});   // a group larger than a tile
    list.push_back({KvType::F16, 1, 1, 64, 300, 300, 0, 1});  // more tiles than parts
    list.push_back({KvType::F16, 2, 3, 64, 100, 900, 0, 2, true});
    list.push_back({KvType::F16, 1, 4, 32, 80, 700, 300, 1, true});
    list.push_back({KvType::F16, 2, 1, 128, 16, 8300, 0, 1});  // more tiles than one pass holds
    return list;
}

}  // namespace a2sf::testing
