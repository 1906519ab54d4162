// A block's threads as fibers, its warps and barriers.
#include <csetjmp>
#include <deque>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <sys/mman.h>
#include <ucontext.h>

#include "cuda_runtime.h"

dim3 threadIdx, blockIdx, blockDim;

namespace cuda_emulator {

namespace {

constexpr size_t kStackBytes = size_t{128} << 10;
constexpr size_t kMostShared = size_t{48} << 10;

// Where some threads wait for each other; all of them or it is an error.
struct Barrier {
    unsigned n_threads = 0;
    unsigned n_arrived = 0;
    size_t round = 0;
};

struct Warp {
    Barrier barrier;
    uint64_t values[2][32];  // of this exchange and of the next
};

// A stack that can be left and gone back to. AddressSanitizer follows swapcontext, which asks the
// system for every switch, and not longjmp, which is some fifty times faster.
#ifdef __SANITIZE_ADDRESS__
constexpr bool kJumps = false;
#else
constexpr bool kJumps = true;
#endif
struct Context {
    ucontext_t context;
    jmp_buf at;
    bool entered = true;  // else `context` is where it begins
};

void switch_to(Context &from, Context &to) {
    if (!kJumps) {
        swapcontext(&from.context, &to.context);
        return;
    }
    if (_setjmp(from.at) != 0) return;
    if (to.entered) _longjmp(to.at, 1);
    to.entered = true;
    setcontext(&to.context);
}

// One that is asked for and not done.
struct Copy {
    void *to;
    const void *from;
    uint32_t n_bytes;
    size_t group;
};

struct Fiber {
    Context context;
    bool done = false;
    bool came_after_others = false;
    unsigned index = 0;
    const Barrier *waits_at = nullptr;
    size_t waits_for = 0;
    size_t n_exchanges = 0;
    std::deque<Copy> copies;
    size_t n_groups = 0;  // that have ended
    void *stack = nullptr;

    Fiber() {
        stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stack == MAP_FAILED) throw std::bad_alloc();
    }
    ~Fiber() { munmap(stack, kStackBytes); }
    Fiber(const Fiber &) = delete;
    Fiber &operator=(const Fiber &) = delete;
};

struct Block {
    Barrier barrier;
    std::vector<Warp> warps;
    int any = 0;  // of block_or
    int any_before = 0;
};

std::vector<std::unique_ptr<Fiber>> fibers;
Fiber *running = nullptr;
Context scheduler;
Block block;
const std::function<void()> *body = nullptr;
alignas(16) unsigned char shared_bytes[kMostShared];

void yield() {
    switch_to(running->context, scheduler);
}

// A fiber that is done waits for the next block: to begin anew asks the system twice.
void enter() {
    for (;;) {
        (*body)();
        running->done = true;
        yield();
    }
}

void prepare(Fiber &fiber) {
    ucontext_t &context = fiber.context.context;
    getcontext(&context);
    context.uc_stack.ss_sp = fiber.stack;
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    makecontext(&context, enter, 0);
    fiber.context.entered = false;
}

void resume(Fiber &fiber) {
    running = &fiber;
    threadIdx = dim3(fiber.index);
    switch_to(scheduler, fiber.context);
}

void arrive(Barrier &barrier) {
    if (++barrier.n_arrived == barrier.n_threads) {
        barrier.n_arrived = 0;
        ++barrier.round;
        return;
    }
    running->waits_at = &barrier;
    running->waits_for = barrier.round + 1;
    yield();
}

Warp &own_warp() {
    return block.warps[running->index / 32];
}

void begin_block(unsigned n_threads) {
    block = Block{};
    block.barrier.n_threads = n_threads;
    block.warps.assign(n_threads / 32, Warp{});
    for (Warp &warp : block.warps) warp.barrier.n_threads = 32;
    while (fibers.size() < n_threads) {
        fibers.push_back(std::make_unique<Fiber>());
        prepare(*fibers.back());
    }
    for (unsigned i = 0; i < n_threads; ++i) {
        Fiber &fiber = *fibers[i];
        fiber.done = false;
        fiber.came_after_others = false;
        fiber.index = i;
        fiber.waits_at = nullptr;
        fiber.n_exchanges = 0;
        fiber.copies.clear();
        fiber.n_groups = 0;
    }
    // Not-a-number as floats, and no plausible integer.
    std::memset(shared_bytes, 0xff, sizeof shared_bytes);
}

void run_block(unsigned n_threads) {
    begin_block(n_threads);
    for (unsigned n_left = n_threads; n_left > 0;) {
        bool any = false;
        for (unsigned i = 0; i < n_threads; ++i) {
            Fiber &fiber = *fibers[i];
            if (fiber.done) continue;
            if (fiber.waits_at != nullptr && fiber.waits_at->round < fiber.waits_for) continue;
            fiber.waits_at = nullptr;
            any = true;
            resume(fiber);
            if (!fiber.done) continue;
            --n_left;
            if (!fiber.came_after_others) {
                fibers.clear();
                throw std::logic_error("emulated kernel: a thread without after_others()");
            }
        }
        if (!any) {
            fibers.clear();  // some are in the middle of it
            throw std::logic_error("emulated kernel: a barrier that some threads never reach");
        }
    }
}

}  // namespace

unsigned char *shared_memory() {
    return shared_bytes;
}

void after_others() {
    running->came_after_others = true;
}

void block_barrier() {
    arrive(block.barrier);
}

int block_or(int value) {
    block.any |= value != 0;
    arrive(block.barrier);
    const int result = block.any;
    arrive(block.barrier);
    block.any = 0;
    return result;
}

void warp_barrier() {
    arrive(own_warp().barrier);
}

namespace {

// What every lane of the warp gives, by lane.
const uint64_t *publish(uint64_t value) {
    // Two arrays in turn: a lane that is ahead writes where nobody reads any more.
    Warp &warp = own_warp();
    uint64_t *values = warp.values[running->n_exchanges++ % 2];
    values[running->index % 32] = value;
    arrive(warp.barrier);
    return values;
}

// In shared memory, where such accesses must be aligned.
void expect_aligned(const void *at) {
    if (reinterpret_cast<uintptr_t>(at) % 16 != 0) {
        throw std::logic_error("emulated kernel: a multiple of 16 bytes expected");
    }
}

struct Fragments {
    const uint32_t *a;
    uint32_t b[2];
};

}  // namespace

uint64_t exchange(uint64_t value, unsigned lane) {
    return publish(value)[lane];
}

void multiply_tiles(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                    float (*to_float)(uint16_t)) {
    const Fragments own = {a, {b0, b1}};
    const uint64_t *all = publish(reinterpret_cast<uint64_t>(&own));
    const auto of = [&](unsigned lane) { return reinterpret_cast<const Fragments *>(all[lane]); };
    const unsigned g = lane() / 4, t = lane() % 4;
    float rows[2][16], columns[2][16];  // g and g + 8, 2t and 2t + 1
    for (unsigned k = 0; k < 16; ++k) {
        // Which lane holds it, and in which of its words.
        const unsigned at = k % 8 / 2, part = k / 8, shift = k % 2 * 16;
        for (unsigned i = 0; i < 2; ++i) {
            rows[i][k] = to_float(static_cast<uint16_t>(of(4 * g + at)->a[2 * part + i] >> shift));
            columns[i][k] =
                to_float(static_cast<uint16_t>(of(4 * (2 * t + i) + at)->b[part] >> shift));
        }
    }
    for (unsigned e = 0; e < 4; ++e) {
        for (unsigned k = 0; k < 16; ++k) c[e] += rows[e / 2][k] * columns[e % 2][k];
    }
    warp_barrier();  // what is published is read
}

void load_matrices(const void *row, uint32_t (&to)[4], bool transposed) {
    expect_aligned(row);
    const uint64_t *rows = publish(reinterpret_cast<uint64_t>(row));
    const unsigned g = lane() / 4, t = lane() % 4;
    for (unsigned i = 0; i < 4; ++i) {
        uint16_t pair[2];
        for (unsigned e = 0; e < 2; ++e) {
            const unsigned of = transposed ? 2 * t + e : g, column = transposed ? g : 2 * t + e;
            std::memcpy(&pair[e], reinterpret_cast<const uint16_t *>(rows[8 * i + of]) + column, 2);
        }
        to[i] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
    }
    warp_barrier();  // what is loaded may be written again
}

void copy_beside(void *to, const void *from, uint32_t n_bytes) {
    expect_aligned(to);
    expect_aligned(from);
    running->copies.push_back({to, from, n_bytes, running->n_groups});
}

void end_copies() {
    ++running->n_groups;
}

void wait_for_copies(size_t n_newest) {
    std::deque<Copy> &copies = running->copies;
    for (; !copies.empty() && copies.front().group + n_newest < running->n_groups;
         copies.pop_front()) {
        const Copy &copy = copies.front();
        std::memset(copy.to, 0, 16);
        std::memcpy(copy.to, copy.from, copy.n_bytes);
    }
}

void run_kernel(const cudaLaunchConfig_t &config, const std::function<void()> &thread) {
    ++counts.n_launches;
    if (config.numAttrs > 0) ++counts.n_overlapping;
    if (machine.n_launches_left != SIZE_MAX && machine.n_launches_left-- == 0) {
        throw std::runtime_error("emulated kernel: told to fail");
    }
    body = &thread;
    blockDim = config.blockDim;
    for (unsigned y = 0; y < config.gridDim.y; ++y) {
        for (unsigned x = 0; x < config.gridDim.x; ++x) {
            blockIdx = dim3(x, y);
            run_block(config.blockDim.x);
        }
    }
}

}  // namespace cuda_emulator
