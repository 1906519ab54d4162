// What a backend asks its GPU for: launches on one stream, at once or put off as a pass. A pass
// that comes again, the same kernels with the same arguments, is captured as a CUDA graph and from
// then on played as one. What differs from step to step must lie in memory: in what kernels leave
// there, or in the arrays that copy() brings. Knows nothing of what kernels do. Owner: one backend.
#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <span>
#include <vector>

#include "backend/cuda/cuda_memory.h"

namespace a2sf {

// One launch. Its arguments, a struct, lie elsewhere and are known to `kind` alone.
struct CudaLaunch {
    struct Kind {
        void (*run)(const CudaLaunch &launch, const void *arguments, cudaStream_t stream,
                    bool overlaps);
        bool (*equal)(const void *a, const void *b);
    };
    const Kind *kind = nullptr;
    const char *what = nullptr;
    void (*kernel)() = nullptr;  // of another type
    dim3 grid, block;
    size_t n_shared = 0;
    size_t n_bytes = 0;  // of the arguments

    bool is_like(const CudaLaunch &other) const;
};

// Launches that follow each other.
struct CudaPass {
    std::vector<CudaLaunch> launches;
    std::vector<std::byte> arguments;  // of all, each from a multiple of kArgumentAlignment on

    static constexpr size_t kArgumentAlignment = 16;
    void clear();
    void add(const CudaLaunch &launch, const void *its_arguments);
    void run(cudaStream_t stream, bool overlap) const;
    bool operator==(const CudaPass &other) const;
};

class CudaQueue {
  public:
    CudaQueue();
    ~CudaQueue();  // what was put off is not done
    CudaQueue(const CudaQueue &) = delete;
    CudaQueue &operator=(const CudaQueue &) = delete;

    void launch(const CudaLaunch &launch, const void *arguments);

    // A small array of the host, on the GPU for the launches that follow (Staging).
    template <typename T>
    const T *copy(std::span<const T> from) {
        return static_cast<const T *>(copy_bytes(from.data(), from.size_bytes()));
    }
    // To memory of the GPU's.
    void copy_to(void *to, const void *from, size_t n_bytes);
    // Either way, and waits for it.
    void copy_now(void *to, const void *from, size_t n_bytes, const char *what);

    // For calls that are no launches. What was put off goes first.
    cudaStream_t stream();
    void wait();

    // Puts launches off, until stream() or wait(), or for good. Where one has failed by then, all
    // that follows does, until the pass is dropped.
    void begin_pass();
    void drop_pass() { puts_off_ = failed_ = false; }

    // Of the GPU.
    size_t n_multiprocessors() const { return n_multiprocessors_; }

    // On the GPU.
    size_t n_bytes() const { return staging_.n_bytes() + inputs_.n_bytes(); }

  private:
    // The stream, destroyed after everything that uses it.
    struct Stream {
        cudaStream_t handle = nullptr;
        Stream();
        ~Stream();
    };
    struct Graph {
        CudaPass pass;
        cudaGraphExec_t exec = nullptr;
    };

    const void *copy_bytes(const void *from, size_t n_bytes);
    void check_whole() const;
    void play();
    void play_pass();
    const Graph *make_graph();
    cudaGraph_t captured();

    Stream stream_;
    const bool overlap_;  // launches, with those before them
    const size_t n_multiprocessors_;
    Staging staging_;
    bool puts_off_ = false;
    bool failed_ = false;            // something that was asked for
    CudaPass pass_;                  // what is put off
    CudaPass last_;                  // the last that was no graph
    std::vector<std::byte> staged_;  // what copy() was given for the pass
    GpuMemory inputs_;               // where it is on the GPU
    std::vector<Graph> graphs_;
    size_t oldest_ = 0;         // of graphs_, once there are kMostGraphs
    bool makes_graphs_ = true;  // until there was no memory for one
};

}  // namespace a2sf
