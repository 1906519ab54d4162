// The emulated GPU behind a backend that hands out no slots: all its memory is the host's as well,
// and the host waits for every operation. What a device that keeps slots must come to is what the
// cache makes of this one.
#pragma once

#include "backend/cuda/cuda_backend.h"

namespace a2sf::testing {

class HostSlots final : public Backend {
  public:
    using Backend::attention;

    const char *device() const override { return gpu_.device(); }
    const char *isa() const override { return gpu_.isa(); }
    size_t n_threads() const override { return 1; }
    std::unique_ptr<DeviceMemory> allocate(size_t n_bytes, const char *what) override {
        return gpu_.allocate_shared(n_bytes, what);
    }
    std::unique_ptr<DeviceMemory> upload(std::span<const std::byte> bytes) override {
        return gpu_.upload(bytes);
    }
    void copy_to_host(void *host, const void *device, size_t n_bytes) override {
        gpu_.copy_to_host(host, device, n_bytes);
    }
    void copy_to_device(void *device, const void *host, size_t n_bytes) override {
        gpu_.copy_to_device(device, host, n_bytes);
    }
    size_t scratch_bytes() const override { return gpu_.scratch_bytes(); }
    bool closes_holes_at_once() const override { return true; }
    void wait() override { gpu_.wait(); }
    void embed(const Weight &table, std::span<const int32_t> ids, float scale,
               Matrix<float> out) override {
        gpu_.embed(table, ids, scale, out);
        wait();
    }
    void matmul(const Input &input, std::span<const Product> products) override {
        gpu_.matmul(input, products);
        wait();
    }
    void gated_ffn(const Input &input, const GatedFfn &ffn, const Product &down) override {
        gpu_.gated_ffn(input, ffn, down);
        wait();
    }
    void rms_norm(Matrix<const float> x, size_t width, const float *weight, float eps,
                  Matrix<float> y, bool accumulate) override {
        gpu_.rms_norm(x, width, weight, eps, y, accumulate);
        wait();
    }
    void rope_angles(std::span<const int32_t> pos, std::span<const float> frequency,
                     float magnitude, Matrix<float> angles) override {
        gpu_.rope_angles(pos, frequency, magnitude, angles);
        wait();
    }
    void rope(RopeStyle style, size_t head_dim, Matrix<const float> angles,
              Matrix<float> x) override {
        gpu_.rope(style, head_dim, angles, x);
        wait();
    }
    void kv_write(const KvSlots &slots, Matrix<const float> k, Matrix<const float> v,
                  const uint32_t *slot) override {
        gpu_.kv_write(slots, k, v, slot);
        wait();
    }
    void kv_move(const KvSlots &slots, size_t head, uint32_t from, uint32_t to) override {
        const size_t row = kv_row_bytes(slots.type, slots.head_dim);
        for (void *memory : {slots.k, slots.v}) {
            std::byte *rows = static_cast<std::byte *>(memory) + slots.at(head) * row;
            std::memcpy(rows + to * row, rows + from * row, row);
        }
    }
    void attention(std::span<const AttentionArgs> all) override {
        gpu_.attention(all);
        wait();
    }
    void lowest(const LowestArgs &args, int32_t *victim) override { gpu_.lowest(args, victim); }
    void key_similarity(const KvSlots &slots, const uint32_t *live, float *similarity) override {
        gpu_.key_similarity(slots, live, similarity);
        wait();
    }
    MachinePeaks measure_peaks() override { return gpu_.measure_peaks(); }

  protected:
    void run_each(size_t n, Erased call, const void *context) override {
        for (size_t i = 0; i < n; ++i) call(context, i);
    }

  private:
    CudaBackend gpu_{1};
};

}  // namespace a2sf::testing
