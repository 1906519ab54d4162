#include "backend/cuda/cuda_queue.h"

#include <algorithm>
#include <cstring>

#include "backend/cuda/cuda_check.h"
#include "backend/cuda/cuda_overlap.h"
#include "base/error.h"

namespace a2sf {

namespace {

constexpr size_t kInputBytes = size_t{64} << 10;
constexpr size_t kInputAlignment = 64;
// Greedy and not, and a few sessions that share a backend.
constexpr size_t kMostGraphs = 4;

size_t rounded(size_t n, size_t to) {
    return (n + to - 1) / to * to;
}

bool is_same(const dim3 &a, const dim3 &b) {
    return a.x == b.x && a.y == b.y && a.z == b.z;
}

}  // namespace

bool CudaLaunch::is_like(const CudaLaunch &other) const {
    return kernel == other.kernel && is_same(grid, other.grid) && is_same(block, other.block) &&
           n_shared == other.n_shared && n_bytes == other.n_bytes;
}

void CudaPass::clear() {
    launches.clear();
    arguments.clear();
}

void CudaPass::add(const CudaLaunch &launch, const void *its_arguments) {
    const size_t at = arguments.size();
    arguments.resize(at + rounded(launch.n_bytes, kArgumentAlignment));
    std::memcpy(arguments.data() + at, its_arguments, launch.n_bytes);
    launches.push_back(launch);
}

void CudaPass::run(cudaStream_t stream, bool overlap) const {
    size_t at = 0;
    for (const CudaLaunch &launch : launches) {
        launch.kind->run(launch, arguments.data() + at, stream, overlap);
        at += rounded(launch.n_bytes, kArgumentAlignment);
    }
}

bool CudaPass::operator==(const CudaPass &other) const {
    if (launches.size() != other.launches.size()) return false;
    size_t at = 0;
    for (size_t i = 0; i < launches.size(); ++i) {
        const CudaLaunch &launch = launches[i];
        if (!launch.is_like(other.launches[i]) ||
            !launch.kind->equal(arguments.data() + at, other.arguments.data() + at)) {
            return false;
        }
        at += rounded(launch.n_bytes, kArgumentAlignment);
    }
    return true;
}

CudaQueue::Stream::Stream() {
    check_cuda(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking), "making a stream");
}

CudaQueue::Stream::~Stream() {
    cudaStreamDestroy(handle);
}

static size_t count_multiprocessors() {
    int n = 0;
    check_cuda(cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, 0),
               "counting multiprocessors");
    return static_cast<size_t>(n);
}

CudaQueue::CudaQueue()
    : overlap_(cuda_launches_overlap()),
      n_multiprocessors_(count_multiprocessors()),
      staging_(stream_.handle),
      inputs_(kInputBytes, "inputs of a step") {}

// A pass that nobody has waited for may name memory that is gone.
CudaQueue::~CudaQueue() {
    cudaStreamSynchronize(stream_.handle);
    for (const Graph &graph : graphs_) cudaGraphExecDestroy(graph.exec);
}

void CudaQueue::launch(const CudaLaunch &launch, const void *arguments) {
    if (puts_off_) {
        pass_.add(launch, arguments);
    } else {
        launch.kind->run(launch, arguments, stream_.handle, overlap_);
    }
}

const void *CudaQueue::copy_bytes(const void *from, size_t n_bytes) {
    const size_t at = rounded(staged_.size(), kInputAlignment);
    if (puts_off_ && at + n_bytes > kInputBytes) play();
    check_whole();
    if (!puts_off_) return staging_.copy_bytes(from, n_bytes);
    staged_.resize(at + n_bytes);
    if (n_bytes > 0) std::memcpy(staged_.data() + at, from, n_bytes);
    return static_cast<std::byte *>(inputs_.data()) + at;
}

void CudaQueue::copy_to(void *to, const void *from, size_t n_bytes) {
    play();
    staging_.copy_to(to, from, n_bytes);
}

cudaStream_t CudaQueue::stream() {
    play();
    return stream_.handle;
}

void CudaQueue::wait() {
    copy_now(nullptr, nullptr, 0, "waiting for the GPU");
}

void CudaQueue::copy_now(void *to, const void *from, size_t n_bytes, const char *what) {
    play();
    failed_ = true;
    if (n_bytes > 0) {
        check_cuda(cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyDefault, stream_.handle), what);
    }
    check_cuda(cudaStreamSynchronize(stream_.handle), "waiting for the GPU");
    failed_ = false;
}

void CudaQueue::begin_pass() {
    play();
    pass_.clear();
    staged_.clear();
    puts_off_ = true;
}

void CudaQueue::check_whole() const {
    if (!failed_) return;
    throw DeviceError(
        "session: a complete state expected, found one whose last step failed on the GPU; reset it "
        "first");
}

// Once as it is, which also loads its kernels; if it comes again, as a graph from then on.
void CudaQueue::play() {
    check_whole();
    if (!puts_off_) return;
    puts_off_ = false;
    failed_ = true;
    play_pass();
    failed_ = false;
}

void CudaQueue::play_pass() {
    staging_.copy_to(inputs_.data(), staged_.data(), staged_.size());
    if (pass_.launches.empty()) return;
    const auto known = std::find_if(graphs_.begin(), graphs_.end(),
                                    [&](const Graph &graph) { return graph.pass == pass_; });
    const Graph *graph = known == graphs_.end() ? nullptr : &*known;
    if (graph == nullptr && pass_ == last_) graph = make_graph();
    if (graph == nullptr) {
        pass_.run(stream_.handle, overlap_);
        std::swap(last_, pass_);
        return;
    }
    check_cuda(cudaGraphLaunch(graph->exec, stream_.handle), "playing a step");
}

// Of the pass that is put off. None where there is no memory for it: a step can do without.
const CudaQueue::Graph *CudaQueue::make_graph() {
    if (!makes_graphs_) return nullptr;
    if (graphs_.size() == kMostGraphs) {
        // The oldest may be playing.
        check_cuda(cudaStreamSynchronize(stream_.handle), "waiting for the GPU");
    }
    Graph made = {pass_, nullptr};
    graphs_.reserve(kMostGraphs);
    const cudaGraph_t graph = captured();
    cudaError_t status = cudaGraphInstantiate(&made.exec, graph, 0);
    cudaGraphDestroy(graph);
    if (status == cudaSuccess) {
        status = cudaGraphUpload(made.exec, stream_.handle);
        if (status != cudaSuccess) cudaGraphExecDestroy(made.exec);
    }
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        makes_graphs_ = false;
        return nullptr;
    }
    check_cuda(status, "making a graph of a step");
    if (graphs_.size() < kMostGraphs) {
        return &graphs_.emplace_back(std::move(made));
    }
    Graph &oldest = graphs_[oldest_++ % kMostGraphs];
    cudaGraphExecDestroy(oldest.exec);
    oldest = std::move(made);
    return &oldest;
}

cudaGraph_t CudaQueue::captured() {
    cudaGraph_t graph = nullptr;
    check_cuda(cudaStreamBeginCapture(stream_.handle, cudaStreamCaptureModeThreadLocal),
               "capturing a step");
    try {
        pass_.run(stream_.handle, overlap_);
    } catch (...) {
        cudaStreamEndCapture(stream_.handle, &graph);
        if (graph != nullptr) cudaGraphDestroy(graph);
        throw;
    }
    check_cuda(cudaStreamEndCapture(stream_.handle, &graph), "capturing a step");
    return graph;
}

}  // namespace a2sf
