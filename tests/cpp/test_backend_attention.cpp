// Attention, score lanes and key similarity of the CPU backend, every instruction set against naive
// double-precision loops.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "backend/cpu/cpu_backend.h"
#include "test_kernels.h"

using namespace a2sf;
using namespace a2sf::testing;

namespace {

struct Shape {
    KvType type;
    size_t n_kv_heads, group, head_dim, m, live;
    int32_t window;
    size_t n_lanes;
    // Slots in order, as a chunk takes them; in the last third keys that give far higher logits, of
    // numbers that bfloat16 holds exactly.
    bool rising = false;
};

float eighths(float x) {
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
std::vector<double> probabilities(const Call &call, size_t i, size_t g) {
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

Errors errors_of(const Call &call) {
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

std::vector<Shape> shapes() {
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

}  // namespace

TEST_CASE("attention: outputs and scores follow the definition") {
    for (const Kernels *kernels : usable_kernels()) {
        Errors worst;
        for (const Shape &shape : shapes()) {
            Rng rng(11);
            Call call(rng, shape);
            CpuBackend backend(*kernels, 1);
            backend.attention(call.args());
            CHECK(call.out.back() == -77.0f);
            const Errors errors = errors_of(call);
            CAPTURE(std::string(name_of(shape.type)));
            CAPTURE(shape.group);
            CAPTURE(shape.m);
            CAPTURE(shape.live);
            const bool tiles = kernels->attend_tiles != nullptr && shape.type != KvType::F32;
            const double allowed = tiles ? kTolerances.attention_tiles : kTolerances.attention;
            CHECK(errors.out <= allowed);
            CHECK(errors.score <= allowed);
            worst.out = std::max(worst.out, errors.out);
            worst.score = std::max(worst.score, errors.score);
        }
        MESSAGE(std::string(kernels->name), ": largest error, output ", worst.out, ", scores ",
                worst.score);
    }
}

TEST_CASE("attention: the same bits for any number of threads and from call to call") {
    for (const Kernels *kernels : usable_kernels()) {
        std::vector<std::unique_ptr<CpuBackend>> backends;
        for (const size_t n_threads : {1, 2, 4}) {
            backends.push_back(std::make_unique<CpuBackend>(*kernels, n_threads));
        }
        for (const Shape &shape : shapes()) {
            Rng rng(12);
            const Call original(rng, shape);
            Call first = original;
            backends[0]->attention(first.args());
            for (const std::unique_ptr<CpuBackend> &backend : backends) {
                Call call = original;
                backend->attention(call.args());
                CHECK(call.out == first.out);
                CHECK(call.scores == first.scores);
            }
        }
    }
}

TEST_CASE("attention: a decay of 0 overwrites, whatever was there") {
    for (const Kernels *kernels : usable_kernels()) {
        for (const size_t m : {1, 40}) {
            Rng rng(13);
            Call call(rng, {KvType::F32, 2, 2, 32, m, 77, 0, 2});
            for (float &score : call.scores[1]) score = NAN;
            CpuBackend backend(*kernels, 2);
            backend.attention(call.args());
            for (size_t h = 0; h < 2; ++h) {
                for (size_t s = 0; s < call.live[h]; ++s) {
                    CHECK(std::isfinite(call.scores[1][h * call.capacity + s]));
                }
            }
        }
    }
}

TEST_CASE("attention: the order of slots changes rounding only") {
    for (const Kernels *kernels : usable_kernels()) {
        Rng rng(14);
        Call call(rng, {KvType::F32, 1, 2, 64, 3, 120, 50, 1});
        Call reversed = call;
        for (size_t s = 0; s < 60; ++s) {
            std::swap(reversed.pos[s], reversed.pos[119 - s]);
            for (std::vector<uint8_t> *bytes : {&reversed.k_bytes, &reversed.v_bytes}) {
                std::swap_ranges(bytes->begin() + s * 256, bytes->begin() + (s + 1) * 256,
                                 bytes->begin() + (119 - s) * 256);
            }
        }
        CpuBackend backend(*kernels, 1);
        backend.attention(call.args());
        backend.attention(reversed.args());
        for (size_t i = 0; i < call.out.size(); ++i) {
            CHECK(std::fabs(call.out[i] - reversed.out[i]) <= 8 * kTolerances.attention);
        }
    }
}

TEST_CASE("key_similarity: cosine with the mean key, 0 where there is no length") {
    for (const Kernels *kernels : usable_kernels()) {
        for (const KvType type : {KvType::F32, KvType::F16, KvType::Q8_0}) {
            Rng rng(15);
            Call call(rng, {type, 3, 1, 64, 1, 41, 0, 0});
            const size_t n = 64, row_bytes = kv_row_bytes(type, n);
            // Slot 2 of head 0 has no length; head 2 is empty.
            std::fill_n(call.k.begin() + 2 * n, n, 0.0f);
            std::fill_n(call.k_bytes.begin() + 2 * row_bytes, row_bytes, uint8_t{0});
            call.live[2] = 0;
            std::vector<float> found(3 * call.capacity, -5.0f);
            CpuBackend backend(*kernels, 2);
            backend.key_similarity(call.args().slots, call.live.data(), found.data());
            for (size_t h = 0; h < 3; ++h) {
                std::vector<double> mean(n, 0.0);
                const float *keys = &call.k[h * call.capacity * n];
                for (size_t s = 0; s < call.live[h]; ++s) {
                    for (size_t d = 0; d < n; ++d) mean[d] += keys[s * n + d];
                }
                for (size_t s = 0; s < call.capacity; ++s) {
                    const float *key = keys + s * n;
                    const double product = std::inner_product(key, key + n, mean.begin(), 0.0);
                    const double lengths =
                        std::sqrt(std::inner_product(key, key + n, key, 0.0) *
                                  std::inner_product(mean.begin(), mean.end(), mean.begin(), 0.0));
                    const double expected = s >= call.live[h] ? -5.0
                                            : lengths > 0.0   ? product / lengths
                                                              : 0.0;
                    CHECK(std::fabs(found[h * call.capacity + s] - expected) <= 2e-6);
                }
            }
        }
    }
}

TEST_CASE("lowest: the lowest score within the range leaves, the oldest of equals") {
    for (const Kernels *kernels : usable_kernels()) {
        CAPTURE(std::string(kernels->name));
        Rng rng(15);
        for (size_t n = 1; n < 200; ++n) {
            CAPTURE(n);
            std::vector<int32_t> pos(n);
            std::iota(pos.begin(), pos.end(), 10);
            std::shuffle(pos.begin(), pos.end(), rng);
            std::vector<float> scores(n);
            for (float &score : scores) score = static_cast<float>(rng() % 5);
            const int32_t first = 10 + static_cast<int32_t>(rng() % n);
            const int32_t last = first + static_cast<int32_t>(rng() % n);
            int32_t expected = -1;
            float least = 1e9f;
            for (int32_t p = first; p <= last; ++p) {
                const auto at = std::find(pos.begin(), pos.end(), p) - pos.begin();
                if (static_cast<size_t>(at) == n || scores[at] >= least) continue;
                least = scores[at];
                expected = p;
            }
            CHECK(kernels->lowest_pos(scores.data(), pos.data(), n, first, last) == expected);
            scores[rng() % n] = NAN;
            CHECK(kernels->lowest_pos(scores.data(), pos.data(), n, first, last) ==
                  Backend::kNoVictim);
        }
    }
}
