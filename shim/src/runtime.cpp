// The table of handles, streams, evaluation and memory figures: all of the shim's state.
#include "internal.hpp"
#include "slots.hpp"

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <utility>
#include <variant>

#include "mlx/device.h"
#include "mlx/memory.h"
#include "mlx/transforms.h"

namespace mlxr {

namespace {

// ---- Handles

struct Entry {
    mx::array array;
    bool good;                                // a leaf, or came out of a successful evaluation
    bool poisoned = false;                    // an evaluation failed while this was neither
    std::shared_ptr<const std::string> cause; // what that evaluation said; the first one's, and null without memory
};

// Everything is guarded by `mutex`. The state outlives static destruction on purpose: worker threads of upstream may
// still let go of arrays then, and at exit there is nobody left to free for.
struct State {
    std::mutex mutex;
    Slots<Entry> arrays;
    std::deque<mx::Stream> streams;
    std::map<std::pair<int32_t, int32_t>, mlxr_stream> defaults;
    std::vector<mx::array> room; // empty: its capacity is what counts
};

State &state() {
    static State *const instance = new State;
    return *instance;
}

[[noreturn]] void refuse(mlxr_array handle) {
    if (handle == 0) fail(MLXR_E_HANDLE, "an array is missing: its handle is 0");
    fail(MLXR_E_HANDLE, "stale, freed or foreign array handle " + std::to_string(handle));
}

Entry &entry_of(mlxr_array handle) {
    auto *entry = state().arrays.find(handle);
    if (!entry) refuse(handle);
    return *entry;
}

// Ends one ownership of a handle; false if it has none.
bool give_back(mlxr_array handle) {
    std::optional<Entry> last;
    return state().arrays.give_back(handle, last);
}

// An evaluation failed: whatever was neither a leaf nor evaluated before may be unfinished. Called from a catch block.
void poison() noexcept {
    report_current_exception();
    std::shared_ptr<const std::string> cause;
    try {
        cause = std::make_shared<const std::string>(mlxr_last_error());
    } catch (const std::bad_alloc &) {
    }
    state().arrays.for_each([&](Entry &entry) {
        if (entry.good || entry.poisoned) return;
        entry.poisoned = true;
        entry.cause = cause;
    });
}

void check_result(const mx::array &array) {
    if (array.ndim() > MLXR_MAX_NDIM) {
        fail(MLXR_E_INVALID, "the result has " + std::to_string(array.ndim()) + " axes, more than 32");
    }
    check_size(array.shape(), array.dtype());
}

// ---- Streams

constexpr size_t kMaxStreams = 64;

mlxr_stream open_stream(mx::Device device) {
    auto &s = state();
    if (s.streams.size() >= kMaxStreams) fail(MLXR_E_DEVICE, "no more than 64 streams");
    // Upstream's ordinary streams belong to the thread that made them; a graph built there fails in another thread.
    s.streams.push_back(mx::new_thread_unsafe_stream(device));
    return static_cast<mlxr_stream>(s.streams.size() - 1);
}

bool all_available(const std::vector<mx::array> &arrays) {
    return std::all_of(arrays.begin(), arrays.end(), [](const mx::array &a) {
        return a.status() != mx::array::Status::unscheduled && a.is_available();
    });
}

} // namespace

// ---- Scope

Scope::Scope() : lock_(state().mutex) {}

Scope::~Scope() = default;

const mx::array &Scope::borrow(mlxr_array handle) const {
    auto &entry = entry_of(handle);
    if (entry.poisoned) {
        std::string message = "an earlier evaluation failed and may have left this array unfinished";
        fail(MLXR_E_POISONED, entry.cause ? message + ": " + *entry.cause : message);
    }
    return entry.array;
}

std::optional<mx::array> Scope::optional(mlxr_array handle) const {
    if (handle == 0) return std::nullopt;
    return array(handle);
}

std::vector<mx::array> Scope::arrays(const mlxr_array *handles, int32_t n) const {
    std::vector<mx::array> result;
    if (n > 0) result.reserve(n);
    append(result, handles, n);
    return result;
}

void Scope::append(std::vector<mx::array> &to, const mlxr_array *handles, int32_t n) const {
    if (n < 0) fail(MLXR_E_INVALID, "a negative number of arrays");
    if (n > 0) required(handles, "arrays");
    for (int32_t i = 0; i < n; i++)
        to.push_back(borrow(handles[i]));
}

mx::Stream Scope::stream(mlxr_stream id) const {
    auto &s = state();
    if (id < 0 || static_cast<size_t>(id) >= s.streams.size()) {
        fail(MLXR_E_DEVICE, "stream " + std::to_string(id) + " does not exist");
    }
    return s.streams[id];
}

mlxr_array Scope::put(mx::array array) {
    check_result(array);
    bool leaf = array.status() == mx::array::Status::available;
    return state().arrays.put(Entry{.array = std::move(array), .good = leaf, .cause = {}});
}

void Scope::put_all(std::span<mx::array> arrays, mlxr_array *out) {
    required(out, "out");
    for (const auto &a : arrays)
        check_result(a);
    size_t done = 0;
    try {
        for (; done < arrays.size(); done++)
            out[done] = put(std::move(arrays[done]));
    } catch (...) { // no memory for the table
        while (done > 0)
            give_back(std::exchange(out[--done], 0));
        throw;
    }
}

std::vector<mx::array> Scope::take_room() {
    return std::exchange(state().room, {});
}

void Scope::give_room(std::vector<mx::array> &&values) noexcept {
    constexpr size_t most = 1 << 14; // a quarter of a megabyte
    values.clear();
    auto &room = state().room;
    if (values.capacity() <= most && values.capacity() > room.capacity()) room.swap(values);
}

template <class Body>
void Scope::unlocked(Body &&body) {
    struct Relock {
        std::unique_lock<std::mutex> &lock;
        ~Relock() { lock.lock(); }
    };
    lock_.unlock();
    Relock relock{lock_};
    body();
}

// Once upstream's eval() has started, arrays count as available although a worker still writes them. With async_eval()
// they carry an event instead, so that is_available() tells the truth to every thread. Waiting through the array itself
// would change its descriptor, which other threads read: a stand-in waits on a copy of the event.
void Scope::evaluate(const std::vector<mx::array> &arrays, bool isolated) {
    if (all_available(arrays)) return;
    try {
        mx::async_eval(arrays);
        std::vector<mx::array> waiting;
        for (const auto &a : arrays) {
            if (a.is_available() || !a.event().valid()) continue;
            auto &waiter = waiting.emplace_back(mx::Shape{}, mx::bool_, nullptr, std::vector<mx::array>{});
            waiter.attach_event(a.event());
            waiter.set_status(mx::array::Status::evaluated);
        }
        unlocked([&] {
            for (auto &waiter : waiting)
                waiter.wait();
        });
        if (!all_available(arrays)) fail(MLXR_E_RUNTIME, "an array did not become available");
    } catch (...) {
        if (!isolated) poison();
        throw;
    }
}

void Scope::start(const std::vector<mx::array> &arrays) {
    try {
        mx::async_eval(arrays);
    } catch (...) {
        poison();
        throw;
    }
}

void Scope::synchronize(mx::Stream stream) {
    try {
        unlocked([&] { mx::synchronize(stream); });
    } catch (...) {
        poison();
        throw;
    }
}

void Scope::mark_good(const mlxr_array *handles, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        // Another thread may have freed the handle while this one waited.
        if (auto *entry = state().arrays.find(handles[i])) entry->good = true;
    }
}

mx::Device device_of(int32_t device_type, int32_t index) {
    if (device_type != MLXR_CPU && device_type != MLXR_GPU) {
        fail(MLXR_E_DEVICE, "device type " + std::to_string(device_type) + " does not exist");
    }
    mx::Device device(device_type == MLXR_CPU ? mx::Device::cpu : mx::Device::gpu, index);
    if (index < 0 || index >= mx::device_count(device.type)) {
        fail(MLXR_E_DEVICE,
             std::string(device_type == MLXR_CPU ? "CPU" : "GPU") + " " + std::to_string(index) + " does not exist");
    }
    return device;
}

} // namespace mlxr

using namespace mlxr;

extern "C" {

mlxr_status mlxr_array_retain(mlxr_array handle) {
    return status_entry([&](Scope &) {
        if (!state().arrays.retain(handle)) refuse(handle);
    });
}

mlxr_status mlxr_array_free(mlxr_array handle) {
    if (handle == 0) return MLXR_OK;
    return status_entry([&](Scope &) {
        if (!give_back(handle)) refuse(handle);
    });
}

mlxr_status mlxr_array_free_many(const mlxr_array *handles, int32_t n) {
    return status_entry([&](Scope &) {
        if (n < 0) fail(MLXR_E_INVALID, "a negative number of arrays");
        if (n > 0) required(handles, "arrays");
        int32_t refused = 0;
        for (int32_t i = 0; i < n; i++) {
            if (handles[i] != 0 && !give_back(handles[i])) refused++;
        }
        if (refused) fail(MLXR_E_HANDLE, std::to_string(refused) + " stale, freed or foreign array handles");
    });
}

int64_t mlxr_live_handles(void) {
    if (check_state()) return 0;
    std::lock_guard lock(state().mutex);
    return state().arrays.live();
}

mlxr_status mlxr_device_count(int32_t device_type, int32_t *count) {
    return status_entry([&](Scope &) {
        if (device_type != MLXR_CPU && device_type != MLXR_GPU) {
            fail(MLXR_E_DEVICE, "device type " + std::to_string(device_type) + " does not exist");
        }
        *required(count, "count") = mx::device_count(device_type == MLXR_CPU ? mx::Device::cpu : mx::Device::gpu);
    });
}

mlxr_status mlxr_device_info(int32_t device_type, int32_t index, char *text, size_t capacity, size_t *needed) {
    return status_entry([&](Scope &) {
        std::map<std::string, std::string> sorted;
        for (const auto &[key, value] : mx::device_info(device_of(device_type, index))) {
            sorted[key] = std::holds_alternative<std::string>(value) ? std::get<std::string>(value)
                                                                     : std::to_string(std::get<size_t>(value));
        }
        std::string lines;
        for (const auto &[key, value] : sorted)
            lines += key + "=" + value + "\n";
        give_text(lines, text, capacity, needed);
    });
}

mlxr_status mlxr_stream_default(int32_t device_type, int32_t index, mlxr_stream *stream) {
    return status_entry([&](Scope &) {
        required(stream, "stream");
        auto device = device_of(device_type, index);
        auto &defaults = state().defaults;
        auto key = std::make_pair(device_type, index);
        auto found = defaults.find(key);
        if (found == defaults.end()) found = defaults.emplace(key, open_stream(device)).first;
        *stream = found->second;
    });
}

mlxr_status mlxr_stream_new(int32_t device_type, int32_t index, mlxr_stream *stream) {
    return status_entry([&](Scope &) {
        required(stream, "stream");
        *stream = open_stream(device_of(device_type, index));
    });
}

mlxr_status mlxr_stream_device(mlxr_stream stream, int32_t *device_type, int32_t *index) {
    return status_entry([&](Scope &scope) {
        auto device = scope.stream(stream).device;
        *required(device_type, "device_type") = device.type == mx::Device::cpu ? MLXR_CPU : MLXR_GPU;
        *required(index, "index") = device.index;
    });
}

mlxr_status mlxr_eval(const mlxr_array *arrays, int32_t n) {
    return status_entry([&](Scope &scope) {
        scope.evaluate(scope.arrays(arrays, n));
        scope.mark_good(arrays, n);
    });
}

mlxr_status mlxr_async_eval(const mlxr_array *arrays, int32_t n) {
    return status_entry([&](Scope &scope) { scope.start(scope.arrays(arrays, n)); });
}

mlxr_status mlxr_synchronize(mlxr_stream stream) {
    return status_entry([&](Scope &scope) {
        if (stream == MLXR_ALL_STREAMS) {
            for (size_t i = 0; i < state().streams.size(); i++)
                scope.synchronize(state().streams[i]);
        } else {
            scope.synchronize(scope.stream(stream));
        }
    });
}

mlxr_status mlxr_memory_get(int32_t figure, uint64_t *bytes) {
    return status_entry([&](Scope &) {
        required(bytes, "bytes");
        switch (figure) {
        case MLXR_MEMORY_ACTIVE: *bytes = mx::get_active_memory(); return;
        case MLXR_MEMORY_PEAK: *bytes = mx::get_peak_memory(); return;
        case MLXR_MEMORY_CACHE: *bytes = mx::get_cache_memory(); return;
        case MLXR_MEMORY_LIMIT: *bytes = mx::get_memory_limit(); return;
        case MLXR_MEMORY_CACHE_LIMIT: fail(MLXR_E_UNSUPPORTED, "upstream does not tell its cache limit");
        default: fail(MLXR_E_INVALID, "memory figure " + std::to_string(figure) + " does not exist");
        }
    });
}

mlxr_status mlxr_memory_set(int32_t figure, uint64_t bytes, uint64_t *previous) {
    return status_entry([&](Scope &) {
        uint64_t before = 0;
        switch (figure) {
        case MLXR_MEMORY_PEAK:
            if (bytes != 0) fail(MLXR_E_INVALID, "the peak can only be set to 0");
            before = mx::get_peak_memory();
            mx::reset_peak_memory();
            break;
        case MLXR_MEMORY_LIMIT: before = mx::set_memory_limit(bytes); break;
        case MLXR_MEMORY_CACHE_LIMIT: before = mx::set_cache_limit(bytes); break;
        default: fail(MLXR_E_INVALID, "memory figure " + std::to_string(figure) + " cannot be set");
        }
        if (previous) *previous = before;
    });
}

mlxr_status mlxr_memory_clear_cache(void) {
    return status_entry([&](Scope &) { mx::clear_cache(); });
}

} // extern "C"
