// Memory, and the operations that are one kernel per row.
#include "backend/cpu/cpu_backend.h"

#include <cmath>
#include <cstring>

namespace a2sf {

static_assert(static_cast<int>(KvType::F32) == kKvF32);
static_assert(static_cast<int>(KvType::F16) == kKvF16);
static_assert(static_cast<int>(KvType::Q8_0) == kKvQ8_0);

namespace {

// Memory that this object owns, or a view of somebody else's.
class HostMemory final : public DeviceMemory {
  public:
    explicit HostMemory(RawBuffer buffer) : buffer_(std::move(buffer)) {
        data_ = buffer_.data();
        n_bytes_ = buffer_.n_bytes();
    }
    explicit HostMemory(std::span<const std::byte> bytes) {
        // DeviceMemory hands out void*; weights are only ever read through it.
        data_ = const_cast<std::byte *>(bytes.data());
        n_bytes_ = bytes.size();
    }

  private:
    RawBuffer buffer_;
};

}  // namespace

CpuBackend::CpuBackend(const Kernels &kernels, size_t n_threads)
    : kernels_(kernels), pool_(n_threads == 0 ? default_threads() : n_threads) {}

std::unique_ptr<DeviceMemory> CpuBackend::allocate(size_t n_bytes, const char *what) {
    return std::make_unique<HostMemory>(RawBuffer(n_bytes, what));
}

std::unique_ptr<DeviceMemory> CpuBackend::upload(std::span<const std::byte> bytes) {
    return std::make_unique<HostMemory>(bytes);
}

void CpuBackend::copy_to_host(void *host, const void *device, size_t n_bytes) {
    if (n_bytes > 0) std::memcpy(host, device, n_bytes);
}

void CpuBackend::copy_to_device(void *device, const void *host, size_t n_bytes) {
    if (n_bytes > 0) std::memcpy(device, host, n_bytes);
}

void CpuBackend::embed(const Weight &table, std::span<const int32_t> ids, float scale,
                       Matrix<float> out) {
    const size_t row_bytes = table.type->row_bytes(table.cols);
    const auto *rows = static_cast<const std::byte *>(table.data);
    split(ids.size(), table.cols * 2, [&](size_t begin, size_t end, size_t) {
        for (size_t i = begin; i < end; ++i) {
            float *y = out.row(i);
            table.type->decode(rows + static_cast<size_t>(ids[i]) * row_bytes, y, table.cols);
            if (scale == 1.0f) continue;
            for (size_t j = 0; j < table.cols; ++j) y[j] *= scale;
        }
    });
}

void CpuBackend::rms_norm(Matrix<const float> x, size_t width, const float *weight, float eps,
                          Matrix<float> y, bool accumulate) {
    split(x.rows, x.cols, [&](size_t begin, size_t end, size_t) {
        for (size_t i = begin; i < end; ++i) {
            for (size_t j = 0; j < x.cols; j += width) {
                kernels_.rms_norm(x.row(i) + j, weight, width, eps, y.row(i) + j, accumulate);
            }
        }
    });
}

void CpuBackend::rope_angles(std::span<const int32_t> pos, std::span<const float> frequency,
                             float magnitude, Matrix<float> angles) {
    const size_t half = frequency.size();
    split(pos.size(), half * 64, [&](size_t begin, size_t end, size_t) {
        for (size_t i = begin; i < end; ++i) {
            float *row = angles.row(i);
            for (size_t j = 0; j < half; ++j) {
                // In double: at position 100,000 a float angle is off by 4e-3.
                const double angle = static_cast<double>(pos[i]) * frequency[j];
                row[j] = static_cast<float>(std::cos(angle) * magnitude);
                row[half + j] = static_cast<float>(std::sin(angle) * magnitude);
            }
        }
    });
}

void CpuBackend::rope(RopeStyle style, size_t head_dim, Matrix<const float> angles,
                      Matrix<float> x) {
    const auto kernel =
        style == RopeStyle::Interleaved ? kernels_.rope_interleaved : kernels_.rope_halves;
    const size_t n_rot = angles.cols;
    split(x.rows, x.cols * 2, [&](size_t begin, size_t end, size_t) {
        for (size_t i = begin; i < end; ++i) {
            const float *cosines = angles.row(i), *sines = cosines + n_rot / 2;
            for (size_t j = 0; j < x.cols; j += head_dim) {
                kernel(cosines, sines, n_rot, x.row(i) + j);
            }
        }
    });
}

void CpuBackend::kv_write(const KvSlots &slots, Matrix<const float> k, Matrix<const float> v,
                          const uint32_t *slot) {
    const size_t m = k.rows, head_dim = slots.head_dim;
    const size_t row_bytes = kv_row_bytes(slots.type, head_dim);
    const int format = static_cast<int>(slots.type);
    auto *k_rows = static_cast<uint8_t *>(slots.k), *v_rows = static_cast<uint8_t *>(slots.v);
    // Items are (query, head) pairs, the query in the outer loop as the rows of k and v lie.
    split(m * slots.n_kv_heads, head_dim * 4, [&](size_t begin, size_t end, size_t) {
        for (size_t item = begin; item < end; ++item) {
            const size_t i = item / slots.n_kv_heads, head = item % slots.n_kv_heads;
            const size_t at = (slots.at(head) + slot[head * m + i]) * row_bytes;
            kernels_.kv_store(format, k.row(i) + head * head_dim, head_dim, k_rows + at);
            kernels_.kv_store(format, v.row(i) + head * head_dim, head_dim, v_rows + at);
        }
    });
}

void CpuBackend::kv_move(const KvSlots &slots, size_t head, uint32_t from, uint32_t to) {
    if (from == to) return;
    const size_t row_bytes = kv_row_bytes(slots.type, slots.head_dim);
    for (void *memory : {slots.k, slots.v}) {
        uint8_t *rows = static_cast<uint8_t *>(memory) + slots.at(head) * row_bytes;
        std::memcpy(rows + to * row_bytes, rows + from * row_bytes, row_bytes);
    }
}

void CpuBackend::lowest(const LowestArgs &args, int32_t *victim) {
    // Fractions of a microsecond a head: not worth waking anybody.
    for (size_t head = 0; head < args.slots.n_kv_heads; ++head) {
        const size_t row = args.slots.at(head);
        victim[head] = kernels_.lowest_pos(args.scores == nullptr ? nullptr : args.scores + row,
                                           args.pos + row, args.live[head], args.first_pos,
                                           args.last_pos[head]);
    }
}

void CpuBackend::run_each(size_t n, Erased call, const void *context) {
    pool_.run(n, [&](size_t i, size_t) { call(context, i); });
}

void CpuBackend::key_similarity(const KvSlots &slots, const uint32_t *live, float *similarity) {
    const size_t n = slots.head_dim, row_bytes = kv_row_bytes(slots.type, n);
    float *rows = reserve(key_rows_, n_threads() * 2 * padded(n));
    pool_.run(slots.n_kv_heads, [&](size_t head, size_t worker) {
        float *key = rows + worker * 2 * padded(n), *mean = key + padded(n);
        const uint8_t *k = static_cast<const uint8_t *>(slots.k) + slots.at(head) * row_bytes;
        float *out = similarity + slots.at(head);
        const auto load = [&](size_t s) {
            kernels_.kv_load(static_cast<int>(slots.type), k + s * row_bytes, n, key);
        };
        std::memset(mean, 0, n * sizeof(float));
        // The mean's length does not matter to a cosine; dividing keeps it in range.
        const float share = live[head] == 0 ? 0.0f : 1.0f / static_cast<float>(live[head]);
        for (size_t s = 0; s < live[head]; ++s) {
            load(s);
            kernels_.add_scaled(key, share, mean, n);
        }
        const float mean_length = std::sqrt(kernels_.dot(mean, mean, n));
        for (size_t s = 0; s < live[head]; ++s) {
            load(s);
            const float length = std::sqrt(kernels_.dot(key, key, n)) * mean_length;
            out[s] = length > 0.0f ? kernels_.dot(key, mean, n) / length : 0.0f;
        }
    });
}

}  // namespace a2sf
