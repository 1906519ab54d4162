// The CPU as a backend: splits each operation into tasks for a thread pool and calls the kernels of
// one instruction set. Tasks are cut by shape alone, never by the number of threads, so results do
// not depend on it. Owner: one session. Scratch grows when a larger shape is first seen.
#pragma once

#include <atomic>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "base/thread_pool.h"

namespace a2sf {

class CpuBackend final : public Backend {
  public:
    using Backend::attention;
    CpuBackend(const Kernels &kernels, size_t n_threads);

    const char *device() const override { return "cpu"; }
    const char *isa() const override { return kernels_.name; }
    size_t n_threads() const override { return pool_.n_threads(); }

    std::unique_ptr<DeviceMemory> allocate(size_t n_bytes, const char *what) override;
    std::unique_ptr<DeviceMemory> upload(std::span<const std::byte> bytes) override;
    void copy_to_host(void *host, const void *device, size_t n_bytes) override;
    void copy_to_device(void *device, const void *host, size_t n_bytes) override;

    void embed(const Weight &table, std::span<const int32_t> ids, float scale,
               Matrix<float> out) override;
    void matmul(const Input &input, std::span<const Product> products) override;
    void gated_ffn(const Input &input, const GatedFfn &ffn, const Product &down) override;
    void rms_norm(Matrix<const float> x, size_t width, const float *weight, float eps,
                  Matrix<float> y, bool accumulate) override;
    void rope_angles(std::span<const int32_t> pos, std::span<const float> frequency,
                     float magnitude, Matrix<float> angles) override;
    void rope(RopeStyle style, size_t head_dim, Matrix<const float> angles,
              Matrix<float> x) override;
    void kv_write(const KvSlots &slots, Matrix<const float> k, Matrix<const float> v,
                  const uint32_t *slot) override;
    void kv_move(const KvSlots &slots, size_t head, uint32_t from, uint32_t to) override;
    void attention(std::span<const AttentionArgs> all) override;
    void lowest(const LowestArgs &args, int32_t *victim) override;
    void key_similarity(const KvSlots &slots, const uint32_t *live, float *similarity) override;
    MachinePeaks measure_peaks() override;
    size_t scratch_bytes() const override {
        return panels_.n_bytes() + quantized_.n_bytes() + rows_.n_bytes() + hidden_.n_bytes() +
               hidden_tiles_.n_bytes() + tiles_.n_bytes() + tiled_pos_.n_bytes() +
               attention_.n_bytes() + partial_.n_bytes() + key_rows_.n_bytes();
    }

  protected:
    void run_each(size_t n, Erased call, const void *context) override;

  private:
    // At least n elements of memory that is reused from call to call; contents are undefined.
    template <typename T>
    static T *reserve(Buffer<T> &buffer, size_t n) {
        // Half as much again, so that a slowly growing cache does not reallocate at every token.
        // Never the old and the new at once.
        if (buffer.size() < n) {
            buffer = {};
            buffer = Buffer<T>(n + n / 2, "scratch");
        }
        return buffer.data();
    }
    // Calls body(begin, end, worker) over [0, n) in runs whose length depends on `cost` (roughly
    // operations or bytes per item) alone.
    template <typename Body>
    void split(size_t n, size_t cost, const Body &body);

    struct Forms;
    struct Prepared;
    Prepared prepare(const Input &input, const Forms &forms);
    void multiply(const Prepared &prepared, size_t m, std::span<const Product> products);
    static TileX tiles_for(Buffer<uint16_t> &memory, size_t m, size_t cols);
    const float *prepare_row(const Input &input, size_t t, float *to);
    void attention_of(const AttentionArgs &args);
    struct AttentionPlan;
    void attention_part(const AttentionArgs &args, const AttentionPlan &plan, size_t head,
                        size_t part, size_t worker);
    static TurnedKeys turned_keys(const AttentionArgs &args, size_t head);
    static AttentionTile tile_of(const AttentionArgs &args, const AttentionPlan &plan, size_t head,
                                 size_t worker);
    static void place_queries(const AttentionArgs &args, const AttentionPlan &plan, size_t head,
                              size_t i0, AttentionTile &tile);
    void add_parts(const AttentionArgs &args, const AttentionPlan &plan);
    void pack(const AttentionTile &from, size_t first, const TileKv &to);
    // How the attention of one query is cut. Depends on shapes only.
    struct OnePlan {
        size_t group;                   // query heads per KV head
        size_t rows;                    // the same, padded to kOneRows
        size_t n_runs;                  // of the longest head
        size_t p_slots;                 // of a run
        size_t n_tasks;                 // n_kv_heads * n_runs
        size_t n_floats;                // of all arrays
        float *p;                       // [n_kv_heads, n_runs, rows * p_slots]
        float *out;                     // [n_kv_heads, n_runs, group * head_dim]
        float *top;                     // [n_kv_heads, n_runs, rows]
        float *total;                   // likewise
        float *turned;                  // [n_kv_heads, n_runs, p_slots, head_dim], or null
        std::atomic<size_t> *finished;  // [n_kv_heads]

        size_t run(size_t head, size_t index) const { return head * n_runs + index; }
    };
    static bool is_one_query(const AttentionArgs &args);
    static OnePlan plan_one(const AttentionArgs &args, float *memory);
    void attention_of_one(std::span<const AttentionArgs> all);
    void attend_run(const AttentionArgs &args, const OnePlan &plan, size_t head, size_t index);
    void join_runs(const AttentionArgs &args, const OnePlan &plan, size_t head);
    static bool fits_tiles(const AttentionArgs &args, size_t group);
    void attention_on_tiles(const AttentionArgs &args, AttentionPlan plan);
    void attend_part_on_tiles(const AttentionArgs &args, const AttentionPlan &plan,
                              const TileKv &kv, size_t head, size_t part, size_t worker);

    const Kernels &kernels_;
    ThreadPool pool_;
    Buffer<std::byte> panels_;     // [n_threads, Kernels::panel_bytes]
    Buffer<std::byte> quantized_;  // one QuantizedX
    Buffer<float> rows_;           // an Input's rows: [m, cols], or one per thread
    Buffer<float> hidden_;  // gate and up: [2, m, hidden_dim], or [n_threads, m, 2, kFfnRows]
    Buffer<uint16_t> hidden_tiles_;              // one TileX
    Buffer<uint16_t> tiles_;                     // one TileX, or a TileKv of each KV head of a pass
    Buffer<int32_t> tiled_pos_;                  // of those TileKv
    Buffer<float> attention_;                    // AttentionPlan::scratch, or an OnePlan's arrays
    Buffer<float> partial_;                      // AttentionPlan::partial
    std::vector<OnePlan> one_plans_;             // of attention_of_one, one per text
    std::vector<std::atomic<size_t>> finished_;  // [texts * n_kv_heads], its runs
    Buffer<float> key_rows_;                     // [n_threads, 2, padded(head_dim)]
};

template <typename Body>
void CpuBackend::split(size_t n, size_t cost, const Body &body) {
    constexpr size_t kTaskCost = 16384;  // some microseconds
    const size_t run = cost >= kTaskCost ? 1 : kTaskCost / (cost == 0 ? 1 : cost);
    pool_.run((n + run - 1) / run, [&](size_t task, size_t worker) {
        body(task * run, task * run + run < n ? task * run + run : n, worker);
    });
}

}  // namespace a2sf
