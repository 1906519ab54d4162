// Rows, positions and scores from slot to slot: a warp per token.
#include "backend/cuda/device.cuh"

#include "backend/cuda/cuda_kernels.h"

namespace a2sf {
namespace {

struct MoveJob {
    const size_t *first;
    const uint32_t *n_moves;  // [n_kv_heads]
    // From which slot to which, by head; [n_kv_heads] where heads move one each.
    const uint32_t *from, *to;
    bool one_each;
    size_t row_bytes;
    uint8_t *rows[2];  // K, V
    int32_t *pos;
    float *scores[kMaxScoreLanes];
    bool operator==(const MoveJob &) const = default;
};

constexpr unsigned kWarps = 4;

__global__ void __launch_bounds__(kWarps *kWarp) move_rows(MoveJob job) {
    after_others();
    const unsigned head = blockIdx.y, lane = threadIdx.x % kWarp;
    const size_t k = size_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
    if (k >= job.n_moves[head]) return;
    const size_t row = job.first[head], at = job.one_each ? head : row + k;
    const size_t from = row + job.from[at], to = row + job.to[at];
    if (to >= from) return;
    for (uint8_t *rows : job.rows) {
        const uint8_t *source = rows + from * job.row_bytes;
        uint8_t *target = rows + to * job.row_bytes;
        if (job.row_bytes % 16 == 0) {
            for (size_t i = lane; i < job.row_bytes / 16; i += kWarp) {
                reinterpret_cast<uint4 *>(target)[i] = reinterpret_cast<const uint4 *>(source)[i];
            }
        } else {
            for (size_t i = lane; i < job.row_bytes; i += kWarp) target[i] = source[i];
        }
    }
    if (lane != 0) return;
    job.pos[to] = job.pos[from];
    for (float *scores : job.scores) {
        if (scores != nullptr) scores[to] = scores[from];
    }
}

}  // namespace

void cuda_move(CudaQueue &queue, const VictimsArgs &args, const CudaMoves &moves) {
    MoveJob job = {moves.first,
                   moves.n_moves,
                   moves.from,
                   moves.to,
                   moves.one_each,
                   kv_row_bytes(args.slots.type, args.slots.head_dim),
                   {static_cast<uint8_t *>(args.slots.k), static_cast<uint8_t *>(args.slots.v)},
                   args.pos,
                   {}};
    for (size_t lane = 0; lane < args.n_lanes; ++lane) job.scores[lane] = args.scores[lane];
    const LaunchShape shape = {
        dim3(n_blocks(moves.most, kWarps), static_cast<unsigned>(args.slots.n_kv_heads)),
        dim3(kWarps * kWarp)};
    launch("closing holes", queue, shape, move_rows, job);
}

}  // namespace a2sf
