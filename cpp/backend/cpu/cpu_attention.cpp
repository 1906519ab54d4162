// Attention: tiles of queries over one KV head's live slots, and the score update.
//
// Scores are sums over queries; to give the same sum for any number of threads, each KV head's
// tiles are cut into a fixed number of parts, a part adds up its tiles in order, and the parts are
// added in order afterwards.
#include "backend/cpu/cpu_backend.h"

namespace a2sf {

namespace {

constexpr size_t kTileRows = 16;  // query rows that share one pass over K and V
constexpr size_t kMaxParts = 16;

size_t ceil_div(size_t a, size_t b) {
    return (a + b - 1) / b;
}

}  // namespace

// How one call is cut. Depends on shapes only.
struct CpuBackend::AttentionPlan {
    size_t group;         // query heads per KV head
    size_t tile_queries;  // queries per tile
    size_t n_tiles;       // per KV head
    size_t n_parts;       // per KV head
    size_t live;          // padded, the longest head's
    size_t n_scratch;     // floats per tile
    float *scratch;       // [n_threads, n_scratch + rows * live + rows]
    float *partial;       // [n_lanes, n_kv_heads, n_parts, live]; null for a single part

    size_t n_rows() const { return tile_queries * group; }
    size_t per_worker() const { return n_scratch + n_rows() * live + padded(n_rows()); }
    float *part(size_t lane, size_t head, size_t index, size_t n_kv_heads) const {
        return partial + ((lane * n_kv_heads + head) * n_parts + index) * live;
    }
};

void CpuBackend::attention_part(const AttentionArgs &args, const AttentionPlan &plan, size_t head,
                                size_t part, size_t worker) {
    const KvSlots &slots = args.slots;
    const size_t m = args.q.rows, row_bytes = kv_row_bytes(slots.type, slots.head_dim);
    const size_t column = head * plan.group * slots.head_dim;
    AttentionTile tile;
    tile.q_stride = args.q.stride;
    tile.out_stride = args.out.stride;
    tile.group = plan.group;
    tile.head_dim = slots.head_dim;
    tile.window = args.window;
    tile.scale = args.scale;
    tile.kv_format = static_cast<int>(slots.type);
    tile.k = static_cast<const uint8_t *>(slots.k) + head * slots.capacity * row_bytes;
    tile.v = static_cast<const uint8_t *>(slots.v) + head * slots.capacity * row_bytes;
    tile.row_bytes = row_bytes;
    tile.pos = args.pos + head * slots.capacity;
    tile.live = args.live[head];
    tile.scratch = plan.scratch + worker * plan.per_worker();
    tile.p = tile.scratch + plan.n_scratch;
    float *row_weight = tile.p + plan.n_rows() * plan.live;

    const size_t first = plan.n_tiles * part / plan.n_parts;
    const size_t last = plan.n_tiles * (part + 1) / plan.n_parts;
    for (size_t t = first; t < last; ++t) {
        const size_t i0 = t * plan.tile_queries;
        tile.n_queries = m - i0 < plan.tile_queries ? m - i0 : plan.tile_queries;
        tile.q = args.q.row(i0) + column;
        tile.out = args.out.row(i0) + column;
        tile.query_pos = args.query_pos + i0;
        kernels_.attention(tile);
        const size_t n_rows = tile.n_queries * plan.group;
        for (size_t lane = 0; lane < args.lanes.size(); ++lane) {
            const ScoreLane &score = args.lanes[lane];
            for (size_t r = 0; r < n_rows; ++r) {
                row_weight[r] = score.query_weight[i0 + r / plan.group];
            }
            const bool direct = plan.partial == nullptr;
            float *into = direct ? score.scores + head * slots.capacity
                                 : plan.part(lane, head, part, slots.n_kv_heads);
            const float decay = t > first ? 1.0f : direct ? score.decay : 0.0f;
            kernels_.add_scores(tile.p, n_rows, row_weight, tile.live, decay, into);
        }
    }
}

void CpuBackend::attention(const AttentionArgs &args) {
    const KvSlots &slots = args.slots;
    const size_t m = args.q.rows, n_kv_heads = slots.n_kv_heads, n_lanes = args.lanes.size();
    if (m == 0) return;
    if (is_one_query(args)) return attention_of_one(args);
    size_t longest = 0;
    for (size_t h = 0; h < n_kv_heads; ++h)
        longest = longest < args.live[h] ? args.live[h] : longest;

    AttentionPlan plan;
    plan.group = args.n_heads / n_kv_heads;
    plan.tile_queries = plan.group >= kTileRows ? 1 : kTileRows / plan.group;
    plan.tile_queries = plan.tile_queries < m ? plan.tile_queries : m;
    plan.n_tiles = ceil_div(m, plan.tile_queries);
    plan.n_parts = plan.n_tiles < kMaxParts ? plan.n_tiles : kMaxParts;
    plan.live = padded(longest);
    if (kernels_.attend_tiles != nullptr && fits_tiles(args, plan.group)) {
        return attention_on_tiles(args, plan);
    }
    plan.n_scratch = attention_scratch(plan.n_rows(), slots.head_dim);
    plan.scratch = reserve(attention_, n_threads() * plan.per_worker());
    plan.partial = plan.n_parts == 1
                       ? nullptr
                       : reserve(partial_, n_lanes * n_kv_heads * plan.n_parts * plan.live);
    pool_.run(n_kv_heads * plan.n_parts, [&](size_t task, size_t worker) {
        attention_part(args, plan, task / plan.n_parts, task % plan.n_parts, worker);
    });
    if (plan.partial != nullptr) add_parts(args, plan, 0, n_kv_heads);
}

// Adds the parts of heads [first, last) to their scores, in order.
void CpuBackend::add_parts(const AttentionArgs &args, const AttentionPlan &plan, size_t first,
                           size_t last) {
    const size_t n_heads = last - first;
    pool_.run(args.lanes.size() * n_heads, [&](size_t task, size_t) {
        const size_t lane = task / n_heads, head = first + task % n_heads;
        const ScoreLane &score = args.lanes[lane];
        float ones[kMaxParts];
        for (float &one : ones) one = 1.0f;
        // The parts are rows `plan.live` apart; add_scores wants them padded(live) apart.
        float *into = score.scores + head * args.slots.capacity;
        const size_t live = args.live[head];
        const auto part = [&](size_t index) {
            return plan.part(lane, head - first, index, n_heads);
        };
        if (padded(live) == plan.live) {
            kernels_.add_scores(part(0), plan.n_parts, ones, live, score.decay, into);
            return;
        }
        for (size_t index = 0; index < plan.n_parts; ++index) {
            kernels_.add_scores(part(index), 1, ones, live, index == 0 ? score.decay : 1.0f, into);
        }
    });
}

// Whether a call is work for tiles: enough rows, and K and V that are rounded anyway. Exact float32
// storage keeps exact float32 arithmetic.
bool CpuBackend::fits_tiles(const AttentionArgs &args, size_t group) {
    return args.q.rows * group >= kTiledRows / 2 && group <= kTiledRows &&
           args.slots.type != KvType::F32 && args.slots.head_dim % 32 == 0 &&
           args.lanes.size() <= kMaxSums;
}

// One KV head after the other: its K and V as tiles stay in the cache while all queries use them.
void CpuBackend::attention_on_tiles(const AttentionArgs &args, AttentionPlan plan) {
    const KvSlots &slots = args.slots;
    const size_t m = args.q.rows, head_dim = slots.head_dim;
    const size_t row_bytes = kv_row_bytes(slots.type, head_dim);
    plan.tile_queries = kTiledRows / plan.group < m ? kTiledRows / plan.group : m;
    plan.n_tiles = ceil_div(m, plan.tile_queries);
    plan.n_parts = plan.n_tiles < kMaxParts ? plan.n_tiles : kMaxParts;
    TileKv kv;
    kv.slots = ceil_div(plan.live, kSlotsPerPack) * kSlotsPerPack;
    kv.head_dim = head_dim;
    kv.k = reserve(tiles_, 2 * kv.slots * head_dim);
    kv.v = kv.k + kv.slots * head_dim;
    plan.n_scratch = padded(tiled_scratch(kv.slots, head_dim));
    plan.scratch = reserve(attention_, n_threads() * plan.n_scratch);
    plan.partial = plan.n_parts == 1
                       ? nullptr
                       : reserve(partial_, args.lanes.size() * plan.n_parts * plan.live);
    for (size_t head = 0; head < slots.n_kv_heads; ++head) {
        const size_t offset = head * slots.capacity * row_bytes;
        const auto *k = static_cast<const uint8_t *>(slots.k) + offset;
        const auto *v = static_cast<const uint8_t *>(slots.v) + offset;
        const size_t n_packs = ceil_div(args.live[head], kSlotsPerPack);
        pool_.run(n_packs, [&](size_t pack, size_t worker) {
            kernels_.pack_slots(static_cast<int>(slots.type), k, v, row_bytes, args.live[head],
                                pack * kSlotsPerPack, kv, plan.scratch + worker * plan.n_scratch);
        });
        pool_.run(plan.n_parts, [&](size_t part, size_t worker) {
            attend_part_on_tiles(args, plan, kv, head, part, worker);
        });
        if (plan.partial != nullptr) add_parts(args, plan, head, head + 1);
    }
}

void CpuBackend::attend_part_on_tiles(const AttentionArgs &args, const AttentionPlan &plan,
                                      const TileKv &kv, size_t head, size_t part, size_t worker) {
    const size_t column = head * plan.group * kv.head_dim;
    TiledAttention job = {};
    AttentionTile &tile = job.tile;
    tile.q_stride = args.q.stride;
    tile.out_stride = args.out.stride;
    tile.group = plan.group;
    tile.head_dim = kv.head_dim;
    tile.window = args.window;
    tile.scale = args.scale;
    tile.pos = args.pos + head * args.slots.capacity;
    tile.live = args.live[head];
    tile.scratch = plan.scratch + worker * plan.n_scratch;
    job.kv = kv;
    job.n_sums = args.lanes.size();
    const size_t first = plan.n_tiles * part / plan.n_parts;
    const size_t last = plan.n_tiles * (part + 1) / plan.n_parts;
    for (size_t t = first; t < last; ++t) {
        const size_t i0 = t * plan.tile_queries, left = args.q.rows - i0;
        tile.n_queries = left < plan.tile_queries ? left : plan.tile_queries;
        tile.q = args.q.row(i0) + column;
        tile.out = args.out.row(i0) + column;
        tile.query_pos = args.query_pos + i0;
        for (size_t lane = 0; lane < job.n_sums; ++lane) {
            const ScoreLane &score = args.lanes[lane];
            const bool direct = plan.partial == nullptr;
            ScoreSum &sum = job.sums[lane];
            sum.into =
                direct ? score.scores + head * args.slots.capacity : plan.part(lane, 0, part, 1);
            sum.query_weight = score.query_weight + i0;
            sum.decay = t > first ? 1.0f : direct ? score.decay : 0.0f;
        }
        kernels_.attend_tiles(job);
    }
}

}  // namespace a2sf
