// What both halves of the shim share: errors, the state that every entry checks first, and how text goes out. Knows
// neither MLX nor Metal nor Python; what a half has to say for itself, it says in the functions at the end.
#pragma once

#include "mlxr_shim.h"

#include <cstddef>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

namespace mlxr {

// ---- Errors

struct Error {
    mlxr_error code;
    std::string message;
};

[[noreturn]] inline void fail(mlxr_error code, std::string message) {
    throw Error{code, std::move(message)};
}

// Records a failure for the calling thread and returns its code.
mlxr_status report(mlxr_error code, const char *message) noexcept;

// The code under which an exception in flight is reported; records it. Called from a catch block only.
mlxr_status report_current_exception() noexcept;

// MLXR_OK if entries may run: initialised, and not in a forked child. Otherwise reports why not.
mlxr_status check_state() noexcept;

// ---- Arguments

template <class T>
T *required(T *pointer, const char *name) {
    if (!pointer) fail(MLXR_E_INVALID, std::string(name) + " is NULL");
    return pointer;
}

// Refuses a struct of the caller that is older than this library's.
template <class T>
T *required_struct(T *pointer, const char *name) {
    if (required(pointer, name)->size < sizeof(T)) {
        fail(MLXR_E_ABI, std::string(name) + "->size is " + std::to_string(pointer->size) + ", smaller than " +
                             std::to_string(sizeof(T)));
    }
    return pointer;
}

// Writes as much of a text as fits, with its final 0; `needed`, if given, gets what the whole takes.
void give_text(const std::string &whole, char *text, size_t capacity, size_t *needed);

// ---- What each half defines

// Throws if the runtime that was loaded is not the one that was compiled against.
void check_runtime();

// Upstream's version: as compiled against and as loaded; empty without upstream.
const char *upstream_compiled();
const char *upstream_loaded();

// One figure of enum mlxr_capability_kind; false if it is not known.
bool capability_of(int32_t kind, int64_t &value);

// Whether a device type other than the host's can execute the operation. Codes and dtype are valid.
bool device_supports(int32_t op, int32_t dtype, int32_t device_type);

} // namespace mlxr
