// The state of one operating-system thread that runs threadgroups: its fibers, the simdgroups, the group's memory.
//
// Shared by the executor, which schedules, and the checker, which judges memory accesses.
#pragma once
#include "../msl/interface.h"
#include "executor.h"
#include "fiber.h"
#include <atomic>
#include <csetjmp>
#include <csignal>
#include <string>
#include <vector>

namespace standin {

constexpr size_t kThreadgroupMemory = 32768; // what Apple's GPUs offer
constexpr uint32_t kMaxThreads = 1024;
constexpr size_t kArena = 2 * kThreadgroupMemory + 65536; // with the gaps that tell neighbours apart
constexpr size_t kDeposit = 2048;                         // 32 lanes of 64 bytes, or two 8x8 float matrices

struct Failure {
    int kind = STANDIN_OK;
    std::string file;
    int line = 0;
    void *pc = nullptr; // where the place has to be looked up in the debugging information
    std::string message;
};

enum class State : uint8_t { Ready, AtBarrier, AtSimd, Done };

struct Fiber {
    Context context{};
    Stack stack;
    State state = State::Done;
    bool started = false;
    Thread thread{};
    // What it waits for.
    const char *operation = nullptr;
    const char *file = nullptr;
    int line = 0;
    int flags = 0;
    bool whole = false;
    uint64_t uniform = 0;
    uint32_t active = 0;
};

struct Simdgroup {
    alignas(64) char deposit[kDeposit];
    alignas(64) char received[kDeposit];
    size_t deposited = 0;
    unsigned size = 0, arrived = 0, done = 0;
    uint32_t epoch[2] = {1, 1}; // of threadgroup and device memory: raised by simdgroup_barrier
};

struct Variable {
    const void *site;
    char *memory;
    size_t size;
    const char *name;
};

struct Launch; // executor.cpp

struct Worker {
    const Launch *launch = nullptr;
    std::vector<Fiber> fibers;
    std::vector<Simdgroup> simdgroups;
    std::vector<unsigned> order;    // fibers in the order in which they run; a simdgroup's are neighbours
    std::vector<unsigned> first;    // where each simdgroup of `sequence` begins in `order`
    std::vector<unsigned> sequence; // simdgroups in the order in which they run
    std::vector<Variable> variables;
    std::vector<void *> threadgroup;
    Arguments arguments{};
    Group group{};
    uint32_t group_index = 0;
    unsigned size = 0, done = 0, at_barrier = 0;
    unsigned position = 0, end = 0; // of `order`: what is being run
    uint32_t epoch[2] = {1, 1};     // of threadgroup and device memory: raised by barriers with that flag
    Context scheduler{};
    Fiber *current = nullptr;
    char *arena = nullptr;
    size_t used = 0, charged = 0;
    Failure failure;
    // For the signal handlers.
    sigjmp_buf escape;
    volatile sig_atomic_t in_kernel = 0; // a fiber runs, and nothing of the executor that must not be cut short
    volatile sig_atomic_t caught = 0;
    void *volatile caught_pc = nullptr;
    void *volatile caught_address = nullptr;
    void *volatile last_access = nullptr; // where the kernel last asked the checker
    volatile uint32_t watched = 0, serial = 0, ticks = 0;
    uint32_t allowed_ticks = 0;

    ~Worker();
};

extern thread_local Worker *worker;

// Ends the launch from inside a fiber.
[[noreturn]] void fail(Failure failure);
std::string describe_thread(uint32_t group, const Group &of, uint32_t index);

// The checker (checker.cpp). One launch at a time is checked, on one thread.
void checker_begin(const standin_launch &launch, const void *image_address);
void checker_end();
void checker_new_group();
void checker_add_threadgroup(char *memory, size_t size, const char *name);

} // namespace standin
