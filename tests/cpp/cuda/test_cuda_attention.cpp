// Attention, score lanes and key similarity of the CUDA backend on an emulated GPU, against the
// definition and against the CPU's scalar kernels.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "attention_calls.h"
#include "cuda_fixture.h"

using namespace a2sf;
using namespace a2sf::testing;

namespace {

// Runs a call on a backend; outputs and scores come back into it.
void attend(CudaBackend &backend, Call &call, const KeyTurns &turns = {}) {
    AttentionArgs args = call.args();
    OnDevice k(backend, call.k_bytes), v(backend, call.v_bytes);
    OnDevice q(backend, call.q), out(backend, call.out);
    Shared pos(backend, call.pos);
    args.slots.k = k.data();
    args.slots.v = v.data();
    args.q = q.matrix(args.q.rows, args.q.cols);
    args.out = out.matrix(args.out.rows, args.out.cols);
    args.pos = pos.data();
    args.turns = turns;
    std::vector<Shared<float>> scores;
    for (size_t lane = 0; lane < call.lanes.size(); ++lane) {
        scores.emplace_back(backend, call.scores[lane]);
        call.lanes[lane].scores = scores[lane].data();
    }
    backend.attention(args);
    call.out = out.fetch();
    for (size_t lane = 0; lane < call.lanes.size(); ++lane)
        call.scores[lane] = scores[lane].values();
}

// Several queries of large shapes take an emulator long; what they have in common with smaller ones
// is enough.
std::vector<Shape> emulated_shapes() {
    std::vector<Shape> list = shapes();
    std::erase_if(list, [](const Shape &shape) {
        return shape.m * shape.n_kv_heads * shape.group * shape.live * shape.head_dim > 12'000'000;
    });
    list.push_back({KvType::F16, 2, 4, 128, 1, 2100, 0, 2});  // more slots than one join takes
    list.push_back({KvType::F16, 1, 2, 256, 9, 70, 0, 1});    // the widest heads
    list.push_back({KvType::F16, 2, 2, 256, 20, 100, 30, 2});
    list.push_back({KvType::Q8_0, 1, 2, 256, 1, 300, 40, 1});
    // One tile of rows and slots, exactly; several, some of them seen by nobody or by all.
    list.push_back({KvType::F16, 1, 1, 128, 64, 64, 0, 1, true});
    list.push_back({KvType::F16, 2, 2, 128, 70, 260, 0, 2, true});
    list.push_back({KvType::F16, 1, 3, 128, 130, 400, 90, 2, true});
    list.push_back({KvType::F16, 1, 7, 104, 30, 130, 0, 0, true});
    list.push_back({KvType::Q8_0, 2, 2, 128, 70, 260, 40, 2});
    return list;
}

// Whether products are made of halves, and so rounded, on the way.
bool rounds(const Shape &shape) {
    return shape.m > 1 && shape.type != KvType::F32 && shape.head_dim <= 128;
}

}  // namespace

TEST_CASE("cuda attention: outputs and scores follow the definition") {
    Errors worst;
    for (const Shape &shape : emulated_shapes()) {
        CAPTURE(std::string(name_of(shape.type)));
        CAPTURE(shape.group);
        CAPTURE(shape.head_dim);
        CAPTURE(shape.m);
        CAPTURE(shape.live);
        Rng rng(11);
        Call call(rng, shape);
        CudaBackend backend(1);
        attend(backend, call);
        CHECK(call.out.back() == -77.0f);
        const Errors errors = errors_of(call);
        // A thread sums a logit in one chain where a vector sums in several. Queries and F16 keys
        // of `rising` are halves already, and scores never are.
        const bool exact_keys = shape.rising && shape.type == KvType::F16;
        const double floats = 2 * kTolerances.attention, halves = kTolerances.attention_halves;
        CHECK(errors.out <= (rounds(shape) ? halves : floats));
        CHECK(errors.score <= (rounds(shape) && !exact_keys ? halves : floats));
        worst.out = std::max(worst.out, errors.out);
        worst.score = std::max(worst.score, errors.score);
    }
    MESSAGE("largest error, output ", worst.out, ", scores ", worst.score);
}

TEST_CASE("cuda attention: queries may be of any size") {
    // Powers of two, so that nothing is rounded that was not; keys stay what a half can hold.
    for (const int power : {17, -9}) {
        Rng rng(14);
        Call call(rng, {KvType::F16, 1, 2, 64, 40, 100, 0, 1, true});
        for (float &x : call.q) x = std::ldexp(x, power);
        for (float &x : call.k) x = std::ldexp(x, -power);
        for (size_t i = 0; i < call.k.size(); ++i) {
            const uint16_t half = float_to_half(call.k[i]);
            std::memcpy(&call.k_bytes[2 * i], &half, 2);
            REQUIRE(half_to_float(half) == call.k[i]);
        }
        CudaBackend backend(1);
        attend(backend, call);
        const Errors errors = errors_of(call);
        CHECK(errors.out <= kTolerances.attention_halves);
        CHECK(errors.score <= 2 * kTolerances.attention);
    }
}

TEST_CASE("cuda attention: keys that are no numbers do not go unnoticed") {
    for (const KvType type : {KvType::F32, KvType::F16, KvType::Q8_0}) {
        for (const size_t m : {1, 40}) {
            Rng rng(19);
            Call call(rng, {type, 2, 2, 64, m, 300, 0, 1, true});
            // All of those that are looked at together.
            const size_t row_bytes = kv_row_bytes(type, 64);
            std::fill_n(call.k_bytes.begin(), 128 * row_bytes, uint8_t{0xff});
            CudaBackend backend(1);
            attend(backend, call);
            for (size_t i = 0; i < call.q.size(); ++i) {
                const bool first_head = i % 256 < 128;
                REQUIRE(std::isnan(call.out[i]) == first_head);
            }
        }
    }
}

TEST_CASE("cuda attention: a decay of 0 overwrites, whatever was there") {
    for (const size_t m : {1, 40}) {
        Rng rng(13);
        Call call(rng, {KvType::F32, 2, 2, 32, m, 77, 0, 2});
        for (float &score : call.scores[1]) score = NAN;
        CudaBackend backend(1);
        attend(backend, call);
        for (size_t h = 0; h < 2; ++h) {
            for (size_t s = 0; s < call.live[h]; ++s) {
                CHECK(std::isfinite(call.scores[1][h * call.capacity + s]));
            }
        }
    }
}

namespace {

// Both devices give the same where n_rot elements of every key are turned.
void compare_turned(KvType type, RopeStyle style, size_t n_rot, size_t m) {
    CAPTURE(std::string(name_of(type)));
    CAPTURE(n_rot);
    CAPTURE(m);
    Rng rng(16);
    Call call(rng, {type, 2, 2, 64, m, 90, 0, 1});
    const std::vector<float> angles = random_floats(rng, 100 * n_rot);
    std::vector<int32_t> place(call.pos.size());
    for (int32_t &at : place) at = static_cast<int32_t>(rng() % 100);
    Call expected = call;
    CpuBackend cpu(kernels_for("scalar"), 1);
    AttentionArgs args = expected.args();
    args.turns = {style, {angles.data(), 100, n_rot}, place.data(), 99};
    cpu.attention(args);
    CudaBackend cuda(1);
    OnDevice turned(cuda, angles);
    Shared places(cuda, place);
    attend(cuda, call, {style, turned.matrix(100, n_rot), places.data(), 99});
    const double allowed = rounds(call.shape) ? kTolerances.attention_halves : 3e-5;
    CHECK(largest_difference(call.out, expected.out) <= allowed);
    CHECK(largest_difference(call.scores[0], expected.scores[0]) <= allowed);
}

}  // namespace

TEST_CASE("cuda attention: keys stored before RoPE are turned as the scalar kernels turn them") {
    for (const KvType type : kKvTypes) {
        for (const RopeStyle style : {RopeStyle::Halves, RopeStyle::Interleaved}) {
            // Eight at a time, of the whole head and of less, and one by one.
            for (const size_t n_rot : {64, 48, 16, 24, 10}) {
                for (const size_t m : {1, 6}) compare_turned(type, style, n_rot, m);
            }
        }
    }
}

TEST_CASE("cuda attention: what it cannot hold is refused with the limit") {
    Rng rng(17);
    CudaBackend backend(1);
    Call wide(rng, {KvType::F32, 1, 1, 264, 1, 5, 0, 0});
    CHECK_THROWS_WITH_AS(attend(backend, wide),
                         "attention on cuda: heads of at most 256 elements expected, found 264",
                         UnsupportedError);
    Call many(rng, {KvType::F32, 1, 40, 32, 1, 5, 0, 0});
    CHECK_THROWS_WITH_AS(attend(backend, many),
                         "attention on cuda: at most 28 query heads per KV head expected, found 40",
                         UnsupportedError);
    // The largest that is not.
    Call largest(rng, {KvType::F16, 1, 28, 256, 1, 5, 0, 1});
    attend(backend, largest);
    CHECK(errors_of(largest).out <= kTolerances.attention);
}

TEST_CASE("cuda attention: heads with room of their own") {
    Rng rng(18);
    Call call(rng, {KvType::F16, 2, 2, 64, 1, 50, 0, 1});
    const std::vector<size_t> first = {call.capacity, 0};  // the other way round
    const Call before = call;
    for (const bool swapped : {false, true}) {
        Call own = before;
        AttentionArgs args = own.args();
        CudaBackend backend(1);
        OnDevice k(backend, own.k_bytes), v(backend, own.v_bytes);
        OnDevice q(backend, own.q), out(backend, own.out);
        Shared pos(backend, own.pos);
        Shared scores(backend, own.scores[0]);
        args.slots.k = k.data();
        args.slots.v = v.data();
        args.slots.first = swapped ? first.data() : nullptr;
        args.q = q.matrix(args.q.rows, args.q.cols);
        args.out = out.matrix(args.out.rows, args.out.cols);
        args.pos = pos.data();
        const ScoreLane lane = {scores.data(), 0.5f, own.weights[0].data()};
        args.lanes = {&lane, 1};
        backend.attention(args);
        const std::vector<float> found = out.fetch();
        if (!swapped) {
            call.out = found;
            continue;
        }
        // The CPU reads the same slots by the same rule.
        Call expected = before;
        AttentionArgs same = expected.args();
        same.slots.first = first.data();
        CpuBackend(kernels_for("scalar"), 1).attention(same);
        CHECK(largest_difference(found, expected.out) <= 2e-5);
        CHECK(largest_difference(found, call.out) > 1e-3);
    }
}

TEST_CASE("cuda key_similarity: cosine with the mean key, 0 where there is no length") {
    // In one part of slots, and in several.
    for (const size_t n : {41, 300}) {
        for (const KvType type : kKvTypes) {
            Rng rng(15);
            Call call(rng, {type, 3, 1, 64, 1, n, 0, 0});
            const size_t row_bytes = kv_row_bytes(type, 64);
            std::fill_n(call.k_bytes.begin() + 2 * row_bytes, row_bytes, uint8_t{0});
            call.live[2] = 0;
            std::vector<float> expected(3 * call.capacity, -5.0f);
            CpuBackend cpu(kernels_for("scalar"), 1);
            KvSlots slots = call.args().slots;
            cpu.key_similarity(slots, call.live.data(), expected.data());
            CudaBackend cuda(1);
            OnDevice k(cuda, call.k_bytes);
            Shared found(cuda, std::vector<float>(3 * call.capacity, -5.0f));
            slots.k = k.data();
            cuda.key_similarity(slots, call.live.data(), found.data());
            cuda.wait();
            CHECK(largest_difference(found.values(), expected) <= 2e-6);
        }
    }
}
