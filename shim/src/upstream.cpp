// What the upstream half has to say for itself: see the end of guard.hpp.
#include "internal.hpp"

#include <cstring>

#include "mlx/device.h"

#ifndef MLXR_UPSTREAM_VERSION
#error "MLXR_UPSTREAM_VERSION must be the exact version of the MLX library that is linked (see shim/build.py)"
#endif

namespace mlxr {

bool host_memory_is_shareable();

void check_runtime() {
    if (std::strcmp(MLXR_UPSTREAM_VERSION, mx::version()) == 0) return;
    fail(MLXR_E_ABI, std::string("compiled against MLX " MLXR_UPSTREAM_VERSION ", but MLX ") + mx::version() +
                         " was loaded: build the shim again");
}

const char *upstream_compiled() {
    return MLXR_UPSTREAM_VERSION;
}

const char *upstream_loaded() {
    return mx::version();
}

bool capability_of(int32_t kind, int64_t &value) {
    switch (kind) {
    case MLXR_CAP_UPSTREAM: value = 1; return true;
    case MLXR_CAP_METAL: value = 0; return true;
    case MLXR_CAP_CPU_COUNT: value = mx::device_count(mx::Device::cpu); return true;
    case MLXR_CAP_GPU_COUNT: value = mx::device_count(mx::Device::gpu); return true;
    case MLXR_CAP_SHARE_HOST: value = host_memory_is_shareable(); return true;
    case MLXR_CAP_MEMORY_LIMIT: value = static_cast<int64_t>(memory_limit()); return true;
    default: return false;
    }
}

bool device_supports(int32_t op, int32_t dtype, int32_t device_type) {
    if (device_type == MLXR_CPU) return true;
    if (device_type != MLXR_GPU || check_state()) return false;
    // Upstream has float64 on the CPU alone; LAPACK runs there.
    bool host_only = dtype == MLXR_FLOAT64 || (op >= MLXR_INV && op <= MLXR_EIGVALSH);
    return !host_only && mx::device_count(mx::Device::gpu) > 0;
}

} // namespace mlxr
