// Linear algebra. LAPACK fails on a worker thread, where upstream hands the error to whoever asks next and leaves
// garbage in the result. So these operations run inside the call, on a stream that nothing else uses.
#include "internal.hpp"

#include <mutex>

#include "mlx/linalg.h"

namespace mlxr {

namespace {

struct Rule {
    bool takes_b;
    int outputs;
    bool traps_on_empty; // upstream divides by the extent of the matrix
    bool finite = false; // with other elements LAPACK fails, or its error handler ends the process with status 0
};

Rule rule_of(int32_t op, int32_t flag) {
    switch (op) {
    case MLXR_INV: return {false, 1, true};
    case MLXR_TRI_INV: return {false, 1, true};
    case MLXR_CHOLESKY: return {false, 1, false};
    case MLXR_CHOLESKY_INV: return {false, 1, true};
    case MLXR_PINV: return {false, 1, false, true};
    case MLXR_QR: return {false, 2, false};
    case MLXR_SVD: return {false, flag ? 3 : 1, false, true};
    case MLXR_LU: return {false, 3, true};
    case MLXR_LU_FACTOR: return {false, 2, true};
    case MLXR_SOLVE: return {true, 1, true};
    case MLXR_SOLVE_TRIANGULAR: return {true, 1, true};
    case MLXR_EIG: return {false, 2, false, true};
    case MLXR_EIGVALS: return {false, 1, false, true};
    case MLXR_EIGH: return {false, 2, false, true};
    case MLXR_EIGVALSH: return {false, 1, false, true};
    default: fail(MLXR_E_OPCODE, std::to_string(op) + " is no linear algebra operation");
    }
}

std::vector<mx::array> pair(std::pair<mx::array, mx::array> results) {
    return {std::move(results.first), std::move(results.second)};
}

std::vector<mx::array> build(int32_t op, const mx::array &a, const std::optional<mx::array> &b, int32_t flag,
                             mx::Stream s) {
    const char *triangle = flag ? "U" : "L";
    switch (op) {
    case MLXR_INV: return {mx::linalg::inv(a, s)};
    case MLXR_TRI_INV: return {mx::linalg::tri_inv(a, flag != 0, s)};
    case MLXR_CHOLESKY: return {mx::linalg::cholesky(a, flag != 0, s)};
    case MLXR_CHOLESKY_INV: return {mx::linalg::cholesky_inv(a, flag != 0, s)};
    case MLXR_PINV: return {mx::linalg::pinv(a, s)};
    case MLXR_QR: return pair(mx::linalg::qr(a, s));
    case MLXR_SVD: return mx::linalg::svd(a, flag != 0, s);
    case MLXR_LU: return mx::linalg::lu(a, s);
    case MLXR_LU_FACTOR: return pair(mx::linalg::lu_factor(a, s));
    case MLXR_SOLVE: return {mx::linalg::solve(a, *b, s)};
    case MLXR_SOLVE_TRIANGULAR: return {mx::linalg::solve_triangular(a, *b, flag != 0, s)};
    case MLXR_EIG: return pair(mx::linalg::eig(a, s));
    case MLXR_EIGVALS: return {mx::linalg::eigvals(a, s)};
    case MLXR_EIGH: return pair(mx::linalg::eigh(a, triangle, s));
    default: return {mx::linalg::eigvalsh(a, triangle, s)};
    }
}

void check_matrix(const mx::array &a, const Rule &rule) {
    if (a.ndim() < 2) fail(MLXR_E_INVALID, "a matrix has at least two axes");
    if (rule.traps_on_empty && (a.shape(-1) == 0 || a.shape(-2) == 0)) fail(MLXR_E_INVALID, "the matrix is empty");
}

} // namespace

} // namespace mlxr

using namespace mlxr;

extern "C" {

mlxr_status mlxr_linalg(int32_t op, mlxr_array a, mlxr_array b, int32_t flag, mlxr_array *out, int32_t nout) {
    // One at a time, so that an error belongs to the call that waits for it. Taken before the scope's lock, always.
    static std::mutex mutex;
    if (mlxr_status status = check_state()) return status;
    std::lock_guard<std::mutex> turn(mutex);
    return status_entry([&](Scope &scope) {
        auto rule = rule_of(op, flag);
        if (nout != rule.outputs) {
            fail(MLXR_E_INVALID, "the operation has " + std::to_string(rule.outputs) + " outputs");
        }
        auto x = scope.array(a);
        auto y = rule.takes_b ? std::optional(scope.array(b)) : std::nullopt;
        check_matrix(x, rule);
        static const mx::Stream stream = mx::new_thread_unsafe_stream(mx::Device(mx::Device::cpu));
        // What goes wrong in the operands is theirs; what goes wrong afterwards has no other owner.
        std::vector<mx::array> operands{x};
        if (y) operands.push_back(*y);
        scope.evaluate(operands);
        if (rule.finite) check_finite(x);
        auto results = build(op, x, y, flag, stream);
        scope.evaluate(results, true);
        if (op == MLXR_CHOLESKY) check_positive_diagonal(results[0]); // upstream drops LAPACK's answer
        scope.put_all(std::move(results), out);
    });
}

} // extern "C"
