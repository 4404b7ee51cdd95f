// What the translation units of the upstream half share: the guard around every entry, the table of handles, and the
// checks that stand between a caller and what upstream does not check. Nothing here is visible outside of the library,
// and nothing here knows of Python.
#pragma once

#include "guard.hpp"

#include <cstdint>
#include <initializer_list>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mlx/array.h"
#include "mlx/ops.h"
#include "mlx/stream.h"
#include "mlx/utils.h"
#include "mlx/version.h"

// Before 0.32.4 upstream could donate wrapped host memory to an operation, which then wrote its result into it.
static_assert(MLX_VERSION_NUMERIC >= 32004, "mlxr_shim needs MLX 0.32.4 or newer");

namespace mlxr {

namespace mx = mlx::core;

// ---- Scope: one call of an entry
// -------------------------------------------------------------------------------------

// Every entry runs in a scope. It holds the lock that serialises graph building (upstream's Python gets the same from
// the GIL). What waits (evaluate, synchronize, and the checks of values below) lets go of it meanwhile, and then another
// thread may free handles: entries that wait take their arrays by value, all others may borrow.
class Scope {
  public:
    Scope();
    ~Scope();
    Scope(const Scope &) = delete;
    Scope &operator=(const Scope &) = delete;

    const mx::array &borrow(mlxr_array handle) const;
    mx::array array(mlxr_array handle) const { return borrow(handle); }
    std::optional<mx::array> optional(mlxr_array handle) const;
    std::vector<mx::array> arrays(const mlxr_array *handles, int32_t n) const;
    void append(std::vector<mx::array> &to, const mlxr_array *handles, int32_t n) const;

    mx::Stream stream(mlxr_stream id) const;

    // Takes an array into the table. The result of an operation goes through here, whatever made it.
    mlxr_array put(mx::array array);

    // All or none of several outputs, which are moved from.
    void put_all(std::span<mx::array> arrays, mlxr_array *out);
    void put_all(std::vector<mx::array> &&arrays, mlxr_array *out) { put_all(std::span(arrays), out); }

    // An empty vector with the room of one that was given back.
    std::vector<mx::array> take_room();
    void give_room(std::vector<mx::array> &&values) noexcept;

    // Runs the graphs of the arrays and waits, without the lock. When that fails, unfinished arrays are poisoned,
    // unless `isolated`: the caller has seen to it that nobody else can hold what failed.
    void evaluate(const std::vector<mx::array> &arrays, bool isolated = false);

    // Starts the graphs and returns.
    void start(const std::vector<mx::array> &arrays);

    // Waits for a stream without the lock.
    void synchronize(mx::Stream stream);

    // After a successful evaluation: later failures of others cannot have hit these.
    void mark_good(const mlxr_array *handles, int32_t n);

  private:
    // Runs `body` without the lock. What it throws goes on with the lock held again.
    template <class Body>
    void unlocked(Body &&body);

    std::unique_lock<std::mutex> lock_;
};

// The entry of a function that returns a status.
template <class Body>
mlxr_status status_entry(Body &&body) noexcept {
    if (mlxr_status status = check_state()) return status;
    try {
        Scope scope;
        body(scope);
        return MLXR_OK;
    } catch (...) {
        return report_current_exception();
    }
}

// The entry of a function that returns one array: `body` makes it.
template <class Body>
mlxr_array array_entry(Body &&body) noexcept {
    if (check_state()) return 0;
    try {
        Scope scope;
        return scope.put(body(scope));
    } catch (...) {
        report_current_exception();
        return 0;
    }
}

// ---- Arguments
// --------------------------------------------------------------------------------------------------------

mx::Dtype dtype_of(int32_t code);
int32_t code_of(mx::Dtype dtype);
mx::Device device_of(int32_t device_type, int32_t index);

// Shapes, extents and axes from the caller. `lowest` is the smallest entry that is allowed.
mx::Shape shape_of(const int64_t *extents, int32_t ndim, int64_t lowest = 0);
std::vector<int> axes_of(const int32_t *axes, int32_t n);
std::vector<int> all_axes(const mx::array &a);

// A negative axis counted from the end; refuses one that is out of range.
int axis_of(const mx::array &a, int32_t axis);

// ---- What upstream does not check
// -------------------------------------------------------------------------------------

// Refuses an array that the machine cannot hold. Upstream writes through the null pointer of a failed allocation.
void check_size(const mx::Shape &shape, mx::Dtype dtype);
uint64_t memory_limit();

// Refuses indices outside of [low, high). Evaluates them.
void check_indices(Scope &scope, const mx::array &indices, int64_t low, int64_t high, const char *what);

// Refuses integer division by zero and the one quotient that does not fit. Evaluates b, and a if b has a -1.
void check_division(Scope &scope, const mx::array &a, const mx::array &b);

// The number of true elements. Evaluates the mask.
int64_t count_true(Scope &scope, const mx::array &mask);

// Refuse an evaluated matrix, or stack of them, that has elements that are not finite; a Cholesky factor that LAPACK
// gave up on, which shows on its diagonal.
void check_finite(const mx::array &a);
void check_positive_diagonal(const mx::array &factor);

// ---- Operations, shared by the entries and by programs
// ----------------------------------------------------------------

mx::array unary(int32_t op, const mx::array &a, mx::Stream s);
mx::array binary(Scope &scope, int32_t op, const mx::array &a, const mx::array &b, mx::Stream s);
mx::array select(int32_t op, const mx::array &a, const std::optional<mx::array> &b, const std::optional<mx::array> &c,
                 mx::Stream s);
mx::array cast(int32_t op, const mx::array &a, int32_t dtype, mx::Stream s);
mx::array reduce(int32_t op, const mx::array &a, const std::vector<int> &axes, bool keepdims, int parameter,
                 mx::Stream s);
mx::array scan(int32_t op, const mx::array &a, int32_t axis, bool reverse, bool inclusive, mx::Stream s);
mx::array sort(int32_t op, const mx::array &a, int32_t axis, int32_t k, mx::Stream s);
mx::array take(Scope &scope, const mx::array &a, const mx::array &indices, int32_t axis, mx::Stream s);
mx::array take_along_axis(Scope &scope, const mx::array &a, const mx::array &indices, int32_t axis, mx::Stream s);
mx::array slice(const mx::array &a, const int64_t *start, const int64_t *stop, const int64_t *step, int32_t n,
                mx::Stream s);
mx::array as_strided(const mx::array &a, const int64_t *shape, const int64_t *strides, int32_t n, int64_t offset,
                     mx::Stream s);
mx::array layer_norm(const mx::array &x, const std::optional<mx::array> &weight, const std::optional<mx::array> &bias,
                     float eps, mx::Stream s);
mx::array rms_norm(const mx::array &x, const std::optional<mx::array> &weight, float eps, mx::Stream s);
mx::array rope(const mx::array &x, int32_t dims, bool traditional, float base, float scale, int32_t offset,
               const std::optional<mx::array> &offset_array, const std::optional<mx::array> &freqs, mx::Stream s);
mx::array attention(const mx::array &q, const mx::array &k, const mx::array &v, float scale, int32_t mask_mode,
                    const std::optional<mx::array> &mask, const std::optional<mx::array> &sinks, mx::Stream s);
mx::array quantized_matmul(const mx::array &x, const mx::array &w, const mx::array &scales,
                           const std::optional<mx::array> &biases, bool transpose, int32_t group_size, int32_t bits,
                           int32_t mode, mx::Stream s);

} // namespace mlxr
