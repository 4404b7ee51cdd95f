// Versions, errors and capabilities: what a caller asks before it does anything, and what it asks after a failure.
#include "internal.hpp"

#include <atomic>
#include <cstring>

#include <pthread.h>

#include "mlx/device.h"

#ifndef MLXR_UPSTREAM_VERSION
#error "MLXR_UPSTREAM_VERSION must be the exact version of the MLX library that is linked (see shim/build.py)"
#endif

namespace mlxr {

bool host_memory_is_shareable();

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
        return report(MLXR_E_FORK, "this process was forked after MLX was started; start MLX in the child instead "
                                   "(multiprocessing: use the 'spawn' method)");
    }
    if (!g_initialised.load(std::memory_order_acquire)) {
        return report(MLXR_E_STATE, "mlxr_init() has not succeeded");
    }
    return MLXR_OK;
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
        if (std::strcmp(MLXR_UPSTREAM_VERSION, mx::version()) != 0) {
            fail(MLXR_E_ABI, std::string("compiled against MLX " MLXR_UPSTREAM_VERSION ", but MLX ") + mx::version() +
                                 " was loaded: build the shim again");
        }
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
    return MLXR_UPSTREAM_VERSION;
}

const char *mlxr_upstream_version_loaded(void) {
    return mx::version();
}

mlxr_status mlxr_last_error_code(void) {
    return t_code;
}

const char *mlxr_last_error(void) {
    return t_message.c_str();
}

mlxr_status mlxr_capability(int32_t kind, int64_t *value) {
    return status_entry([&](Scope &) {
        int64_t result = 0;
        switch (kind) {
        case MLXR_CAP_UPSTREAM: result = 1; break;
        case MLXR_CAP_METAL: result = 0; break;
        case MLXR_CAP_CPU_COUNT: result = mx::device_count(mx::Device::cpu); break;
        case MLXR_CAP_GPU_COUNT: result = mx::device_count(mx::Device::gpu); break;
        case MLXR_CAP_SHARE_HOST: result = host_memory_is_shareable(); break;
        case MLXR_CAP_MEMORY_LIMIT: result = static_cast<int64_t>(memory_limit()); break;
        default: fail(MLXR_E_UNSUPPORTED, "capability " + std::to_string(kind) + " is not known");
        }
        *required(value, "value") = result;
    });
}

int32_t mlxr_supports(int32_t op, int32_t dtype, int32_t device_type) {
    if (!is_known(op) || dtype < MLXR_BOOL || dtype > MLXR_COMPLEX64) return 0;
    if (device_type == MLXR_CPU) return 1;
    if (device_type != MLXR_GPU || check_state()) return 0;
    // Upstream has float64 on the CPU alone; LAPACK runs there.
    bool host_only = dtype == MLXR_FLOAT64 || (op >= MLXR_INV && op <= MLXR_EIGVALSH);
    return !host_only && mx::device_count(mx::Device::gpu) > 0;
}

} // extern "C"
