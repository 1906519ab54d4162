// A block's threads as fibers, its warps and barriers.
#include <csetjmp>
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

struct Fiber {
    Context context;
    bool done = false;
    unsigned index = 0;
    const Barrier *waits_at = nullptr;
    size_t waits_for = 0;
    size_t n_exchanges = 0;
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
        fiber.index = i;
        fiber.waits_at = nullptr;
        fiber.n_exchanges = 0;
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
            if (fiber.done) --n_left;
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

uint64_t exchange(uint64_t value, unsigned lane) {
    // Two arrays in turn: a lane that is ahead writes where nobody reads any more.
    Warp &warp = own_warp();
    uint64_t *values = warp.values[running->n_exchanges++ % 2];
    values[running->index % 32] = value;
    arrive(warp.barrier);
    return values[lane];
}

void multiply_tiles(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    const auto as_float = [](uint32_t pair, unsigned i) {
        const uint32_t bits = i == 0 ? pair << 16 : pair & 0xffff0000u;
        float value;
        std::memcpy(&value, &bits, sizeof value);
        return value;
    };
    const unsigned g = lane() / 4, t = lane() % 4;
    uint32_t rows[2][8],
        columns[2][8];  // pairs along the sum: of rows g and g + 8, and of 2t and 2t + 1
    for (unsigned p = 0; p < 8; ++p) {
        const unsigned part = p / 4, at = p % 4;
        // A lane's own words are asked for by the lanes of its row or column alone, so all are
        // sent.
        for (unsigned i = 0; i < 2; ++i) {
            rows[i][p] = shuffle(a[2 * part + i], 4 * g + at);
            columns[i][p] = shuffle(b[part], 4 * (2 * t + i) + at);
        }
    }
    for (unsigned e = 0; e < 4; ++e) {
        for (unsigned k = 0; k < 16; ++k) {
            c[e] += as_float(rows[e / 2][k / 2], k % 2) * as_float(columns[e % 2][k / 2], k % 2);
        }
    }
}

void run_kernel(const cudaLaunchConfig_t &config, const std::function<void()> &thread) {
    ++counts.n_launches;
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
