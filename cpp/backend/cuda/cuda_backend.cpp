// Memory, and the operations that are one launch each.
#include "backend/cuda/cuda_backend.h"

#include <algorithm>
#include <cstring>

#include "backend/cuda/cuda_entry.h"
#include "base/error.h"

namespace a2sf {

namespace {

// Behind an upload, for the 16-byte words that its last bytes are read with.
constexpr size_t kUploadPad = 16;

// Most operations want none of their matrices empty.
bool is_empty(const Matrix<const float> &x) {
    return x.rows == 0 || x.cols == 0;
}

}  // namespace

CudaBackend::CudaBackend(size_t n_threads)
    : pool_(n_threads == 0 ? default_threads() : n_threads) {}

// Memory that operations use is freed after them.
CudaBackend::~CudaBackend() {
    queue_.drop_pass();
    cudaStreamSynchronize(queue_.stream());
}

const char *CudaBackend::isa() const {
    return cuda_isa();
}

template <typename T>
T *CudaBackend::reserve(std::unique_ptr<GpuMemory> &memory, size_t n) {
    const size_t n_bytes = n * sizeof(T);
    if (!memory || memory->n_bytes() < n_bytes) {
        wait();
        // Half as much again, so that a slowly growing cache does not reallocate at every token.
        // Never the old and the new at once.
        memory.reset();
        memory = std::make_unique<GpuMemory>(n_bytes + n_bytes / 2, "scratch");
    }
    return static_cast<T *>(memory->data());
}

std::unique_ptr<DeviceMemory> CudaBackend::allocate(size_t n_bytes, const char *what) {
    auto memory = std::make_unique<GpuMemory>(n_bytes, what);
    if (n_bytes > 0) {
        check_cuda(cudaMemsetAsync(memory->data(), 0, n_bytes, queue_.stream()), "zeroing memory");
    }
    return memory;
}

std::unique_ptr<DeviceMemory> CudaBackend::allocate_shared(size_t n_bytes, const char *what) {
    return std::make_unique<SharedMemory>(n_bytes, what);
}

std::unique_ptr<DeviceMemory> CudaBackend::upload(std::span<const std::byte> bytes) {
    auto memory = std::make_unique<GpuMemory>(bytes.size() + kUploadPad, "weights");
    copy_to_device(memory->data(), bytes.data(), bytes.size());
    return memory;
}

void CudaBackend::copy_to_host(void *host, const void *device, size_t n_bytes) {
    if (n_bytes > 0) queue_.copy_now(host, device, n_bytes, "copying to the host");
}

// Where the cache grows, `host` is the device's, too.
void CudaBackend::copy_to_device(void *device, const void *host, size_t n_bytes) {
    if (n_bytes > 0) queue_.copy_now(device, host, n_bytes, "copying to the GPU");
}

void CudaBackend::put(void *device, const void *host, size_t n_bytes) {
    queue_.copy_to(device, host, n_bytes);
}

// On the GPU, where the cache is too.
size_t CudaBackend::scratch_bytes() const {
    size_t total = queue_.n_bytes();
    for (const auto *memory :
         {&rows_, &quantized_, &scales_, &halves_, &half_sizes_, &bfloats_, &decoded_, &hidden_,
          &attention_, &victims_, &key_sums_, &parts_, &found_}) {
        if (*memory) total += (*memory)->n_bytes();
    }
    return total;
}

void CudaBackend::wait() {
    queue_.wait();
}

void CudaBackend::embed(const Weight &table, std::span<const int32_t> ids, float scale,
                        Matrix<float> out) {
    if (ids.empty()) return;
    cuda_embed(queue_, table, queue_.copy(ids), scale, out);
}

void CudaBackend::rms_norm(Matrix<const float> x, size_t width, const float *weight, float eps,
                           Matrix<float> y, bool accumulate) {
    if (is_empty(x)) return;
    cuda_rms_norm(queue_, x, width, weight, eps, y, accumulate);
}

void CudaBackend::rope_angles(std::span<const int32_t> pos, std::span<const float> frequency,
                              float magnitude, Matrix<float> angles) {
    if (is_empty(angles)) return;
    const int32_t *at = queue_.copy(pos);
    cuda_rope_angles(queue_, at, queue_.copy(frequency), magnitude, angles);
}

void CudaBackend::rope(RopeStyle style, size_t head_dim, Matrix<const float> angles,
                       Matrix<float> x) {
    if (is_empty(x) || is_empty(angles)) return;
    cuda_rope(queue_, style, head_dim, angles, x);
}

// Where each KV head's slots begin.
const size_t *CudaBackend::stage_first(const KvSlots &slots) {
    first_.resize(slots.n_kv_heads);
    for (size_t head = 0; head < slots.n_kv_heads; ++head) first_[head] = slots.at(head);
    return queue_.copy(std::span<const size_t>(first_));
}

void CudaBackend::kv_write(const KvSlots &slots, Matrix<const float> k, Matrix<const float> v,
                           const uint32_t *slot) {
    write_rows(slots, slot, k, v, nullptr);
}

void CudaBackend::turn_and_write(const NewTurns &turns, const KvSlots &slots, Matrix<const float> v,
                                 const uint32_t *slot) {
    write_rows(slots, slot, turns.k, v, &turns);
}

void CudaBackend::write_rows(const KvSlots &slots, const uint32_t *slot, Matrix<const float> k,
                             Matrix<const float> v, const NewTurns *turns) {
    if (is_empty(k)) return;
    if (slots.kept != nullptr) {
        return cuda_kv_write(queue_, slots, slots.kept->first, slots.kept->slot, k, v, turns);
    }
    const size_t *first = stage_first(slots);
    const std::span<const uint32_t> wanted(slot, slots.n_kv_heads * k.rows);
    cuda_kv_write(queue_, slots, first, queue_.copy(wanted), k, v, turns);
}

void CudaBackend::kv_move(const KvSlots &slots, size_t head, uint32_t from, uint32_t to) {
    if (from == to) return;
    const size_t row_bytes = kv_row_bytes(slots.type, slots.head_dim);
    for (void *memory : {slots.k, slots.v}) {
        std::byte *rows = static_cast<std::byte *>(memory) + slots.at(head) * row_bytes;
        check_cuda(cudaMemcpyAsync(rows + to * row_bytes, rows + from * row_bytes, row_bytes,
                                   cudaMemcpyDeviceToDevice, queue_.stream()),
                   "moving K and V");
    }
}

void CudaBackend::attention(std::span<const AttentionArgs> all) {
    for (const AttentionArgs &args : all) {
        if (!is_empty(args.q)) attention_of(args);
    }
}

void CudaBackend::attention_of(const AttentionArgs &args) {
    const KvSlots &slots = args.slots;
    if (slots.head_dim > kCudaMostHeadDim) {
        throw UnsupportedError(str("attention on cuda: heads of at most ", kCudaMostHeadDim,
                                   " elements expected, found ", slots.head_dim));
    }
    const size_t m = args.q.rows, group = args.n_heads / slots.n_kv_heads;
    if (group > kCudaMostGroup) {
        throw UnsupportedError(str("attention on cuda: at most ", kCudaMostGroup,
                                   " query heads per KV head expected, found ", group));
    }
    CudaAttention job;
    job.args = &args;
    if (slots.kept != nullptr) {
        // Blocks for as many slots as there may be: those behind the live ones do nothing.
        job.longest = slots.kept->most_live;
        job.first = slots.kept->first;
        job.live = slots.kept->live;
        job.query_pos = slots.kept->next_pos;
        for (size_t lane = 0; lane < args.lanes.size(); ++lane) {
            job.query_weight[lane] = slots.kept->query_weight + lane;
        }
    } else {
        job.longest = *std::max_element(args.live, args.live + slots.n_kv_heads);
        job.first = stage_first(slots);
        job.live = queue_.copy(std::span(args.live, slots.n_kv_heads));
        job.query_pos = queue_.copy(std::span(args.query_pos, m));
        for (size_t lane = args.lanes.size(); lane-- > 0;) {
            job.query_weight[lane] = queue_.copy(std::span(args.lanes[lane].query_weight, m));
        }
    }
    job.workspace = reserve<float>(attention_, cuda_attention_workspace(args, job.longest));
    cuda_attention(queue_, job);
}

void CudaBackend::lowest(const LowestArgs &args, int32_t *victim) {
    const size_t n = args.slots.n_kv_heads;
    if (!lowest_ || lowest_->n_bytes() < n * sizeof(int32_t)) {
        lowest_ = std::make_unique<SharedMemory>(n * sizeof(int32_t), "victims");
    }
    const size_t *first = stage_first(args.slots);
    const uint32_t *live = queue_.copy(std::span(args.live, n));
    const int32_t *last_pos = queue_.copy(std::span(args.last_pos, n));
    auto *found = static_cast<int32_t *>(lowest_->data());
    cuda_lowest(queue_, args, first, live, last_pos, found);
    wait();
    std::memcpy(victim, found, n * sizeof(int32_t));
}

void CudaBackend::free_slots(const KvSlots &slots) {
    const KeptSlots &kept = *slots.kept;
    if (kept.config == nullptr) return cuda_free_slots(queue_, slots.n_kv_heads, kept);
    VictimsArgs args;
    args.slots = slots;
    args.config = kept.config;
    args.pos = kept.pos;
    args.n_lanes = kept.n_lanes;
    std::copy_n(kept.scores, kMaxScoreLanes, args.scores);
    CudaEviction job = eviction_of(args, kept.most_live);
    job.heads = {slots.n_kv_heads, kept.first,    kept.live,
                 kept.budget,      kept.n_recent, kept.next_pos};
    cuda_take_holes(queue_, slots.n_kv_heads, kept, cuda_victims(queue_, job).gone);
}

// All but the heads.
CudaEviction CudaBackend::eviction_of(const VictimsArgs &args, size_t longest) {
    CudaEviction job;
    job.args = &args;
    const std::vector<PositionRange> &pinned = args.config->pinned;
    job.n_pinned = pinned.size();
    if (!pinned.empty()) job.pinned = queue_.copy(std::span<const PositionRange>(pinned));
    job.longest = longest;
    const size_t n_heads = args.slots.n_kv_heads;
    for (size_t head = 0; head < n_heads; ++head) {
        job.n_slots = std::max(job.n_slots, args.slots.at(head) + longest);
    }
    const size_t n_bytes = cuda_victims_workspace(job.n_slots, n_heads, longest);
    job.workspace = reserve<std::byte>(victims_, n_bytes);
    if (args.guarded || args.config->policy->ranking() == Ranking::Similarity) {
        job.key_sums = reserve<float>(key_sums_, cuda_similarity_workspace(args.slots, longest));
    }
    return job;
}

void CudaBackend::evict(const VictimsArgs &args) {
    const size_t n = args.slots.n_kv_heads;
    CudaEviction job = eviction_of(args, *std::max_element(args.live, args.live + n));
    for (size_t head = 0; head < n; ++head) {
        const size_t live = args.live[head], budget = args.budget[head];
        job.most_victims = std::max(job.most_victims, std::max(live, budget) - budget);
    }
    if (job.most_victims == 0) return;
    newest_.assign(n, args.newest);
    job.heads.n_heads = n;
    job.heads.first = stage_first(args.slots);
    job.heads.live = queue_.copy(std::span(args.live, n));
    job.heads.budget = queue_.copy(std::span(args.budget, n));
    job.heads.n_recent = queue_.copy(std::span(args.n_recent, n));
    job.heads.newest = queue_.copy(std::span<const int32_t>(newest_));
    const CudaVictims found = cuda_victims(queue_, job);
    CudaMoves moves;
    moves.first = job.heads.first;
    moves.n_moves = found.n_moves;
    moves.from = found.from;
    moves.to = found.to;
    moves.most = job.most_victims;
    cuda_move(queue_, args, moves);
}

void CudaBackend::find_places(const PlacesArgs &args) {
    const KvSlots &slots = args.slots;
    const size_t n = slots.n_kv_heads;
    CudaHeads heads;
    heads.n_heads = n;
    size_t longest = 0;
    if (slots.kept != nullptr) {
        heads.first = slots.kept->first;
        heads.live = slots.kept->live;
        longest = slots.kept->most_live;
    } else {
        heads.first = stage_first(slots);
        heads.live = queue_.copy(std::span(args.live, n));
        longest = *std::max_element(args.live, args.live + n);
    }
    cuda_find_places(queue_, heads, longest, args);
}

void CudaBackend::close_kept(const VictimsArgs &args, const uint32_t *n_holes) {
    const size_t n = args.slots.n_kv_heads;
    CudaMoves moves;
    moves.first = args.slots.kept->first;
    moves.n_moves = queue_.copy(std::span(n_holes, n));
    moves.from = queue_.copy(std::span(args.live, n));
    moves.to = args.slots.kept->slot;
    moves.one_each = true;
    moves.most = 1;
    cuda_move(queue_, args, moves);
}

void CudaBackend::key_similarity(const KvSlots &slots, const uint32_t *live, float *similarity) {
    CudaKeys keys;
    keys.longest = *std::max_element(live, live + slots.n_kv_heads);
    if (keys.longest == 0) return;
    keys.first = stage_first(slots);
    keys.live = queue_.copy(std::span(live, slots.n_kv_heads));
    keys.workspace = reserve<float>(key_sums_, cuda_similarity_workspace(slots, keys.longest));
    keys.similarity = similarity;
    cuda_key_similarity(queue_, slots, keys);
}

Likeliest CudaBackend::likeliest(Matrix<const float> logits, float scale) {
    void *workspace = reserve<std::byte>(parts_, cuda_likeliest_workspace(logits.cols));
    auto *found = reserve<Likeliest>(found_, 1);
    if (!told_) told_ = std::make_unique<SharedMemory>(sizeof(Likeliest), "the likeliest token");
    cuda_likeliest(queue_, logits, scale, workspace, found);
    copy_to_host(told_->data(), found, sizeof(Likeliest));
    return *static_cast<const Likeliest *>(told_->data());
}

void CudaBackend::run_each(size_t n, Erased call, const void *context) {
    pool_.run(n, [&](size_t i, size_t) { call(context, i); });
}

// Whether an input's rows are multiplied as a batch; else each as a token of its own.
static bool is_batch(const Input &input) {
    return input.x.rows > 1 && !input.independent;
}

CudaForms CudaBackend::prepare(const Input &input, std::span<const Product> products, bool batch) {
    bool wanted[4] = {};
    for (const Product &product : products) {
        const CudaForm alone = product.w->type->group == 0 ? CudaForm::Floats : CudaForm::Bytes;
        wanted[static_cast<int>(batch ? cuda_batch_form(*product.w) : alone)] = true;
    }
    const auto wants = [&](CudaForm form) { return wanted[static_cast<int>(form)]; };
    const bool made = input.norm != nullptr || input.up.data != nullptr;
    const size_t m = input.x.rows, padded = padded_cols(input.x.cols);
    CudaForms forms;
    if (wants(CudaForm::Floats) && made) forms.rows = reserve<float>(rows_, m * input.x.cols);
    if (wants(CudaForm::Bytes)) {
        forms.q = reserve<int8_t>(quantized_, m * padded);
        forms.scale = reserve<float>(scales_, m * padded / 32);
    }
    if (wants(CudaForm::Halves)) {
        forms.half = reserve<uint16_t>(halves_, m * padded);
        forms.half_size = reserve<float>(half_sizes_, m);
    }
    if (wants(CudaForm::Bfloats)) forms.bfloat = reserve<uint16_t>(bfloats_, m * padded);
    if (forms != CudaForms{}) cuda_prepare(queue_, input, forms);
    return forms;
}

void CudaBackend::matmul(const Input &input, std::span<const Product> products) {
    if (input.x.rows == 0) return;
    const bool batch = is_batch(input);
    CudaProducts job;
    job.forms = prepare(input, products, batch);
    job.x = job.forms.rows == nullptr
                ? input.x
                : Matrix<const float>(job.forms.rows, input.x.rows, input.x.cols);
    while (!products.empty()) {
        // Neighbours that can be one launch.
        const Product &first = products.front();
        size_t n = 1;
        while (n < std::min(products.size(), kCudaMostProducts) &&
               products[n].w->type == first.w->type && products[n].accumulate == first.accumulate) {
            ++n;
        }
        job.products = products.first(n);
        products = products.subspan(n);
        if (batch) {
            const size_t n_decoded = cuda_matmul_workspace(job.products);
            job.decoded = {reserve<uint16_t>(decoded_, n_decoded), n_decoded};
            cuda_matmul(queue_, job);
        } else {
            cuda_matvec(queue_, job);
        }
    }
}

void CudaBackend::gated_ffn(const Input &input, const GatedFfn &ffn, const Product &down) {
    const size_t m = input.x.rows, hidden = ffn.gate->rows;
    if (m == 0) return;
    const Matrix<float> gate(reserve<float>(hidden_, 2 * m * hidden), m, hidden);
    const Matrix<float> up(gate.data + m * hidden, m, hidden);
    const Product products[] = {{ffn.gate, nullptr, gate}, {ffn.up, nullptr, up}};
    matmul(input, products);
    Input gated = Input::gated(gate, up, ffn.act);
    gated.independent = input.independent;
    matmul(gated, {&down, 1});
}

}  // namespace a2sf
