// Attention: which of the three ways a call takes.
#include "backend/cuda/attention.cuh"

namespace a2sf {

AttendArgs attend_args(const CudaAttention &job) {
    const AttentionArgs &args = *job.args;
    const KvSlots &slots = args.slots;
    AttendArgs to = {};
    to.q = args.q.data;
    to.q_stride = args.q.stride;
    to.out = args.out.data;
    to.out_stride = args.out.stride;
    to.m = args.q.rows;
    to.group = args.n_heads / slots.n_kv_heads;
    to.n_heads = args.n_heads;
    to.n_kv_heads = slots.n_kv_heads;
    to.head_dim = slots.head_dim;
    to.stride = (slots.head_dim + 7) / 8 * 8;
    to.k = static_cast<const uint8_t *>(slots.k);
    to.v = static_cast<const uint8_t *>(slots.v);
    to.row_bytes = kv_row_bytes(slots.type, slots.head_dim);
    to.query_pos = job.query_pos;
    to.pos = args.pos;
    to.first = job.first;
    to.live = job.live;
    to.longest = job.longest;
    to.turned = {args.turns.angles.data, args.turns.angles.stride, args.turns.angles.cols / 2,
                 args.turns.style == RopeStyle::Halves, args.turns.place};
    to.window = args.window;
    to.scale = args.scale;
    to.n_lanes = static_cast<int>(args.lanes.size());
    for (size_t lane = 0; lane < args.lanes.size(); ++lane) {
        to.lanes[lane] = {args.lanes[lane].scores, args.lanes[lane].decay, job.query_weight[lane]};
    }
    to.workspace = job.workspace;
    return to;
}

size_t cuda_attention_workspace(const AttentionArgs &args, size_t longest) {
    if (args.q.rows == 1) return attend_one_workspace(args, longest);
    return attends_on_tensor_cores(args.slots.type, args.slots.head_dim)
               ? attend_tensor_workspace(args)
               : attend_batch_workspace(args, longest);
}

void cuda_attention(CudaQueue &queue, const CudaAttention &job) {
    const AttendArgs args = attend_args(job);
    const KvType type = job.args->slots.type;
    if (args.m == 1) {
        attend_one(queue, args, type);
    } else if (attends_on_tensor_cores(type, args.head_dim)) {
        attend_tensor_batch(queue, args, type);
    } else {
        attend_batch(queue, args, type);
    }
}

}  // namespace a2sf
