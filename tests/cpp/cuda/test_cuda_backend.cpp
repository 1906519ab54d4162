// The CUDA backend on an emulated GPU: memory, what a machine may lack, and the operations that
// work row by row, against the CPU's scalar kernels.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "cuda_fixture.h"

using namespace a2sf;
using namespace a2sf::testing;

TEST_CASE("cuda: a machine says what it lacks, and auto takes the GPU where it lacks nothing") {
    const Restored restored;
    CHECK(std::string(find_backend("auto").device) == "cuda");
    CHECK(std::string(find_backend("cuda").isa()) == "sm_80");
    const auto reason = [] { return message_of([] { find_backend("cuda"); }); };
    cuda_emulator::machine.major = 7;
    CHECK(reason().find("compute capability 7.0") != std::string::npos);
    cuda_emulator::machine.n_devices = 0;
    CHECK(reason().find("no GPU") != std::string::npos);
    cuda_emulator::machine.count_status = cudaErrorInsufficientDriver;
    cuda_emulator::machine.driver_version = 12040;
    CHECK(reason().find("for CUDA 12.4, older") != std::string::npos);
    cuda_emulator::machine.driver_version = 0;
    CHECK(reason().find("no NVIDIA driver") != std::string::npos);
    CHECK(std::string(find_backend("auto").device) == "cpu");
}

TEST_CASE("cuda: memory is zeroed, uploads stay readable, copies cross over") {
    CudaBackend backend(1);
    const std::vector<float> values = {1.0f, 2.0f, 3.0f};
    std::vector<float> back(3, 9.0f);
    const auto memory = backend.allocate(12, "test");
    backend.copy_to_host(back.data(), memory->data(), 12);
    CHECK(back == std::vector<float>{0.0f, 0.0f, 0.0f});
    backend.copy_to_device(memory->data(), values.data(), 12);
    const auto other = backend.allocate(12, "test");
    backend.copy_to_device(other->data(), memory->data(), 12);
    backend.copy_to_host(back.data(), other->data(), 12);
    CHECK(back == values);
    const auto shared = backend.allocate_shared(12, "test");
    CHECK(static_cast<const float *>(shared->data())[2] == 0.0f);
    CHECK(backend.allocate(0, "nothing")->n_bytes() == 0);
    CHECK(backend.allocate_shared(0, "nothing")->n_bytes() == 0);
}

TEST_CASE("cuda: arrays of one operation stay, whatever large ones follow them") {
    cudaStream_t stream = nullptr;
    REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    {
        Staging staging(stream);
        std::vector<int32_t> small(16), found(16);
        for (const size_t n_bytes : {1 << 20, 3 << 20, 4 << 20, 9 << 20, 4 << 20, 2 << 20}) {
            const std::vector<std::byte> large(n_bytes);
            for (int i = 0; i < 9; ++i) {  // once around
                std::iota(small.begin(), small.end(), static_cast<int32_t>(n_bytes) + i);
                const void *first = staging.copy_bytes(small.data(), sizeof(int32_t) * 16);
                staging.copy_bytes(large.data(), large.size());
                // What a kernel would read that follows.
                cudaMemcpyAsync(found.data(), first, sizeof(int32_t) * 16, cudaMemcpyDeviceToHost,
                                stream);
                REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
                CHECK(found == small);
            }
        }
    }
    cudaStreamDestroy(stream);
}

TEST_CASE("cuda: out of memory says how much was wanted, for what, and how much was free") {
    const Restored restored;
    CudaBackend backend(1);
    const size_t n_memory = cuda_emulator::counts.n_bytes + (size_t{1} << 20);
    cuda_emulator::machine.n_memory = n_memory;
    const std::string message =
        message_of([&] { backend.allocate(size_t{2} << 20, "keys of the KV cache"); });
    CHECK(message == "keys of the KV cache: 2097152 bytes of GPU memory wanted, 1048576 of " +
                         std::to_string(n_memory) + " are free");
    cuda_emulator::machine.most_host_bytes = 100;
    const std::string shared = message_of([&] { backend.allocate_shared(200, "scores"); });
    CHECK(shared.find("scores: 200 bytes of page-locked memory wanted") != std::string::npos);
    CHECK(backend.allocate(1000, "small")->n_bytes() == 1000);
}

TEST_CASE("cuda: what is taken of the GPU is counted, with its peak") {
    CudaBackend backend(1);
    const BackendEntry &entry = find_backend("cuda");
    entry.begin_peak();
    const OwnMemory before = entry.memory();
    CHECK(before.n_total == cuda_emulator::machine.n_memory);
    CHECK(before.n_peak == before.n_taken);
    {
        const auto large = backend.allocate(5000, "test"), small = backend.allocate(100, "test");
        backend.allocate(0, "nothing");
        backend.allocate_shared(1000, "the host's");
        const OwnMemory now = entry.memory();
        CHECK(now.n_taken == before.n_taken + 5100);
        CHECK(now.n_by_thread == before.n_by_thread + 5100);
        CHECK(now.n_free < before.n_free);
        CHECK_THROWS_AS(backend.allocate(before.n_total, "too much"), DeviceError);
    }
    const OwnMemory after = entry.memory();
    CHECK(after.n_taken == before.n_taken);
    CHECK(after.n_by_thread == before.n_by_thread);
    CHECK(after.n_free == before.n_free);
    CHECK(after.n_peak == before.n_taken + 5100);
    CHECK(find_backend("cpu").memory().n_total == 0);
}

TEST_CASE("cuda: nothing leaks over a thousand backends") {
    const auto before = cuda_emulator::counts;
    for (int i = 0; i < 1000; ++i) {
        CudaBackend backend(1);
        OnDevice x(backend, std::vector<float>(64, 1.0f));
        OnDevice y(backend, std::vector<float>(64, 0.0f));
        backend.rms_norm(x.matrix(1, 64), 64, x.data(), 1e-5f, y.matrix(1, 64), false);
    }
    CHECK(cuda_emulator::counts.n_allocations == before.n_allocations);
    CHECK(cuda_emulator::counts.n_streams == before.n_streams);
}

TEST_CASE("cuda: embeddings of every weight type are the format's own decode") {
    for (const WeightType &type : weight_types()) {
        CAPTURE(std::string(type.name));
        Rng rng(21);
        const size_t rows = 9, cols = type.block == 1 ? 37 : 2 * type.block;
        const std::vector<uint8_t> bytes = random_blocks(rng, type, rows * cols);
        std::vector<float> truth(rows * cols);
        type.decode(bytes.data(), truth.data(), truth.size());
        CudaBackend backend(1);
        const auto memory = backend.upload(std::as_bytes(std::span(bytes)));
        const Weight table{&type, rows, cols, memory->data()};
        const std::vector<int32_t> ids = {8, 0, 3, 3};
        for (const float scale : {1.0f, 2.5f}) {
            OnDevice out(backend, std::vector<float>(ids.size() * (cols + 3), 7.0f));
            backend.embed(table, ids, scale, out.matrix(ids.size(), cols, cols + 3));
            const std::vector<float> found = out.fetch();
            for (size_t i = 0; i < found.size(); ++i) {
                const size_t column = i % (cols + 3);
                if (column >= cols) {
                    CHECK(found[i] == 7.0f);
                    continue;
                }
                const size_t id = static_cast<size_t>(ids[i / (cols + 3)]);
                const float expected = truth[id * cols + column] * scale;
                // Offsets in other units may round once more.
                CHECK(std::fabs(found[i] - expected) <= 1e-6f * (std::fabs(expected) + 10.0f));
            }
        }
    }
}

TEST_CASE("cuda: rms_norm by heads and rope give what the scalar kernels give") {
    const size_t m = 7, width = 20, cols = 3 * width, stride = cols + 5;
    Rng rng(22);
    const std::vector<float> x = random_floats(rng, m * stride);
    const std::vector<float> weight = random_floats(rng, width);
    const std::vector<float> angles = random_floats(rng, m * 12);
    CpuBackend cpu(kernels_for("scalar"), 1);
    CudaBackend cuda(1);
    OnDevice weights(cuda, weight), turns(cuda, angles);
    for (const bool accumulate : {false, true}) {
        std::vector<float> expected = x;
        const Matrix<float> view{expected.data(), m, cols, stride};
        cpu.rms_norm(view, width, weight.data(), 1e-6f, view, accumulate);
        OnDevice found(cuda, x);
        const Matrix<float> at = found.matrix(m, cols, stride);
        cuda.rms_norm(at, width, weights.data(), 1e-6f, at, accumulate);
        for (const RopeStyle style : {RopeStyle::Halves, RopeStyle::Interleaved}) {
            cpu.rope(style, width, {angles.data(), m, 12}, view);
            cuda.rope(style, width, turns.matrix(m, 12), at);
        }
        CHECK(largest_difference(found.fetch(), expected) <= 1e-5);
    }
}

TEST_CASE("cuda: rotation angles are exact far into the text") {
    CudaBackend backend(1);
    const std::vector<int32_t> pos = {0, 1, 1000, 131071};
    std::vector<float> frequency;
    for (int j = 0; j < 32; ++j) frequency.push_back(std::pow(10000.0f, -j / 32.0f));
    OnDevice angles(backend, std::vector<float>(pos.size() * 64));
    backend.rope_angles(pos, frequency, 1.5f, angles.matrix(pos.size(), 64));
    const std::vector<float> found = angles.fetch();
    for (size_t i = 0; i < pos.size(); ++i) {
        for (size_t j = 0; j < 32; ++j) {
            const double angle = static_cast<double>(pos[i]) * frequency[j];
            CHECK(found[i * 64 + j] == static_cast<float>(1.5 * std::cos(angle)));
            CHECK(found[i * 64 + 32 + j] == static_cast<float>(1.5 * std::sin(angle)));
        }
    }
}

TEST_CASE("cuda: K and V are stored bit for bit as the scalar kernels store them, and moved") {
    for (const KvType type : kKvTypes) {
        const size_t n_kv_heads = 3, n = 64, capacity = 11, m = 4, stride = n_kv_heads * n + 2;
        const size_t row_bytes = kv_row_bytes(type, n);
        Rng rng(23);
        std::vector<float> k = random_floats(rng, m * stride);
        const std::vector<float> v = random_floats(rng, m * stride);
        std::fill_n(k.begin(), 32, 0.0f);
        k[40] = 1e9f;  // beyond what halves hold
        const std::vector<uint8_t> rubbish(n_kv_heads * capacity * row_bytes, 0xee);
        const std::vector<size_t> first = {2 * capacity, 0, capacity};
        const std::vector<uint32_t> slot = {10, 0, 3, 7, 1, 2, 3, 4, 9, 8, 7, 6};
        std::vector<uint8_t> k_expected = rubbish, v_expected = rubbish;
        CpuBackend cpu(kernels_for("scalar"), 1);
        KvSlots slots{type,        n_kv_heads, n, capacity, k_expected.data(), v_expected.data(),
                      first.data()};
        cpu.kv_write(slots, {k.data(), m, n_kv_heads * n, stride},
                     {v.data(), m, n_kv_heads * n, stride}, slot.data());
        cpu.kv_move(slots, 1, 2, 5);
        CudaBackend cuda(1);
        OnDevice k_rows(cuda, rubbish), v_rows(cuda, rubbish);
        OnDevice new_k(cuda, k), new_v(cuda, v);
        slots.k = k_rows.data();
        slots.v = v_rows.data();
        cuda.kv_write(slots, new_k.matrix(m, n_kv_heads * n, stride),
                      new_v.matrix(m, n_kv_heads * n, stride), slot.data());
        cuda.kv_move(slots, 1, 2, 5);
        cuda.kv_move(slots, 2, 9, 9);
        CHECK(k_rows.fetch() == k_expected);
        CHECK(v_rows.fetch() == v_expected);
    }
}

TEST_CASE("cuda: queries and keys are turned on their way as rope() turns them") {
    for (const KvType type : kKvTypes) {
        for (const RopeStyle style : {RopeStyle::Halves, RopeStyle::Interleaved}) {
            const size_t n_heads = 6, n_kv_heads = 2, n = 64, capacity = 9, m = 5, n_rot = 48;
            const size_t q_stride = n_heads * n + 4, stride = n_kv_heads * n + 2;
            Rng rng(29);
            const std::vector<float> q = random_floats(rng, m * q_stride);
            const std::vector<float> k = random_floats(rng, m * stride);
            const std::vector<float> v = random_floats(rng, m * stride);
            const std::vector<float> angles = random_floats(rng, m * n_rot);
            const std::vector<uint8_t> rubbish(n_kv_heads * capacity * kv_row_bytes(type, n), 0xee);
            const std::vector<uint32_t> slot = {8, 0, 3, 7, 1, 2, 3, 4, 5, 6};
            struct Found {
                std::vector<uint8_t> k_rows, v_rows;
                std::vector<float> q, k;
                bool operator==(const Found &) const = default;
            };
            const auto run = [&](bool at_once) {
                CudaBackend cuda(1);
                OnDevice k_rows(cuda, rubbish), v_rows(cuda, rubbish);
                OnDevice new_q(cuda, q), new_k(cuda, k), new_v(cuda, v), turns(cuda, angles);
                const KvSlots slots{type, n_kv_heads, n, capacity, k_rows.data(), v_rows.data()};
                const auto q_at = new_q.matrix(m, n_heads * n, q_stride);
                const auto k_at = new_k.matrix(m, n_kv_heads * n, stride);
                const auto v_at = new_v.matrix(m, n_kv_heads * n, stride);
                const NewTurns fresh = {style, turns.matrix(m, n_rot), q_at, k_at};
                if (at_once) {
                    cuda.turn_and_write(fresh, slots, v_at, slot.data());
                } else {
                    cuda.Backend::turn_and_write(fresh, slots, v_at, slot.data());
                }
                return Found{k_rows.fetch(), v_rows.fetch(), new_q.fetch(), new_k.fetch()};
            };
            const Found found = run(true);
            CHECK(found == run(false));
            CHECK(found.q != q);
            CHECK(found.k != k);
        }
    }
}

TEST_CASE("cuda: the lowest score within the range leaves, the oldest of equals") {
    Rng rng(15);
    CudaBackend cuda(1);
    CpuBackend cpu(kernels_for("scalar"), 1);
    for (size_t n = 1; n < 400; n += n < 40 ? 1 : 37) {
        CAPTURE(n);
        const size_t n_heads = 2, capacity = n + 3;
        const std::vector<uint32_t> live = {static_cast<uint32_t>(n), static_cast<uint32_t>(n)};
        Shared<int32_t> pos(cuda, n_heads * capacity);
        Shared<float> scores(cuda, n_heads * capacity);
        for (size_t i = 0; i < n_heads * capacity; ++i) {
            pos[i] = static_cast<int32_t>(10 + i % capacity);
            scores[i] = static_cast<float>(rng() % 5);
        }
        std::shuffle(pos.data(), pos.data() + n, rng);
        LowestArgs args;
        args.slots.n_kv_heads = n_heads;
        args.slots.capacity = capacity;
        args.scores = scores.data();
        args.pos = pos.data();
        args.live = live.data();
        args.first_pos = 10 + static_cast<int32_t>(rng() % n);
        const std::vector<int32_t> last(2, args.first_pos + static_cast<int32_t>(rng() % n));
        args.last_pos = last.data();
        for (const bool lost : {false, true}) {
            if (lost) scores[rng() % n] = NAN;
            int32_t expected[2], found[2];
            cpu.lowest(args, expected);
            cuda.lowest(args, found);
            CHECK(found[0] == expected[0]);
            CHECK(found[1] == expected[1]);
        }
        args.scores = nullptr;
        int32_t found[2];
        cuda.lowest(args, found);
        CHECK(found[1] == args.first_pos);
    }
}

TEST_CASE("cuda: peaks are measured, not guessed") {
    const Restored restored;
    cuda_emulator::machine.n_memory = size_t{64} << 20;
    const MachinePeaks peaks = CudaBackend(1).measure_peaks();
    CHECK(peaks.read_gb_s > 0.0);
    CHECK(peaks.int8_gops > 0.0);
    CHECK(peaks.float_gflops > 0.0);
    CHECK(peaks.bfloat16_gflops > 0.0);
    CHECK(peaks.copy_gb_s == peaks.read_gb_s);
}
