// Judges every memory access of a kernel that was compiled with clang's -fsanitize=thread, whose callbacks are here in place
// of ThreadSanitizer's: by the rules of a GPU. Found are accesses outside of what is bound, reads of uninitialised memory,
// and data races: two accesses of one byte, one of them a write, by threads that no barrier with the right memory flag
// orders. Barriers order threads of one threadgroup; nothing orders two threadgroups.
//
// Each byte of a buffer or threadgroup variable has a cell that remembers its last write and its reads since then. Time is
// counted in epochs: barriers with mem_threadgroup raise the epoch of threadgroup memory, those with mem_device that of
// device memory, and simdgroup barriers likewise for the threads of one simdgroup.
#include "worker.h"
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <link.h>
#include <memory>

namespace standin {
namespace {

enum Access : uint8_t { None, Plain, Atomic };
// SeveralLanes: of one simdgroup, in one of its epochs.
enum Readers : uint8_t { Nobody, One, SeveralLanes, Several, SeveralGroups };

struct Cell {
    uint32_t writer, write_epoch, write_simd_epoch;
    uint32_t reader, read_epoch, read_simd_epoch;
    Access written;
    Readers readers;
    bool initialised;
};

struct Region {
    char *begin;
    size_t size;
    std::unique_ptr<Cell[]> cells;
    std::string name;
    bool threadgroup;
    bool track_initialised;
    uint8_t *initialised; // the caller's record, for buffers that outlive the launch
};

std::vector<Region> &regions = *new std::vector<Region>; // never destroyed: a queue may run when the process ends
size_t last_region;
bool checking;
const char *image_begin, *image_end;

Region make_region(void *memory, size_t size, std::string name, bool threadgroup, uint8_t *initialised) {
    Region r{static_cast<char *>(memory), size,       std::make_unique<Cell[]>(size), std::move(name), threadgroup,
             threadgroup || initialised,  initialised};
    for (size_t i = 0; initialised && i < size; ++i)
        r.cells[i].initialised = initialised[i];
    return r;
}

std::string who(uint32_t thread) {
    return describe_thread(thread / kMaxThreads, worker->group, thread % kMaxThreads);
}

[[noreturn]] void report(int kind, void *pc, std::string message) {
    fail({kind, "", 0, static_cast<char *>(pc) - 1, std::move(message)});
}

[[noreturn]] void out_of_bounds(const char *address, size_t size, bool write, uint32_t thread, void *pc) {
    const Region *nearest = nullptr;
    long best = 1L << 20;
    for (const Region &r : regions) {
        const long distance = address < r.begin ? r.begin - address : address - (r.begin + r.size) + 1;
        if (distance < best) {
            best = distance;
            nearest = &r;
        }
    }
    std::string near = nearest ? " at offset " + std::to_string(address - nearest->begin) + " of " + nearest->name +
                                     ", which has " + std::to_string(nearest->size) + " bytes"
                               : std::string(", far from every buffer");
    report(STANDIN_OUT_OF_BOUNDS, pc,
           (write ? "write of " : "read of ") + std::to_string(size) + " bytes" + near + ", by " + who(thread));
}

Region *find(const char *address, size_t size) {
    auto inside = [&](const Region &r) { return address >= r.begin && address + size <= r.begin + r.size; };
    if (last_region < regions.size() && inside(regions[last_region])) return &regions[last_region];
    for (size_t i = 0; i < regions.size(); ++i)
        if (inside(regions[i])) {
            last_region = i;
            return &regions[i];
        }
    return nullptr;
}

void access(const volatile void *where, size_t size, bool write, bool atomic, void *pc) {
    if (!checking) return;
    Worker *w = worker;
    Fiber *f = w->current;
    w->last_access = static_cast<char *>(pc) - 1;
    auto *address = const_cast<char *>(static_cast<const volatile char *>(where));
    if (f->stack.contains(address)) return; // a variable of the thread itself
    w->in_kernel = 0;
    const uint32_t thread = w->group_index * kMaxThreads + f->thread.index;
    Region *r = find(address, size);
    if (!r) {
        if (address >= image_begin && address + size <= image_end && !write) {
            w->in_kernel = 1;
            return; // a constant of the program
        }
        out_of_bounds(address, size, write, thread, pc);
    }
    const int memory = r->threadgroup ? 0 : 1;
    const uint32_t epoch = w->epoch[memory], simd_epoch = w->simdgroups[f->thread.simdgroup].epoch[memory];
    // Whether what another thread did is over before what this thread does.
    auto ordered = [&](uint32_t other, uint32_t at, uint32_t simd_at) {
        if (other == thread) return true;
        if (other / kMaxThreads != w->group_index) return false;
        return at < epoch || (other % kMaxThreads / kSimdWidth == f->thread.simdgroup && simd_at < simd_epoch);
    };
    auto offset = [&](size_t i) { return std::to_string(address + i - r->begin) + " of " + r->name; };
    for (size_t i = 0; i < size; ++i) {
        Cell &c = r->cells[address - r->begin + i];
        if (!write && r->track_initialised && !c.initialised)
            report(STANDIN_UNINITIALISED_READ, pc,
                   "nothing was written to byte " + offset(i) + ", read by " + who(thread));
        if (c.written && !(atomic && c.written == Atomic) && !ordered(c.writer, c.write_epoch, c.write_simd_epoch))
            report(STANDIN_DATA_RACE, pc,
                   std::string(atomic ? "atomic " : "") + (write ? "write" : "read") + " of byte " + offset(i) +
                       " by " + who(thread) + " is not ordered after the " +
                       (c.written == Atomic ? "atomic write" : "write") + " by " + who(c.writer));
        if (write && c.readers &&
            (c.readers == SeveralGroups || !ordered(c.reader, c.read_epoch, c.read_simd_epoch) ||
             (c.readers == Several && c.read_epoch >= epoch) ||
             (c.readers == SeveralLanes && c.read_epoch >= epoch && c.read_simd_epoch >= simd_epoch)))
            report(STANDIN_DATA_RACE, pc,
                   std::string(atomic ? "atomic " : "") + "write of byte " + offset(i) + " by " + who(thread) +
                       " is not ordered after the read by " +
                       (c.readers == SeveralGroups ? std::string("several threadgroups")
                        : c.reader == thread       ? std::string("other threads")
                                                   : who(c.reader)));
        if (write) {
            c.written = atomic ? Atomic : Plain;
            c.writer = thread;
            c.write_epoch = epoch;
            c.write_simd_epoch = simd_epoch;
            c.initialised = true;
        } else if (!atomic) {
            if (c.readers == Nobody)
                c.readers = One;
            else if (c.reader / kMaxThreads != w->group_index)
                c.readers = SeveralGroups;
            else if (c.readers != SeveralGroups) {
                // Reads that are over before this one need not be remembered.
                const bool lanes = c.readers != Several && c.reader % kMaxThreads / kSimdWidth == f->thread.simdgroup;
                if (c.read_epoch < epoch || (lanes && c.read_simd_epoch < simd_epoch))
                    c.readers = One;
                else if (c.reader != thread)
                    c.readers = lanes ? SeveralLanes : Several;
            }
            c.reader = thread;
            c.read_epoch = epoch;
            c.read_simd_epoch = simd_epoch;
        }
    }
    w->in_kernel = 1;
}

// The loaded image that an address belongs to.
int find_image(dl_phdr_info *info, size_t, void *data) {
    auto *address = static_cast<const char *>(*static_cast<const void **>(data));
    const char *low = nullptr, *high = nullptr;
    bool found = false;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
        if (info->dlpi_phdr[i].p_type != PT_LOAD) continue;
        const char *begin = reinterpret_cast<const char *>(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
        const char *end = begin + info->dlpi_phdr[i].p_memsz;
        low = low ? std::min(low, begin) : begin;
        high = std::max(high, end);
        found |= address >= begin && address < end;
    }
    if (!found) return 0;
    image_begin = low;
    image_end = high;
    return 1;
}

} // namespace

void checker_begin(const standin_launch &launch, const void *image_address) {
    checker_end();
    dl_iterate_phdr(find_image, &image_address);
    for (uint32_t i = 0; i < launch.buffer_count; ++i) {
        const standin_buffer &b = launch.buffers[i];
        if (!b.data || !b.size) continue;
        // Bindings may overlap: what overlaps is one region, so that races are seen across its names.
        char *begin = static_cast<char *>(b.data), *end = begin + b.size;
        std::string name = "buffer " + std::to_string(i);
        uint8_t *initialised = b.initialised;
        for (size_t k = 0; k < regions.size();) {
            Region &r = regions[k];
            if (begin < r.begin + r.size && r.begin < end) {
                begin = std::min(begin, r.begin);
                end = std::max(end, r.begin + r.size);
                name = r.name + " and " + std::to_string(i);
                if (begin != b.data || end != static_cast<char *>(b.data) + b.size) initialised = nullptr;
                regions.erase(regions.begin() + k);
            } else
                ++k;
        }
        regions.push_back(make_region(begin, (size_t)(end - begin), name, false, initialised));
    }
    checking = true;
}

void checker_end() {
    checking = false;
    for (Region &r : regions)
        for (size_t i = 0; r.initialised && i < r.size; ++i)
            r.initialised[i] = r.cells[i].initialised;
    regions.clear();
    last_region = 0;
}

void checker_new_group() {
    regions.erase(std::remove_if(regions.begin(), regions.end(), [](const Region &r) { return r.threadgroup; }),
                  regions.end());
    last_region = 0;
}

void checker_add_threadgroup(char *memory, size_t size, const char *name) {
    regions.push_back(make_region(memory, size, "threadgroup memory '" + std::string(name) + "'", true, nullptr));
}

namespace {
[[noreturn]] void undefined(const char *what, int kind, void *pc) {
    Worker *w = worker;
    w->in_kernel = 0;
    report(kind, pc, std::string(what) + ", by " + who(w->group_index * kMaxThreads + w->current->thread.index));
}
} // namespace
} // namespace standin

// ---------------------------------------------------------------- what the compiler calls

#define EXPORT extern "C" __attribute__((visibility("default")))
#define CALLER __builtin_return_address(0)
using standin::access;

EXPORT void __tsan_init() {}
EXPORT void __tsan_func_entry(void *) {}
EXPORT void __tsan_func_exit() {}
#define SIZED(n)                                                                                                       \
    EXPORT void __tsan_read##n(void *a) {                                                                              \
        access(a, n, false, false, CALLER);                                                                            \
    }                                                                                                                  \
    EXPORT void __tsan_write##n(void *a) {                                                                             \
        access(a, n, true, false, CALLER);                                                                             \
    }                                                                                                                  \
    EXPORT void __tsan_unaligned_read##n(void *a) {                                                                    \
        access(a, n, false, false, CALLER);                                                                            \
    }                                                                                                                  \
    EXPORT void __tsan_unaligned_write##n(void *a) {                                                                   \
        access(a, n, true, false, CALLER);                                                                             \
    }                                                                                                                  \
    EXPORT void __tsan_volatile_read##n(void *a) {                                                                     \
        access(a, n, false, false, CALLER);                                                                            \
    }                                                                                                                  \
    EXPORT void __tsan_volatile_write##n(void *a) {                                                                    \
        access(a, n, true, false, CALLER);                                                                             \
    }                                                                                                                  \
    EXPORT void __tsan_read_write##n(void *a) {                                                                        \
        access(a, n, false, false, CALLER);                                                                            \
        access(a, n, true, false, CALLER);                                                                             \
    }                                                                                                                  \
    EXPORT void __tsan_unaligned_read_write##n(void *a) {                                                              \
        access(a, n, false, false, CALLER);                                                                            \
        access(a, n, true, false, CALLER);                                                                             \
    }
SIZED(1)
SIZED(2)
SIZED(4)
SIZED(8)
SIZED(16)
EXPORT void *__tsan_memcpy(void *to, const void *from, size_t n) {
    access(from, n, false, false, CALLER);
    access(to, n, true, false, CALLER);
    return memcpy(to, from, n);
}
EXPORT void *__tsan_memmove(void *to, const void *from, size_t n) {
    access(from, n, false, false, CALLER);
    access(to, n, true, false, CALLER);
    return memmove(to, from, n);
}
EXPORT void *__tsan_memset(void *to, int value, size_t n) {
    access(to, n, true, false, CALLER);
    return memset(to, value, n);
}
#define ATOMIC(bits, T)                                                                                                \
    EXPORT T __tsan_atomic##bits##_load(const volatile T *a, int) {                                                    \
        access(a, sizeof(T), false, true, CALLER);                                                                     \
        return __atomic_load_n(a, __ATOMIC_RELAXED);                                                                   \
    }                                                                                                                  \
    EXPORT void __tsan_atomic##bits##_store(volatile T *a, T v, int) {                                                 \
        access(a, sizeof(T), true, true, CALLER);                                                                      \
        __atomic_store_n(a, v, __ATOMIC_RELAXED);                                                                      \
    }                                                                                                                  \
    EXPORT T __tsan_atomic##bits##_exchange(volatile T *a, T v, int) {                                                 \
        access(a, sizeof(T), true, true, CALLER);                                                                      \
        return __atomic_exchange_n(a, v, __ATOMIC_RELAXED);                                                            \
    }                                                                                                                  \
    EXPORT int __tsan_atomic##bits##_compare_exchange_strong(volatile T *a, T *e, T v, int, int) {                     \
        access(a, sizeof(T), true, true, CALLER);                                                                      \
        return __atomic_compare_exchange_n(a, e, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);                        \
    }                                                                                                                  \
    EXPORT int __tsan_atomic##bits##_compare_exchange_weak(volatile T *a, T *e, T v, int, int) {                       \
        access(a, sizeof(T), true, true, CALLER);                                                                      \
        return __atomic_compare_exchange_n(a, e, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);                        \
    }                                                                                                                  \
    EXPORT T __tsan_atomic##bits##_compare_exchange_val(volatile T *a, T e, T v, int, int) {                           \
        access(a, sizeof(T), true, true, CALLER);                                                                      \
        __atomic_compare_exchange_n(a, &e, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);                              \
        return e;                                                                                                      \
    }
ATOMIC(8, uint8_t)
ATOMIC(16, uint16_t)
ATOMIC(32, uint32_t)

// Clang's minimal run time of -fsanitize=undefined.
#define UNDEFINED(name, what, kind)                                                                                    \
    EXPORT void __ubsan_handle_##name##_minimal() {                                                                    \
        standin::undefined(what, kind, CALLER);                                                                        \
    }                                                                                                                  \
    EXPORT void __ubsan_handle_##name##_minimal_abort() {                                                              \
        standin::undefined(what, kind, CALLER);                                                                        \
    }
UNDEFINED(out_of_bounds, "index outside of an array", STANDIN_OUT_OF_BOUNDS)
UNDEFINED(divrem_overflow, "integer division by zero, or of the smallest number by -1", STANDIN_UNDEFINED_BEHAVIOUR)
UNDEFINED(shift_out_of_bounds, "shift by a negative number or by the width of the type or more",
          STANDIN_UNDEFINED_BEHAVIOUR)
