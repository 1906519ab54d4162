// Attention of several queries in floats, of F32 keys and values and of heads too wide for tensor
// cores (attention_tensor.cu): a block takes 16 rows, pairs of query and query head of one KV
// head, over all its slots, a tile of them at a time in shared memory. It goes over the slots
// twice: first with a running softmax for the output, then, with each row's sum known, for the
// scores. A block adds up the scores of the tiles of rows that are its part, in order; the parts
// are added in order afterwards, so that sums do not depend on what runs when.
#include "backend/cuda/attention.cuh"

namespace a2sf {
namespace {

constexpr unsigned kThreads = 128;
constexpr size_t kRows = 16;     // query rows of a tile
constexpr size_t kRowLanes = 8;  // threads of a row
constexpr size_t kMostParts = 16;
constexpr size_t kMostSlots = 32;  // of a tile

// How a call is cut; the same on both sides.
struct BatchPlan {
    size_t n_tiles;  // of rows, per KV head
    size_t n_parts;  // per KV head
    size_t slots;    // of a tile
};
__host__ __device__ inline BatchPlan plan_batch(size_t m, size_t group, size_t stride,
                                                bool scored) {
    BatchPlan plan = {};
    plan.n_tiles = (m * group + kRows - 1) / kRows;
    plan.n_parts = scored && plan.n_tiles > kMostParts ? kMostParts : plan.n_tiles;
    plan.slots = stride <= 128 ? kMostSlots : kMostSlots / 2;
    return plan;
}

// What a block holds in shared memory. One column more than a row keeps threads off each other's
// banks.
struct Tile {
    float *q;            // [kRows, stride + 1]
    float *kv;           // [slots, stride + 1], K or V
    float *p;            // [kRows, slots + 1]
    int32_t *pos;        // [slots]
    int32_t *query_pos;  // [kRows]
};
size_t tile_bytes(size_t stride, size_t slots) {
    return ((kRows + slots) * (stride + 1) + kRows * (slots + 1) + slots + kRows) * sizeof(float);
}
A2SF_INLINE Tile tile_in(unsigned char *memory, size_t stride, size_t slots) {
    Tile tile;
    tile.q = reinterpret_cast<float *>(memory);
    tile.kv = tile.q + kRows * (stride + 1);
    tile.p = tile.kv + slots * (stride + 1);
    tile.pos = reinterpret_cast<int32_t *>(tile.p + kRows * (slots + 1));
    tile.query_pos = tile.pos + slots;
    return tile;
}

// Rows [row, row + kRows) of this KV head; zeros behind the last.
A2SF_INLINE void load_queries(const AttendArgs &args, const HeadSlots &at, size_t row,
                              const Tile &to) {
    for (size_t i = threadIdx.x; i < kRows * args.stride; i += kThreads) {
        const size_t r = i / args.stride, d = i % args.stride;
        const size_t query = (row + r) / args.group, g = (row + r) % args.group;
        const bool inside = query < args.m && d < args.head_dim;
        const size_t column = (at.head * args.group + g) * args.head_dim + d;
        to.q[r * (args.stride + 1) + d] = inside ? args.q[query * args.q_stride + column] : 0.0f;
    }
    for (size_t r = threadIdx.x; r < kRows; r += kThreads) {
        const size_t query = (row + r) / args.group;
        to.query_pos[r] = query < args.m ? args.query_pos[query] : INT32_MIN;
    }
}

// Rows of K or V of n slots from `slot` on.
template <KvType kType, bool kKeys>
A2SF_INLINE void load_slots(const AttendArgs &args, const HeadSlots &at, size_t slot, size_t n,
                            const Tile &to) {
    const KvHead head = head_rows(args, kKeys ? args.k : args.v, at.first);
    const TurnedHead turned = head_turns(args, at.first);
    const size_t n_columns = args.stride / 8;
    for (size_t i = threadIdx.x; i < n * n_columns; i += kThreads) {
        const size_t s = i / n_columns, d = i % n_columns * 8;
        float values[8];
        if (kKeys) {
            key_load_8<kType>(head, turned, slot + s, d, values);
        } else {
            kv_load_8<kType>(head, head.rows + (slot + s) * head.row_bytes, d, values);
        }
        float *row = to.kv + s * (args.stride + 1) + d;
#pragma unroll
        for (int j = 0; j < 8; ++j) row[j] = values[j];
    }
}

// Positions of n slots from `slot` on; whether any row sees any of them. All threads call it.
A2SF_INLINE bool load_positions(const AttendArgs &args, const HeadSlots &at, size_t slot, size_t n,
                                const Tile &to) {
    __syncthreads();  // nobody reads the slots before
    bool seen = false;
    for (size_t s = threadIdx.x; s < n; s += kThreads) {
        const int32_t pos = args.pos[at.first + slot + s];
        to.pos[s] = pos;
        for (size_t r = 0; r < kRows; ++r) seen = seen || sees(args, to.query_pos[r], pos);
    }
    return __syncthreads_or(seen) != 0;
}

// This thread's logits: of its row, for slots lane, lane + 8, ...
A2SF_INLINE void tile_logits(const AttendArgs &args, const Tile &tile, size_t n,
                             float (&logits)[kMostSlots / kRowLanes]) {
    const size_t r = threadIdx.x / kRowLanes, lane = threadIdx.x % kRowLanes;
    const float *q = tile.q + r * (args.stride + 1);
#pragma unroll
    for (size_t j = 0; j < kMostSlots / kRowLanes; ++j) {
        const size_t s = lane + j * kRowLanes;
        logits[j] = -INFINITY;
        if (s >= n || !sees(args, tile.query_pos[r], tile.pos[s])) continue;
        const float *key = tile.kv + s * (args.stride + 1);
        float sum = 0.0f;
        for (size_t d = 0; d < args.stride; ++d) sum += q[d] * key[d];
        logits[j] = sum * args.scale;
    }
}

// What a row's 8 threads know of it.
struct RowSum {
    float top = -INFINITY;
    float total = 0.0f;
};

// First pass: the output of one tile of rows. kColumns: per thread, at least stride / 8.
template <KvType kType, int kColumns>
A2SF_INLINE RowSum attend_tile(const AttendArgs &args, const HeadSlots &at, const BatchPlan &plan,
                               size_t row, const Tile &tile) {
    const size_t r = threadIdx.x / kRowLanes, lane = threadIdx.x % kRowLanes;
    RowSum own;
    float out[kColumns] = {};
    for (size_t slot = 0; slot < at.live; slot += plan.slots) {
        const size_t n = at.live - slot < plan.slots ? at.live - slot : plan.slots;
        if (!load_positions(args, at, slot, n, tile)) continue;
        load_slots<kType, true>(args, at, slot, n, tile);
        __syncthreads();
        float logits[kMostSlots / kRowLanes];
        tile_logits(args, tile, n, logits);
        float top = own.top, total = 0.0f;
        for (const float logit : logits) top = fmaxf(top, logit);
        top = warp_max<kRowLanes>(top);
        const float base = top == -INFINITY ? 0.0f : top;
        const float factor = top == -INFINITY ? 1.0f : expf(own.top - top);
#pragma unroll
        for (size_t j = 0; j < kMostSlots / kRowLanes; ++j) {
            const float p = expf(logits[j] - base);
            const size_t s = lane + j * kRowLanes;
            if (s < n) tile.p[r * (plan.slots + 1) + s] = p;
            total += p;
        }
        own.top = top;
        own.total = own.total * factor + warp_sum<kRowLanes>(total);
        __syncthreads();
        load_slots<kType, false>(args, at, slot, n, tile);
        __syncthreads();
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
            const size_t d = lane + c * kRowLanes;
            if (d >= args.head_dim) break;
            float sum = out[c] * factor;
            for (size_t s = 0; s < n; ++s) {
                sum += tile.p[r * (plan.slots + 1) + s] * tile.kv[s * (args.stride + 1) + d];
            }
            out[c] = sum;
        }
    }
    const size_t query = (row + r) / args.group, g = (row + r) % args.group;
    if (query >= args.m) return own;
    float *to = args.out + query * args.out_stride + (at.head * args.group + g) * args.head_dim;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
        const size_t d = lane + c * kRowLanes;
        if (d < args.head_dim) to[d] = out[c] / own.total;
    }
    return own;
}

// Where a part's sums of a lane are: [n_lanes, n_kv_heads, n_parts, longest] of the workspace.
A2SF_INLINE float *part_sums(const AttendArgs &args, const BatchPlan &plan, int lane, size_t head,
                             size_t part) {
    return args.workspace + ((lane * args.n_kv_heads + head) * plan.n_parts + part) * args.longest;
}

// Second pass: adds the tile's rows to the part's sums, or begins them.
template <KvType kType>
A2SF_INLINE void score_tile(const AttendArgs &args, const HeadSlots &at, const BatchPlan &plan,
                            size_t row, bool begin, RowSum own, const Tile &tile) {
    const size_t r = threadIdx.x / kRowLanes, lane = threadIdx.x % kRowLanes;
    for (size_t slot = 0; slot < at.live; slot += plan.slots) {
        const size_t n = at.live - slot < plan.slots ? at.live - slot : plan.slots;
        const bool seen = load_positions(args, at, slot, n, tile);
        if (!seen && !begin) continue;
        if (seen) {
            load_slots<kType, true>(args, at, slot, n, tile);
            __syncthreads();
            float logits[kMostSlots / kRowLanes];
            tile_logits(args, tile, n, logits);
#pragma unroll
            for (size_t j = 0; j < kMostSlots / kRowLanes; ++j) {
                const size_t s = lane + j * kRowLanes;
                const float base = own.top == -INFINITY ? 0.0f : own.top;
                const float p = own.total == 0.0f ? 0.0f : expf(logits[j] - base) / own.total;
                if (s < n) tile.p[r * (plan.slots + 1) + s] = p;
            }
            __syncthreads();
        }
        for (size_t i = threadIdx.x; i < n * args.n_lanes; i += kThreads) {
            const int score = (int)(i / n);
            const size_t s = i % n;
            float *to = part_sums(args, plan, score, at.head, blockIdx.x) + slot + s;
            float sum = begin ? 0.0f : *to;
            for (size_t j = 0; seen && j < kRows; ++j) {
                const size_t query = (row + j) / args.group;
                if (query >= args.m) break;
                const float weight = args.lanes[score].query_weight[query];
                sum += weight * tile.p[j * (plan.slots + 1) + s];
            }
            *to = sum;
        }
    }
}

template <KvType kType, int kColumns>
__global__ void __launch_bounds__(kThreads) attend_rows(AttendArgs args) {
    after_others();
    const BatchPlan plan = plan_batch(args.m, args.group, args.stride, args.n_lanes > 0);
    const HeadSlots at = head_slots(args);
    const Tile tile = tile_in(shared_memory(), args.stride, plan.slots);
    const size_t begin = plan.n_tiles * blockIdx.x / plan.n_parts;
    const size_t end = plan.n_tiles * (blockIdx.x + 1) / plan.n_parts;
    for (size_t t = begin; t < end; ++t) {
        __syncthreads();  // nobody reads the queries before
        load_queries(args, at, t * kRows, tile);
        const RowSum own = attend_tile<kType, kColumns>(args, at, plan, t * kRows, tile);
        if (args.n_lanes == 0) continue;
        score_tile<kType>(args, at, plan, t * kRows, t == begin, own, tile);
    }
}

// scores <- decay * scores + the parts, in order: a thread per slot.
__global__ void __launch_bounds__(kThreads) add_parts(AttendArgs args) {
    after_others();
    const BatchPlan plan = plan_batch(args.m, args.group, args.stride, true);
    const size_t s = size_t{blockIdx.x} * kThreads + threadIdx.x, head = blockIdx.y;
    if (s >= args.live[head]) return;
    for (int lane = 0; lane < args.n_lanes; ++lane) {
        const LaneArgs &to = args.lanes[lane];
        float *score = to.scores + args.first[head] + s;
        float sum = kept_score(to, *score);
        for (size_t part = 0; part < plan.n_parts; ++part) {
            sum += part_sums(args, plan, lane, head, part)[s];
        }
        *score = sum;
    }
}

constexpr int kFew = 16, kMany = kCudaMostHeadDim / kRowLanes;
constexpr AttendKernel kAttendRows[] = {attend_rows<KvType::F32, kMany>,
                                        attend_rows<KvType::F16, kMany>,
                                        attend_rows<KvType::Q8_0, kMany>};

}  // namespace

size_t attend_batch_workspace(const AttentionArgs &args, size_t longest) {
    const size_t group = args.n_heads / args.slots.n_kv_heads;
    const BatchPlan plan = plan_batch(args.q.rows, group, args.slots.head_dim, true);
    return args.lanes.size() * args.slots.n_kv_heads * plan.n_parts * longest;
}

void attend_batch(CudaQueue &queue, const AttendArgs &args, KvType type) {
    const BatchPlan plan = plan_batch(args.m, args.group, args.stride, args.n_lanes > 0);
    const unsigned n_kv_heads = static_cast<unsigned>(args.n_kv_heads);
    const LaunchShape rows = {dim3(static_cast<unsigned>(plan.n_parts), n_kv_heads), dim3(kThreads),
                              tile_bytes(args.stride, plan.slots)};
    const bool narrow = type == KvType::F32 && args.stride <= kFew * kRowLanes;
    const AttendKernel wide = kAttendRows[static_cast<int>(type)];
    launch("attention of a batch", queue, rows, narrow ? attend_rows<KvType::F32, kFew> : wide,
           args);
    if (args.n_lanes == 0) return;
    const LaunchShape parts = {dim3(n_blocks(args.longest, kThreads), n_kv_heads), dim3(kThreads)};
    launch("adding scores", queue, parts, add_parts, args);
}

}  // namespace a2sf
