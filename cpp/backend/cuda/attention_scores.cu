// Scores of a batch whose attention was on tensor cores. A block takes 64 slots and goes over the
// rows that see them, with each row's sum known, so that a slot's score is added up in one place,
// in order, and nothing is kept in between but a row's query and sum.
#include "backend/cuda/attention_tensor.cuh"

namespace a2sf {
namespace {

// What the second kernel holds of a tile of rows.
template <int kDim>
struct RowStage {
    Tile<kDim> q;
    RowSum sums[kTile];
    int32_t query_pos[kTile];
    float weight[kMaxScoreLanes][kTile];
};

// Queries and sums, beside the arithmetic.
template <int kDim>
A2SF_INLINE void copy_rows(const AttendArgs &args, uint32_t tile, RowStage<kDim> &to) {
    constexpr int kWords = Tile<kDim>::kWords;
    const RowArrays arrays = arrays_of<kDim>(args);
    const size_t first = blockIdx.y * arrays.n_rows + tile * kTile;
#pragma unroll
    for (int i = 0; i < kTile * kWords; i += kTileThreads) {
        const int word = i + threadIdx.x;
        copy_beside(to.q.at(word / kWords, word % kWords), arrays.q + first * kWords + word, 16);
    }
    const uint32_t r = threadIdx.x;
    if (r < kTile / 2) copy_beside(to.sums + 2 * r, arrays.sums + first + 2 * r, 16);
}

// What is to be known of a row's query, in registers until a stage is free for it.
struct RowQuery {
    int32_t pos;
    float weight[kMaxScoreLanes];
};
A2SF_INLINE RowQuery query_of(const AttendArgs &args, uint32_t tile) {
    const size_t query = (tile * kTile + threadIdx.x % kTile) / (uint32_t)args.group;
    const bool inside = query < args.m;
    RowQuery of = {inside ? args.query_pos[query] : INT32_MIN, {}};
#pragma unroll
    for (int lane = 0; lane < (int)kMaxScoreLanes; ++lane) {
        const bool is_there = inside && lane < args.n_lanes;
        of.weight[lane] = is_there ? args.lanes[lane].query_weight[query] : 0.0f;
    }
    return of;
}
template <int kDim>
A2SF_INLINE void keep_query(const RowQuery &of, RowStage<kDim> &to) {
    if (threadIdx.x >= kTile) return;
    to.query_pos[threadIdx.x] = of.pos;
#pragma unroll
    for (int lane = 0; lane < (int)kMaxScoreLanes; ++lane) {
        to.weight[lane][threadIdx.x] = of.weight[lane];
    }
}

// The slots of a block, and of this thread: lane / 4 of its warp's 16 and 8 behind it.
struct OwnSlots {
    int32_t first, last;  // positions of the block's
    int32_t pos[2];
};
A2SF_INLINE OwnSlots own_slots(const AttendArgs &args, const HeadSlots &at, size_t slot) {
    const auto pos_of = [&](size_t s) { return s < at.live ? args.pos[at.first + s] : INT32_MAX; };
    const int lane = threadIdx.x % kWarp;
    const int32_t low = pos_of(slot + lane), high = pos_of(slot + lane + kWarp);
    OwnSlots own = {low < high ? low : high, low < high ? high : low, {}};
    for (int step = kWarp / 2; step > 0; step /= 2) {
        const int32_t first = __shfl_xor_sync(kAllLanes, own.first, step);
        const int32_t last = __shfl_xor_sync(kAllLanes, own.last, step);
        if (first < own.first) own.first = first;
        if (last > own.last) own.last = last;
    }
    for (int r = 0; r < 2; ++r) {
        own.pos[r] = pos_of(slot + threadIdx.x / kWarp * kWarpRows + lane / 4 + 8 * r);
    }
    return own;
}

// Tiles of rows [first, end) of which some row may see one of the slots: positions of queries
// ascend.
struct RowTiles {
    uint32_t first, end;
};
A2SF_INLINE RowTiles seeing_tiles(const AttendArgs &args, const OwnSlots &slots) {
    const uint32_t n = (uint32_t)tiles_of(args.m, args.group);
    const auto first_where = [&](const auto &test) {
        uint32_t low = 0, high = n;
        while (low < high) {
            const uint32_t middle = (low + high) / 2;
            if (test(queries_of(args, middle))) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        return low;
    };
    const auto reaches = [&](QueryRange queries) { return queries.last >= slots.first; };
    const auto is_past = [&](QueryRange queries) {
        return queries.first - args.window >= slots.last;
    };
    return {first_where(reaches), args.window == 0 ? n : first_where(is_past)};
}

// Whether every row of a tile sees all slots.
A2SF_INLINE bool is_whole(const AttendArgs &args, const OwnSlots &slots, uint32_t tile) {
    if (size_t{tile + 1} * kTile > args.m * args.group) return false;
    const QueryRange queries = queries_of(args, tile);
    return all_see(args, queries, slots.first) && all_see(args, queries, slots.last);
}

// Adds the weights of a tile of rows, each times its query's, to the sums of this thread's slots.
template <int kDim>
A2SF_INLINE void add_scores(const AttendArgs &args, const RowStage<kDim> &rows, bool whole,
                            const uint32_t (&keys)[kDim / 16][4], const OwnSlots &own,
                            float (&sum)[kMaxScoreLanes][2]) {
    float c[kTile / 8][4] = {};
    multiply_rows(keys, rows.q, c);
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 2 * kTile / 4 && !whole; ++i) {
        const int row = i / 4 * 8 + 2 * t + i % 2, r = i / 2 % 2;
        if (!sees(args, rows.query_pos[row], own.pos[r])) c[i / 4][i % 4] = -INFINITY;
    }
#pragma unroll
    for (int i = 0; i < kTile / 4; ++i) {
        const int row = i / 2 * 8 + 2 * t + i % 2;
        const RowSum of = rows.sums[row];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const float weight = power_of_2(fmaf(c[i / 2][2 * r + i % 2], of.size, -of.base));
#pragma unroll
            for (int lane = 0; lane < (int)kMaxScoreLanes; ++lane) {
                sum[lane][r] += rows.weight[lane][row] * weight;
            }
        }
    }
}

// scores <- decay * scores + what the rows give. Shared: two stages of rows; the keys pass through
// the second.
template <KvType kType, int kDim>
__global__ void __launch_bounds__(kTileThreads) score_tensor(AttendArgs args) {
    after_others();
    static_assert(2 * sizeof(RowStage<kDim>) <= kMostShared, "stages fit");
    auto *stages = reinterpret_cast<RowStage<kDim> *>(shared_memory());
    const HeadSlots at = head_slots(args);
    const size_t slot = size_t{blockIdx.x} * kTile;
    if (slot >= at.live) return;
    const OwnSlots own = own_slots(args, at, slot);
    const RowTiles tiles = seeing_tiles(args, own);
    load_slots<kType, true>(args, at, slot, stages[1].q);
    if (tiles.first < tiles.end) {
        copy_rows(args, tiles.first, stages[0]);
        keep_query(query_of(args, tiles.first), stages[0]);
    }
    end_copies();
    wait_for_copies<0>();
    __syncthreads();
    uint32_t keys[kDim / 16][4];
    load_factors(stages[1].q, keys);
    __syncthreads();  // nobody reads the second stage
    float sum[kMaxScoreLanes][2] = {};
    bool whole = is_whole(args, own, tiles.first);
    for (uint32_t tile = tiles.first; tile < tiles.end; ++tile) {
        RowStage<kDim> &rows = stages[(tile - tiles.first) % 2];
        RowStage<kDim> &next = stages[(tile - tiles.first + 1) % 2];
        const bool more = tile + 1 < tiles.end;
        if (more) copy_rows(args, tile + 1, next);
        end_copies();
        RowQuery query = {};
        bool next_whole = false;
        if (more) {
            query = query_of(args, tile + 1);
            next_whole = is_whole(args, own, tile + 1);
        }
        add_scores(args, rows, whole, keys, own, sum);
        if (more) keep_query(query, next);
        whole = next_whole;
        wait_for_copies<0>();
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 2 * (int)kMaxScoreLanes; ++i) {
        const int lane = i / 2, r = i % 2;
        const float total = warp_sum<4>(sum[lane][r]);
        const size_t s = slot + threadIdx.x / kWarp * kWarpRows + threadIdx.x % kWarp / 4 + 8 * r;
        if (lane >= args.n_lanes || threadIdx.x % 4 != 0 || s >= at.live) continue;
        const LaneArgs &to = args.lanes[lane];
        float *score = to.scores + at.first + s;
        *score = kept_score(to, *score) + total;
    }
}

constexpr AttendKernel kScore[][2] = {
    {score_tensor<KvType::F16, kFewDims>, score_tensor<KvType::F16, kManyDims>},
    {score_tensor<KvType::Q8_0, kFewDims>, score_tensor<KvType::Q8_0, kManyDims>}};

}  // namespace

void score_tensor_batch(CudaQueue &queue, const AttendArgs &args, KvType type) {
    const bool many = args.head_dim > kFewDims;
    const LaunchShape shape = {
        dim3(n_blocks(args.longest, kTile), static_cast<unsigned>(args.n_kv_heads)),
        dim3(kTileThreads), 2 * (many ? sizeof(RowStage<kManyDims>) : sizeof(RowStage<kFewDims>))};
    launch("scores of a batch", queue, shape, kScore[type == KvType::Q8_0][many], args);
}

}  // namespace a2sf
