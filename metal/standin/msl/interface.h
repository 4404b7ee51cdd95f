// What a translated kernel file and the executor know of each other, and nothing else: the record of a kernel and its
// parameters, the identity of a thread, and the calls by which a thread waits for others.
//
// This header is compiled into every kernel file. It must not include anything of the C or C++ library that puts names
// into the global namespace: a kernel that calls memcpy or erf has to fail here as it would with Apple's compiler.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace standin {

constexpr int kInterfaceVersion = 1;
constexpr unsigned kSimdWidth = 32;
constexpr unsigned kMaxBuffers = 31;

struct Extent {
    uint32_t x, y, z;
};

// What the threads of one threadgroup have in common.
struct Group {
    Extent position;        // threadgroup_position_in_grid
    Extent size;            // threads_per_threadgroup: smaller than dispatched_size at the edge of a grid
    Extent dispatched_size; // dispatch_threads_per_threadgroup
    Extent grid;            // threads_per_grid
    Extent groups;          // threadgroups_per_grid
    uint32_t simdgroups;
};

struct Thread {
    Extent position; // thread_position_in_threadgroup
    uint32_t index;  // thread_index_in_threadgroup
    uint32_t lane;
    uint32_t simdgroup;
};

struct Binding {
    void *data;
    size_t size;
    uint8_t *initialised; // one byte for each byte of data, kept by the checker; null: all of it is initialised
};

struct Arguments {
    const Binding *buffers;
    void *const *threadgroup;
    const Group *group;
    const Thread *thread;
};

struct Parameter {
    enum Kind { Buffer, Threadgroup, Builtin } kind;
    int index;
    size_t size; // of the type that is pointed to or referred to
    size_t align;
    bool reference;
    bool writable;
    const bool *condition; // the function constant that says whether the parameter exists, or null
    const char *name;
};

struct Kernel {
    const char *name;
    void (*entry)(const Arguments &);
    const Parameter *parameters;
    int parameter_count;
    const int *required_constants; // indices of the function constants that the kernel reads
    int required_constant_count;
    uint32_t max_threads; // [[max_total_threads_per_threadgroup]], or 1024
    const char *file;
    int line;
    Kernel *next;
};

struct Constant {
    int index;
    const char *name;
    void *value;
    size_t size;
    char type; // b: bool, f: float, h: half, i: signed, u: unsigned
    bool defined;
    Constant *next;
};

struct Module {
    int version;
    bool checked;
    Kernel *kernels;
    Constant *constants;
    void (*derive)(); // computes the constants that are made from function constants
};

// Memory flags of barriers, with Metal's values.
enum { kMemoryNone = 0, kMemoryDevice = 1, kMemoryThreadgroup = 2, kMemoryTexture = 4 };

#pragma GCC visibility push(default)
extern "C" {
unsigned standin_lane();
void standin_threadgroup_barrier(int flags, const char *file, int line);
// Where the calling lane deposits values for the operation that it is about to take part in, one element a lane.
void *standin_simd_deposit();
// Waits for the simdgroup. Afterwards `standin_simd_received` holds what every participant deposited, and the result
// is the mask of participants. `whole` asks for all 32 lanes. `size` is the number of bytes that were deposited in all.
uint32_t standin_simd_rendezvous(const char *operation, const char *file, int line, size_t size, int flags, bool whole);
const void *standin_simd_received();
// Records an argument that must be the same in all lanes; compared at the next rendezvous of the simdgroup.
void standin_simd_uniform(uint64_t value);
void *standin_threadgroup_variable(const void *site, size_t size, size_t align, const char *name);
[[noreturn]] void standin_inactive_lane(const char *operation, const char *file, int line, long lane);
}
#pragma GCC visibility pop

} // namespace standin

// Call sites of waiting functions, as default arguments.
#define STANDIN_SITE const char *file_ = __builtin_FILE(), int line_ = __builtin_LINE()
// Code of this library that handles the executor's own memory is no access of the kernel.
#define STANDIN_UNCHECKED inline __attribute__((noinline, no_sanitize("thread", "undefined")))
