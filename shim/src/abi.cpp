// Versions, errors and capabilities: what a caller asks before it does anything, and what it asks after a failure. Part
// of both libraries; knows neither MLX nor Metal.
#include "guard.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>

#include <pthread.h>

namespace mlxr {

namespace {

std::atomic<bool> g_initialised{false};
std::atomic<bool> g_forked{false};

thread_local mlxr_status t_code = MLXR_OK;
thread_local std::string t_message;

// Operations end here; the golden list of enumerators in the tests keeps these in step with the header.
struct Family {
    int32_t first;
    int32_t last;
};
constexpr Family kFamilies[] = {
    {MLXR_ABS, MLXR_IMAG},      {MLXR_ADD, MLXR_RIGHT_SHIFT},
    {MLXR_WHERE, MLXR_CLIP},    {MLXR_ASTYPE, MLXR_TO_FP8},
    {MLXR_SUM, MLXR_ARGMIN},    {MLXR_CUMSUM, MLXR_LOGCUMSUMEXP},
    {MLXR_SORT, MLXR_TOPK},     {MLXR_UPDATE_SET, MLXR_UPDATE_MIN},
    {MLXR_INV, MLXR_EIGVALSH},  {MLXR_FFT, MLXR_IRFFT},
    {MLXR_MATMUL, MLXR_ARANGE},
};

bool is_known(int32_t op) {
    for (const auto &family : kFamilies) {
        if (op >= family.first && op <= family.last) return true;
    }
    return false;
}

} // namespace

mlxr_status report(mlxr_error code, const char *message) noexcept {
    t_code = code;
    try {
        t_message.assign(message);
    } catch (...) {
        t_message.clear();
    }
    return code;
}

mlxr_status report_current_exception() noexcept {
    try {
        throw;
    } catch (const Error &e) {
        return report(e.code, e.message.c_str());
    } catch (const std::bad_alloc &) {
        return report(MLXR_E_MEMORY, "out of memory");
    } catch (const std::overflow_error &e) {
        return report(MLXR_E_OVERFLOW, e.what());
    } catch (const std::out_of_range &e) {
        return report(MLXR_E_INDEX, e.what());
    } catch (const std::invalid_argument &e) {
        return report(MLXR_E_INVALID, e.what());
    } catch (const std::domain_error &e) {
        return report(MLXR_E_INVALID, e.what());
    } catch (const std::length_error &e) {
        return report(MLXR_E_INVALID, e.what());
    } catch (const std::exception &e) {
        return report(MLXR_E_RUNTIME, e.what());
    } catch (...) {
        return report(MLXR_E_INTERNAL, "an exception that is no std::exception");
    }
}

mlxr_status check_state() noexcept {
    if (g_forked.load(std::memory_order_relaxed)) {
        return report(MLXR_E_FORK, "this process was forked after the library was started; start it in the child "
                                   "instead (multiprocessing: use the 'spawn' method)");
    }
    if (!g_initialised.load(std::memory_order_acquire)) {
        return report(MLXR_E_STATE, "mlxr_init() has not succeeded");
    }
    return MLXR_OK;
}

void give_text(const std::string &whole, char *text, size_t capacity, size_t *needed) {
    if (needed) *needed = whole.size() + 1;
    if (capacity == 0) return;
    size_t n = std::min(capacity - 1, whole.size());
    std::memcpy(required(text, "text"), whole.data(), n);
    text[n] = 0;
}

} // namespace mlxr

using namespace mlxr;

extern "C" {

uint32_t mlxr_abi_version(void) {
    return MLXR_ABI_VERSION;
}

mlxr_status mlxr_init(uint32_t want) {
    if (g_forked.load(std::memory_order_relaxed)) return check_state();
    try {
        if ((want >> 16) != MLXR_ABI_MAJOR || (want & 0xffff) > MLXR_ABI_MINOR) {
            fail(MLXR_E_ABI, "the library has ABI " + std::to_string(MLXR_ABI_MAJOR) + "." +
                                 std::to_string(MLXR_ABI_MINOR) + ", the caller wants " + std::to_string(want >> 16) +
                                 "." + std::to_string(want & 0xffff));
        }
        check_runtime();
        // Once, whichever thread is first. The child must not touch a lock: another thread may have held it.
        static const int registered =
            pthread_atfork(nullptr, nullptr, [] { g_forked.store(true, std::memory_order_relaxed); });
        if (registered != 0) fail(MLXR_E_RUNTIME, "pthread_atfork failed");
        g_initialised.store(true, std::memory_order_release);
        return MLXR_OK;
    } catch (...) {
        return report_current_exception();
    }
}

const char *mlxr_upstream_version_compiled(void) {
    return upstream_compiled();
}

const char *mlxr_upstream_version_loaded(void) {
    return upstream_loaded();
}

mlxr_status mlxr_last_error_code(void) {
    return t_code;
}

const char *mlxr_last_error(void) {
    return t_message.c_str();
}

mlxr_status mlxr_capability(int32_t kind, int64_t *value) {
    if (mlxr_status status = check_state()) return status;
    try {
        int64_t result = 0;
        if (!capability_of(kind, result)) {
            fail(MLXR_E_UNSUPPORTED, "capability " + std::to_string(kind) + " is not known");
        }
        *required(value, "value") = result;
        return MLXR_OK;
    } catch (...) {
        return report_current_exception();
    }
}

int32_t mlxr_supports(int32_t op, int32_t dtype, int32_t device_type) {
    if (!is_known(op) || dtype < MLXR_BOOL || dtype > MLXR_COMPLEX64) return 0;
    return device_supports(op, dtype, device_type);
}

} // extern "C"
