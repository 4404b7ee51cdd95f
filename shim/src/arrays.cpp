// Arrays in and out: sharing the caller's memory, copying it, describing arrays, and the checks on their sizes.
#include "internal.hpp"

#include <algorithm>
#include <atomic>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <memory>

#include <sys/resource.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/uio.h>
#endif

#include "mlx/allocator.h"

namespace mlxr {

namespace {

// ---- Released memory
// Upstream lets go of shared memory mostly on a worker thread, where the caller's code must not run (Python's would
// deadlock, or crash at exit). So the token goes to a lock-free list that the caller drains. Its node is made together
// with the array: releasing cannot fail.

struct Released {
    uint64_t token;
    Released *next;
};

std::atomic<Released *> g_released{nullptr};

void push_released(Released *node) noexcept {
    node->next = g_released.load(std::memory_order_relaxed);
    while (!g_released.compare_exchange_weak(node->next, node, std::memory_order_release, std::memory_order_relaxed)) {
    }
}

// ---- Upstream's host buffers
// A Buffer of the CPU build points at a size word, followed by the elements. Other builds (Metal, CUDA) keep an object
// there instead. Found out with a real allocation, so that a change upstream becomes MLXR_E_UNSUPPORTED and not a
// crash.
constexpr size_t kPrefix = sizeof(size_t);

bool probe_host_buffers() {
    constexpr size_t size = 48;
    auto data = mx::allocator::malloc(size);
    auto buffer = data.buffer();
    if (!buffer.ptr()) return false;
    auto *start = static_cast<char *>(buffer.ptr());
    if (static_cast<char *>(buffer.raw_ptr()) != start + kPrefix) return false;
    size_t word; // may be more than was asked for: a buffer from the cache
    std::memcpy(&word, start, sizeof word);
    return word >= size && word == mx::allocator::allocator().size(buffer);
}

bool readable(const void *address, size_t size) {
#if defined(__linux__)
    char scratch[kPrefix];
    iovec local{scratch, size};
    iovec remote{const_cast<void *>(address), size};
    return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == static_cast<ssize_t>(size);
#else
    (void)address, (void)size;
    return false;
#endif
}

struct Layout {
    mx::Strides strides;
    size_t extent = 1; // elements from the first to the last, both included
    mx::array::Flags flags{};
};

Layout layout_of(const mx::Shape &shape, const int64_t *strides) {
    Layout layout;
    int ndim = static_cast<int>(shape.size());
    layout.strides.resize(ndim);
    int64_t dense = 1;
    bool empty = false;
    for (int i = ndim - 1; i >= 0; i--) {
        int64_t stride = strides ? strides[i] : dense;
        if (stride < 0) fail(MLXR_E_UNSUPPORTED, "negative strides cannot be shared");
        layout.strides[i] = stride;
        dense *= shape[i];
        empty |= shape[i] == 0;
    }
    bool row = true, column = true;
    size_t distinct = 1;
    int64_t row_stride = 1, column_stride = 1;
    unsigned __int128 extent = 1;
    for (int i = 0; i < ndim; i++) {
        int j = ndim - 1 - i;
        column &= shape[i] == 1 || layout.strides[i] == column_stride;
        row &= shape[j] == 1 || layout.strides[j] == row_stride;
        column_stride *= shape[i];
        row_stride *= shape[j];
        if (layout.strides[i] > 0) distinct *= shape[i];
        if (shape[i] > 0) extent += static_cast<unsigned __int128>(shape[i] - 1) * layout.strides[i];
    }
    if (extent > static_cast<uint64_t>(INT64_MAX) / 16) fail(MLXR_E_OVERFLOW, "strides reach too far");
    layout.extent = empty ? 0 : static_cast<size_t>(extent);
    layout.flags = {distinct == layout.extent, row, column};
    return layout;
}

uint64_t read_number(const char *path) {
    uint64_t value = 0;
    if (auto *file = std::fopen(path, "re")) {
        if (std::fscanf(file, "%" SCNu64, &value) != 1) value = 0; // "max"
        std::fclose(file);
    }
    return value;
}

} // namespace

bool host_memory_is_shareable() {
    static const bool result = probe_host_buffers();
    return result;
}

// The least of physical memory, the container's limit and the limit on the address space.
uint64_t memory_limit() {
    static const uint64_t physical = [] {
        auto limit = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGE_SIZE));
        if (auto group = read_number("/sys/fs/cgroup/memory.max")) limit = std::min(limit, group);
        return limit;
    }();
    rlimit space{};
    if (getrlimit(RLIMIT_AS, &space) != 0 || space.rlim_cur == RLIM_INFINITY) return physical;
    return std::min<uint64_t>(physical, space.rlim_cur);
}

void check_size(const mx::Shape &shape, mx::Dtype dtype) {
    unsigned __int128 bytes = dtype.size();
    for (auto extent : shape) {
        if (extent == 0) return;
    }
    for (auto extent : shape) {
        bytes *= static_cast<unsigned __int128>(extent);
        if (bytes >> 63) fail(MLXR_E_OVERFLOW, "the array has more elements than can be counted");
    }
    // Most arrays are small; asking for the limit is a system call.
    constexpr uint64_t always_fine = 1 << 24;
    if (bytes > always_fine && bytes > memory_limit()) {
        fail(MLXR_E_MEMORY, "an array of " + std::to_string(static_cast<uint64_t>(bytes)) +
                                " bytes is more than the memory limit of " + std::to_string(memory_limit()));
    }
}

// Indexed by enum mlxr_dtype.
static const mx::Dtype kDtypes[] = {mx::bool_,   mx::uint8,   mx::uint16,   mx::uint32,   mx::uint64,
                                    mx::int8,    mx::int16,   mx::int32,    mx::int64,    mx::float16,
                                    mx::float32, mx::float64, mx::bfloat16, mx::complex64};

mx::Dtype dtype_of(int32_t code) {
    if (code < 0 || code > MLXR_COMPLEX64) fail(MLXR_E_DTYPE, "dtype " + std::to_string(code) + " does not exist");
    return kDtypes[code];
}

int32_t code_of(mx::Dtype dtype) {
    return static_cast<int32_t>(std::find(std::begin(kDtypes), std::end(kDtypes), dtype) - kDtypes);
}

mx::Shape shape_of(const int64_t *extents, int32_t ndim, int64_t lowest) {
    if (ndim < 0 || ndim > MLXR_MAX_NDIM) {
        fail(MLXR_E_INVALID, "a shape of " + std::to_string(ndim) + " axes; at most 32 are allowed");
    }
    if (ndim > 0) required(extents, "shape");
    mx::Shape shape;
    for (int32_t i = 0; i < ndim; i++) {
        if (extents[i] < lowest) {
            fail(MLXR_E_INVALID, "axis " + std::to_string(i) + " has a value of " + std::to_string(extents[i]));
        }
        shape.push_back(mx::safe_cast(extents[i], "shape"));
    }
    return shape;
}

std::vector<int> axes_of(const int32_t *axes, int32_t n) {
    if (n < 0 || n > MLXR_MAX_NDIM) fail(MLXR_E_INVALID, std::to_string(n) + " axes; 0 to 32 are allowed");
    if (n > 0) required(axes, "axes");
    return std::vector<int>(axes, axes + n);
}

std::vector<int> all_axes(const mx::array &a) {
    std::vector<int> axes(a.ndim());
    for (size_t i = 0; i < axes.size(); i++)
        axes[i] = static_cast<int>(i);
    return axes;
}

int axis_of(const mx::array &a, int32_t axis) {
    int ndim = static_cast<int>(a.ndim());
    if (axis < -ndim || axis >= ndim) {
        fail(MLXR_E_INVALID, "axis " + std::to_string(axis) + " of an array of " + std::to_string(ndim) + " axes");
    }
    return axis < 0 ? axis + ndim : axis;
}

} // namespace mlxr

using namespace mlxr;

extern "C" {

mlxr_array mlxr_array_share(void *data, const int64_t *shape, const int64_t *strides, int32_t ndim, int32_t dtype,
                            uint64_t token) {
    mlxr_array handle = 0;
    status_entry([&](Scope &scope) {
        required(data, "data");
        auto extents = shape_of(shape, ndim);
        auto type = dtype_of(dtype);
        check_size(extents, type);
        auto layout = layout_of(extents, strides);
        auto address = reinterpret_cast<uintptr_t>(data);
        if (!host_memory_is_shareable()) {
            fail(MLXR_E_UNSUPPORTED, "this build of upstream does not keep its arrays in host memory");
        }
        if (address % std::min<size_t>(type.size(), sizeof(void *)) != 0) {
            fail(MLXR_E_UNSUPPORTED, "the address is not aligned to the elements");
        }
        // Upstream's Contiguous looks at the size word in front of a buffer. Within a page it can be read.
        static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGE_SIZE));
        if (address % page < kPrefix && !readable(static_cast<char *>(data) - kPrefix, kPrefix)) {
            fail(MLXR_E_UNSUPPORTED, "the 8 bytes before the address cannot be read");
        }
        // The deleter also runs when something below fails; the token must not come out then.
        auto node = std::make_unique<Released>(Released{token, nullptr});
        auto armed = std::make_shared<std::atomic<bool>>(false);
        auto deleter = [armed, raw = node.get()](mx::allocator::Buffer) {
            if (armed->load(std::memory_order_acquire)) push_released(raw);
        };
        mx::array array(std::move(extents), type, nullptr, {});
        mx::allocator::Buffer buffer(static_cast<char *>(data) - kPrefix);
        array.set_data(mx::allocator::Data(buffer, std::move(deleter)), layout.extent, std::move(layout.strides),
                       layout.flags);
        array.set_status(mx::array::Status::available);
        handle = scope.put(std::move(array));
        armed->store(true, std::memory_order_release);
        node.release();
    });
    return handle;
}

mlxr_array mlxr_array_copy(const void *data, const int64_t *shape, int32_t ndim, int32_t dtype) {
    return array_entry([&](Scope &) {
        auto extents = shape_of(shape, ndim);
        auto type = dtype_of(dtype);
        check_size(extents, type);
        mx::array array(std::move(extents), type, nullptr, {});
        if (array.size() > 0) required(data, "data");
        array.set_data(mx::allocator::malloc(array.nbytes()));
        if (!array.buffer().ptr()) throw std::bad_alloc();
        if (array.size() > 0) std::memcpy(array.data<char>(), data, array.nbytes());
        array.set_status(mx::array::Status::available);
        return array;
    });
}

size_t mlxr_released(uint64_t *tokens, size_t capacity) {
    if (check_state() || !tokens) return 0;
    size_t n = 0;
    Released *list = g_released.exchange(nullptr, std::memory_order_acquire);
    while (list) {
        auto *node = list;
        list = list->next;
        if (n < capacity) {
            tokens[n++] = node->token;
            delete node;
        } else {
            push_released(node);
        }
    }
    return n;
}

mlxr_status mlxr_array_info_get(mlxr_array handle, mlxr_array_info *info) {
    return status_entry([&](Scope &scope) {
        required(info, "info");
        if (info->size < sizeof(mlxr_array_info)) fail(MLXR_E_ABI, "info->size is smaller than mlxr_array_info");
        auto array = scope.array(handle);
        bool available = array.status() != mx::array::Status::unscheduled && array.is_available();
        info->dtype = code_of(array.dtype());
        info->ndim = static_cast<int32_t>(array.ndim());
        info->count = array.size();
        info->flags = 0;
        info->data = nullptr;
        if (available) {
            info->flags |= MLXR_FLAG_AVAILABLE;
            if (array.flags().row_contiguous) info->flags |= MLXR_FLAG_ROW_CONTIGUOUS;
            if (!array.data_shared_ptr()->is_owned()) info->flags |= MLXR_FLAG_SHARED;
            info->data = array.data<void>();
        }
        for (size_t i = 0; i < array.ndim(); i++) {
            info->shape[i] = array.shape()[i];
            info->strides[i] = available ? array.strides()[i] : 0;
        }
    });
}

} // extern "C"
