// Attention of several queries on tensor cores, of F16 and Q8_0 keys and values with heads of at
// most 128 elements. Queries, keys, weights of attention and values are halves in a product, sums
// are floats. A block takes 64 rows, pairs of query and query head of one KV head, and goes over
// the slots that they see, 64 at a time, with a running softmax. Scores are a second kernel's
// (attention_scores.cu).
#include "backend/cuda/attention_tensor.cuh"

namespace a2sf {
namespace {

constexpr float kLog2E = 1.44269504f;
// Weights of attention are 2^14 times as high until they are divided by their sum, so that few are
// too small for a half.
constexpr float kRaised = 14.0f;

// A warp's 16 rows of queries, as halves that have been multiplied by a power of two each. size:
// what products of this thread's rows, lane / 4 and 8 behind it, are multiplied by to be exponents
// of 2.
template <int kDim>
A2SF_INLINE void load_queries(const AttendArgs &args, uint32_t first_row, Tile<kDim> &to,
                              float (&size)[2]) {
    constexpr int kOwn = kDim / kWarp;  // elements of a lane
    const int lane = threadIdx.x % kWarp, own_row = threadIdx.x / kWarp * kWarpRows;
    const uint32_t group = (uint32_t)args.group;
    uint32_t query = (first_row + own_row) / group, g = (first_row + own_row) % group;
    float values[kWarpRows][kOwn];  // all of them on their way at once
#pragma unroll
    for (int i = 0; i < kWarpRows; ++i) {
        const float *from =
            args.q + query * args.q_stride + (blockIdx.y * group + g) * args.head_dim;
#pragma unroll
        for (int j = 0; j < kOwn; ++j) {
            const size_t d = lane * kOwn + j;
            values[i][j] = query < args.m && d < args.head_dim ? from[d] : 0.0f;
        }
        if (++g < group) continue;
        g = 0;
        ++query;
    }
#pragma unroll
    for (int i = 0; i < kWarpRows; ++i) {
        float amax = 0.0f;
#pragma unroll
        for (int j = 0; j < kOwn; ++j) amax = fmaxf(amax, fabsf(values[i][j]));
        const float power = half_power(warp_max(amax));
        auto *words = reinterpret_cast<uint32_t *>(to.at(own_row + i, lane * kOwn / 8));
#pragma unroll
        for (int j = 0; j < kOwn; j += 2) {
            words[(lane * kOwn + j) % 8 / 2] =
                pack_pair<true>(values[i][j] * power, values[i][j + 1] * power);
        }
        if (i % 8 == lane / 4) size[i / 8] = args.scale * kLog2E * inverse_of(power);
    }
    __syncwarp();
}

// A tile of slots, the same in all threads of a block.
struct SlotTile {
    size_t slot;     // from live on: there is none
    int32_t pos[2];  // of slots lane and lane + 32
    bool whole;      // every query of the block sees all of them
};
A2SF_INLINE SlotTile look_at(const AttendArgs &args, const HeadSlots &at, size_t slot) {
    SlotTile tile = {slot, {}, false};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const size_t s = slot + threadIdx.x % kWarp + i * kWarp;
        tile.pos[i] = s < at.live ? args.pos[at.first + s] : INT32_MAX;
    }
    return tile;
}

// The first tile from this one on that some query of a block sees.
A2SF_INLINE SlotTile seen_tile(const AttendArgs &args, const HeadSlots &at, QueryRange queries,
                               SlotTile tile) {
    while (tile.slot < at.live) {
        bool any = false, all = true;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            any = any || any_sees(args, queries, tile.pos[i]);
            all = all && all_see(args, queries, tile.pos[i]);
        }
        tile.whole = __all_sync(kAllLanes, all);
        if (__any_sync(kAllLanes, any)) break;
        tile = look_at(args, at, tile.slot + kTile);
    }
    return tile;
}

// What a thread knows of its two rows, lane / 4 of its warp and 8 behind it.
template <int kDim>
struct OwnRows {
    float size[2];
    int32_t query_pos[2];
    float top[2] = {-INFINITY, -INFINITY};
    float total[2] = {};  // of this thread's slots
    float out[kDim / 8][4] = {};
};

// Products of slots that a row does not see become minus infinity.
template <int kDim>
A2SF_INLINE void hide_unseen(const AttendArgs &args, const SlotTile &tile, const OwnRows<kDim> &own,
                             float (&c)[kTile / 8][4]) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < kTile / 4; ++i) {
        const int s = i / 2 * 8 + 2 * t + i % 2;
        const int32_t pos = __shfl_sync(kAllLanes, tile.pos[i / 8], s % kWarp);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            if (!sees(args, own.query_pos[r], pos)) c[i / 2][2 * r + i % 2] = -INFINITY;
        }
    }
}

// Products of a tile of slots become weights; the rows' sums so far are set against the highest.
template <int kDim>
A2SF_INLINE void weigh(OwnRows<kDim> &own, float (&c)[kTile / 8][4]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        float top = -INFINITY;
#pragma unroll
        for (int j = 0; j < kTile / 8; ++j) top = fmaxf(top, fmaxf(c[j][2 * r], c[j][2 * r + 1]));
        top = fmaxf(own.top[r], warp_max<4>(top) * own.size[r]);
        const float base = top == -INFINITY ? 0.0f : top - kRaised;
        const float factor = power_of_2(own.top[r] - kRaised - base);
        own.top[r] = top;
        own.total[r] *= factor;
#pragma unroll
        for (int j = 0; j < kTile / 4; ++j) {
            float &weight = c[j / 2][2 * r + j % 2];
            weight = power_of_2(fmaf(weight, own.size[r], -base));
            own.total[r] += weight;
        }
#pragma unroll
        for (int j = 0; j < kDim / 4; ++j) own.out[j / 2][2 * r + j % 2] *= factor;
    }
}

// out += weights * values.
template <int kDim>
A2SF_INLINE void add_values(const float (&c)[kTile / 8][4], const Tile<kDim> &values,
                            OwnRows<kDim> &own) {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int k = 0; k < kTile / 16; ++k) {
        const uint32_t a[4] = {pack_pair<true>(c[2 * k][0], c[2 * k][1]),
                               pack_pair<true>(c[2 * k][2], c[2 * k][3]),
                               pack_pair<true>(c[2 * k + 1][0], c[2 * k + 1][1]),
                               pack_pair<true>(c[2 * k + 1][2], c[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < kDim / 16; ++n) {
            uint32_t b[4];
            load_matrices<true>(values.at(16 * k + lane % 16, 2 * n + lane / 16), b);
            multiply_tiles<true>(own.out[2 * n], a, b[0], b[1]);
            multiply_tiles<true>(own.out[2 * n + 1], a, b[2], b[3]);
        }
    }
}

// The output of this thread's rows, and what the second kernel wants to know of them.
template <int kDim>
A2SF_INLINE void put_rows(const AttendArgs &args, uint32_t first_row, const OwnRows<kDim> &own) {
    const int t = threadIdx.x % 4;
    const RowArrays arrays = arrays_of<kDim>(args);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const float total = warp_sum<4>(own.total[r]);
        const uint32_t row =
            first_row + threadIdx.x / kWarp * kWarpRows + threadIdx.x % kWarp / 4 + 8 * r;
        const uint32_t group = (uint32_t)args.group;
        const size_t query = row / group, g = blockIdx.y * group + row % group;
        if (args.n_lanes > 0 && t == 0) {
            const bool none = query >= args.m || total == 0.0f;
            const float base = none ? INFINITY : own.top[r] - kRaised + log2f(total);
            arrays.sums[blockIdx.y * arrays.n_rows + row] = {own.size[r], base};
        }
        if (query >= args.m) continue;
        float *to = args.out + query * args.out_stride + g * args.head_dim;
        const float share = 1.0f / total;
#pragma unroll
        for (int j = 0; j < kDim / 4; ++j) {
            const size_t d = j / 2 * 8 + 2 * t + j % 2;
            if (d < args.head_dim) to[d] = own.out[j / 2][2 * r + j % 2] * share;
        }
    }
}

// The queries as they were multiplied, for the second kernel: a warp's rows.
template <int kDim>
A2SF_INLINE void keep_queries(const AttendArgs &args, uint32_t first_row, const Tile<kDim> &from) {
    constexpr int kWords = Tile<kDim>::kWords;
    const RowArrays arrays = arrays_of<kDim>(args);
    uint4 *to = arrays.q + (blockIdx.y * arrays.n_rows + first_row) * kWords;
    const int first = threadIdx.x / kWarp * kWarpRows * kWords;
#pragma unroll
    for (int i = 0; i < kWarpRows * kWords; i += kWarp) {
        const int word = first + i + threadIdx.x % kWarp;
        to[word] = *from.at(word / kWords, word % kWords);
    }
}

// Shared: tiles of keys and of values.
template <KvType kType, int kDim>
__global__ void __launch_bounds__(kTileThreads, kDim == kFewDims ? 3 : 2)
    attend_tensor(AttendArgs args) {
    after_others();
    auto *tiles = reinterpret_cast<Tile<kDim> *>(shared_memory());
    Tile<kDim> &keys = tiles[0], &values = tiles[1];
    const HeadSlots at = head_slots(args);
    // The last rows see the most slots: they begin first.
    const uint32_t row_tile = (uint32_t)tiles_of(args.m, args.group) - 1 - blockIdx.x;
    const uint32_t first_row = row_tile * kTile;
    const QueryRange queries = queries_of(args, row_tile);
    SlotTile tile = seen_tile(args, at, queries, look_at(args, at, 0));
    if (tile.slot < at.live) load_slots<kType, true>(args, at, tile.slot, keys);
    end_copies();
    OwnRows<kDim> own;
    load_queries(args, first_row, values, own.size);
    uint32_t q[kDim / 16][4];
    load_factors(values, q);
    if (args.n_lanes > 0) keep_queries(args, first_row, values);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const uint32_t row = threadIdx.x / kWarp * kWarpRows + threadIdx.x % kWarp / 4 + 8 * r;
        const size_t query = (first_row + row) / (uint32_t)args.group;
        own.query_pos[r] = query < args.m ? args.query_pos[query] : INT32_MIN;
    }
    while (tile.slot < at.live) {
        wait_for_copies<0>();
        __syncthreads();  // the keys are there; nobody reads the values before
        load_slots<kType, false>(args, at, tile.slot, values);
        end_copies();
        SlotTile next = look_at(args, at, tile.slot + kTile);
        float c[kTile / 8][4] = {};
        multiply_rows(q, keys, c);
        if (!tile.whole) hide_unseen(args, tile, own, c);
        next = seen_tile(args, at, queries, next);
        wait_for_copies<0>();
        __syncthreads();  // the values are there; nobody reads the keys
        if (next.slot < at.live) load_slots<kType, true>(args, at, next.slot, keys);
        end_copies();
        weigh(own, c);
        add_values(c, values, own);
        tile = next;
    }
    put_rows(args, first_row, own);
}

constexpr AttendKernel kAttend[][2] = {
    {attend_tensor<KvType::F16, kFewDims>, attend_tensor<KvType::F16, kManyDims>},
    {attend_tensor<KvType::Q8_0, kFewDims>, attend_tensor<KvType::Q8_0, kManyDims>}};

}  // namespace

bool attends_on_tensor_cores(KvType type, size_t head_dim) {
    return type != KvType::F32 && head_dim <= kManyDims;
}

size_t attend_tensor_workspace(const AttentionArgs &args) {
    if (args.lanes.empty()) return 0;
    const KvSlots &slots = args.slots;
    const size_t n_rows = tiles_of(args.q.rows, args.n_heads / slots.n_kv_heads) * kTile;
    const size_t padded = slots.head_dim <= kFewDims ? kFewDims : kManyDims;
    return slots.n_kv_heads * n_rows * (padded * sizeof(uint16_t) + sizeof(RowSum)) / sizeof(float);
}

void attend_tensor_batch(CudaQueue &queue, const AttendArgs &args, KvType type) {
    const bool many = args.head_dim > kFewDims;
    const LaunchShape shape = {dim3(static_cast<unsigned>(tiles_of(args.m, args.group)),
                                    static_cast<unsigned>(args.n_kv_heads)),
                               dim3(kTileThreads),
                               2 * (many ? sizeof(Tile<kManyDims>) : sizeof(Tile<kFewDims>))};
    launch("attention of a batch", queue, shape, kAttend[type == KvType::Q8_0][many], args);
    if (args.n_lanes > 0) score_tensor_batch(queue, args, type);
}

}  // namespace a2sf
