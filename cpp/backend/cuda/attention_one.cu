// Attention of one query, a decoding step's: a KV head's slots are split into runs, a block each,
// that softmax on their own; a second kernel joins them and adds to the scores. In between the
// weights p are kept, [n_heads, slots], and the output of every run of 128 slots.
#include "backend/cuda/attention.cuh"

namespace a2sf {
namespace {

constexpr unsigned kThreads = 128;
constexpr size_t kRun = 128;     // slots
constexpr size_t kKeyLanes = 8;  // lanes that share a slot's key
constexpr size_t kHeads = 4;     // query heads that share one reading of K and V
constexpr size_t kJoinSlots = 1024;

size_t n_runs_of(size_t longest) {
    return (longest + kRun - 1) / kRun;
}

// The workspace: arrays of floats behind each other.
struct OneArrays {
    size_t n_runs, p_stride;
    float *p;      // [n_heads, p_stride]: exp(logit - top)
    float *top;    // [n_heads, n_runs]: the highest logit
    float *total;  // [n_heads, n_runs]: the sum of p
    float *out;    // [n_heads, n_runs, head_dim]: the sum of p * v
};
__host__ __device__ inline OneArrays arrays_of(size_t n_heads, size_t longest, float *memory) {
    OneArrays arrays = {};
    arrays.n_runs = (longest + kRun - 1) / kRun;
    arrays.p_stride = arrays.n_runs * kRun;
    arrays.p = memory;
    arrays.top = arrays.p + n_heads * arrays.p_stride;
    arrays.total = arrays.top + n_heads * arrays.n_runs;
    arrays.out = arrays.total + n_heads * arrays.n_runs;
    return arrays;
}

// logits [group, kRun] of n slots from `slot` on, minus infinity where one is not seen. q [group,
// stride].
template <KvType kType>
A2SF_INLINE void run_logits(const AttendArgs &args, size_t first, size_t slot, size_t n,
                            const float *q, float *logits) {
    const KvHead keys = head_rows(args, args.k, first);
    const TurnedHead turned = head_turns(args, first);
    const size_t part = threadIdx.x % kKeyLanes;
    for (size_t s0 = 0; s0 < n; s0 += kThreads / kKeyLanes) {
        const size_t s = s0 + threadIdx.x / kKeyLanes;
        for (size_t g0 = 0; g0 < args.group; g0 += kHeads) {
            float sum[kHeads] = {};
            for (size_t d = 8 * part; s < n && d < args.stride; d += 8 * kKeyLanes) {
                float key[8];
                key_load_8<kType>(keys, turned, slot + s, d, key);
#pragma unroll
                for (size_t g = 0; g < kHeads; ++g) {
                    if (g0 + g >= args.group) break;
                    const float *query = q + (g0 + g) * args.stride + d;
#pragma unroll
                    for (int i = 0; i < 8; ++i) sum[g] += query[i] * key[i];
                }
            }
#pragma unroll
            for (size_t g = 0; g < kHeads; ++g) sum[g] = warp_sum<kKeyLanes>(sum[g]);
            if (part != 0 || s >= n) continue;
            const bool seen = sees(args, args.query_pos[0], args.pos[first + slot + s]);
            for (size_t g = 0; g < kHeads && g0 + g < args.group; ++g) {
                logits[(g0 + g) * kRun + s] = seen ? sum[g] * args.scale : -INFINITY;
            }
        }
    }
}

// Softmax of each head's n logits in place, without the division: a warp per head.
A2SF_INLINE void run_softmax(const AttendArgs &args, const OneArrays &arrays, size_t head,
                             size_t run, size_t n, float *p) {
    const unsigned lane = threadIdx.x % kWarp;
    for (size_t g = threadIdx.x / kWarp; g < args.group; g += kThreads / kWarp) {
        float *row = p + g * kRun;
        float top = -INFINITY, total = 0.0f;
        for (size_t s = lane; s < n; s += kWarp) top = fmaxf(top, row[s]);
        top = warp_max(top);
        const float base = top == -INFINITY ? 0.0f : top;
        for (size_t s = lane; s < n; s += kWarp) {
            row[s] = expf(row[s] - base);
            total += row[s];
        }
        total = warp_sum(total);
        const size_t query_head = head * args.group + g;
        if (lane == 0) arrays.top[query_head * arrays.n_runs + run] = top;
        if (lane == 0) arrays.total[query_head * arrays.n_runs + run] = total;
        if (args.n_lanes == 0) continue;
        float *kept = arrays.p + query_head * arrays.p_stride + run * kRun;
        for (size_t s = lane; s < n; s += kWarp) kept[s] = row[s];
    }
}

// The sums of p * v over n slots: a thread takes 8 columns of every `n_parts`th slot, the parts are
// added in order. sums [n_parts, stride], shared.
template <KvType kType>
A2SF_INLINE void run_values(const AttendArgs &args, const OneArrays &arrays, size_t head,
                            size_t run, size_t first, size_t n, const float *p, float *sums) {
    const KvHead values = head_rows(args, args.v, first + run * kRun);
    const size_t n_columns = args.stride / 8, n_parts = kThreads / n_columns;
    const size_t d = threadIdx.x % n_columns * 8, part = threadIdx.x / n_columns;
    for (size_t g0 = 0; g0 < args.group; g0 += kHeads) {
        float sum[kHeads][8] = {};
        for (size_t s = part; part < n_parts && s < n; s += n_parts) {
            float value[8];
            kv_load_8<kType>(values, values.rows + s * values.row_bytes, d, value);
#pragma unroll
            for (size_t g = 0; g < kHeads; ++g) {
                if (g0 + g >= args.group) break;
                const float weight = p[(g0 + g) * kRun + s];
#pragma unroll
                for (int i = 0; i < 8; ++i) sum[g][i] += weight * value[i];
            }
        }
#pragma unroll
        for (size_t g = 0; g < kHeads; ++g) {
            if (g0 + g >= args.group) break;
            __syncthreads();  // nobody reads the head before
            for (int i = 0; i < 8 && part < n_parts; ++i)
                sums[part * args.stride + d + i] = sum[g][i];
            __syncthreads();
            float *out =
                arrays.out + ((head * args.group + g0 + g) * arrays.n_runs + run) * args.head_dim;
            for (size_t column = threadIdx.x; column < args.head_dim; column += kThreads) {
                float total = 0.0f;
                for (size_t i = 0; i < n_parts; ++i) total += sums[i * args.stride + column];
                out[column] = total;
            }
        }
    }
}

// Shared: q [group, stride], p [group, kRun], sums [kThreads * 8].
template <KvType kType>
__global__ void __launch_bounds__(kThreads) attend_run(AttendArgs args) {
    after_others();
    const size_t run = blockIdx.x, head = blockIdx.y, first = args.first[head];
    const size_t slot = run * kRun, live = args.live[head];
    if (slot >= live) return;
    const size_t n = live - slot < kRun ? live - slot : kRun;
    float *q = reinterpret_cast<float *>(shared_memory());
    float *p = q + args.group * args.stride, *sums = p + args.group * kRun;
    for (size_t i = threadIdx.x; i < args.group * args.stride; i += kThreads) {
        const size_t g = i / args.stride, d = i % args.stride;
        const float *from = args.q + (head * args.group + g) * args.head_dim;
        q[i] = d < args.head_dim ? from[d] : 0.0f;
    }
    const OneArrays arrays = arrays_of(args.n_heads, args.longest, args.workspace);
    __syncthreads();
    run_logits<kType>(args, first, slot, n, q, p);
    __syncthreads();
    run_softmax(args, arrays, head, run, n, p);
    __syncthreads();
    run_values<kType>(args, arrays, head, run, first, n, p, sums);
}

// Joins the runs of a KV head: block 0 of it also writes the output, every block the scores of its
// slots. Shared: top and inverse total of all runs, [2, group].
__global__ void __launch_bounds__(kThreads) join_runs(AttendArgs args) {
    after_others();
    const OneArrays arrays = arrays_of(args.n_heads, args.longest, args.workspace);
    const size_t head = blockIdx.y, live = args.live[head], n_runs = (live + kRun - 1) / kRun;
    float *top = reinterpret_cast<float *>(shared_memory()), *inverse = top + args.group;
    for (size_t g = threadIdx.x / kWarp; g < args.group; g += kThreads / kWarp) {
        const size_t row = (head * args.group + g) * arrays.n_runs;
        float highest = -INFINITY, total = 0.0f;
        for (size_t r = threadIdx.x % kWarp; r < n_runs; r += kWarp) {
            highest = fmaxf(highest, arrays.top[row + r]);
        }
        highest = warp_max(highest);
        for (size_t r = threadIdx.x % kWarp; r < n_runs; r += kWarp) {
            total += arrays.total[row + r] * expf(arrays.top[row + r] - highest);
        }
        total = warp_sum(total);
        if (threadIdx.x % kWarp == 0) top[g] = highest;
        if (threadIdx.x % kWarp == 0) inverse[g] = 1.0f / total;
    }
    __syncthreads();
    for (size_t i = threadIdx.x; blockIdx.x == 0 && i < args.group * args.head_dim; i += kThreads) {
        const size_t g = i / args.head_dim, d = i % args.head_dim;
        const size_t row = (head * args.group + g) * arrays.n_runs;
        float sum = 0.0f;
        for (size_t r = 0; r < n_runs; ++r) {
            sum += arrays.out[(row + r) * args.head_dim + d] * expf(arrays.top[row + r] - top[g]);
        }
        args.out[head * args.group * args.head_dim + i] = sum * inverse[g];
    }
    for (size_t i = threadIdx.x; args.n_lanes > 0 && i < kJoinSlots; i += kThreads) {
        const size_t s = blockIdx.x * kJoinSlots + i;
        if (s >= live) break;
        float sum = 0.0f;
        for (size_t g = 0; g < args.group; ++g) {
            const size_t query_head = head * args.group + g;
            const float factor = expf(arrays.top[query_head * arrays.n_runs + s / kRun] - top[g]);
            sum += arrays.p[query_head * arrays.p_stride + s] * (factor * inverse[g]);
        }
        for (int lane = 0; lane < args.n_lanes; ++lane) {
            const LaneArgs &to = args.lanes[lane];
            float *score = to.scores + args.first[head] + s;
            *score = kept_score(to, *score) + to.query_weight[0] * sum;
        }
    }
}

constexpr AttendKernel kAttendRun[] = {attend_run<KvType::F32>, attend_run<KvType::F16>,
                                       attend_run<KvType::Q8_0>};

}  // namespace

size_t attend_one_workspace(const AttentionArgs &args, size_t longest) {
    const size_t n_runs = n_runs_of(longest);
    return args.n_heads * n_runs * (kRun + 2 + args.slots.head_dim);
}

void attend_one(CudaQueue &queue, const AttendArgs &args, KvType type) {
    const unsigned n_kv_heads = static_cast<unsigned>(args.n_kv_heads);
    const size_t n_floats = args.group * (args.stride + kRun) + kThreads * 8;
    const LaunchShape runs = {dim3(n_blocks(args.longest, kRun), n_kv_heads), dim3(kThreads),
                              n_floats * sizeof(float)};
    launch("attention of a token", queue, runs, kAttendRun[static_cast<int>(type)], args);
    const unsigned n_joins = args.n_lanes > 0 ? n_blocks(args.longest, kJoinSlots) : 1;
    const LaunchShape joins = {dim3(n_joins, n_kv_heads), dim3(kThreads),
                               2 * args.group * sizeof(float)};
    launch("joining attention", queue, joins, join_runs, args);
}

}  // namespace a2sf
