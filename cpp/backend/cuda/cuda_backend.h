// A CUDA GPU as a backend: operations are asked for on one queue and run in order behind the
// host's back; only copies, lowest(), likeliest() and wait() wait for them. Scratch grows when a
// larger shape is first seen. Owner: one session.
#pragma once

#include <memory>
#include <vector>

#include "backend/cuda/cuda_check.h"
#include "backend/cuda/cuda_kernels.h"
#include "backend/cuda/cuda_memory.h"
#include "backend/cuda/cuda_queue.h"
#include "base/thread_pool.h"

namespace a2sf {

class CudaBackend final : public Backend {
  public:
    using Backend::attention;
    // n_threads: of the host, for each(); 0 = default_threads().
    explicit CudaBackend(size_t n_threads);
    ~CudaBackend() override;
    CudaBackend(const CudaBackend &) = delete;
    CudaBackend &operator=(const CudaBackend &) = delete;

    const char *device() const override { return "cuda"; }
    const char *isa() const override;
    size_t n_threads() const override { return pool_.n_threads(); }

    std::unique_ptr<DeviceMemory> allocate(size_t n_bytes, const char *what) override;
    std::unique_ptr<DeviceMemory> allocate_shared(size_t n_bytes, const char *what) override;
    std::unique_ptr<DeviceMemory> upload(std::span<const std::byte> bytes) override;
    void copy_to_host(void *host, const void *device, size_t n_bytes) override;
    void copy_to_device(void *device, const void *host, size_t n_bytes) override;
    void put(void *device, const void *host, size_t n_bytes) override;
    void wait() override;
    void begin_pass() override { queue_.begin_pass(); }
    void drop_pass() override { queue_.drop_pass(); }

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
    bool keeps_slots() const override { return true; }
    void turn_and_write(const NewTurns &turns, const KvSlots &slots, Matrix<const float> v,
                        const uint32_t *slot) override;
    void kv_write(const KvSlots &slots, Matrix<const float> k, Matrix<const float> v,
                  const uint32_t *slot) override;
    void kv_move(const KvSlots &slots, size_t head, uint32_t from, uint32_t to) override;
    void attention(std::span<const AttentionArgs> all) override;
    void lowest(const LowestArgs &args, int32_t *victim) override;
    void free_slots(const KvSlots &slots) override;
    void evict(const VictimsArgs &args) override;
    void find_places(const PlacesArgs &args) override;
    void close_kept(const VictimsArgs &args, const uint32_t *n_holes) override;
    void key_similarity(const KvSlots &slots, const uint32_t *live, float *similarity) override;
    bool keeps_logits() const override { return true; }
    Likeliest likeliest(Matrix<const float> logits, float scale) override;
    MachinePeaks measure_peaks() override;
    size_t scratch_bytes() const override;

  protected:
    void run_each(size_t n, Erased call, const void *context) override;

  private:
    // At least n elements of memory that is reused from call to call; contents are undefined.
    template <typename T>
    T *reserve(std::unique_ptr<GpuMemory> &memory, size_t n);
    CudaForms prepare(const Input &input, std::span<const Product> products, bool batch);
    const size_t *stage_first(const KvSlots &slots);
    void write_rows(const KvSlots &slots, const uint32_t *slot, Matrix<const float> k,
                    Matrix<const float> v, const NewTurns *turns);
    void attention_of(const AttentionArgs &args);
    CudaEviction eviction_of(const VictimsArgs &args, size_t longest);
    template <typename Launch>
    double operations_per_s(const Launch &launch);
    double copied_bytes_per_s();

    CudaQueue queue_;
    ThreadPool pool_;
    // CudaForms.
    std::unique_ptr<GpuMemory> rows_, quantized_, scales_, halves_, half_sizes_, bfloats_;
    std::unique_ptr<GpuMemory> decoded_;    // CudaProducts::decoded
    std::unique_ptr<GpuMemory> hidden_;     // [2, m, hidden_dim]
    std::unique_ptr<GpuMemory> attention_;  // CudaAttention::workspace
    std::unique_ptr<SharedMemory> lowest_;  // [n_kv_heads]
    std::unique_ptr<GpuMemory> victims_;    // CudaVictims
    std::unique_ptr<GpuMemory> key_sums_;   // CudaKeys::workspace
    std::unique_ptr<GpuMemory> parts_;      // of likeliest()
    std::unique_ptr<GpuMemory> found_;      // Likeliest
    std::unique_ptr<SharedMemory> told_;    // its copy
    std::vector<size_t> first_;             // [n_kv_heads]
    std::vector<int32_t> newest_;           // [n_kv_heads]
};

}  // namespace a2sf
