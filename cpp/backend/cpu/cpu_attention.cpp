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
    plan.n_scratch = attention_scratch(plan.n_rows(), slots.head_dim);
    plan.scratch = reserve(attention_, n_threads() * plan.per_worker());
    plan.partial = plan.n_parts == 1
                       ? nullptr
                       : reserve(partial_, n_lanes * n_kv_heads * plan.n_parts * plan.live);
    pool_.run(n_kv_heads * plan.n_parts, [&](size_t task, size_t worker) {
        attention_part(args, plan, task / plan.n_parts, task % plan.n_parts, worker);
    });
    if (plan.partial == nullptr) return;

    pool_.run(n_lanes * n_kv_heads, [&](size_t task, size_t) {
        const size_t lane = task / n_kv_heads, head = task % n_kv_heads;
        const ScoreLane &score = args.lanes[lane];
        float ones[kMaxParts];
        for (float &one : ones) one = 1.0f;
        // The parts are rows `plan.live` apart; add_scores wants them padded(live) apart.
        float *into = score.scores + head * slots.capacity;
        const size_t live = args.live[head];
        if (padded(live) == plan.live) {
            kernels_.add_scores(plan.part(lane, head, 0, n_kv_heads), plan.n_parts, ones, live,
                                score.decay, into);
            return;
        }
        for (size_t part = 0; part < plan.n_parts; ++part) {
            kernels_.add_scores(plan.part(lane, head, part, n_kv_heads), 1, ones, live,
                                part == 0 ? score.decay : 1.0f, into);
        }
    });
}

}  // namespace a2sf
