"""Linear algebra: factorizations by LAPACK, and what follows from them by ops.

Gradients exist where they are products of matrices: inverse, solve, determinant, Cholesky and norms.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import mlxr.ops as ops  # other families: complete by the time a function runs
from mlxr.core import dtype as dtypes
from mlxr.core.dispatch import apply, as_operand, broadcast_shapes
from mlxr.core.dtype import promote_types
from mlxr.errors import AxisError, DtypeError, FactorizationError, InvalidValueError, ShapeError
from mlxr.ops.declare import FLOATING, INTEGER, Refusal, Sample, operation, primitive, spread
from mlxr.ops.elementwise import (
    abs,
    astype,
    divide,
    multiply,
    negative,
    not_equal,
    power,
    sqrt,
    square,
    subtract,
    where,
)
from mlxr.ops.layout import broadcast_to, expand_dims, normalize_axes, normalize_axis, reshape, squeeze, swapaxes

__all__ = [
    "cholesky", "cholesky_inv", "cross", "det", "eig", "eigh", "eigvals", "eigvalsh", "inv", "lu", "lu_factor", "norm",
    "pinv", "qr", "slogdet", "solve", "solve_triangular", "svd", "tri_inv",
]

REAL_LANES = (dtypes.float32, dtypes.float64)
LANES = (*REAL_LANES, dtypes.complex64)


def _matrices(a, op, lanes, square=False):
    """Return the operand, which must be a stack of (square) matrices of one of the dtypes `lanes`."""
    a = as_operand(a, op)
    if a.dtype not in lanes:
        names = " or ".join(d.name for d in lanes)
        raise DtypeError(f"[linalg::{op}] Arrays must have type {names}. Received array with type {a.dtype.name}.",
                         op=op, dtypes=(a.dtype,))
    if a.ndim < 2:
        raise ShapeError(f"[linalg::{op}] Arrays must have >= 2 dimensions. Received array with {a.ndim} dimensions.",
                         op=op, shapes=(a.shape,))
    if square and a.shape[-1] != a.shape[-2]:
        raise ShapeError(f"[linalg::{op}] Only defined for square matrices, got shape {a.shape}.", op=op,
                         shapes=(a.shape,))
    return a


def _turned(a):
    return swapaxes(a, -1, -2)


# ------------------------------------------------------------------ primitives

def _real_of(dtype):
    return dtypes.float32 if dtype is dtypes.complex64 else dtype


def _like(inputs, params):
    return inputs[0].shape, inputs[0].dtype


def _svd_infer(inputs, params):
    *parts, m, n = inputs[0].shape
    dtype = inputs[0].dtype
    s = ((*parts, min(m, n)), _real_of(dtype))
    return (((*parts, m, m), dtype), s, ((*parts, n, n), dtype)) if params[0] else s


def _qr_infer(inputs, params):
    *parts, m, n = inputs[0].shape
    k, dtype = min(m, n), inputs[0].dtype
    return ((*parts, m, k), dtype), ((*parts, k, n), dtype)


def _lu_infer(inputs, params):
    a = inputs[0]
    return (a.shape, a.dtype), ((*a.shape[:-2], min(a.shape[-2:])), dtypes.uint32)


def _inv_back(needs, g, out, a):
    turned = _turned(out)
    return negative(ops.matmul(ops.matmul(turned, g), turned))


def _solve_back(needs, g, out, a, b):
    db = apply(solve_p, (_turned(a), g))
    return negative(ops.matmul(db, _turned(out))) if needs[0] else None, db if needs[1] else None


def _cholesky_back(needs, g, out, a):
    # L^-T phi(L^T g) L^-1, phi being the lower triangle with half its diagonal; symmetric, as `a` is.
    inverse = apply(inv_p, (out,))
    inner = ops.tril(ops.matmul(_turned(out), g))
    inner = subtract(inner, multiply(inner, multiply(ops.eye(a.shape[-1], dtype=a.dtype, device=a.device), 0.5)))
    s = ops.matmul(ops.matmul(_turned(inverse), inner), inverse)
    return multiply(ops.add(s, _turned(s)), 0.5)


def _det_back(needs, g, out, a):
    return multiply(expand_dims(multiply(g, out), (-1, -2)), _turned(apply(inv_p, (a,))))


def _slogdet_back(needs, g, out, a):
    return multiply(expand_dims(g[1], (-1, -2)), _turned(apply(inv_p, (a,))))


svd_p = primitive("svd", "host", _svd_infer)
qr_p = primitive("qr", "host", _qr_infer)
inv_p = primitive("inv", "host", _like, vjp=_inv_back)
solve_p = primitive("solve", "host", lambda inputs, params: (inputs[1].shape, inputs[1].dtype), vjp=_solve_back)
cholesky_p = primitive("cholesky", "host", _like, vjp=_cholesky_back)
eig_p = primitive(
    "eig", "host",
    lambda inputs, params: ((inputs[0].shape[:-1], dtypes.complex64), (inputs[0].shape, dtypes.complex64)),
)
eigvals_p = primitive("eigvals", "host", lambda inputs, params: (inputs[0].shape[:-1], dtypes.complex64))
eigh_p = primitive(
    "eigh", "host",
    lambda inputs, params: ((inputs[0].shape[:-1], _real_of(inputs[0].dtype)), (inputs[0].shape, inputs[0].dtype)),
)
eigvalsh_p = primitive("eigvalsh", "host", lambda inputs, params: (inputs[0].shape[:-1], _real_of(inputs[0].dtype)))
lu_factor_p = primitive("lu_factor", "host", _lu_infer)
det_p = primitive("det", "host", lambda inputs, params: (inputs[0].shape[:-2], inputs[0].dtype), vjp=_det_back)
slogdet_p = primitive(
    "slogdet", "host", lambda inputs, params: ((inputs[0].shape[:-2], inputs[0].dtype),) * 2, vjp=_slogdet_back,
)


# ------------------------------------------------------------------ samples

def _regular(rng, *shape):
    """Return matrices far from singular."""
    return spread(rng, shape, -1, 1) + 3 * np.eye(shape[-2], shape[-1])


def _positive(rng, *shape):
    a = _regular(rng, *shape)
    return a @ np.swapaxes(a, -1, -2)


def _square_samples(make):
    return lambda rng: (Sample((make(rng, *shape),)) for shape in ((1, 1), (3, 3), (2, 4, 4), (0, 0)))


_BAD = (
    Refusal((np.ones(3, np.float32),), ShapeError), Refusal((np.ones((2, 2), np.int32),), DtypeError),
    Refusal((np.ones((2, 2), np.float16),), DtypeError),
)
_NOT_SQUARE = (*_BAD, Refusal((np.ones((2, 3), np.float32),), ShapeError))
_RULES: dict[str, Any] = {"dtypes": REAL_LANES, "ulps": 256, "scale": lambda a, *args, **kw: np.abs(a).sum() + 1}


# ------------------------------------------------------------------ factorizations

@operation("host", name="linalg.svd", primitive=svd_p, refusals=_BAD, **_RULES,
           samples=lambda rng: (Sample((spread(rng, shape, -1, 1),), {"compute_uv": False})
                                for shape in ((3, 3), (4, 2), (2, 3, 5))),
           reference=lambda a, compute_uv: np.linalg.svd(a, compute_uv=False))
def svd(a, compute_uv=True, *, stream=None):
    """Return the singular value decomposition ``a = u @ diag(s) @ vt`` of matrices.

    Parameters
    ----------
    a : Tensor
        Of shape (..., m, n); float32, float64 or complex64.
    compute_uv : bool
        Whether to compute `u` and `vt` too.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    tuple of Tensor, or Tensor
        u (..., m, m), s (..., min(m, n)) in descending order, and vt (..., n, n); or s alone.

    Raises
    ------
    ShapeError
        If there are no matrices.
    DtypeError
        If the dtype is another one.
    """
    return apply(svd_p, (_matrices(a, "svd", LANES),), (bool(compute_uv),), stream)


@operation("host", name="linalg.qr", primitive=qr_p, refusals=_BAD, **_RULES,
           reference=lambda a: tuple(np.linalg.qr(a)),
           samples=lambda rng: (Sample((spread(rng, shape, -1, 1),)) for shape in ((3, 3), (4, 2), (2, 3, 5))))
def qr(a, *, stream=None):
    """Return the factorization ``a = q @ r`` of matrices into orthonormal columns and an upper triangle.

    Parameters
    ----------
    a : Tensor
        Of shape (..., m, n); float32 or float64.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    tuple of Tensor
        q (..., m, k) and r (..., k, n), k being the smaller of m and n.

    Raises
    ------
    ShapeError, DtypeError
        If there are no matrices, or the dtype is another one.
    """
    return apply(qr_p, (_matrices(a, "qr", REAL_LANES),), (), stream)


@operation("host", name="linalg.cholesky", primitive=cholesky_p, **_RULES, differentiable=(),
           samples=_square_samples(_positive), reference=np.linalg.cholesky,
           refusals=(*_NOT_SQUARE, Refusal((-np.eye(2, dtype=np.float32),), FactorizationError)))
def cholesky(a, upper=False, *, stream=None):
    """Return the Cholesky factor of symmetric positive definite matrices: ``a = L @ L.T``.

    Parameters
    ----------
    a : Tensor
        Of shape (..., n, n); float32 or float64. Its lower triangle is read.
    upper : bool
        Return the transpose of L.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor

    Raises
    ------
    FactorizationError
        If a matrix is not positive definite.
    ShapeError, DtypeError
        If there are no square matrices, or the dtype is another one.
    """
    lower = apply(cholesky_p, (_matrices(a, "cholesky", REAL_LANES, True),), (), stream)
    return _turned(lower) if upper else lower


def _eliminated(a):
    """Return the compact LU factorization of a stack of ndarrays: the largest of a column is its pivot."""
    lu, pivots = np.array(a), np.zeros((*a.shape[:-2], min(a.shape[-2:])), np.uint32)
    for index in np.ndindex(*a.shape[:-2]):
        x = lu[index]
        for k in range(pivots.shape[-1]):
            best = pivots[index][k] = k + np.argmax(np.abs(x[k:, k]))
            x[[k, best]] = x[[best, k]]
            x[k + 1:, k] /= x[k, k]
            x[k + 1:, k + 1:] -= np.outer(x[k + 1:, k], x[k, k + 1:])
    return lu, pivots


def _lu_reference(a):
    lu, pivots = _eliminated(a)
    k = pivots.shape[-1]
    order = np.broadcast_to(np.arange(a.shape[-2]), a.shape[:-1]).copy()
    for index in np.ndindex(*a.shape[:-2]):
        for step, other in enumerate(pivots[index].tolist()):
            order[index][[step, other]] = order[index][[other, step]]
    return np.argsort(order, -1), np.tril(lu[..., :k], -1) + np.eye(a.shape[-2], k), np.triu(lu[..., :k, :])


@operation("host", name="linalg.lu_factor", primitive=lu_factor_p, refusals=_BAD, reference=_eliminated, **_RULES,
           samples=lambda rng: (Sample((spread(rng, shape, -1, 1),)) for shape in ((3, 3), (4, 2), (2, 3, 5))))
def lu_factor(a, *, stream=None):
    """Return the LU factorization of matrices in compact form.

    Parameters
    ----------
    a : Tensor
        Of shape (..., m, n); float32 or float64.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    tuple of Tensor
        L below the diagonal (its diagonal is one) and U on and above it, (..., m, n); and for each step the row that
        was exchanged with that of the step, as uint32.

    Raises
    ------
    ShapeError, DtypeError
        If there are no matrices, or the dtype is another one.
    """
    return apply(lu_factor_p, (_matrices(a, "lu_factor", REAL_LANES),), (), stream)


@operation("host", name="linalg.lu", primitive=lu_factor_p, refusals=_BAD, reference=_lu_reference, **_RULES,
           samples=lambda rng: (Sample((spread(rng, shape, -1, 1),)) for shape in ((3, 3), (4, 2), (2, 3, 5))))
def lu(a, *, stream=None):
    """Return the LU factorization of matrices.

    Parameters
    ----------
    a : Tensor
        Of shape (..., m, n); float32 or float64.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    tuple of Tensor
        A permutation p (uint32), L and U, with ``a = L[p] @ U``.

    Raises
    ------
    ShapeError, DtypeError
        If there are no matrices, or the dtype is another one.
    """
    a = _matrices(a, "lu", REAL_LANES)
    compact, pivots = apply(lu_factor_p, (a,), (), stream)
    m, n = a.shape[-2:]
    k = min(m, n)
    rows = broadcast_to(ops.arange(m, dtype=dtypes.uint32, device=a.device), (*a.shape[:-2], m))
    for step in range(k):  # exchange rows `step` and `pivots[step]` of the permutation
        other = pivots[..., step:step + 1]
        mine, theirs = rows[..., step:step + 1], ops.take_along_axis(rows, other, -1)
        rows = ops.put_along_axis(rows, other, mine, -1)
        rows = ops.put_along_axis(rows, ops.full(other.shape, step, dtypes.uint32, device=a.device), theirs, -1)
    lower = ops.add(ops.tril(compact[..., :k], -1), ops.eye(m, k, dtype=a.dtype, device=a.device))
    return ops.argsort(rows, -1), lower, ops.triu(compact[..., :k, :])


# ------------------------------------------------------------------ eigenvalues

@operation("host", name="linalg.eig", primitive=eig_p, refusals=_NOT_SQUARE, **_RULES,
           reference=lambda a: tuple(x.astype(complex) for x in np.linalg.eig(a)), samples=_square_samples(_regular))
def eig(a, *, stream=None):
    """Return eigenvalues and eigenvectors of square matrices.

    Parameters
    ----------
    a : Tensor
        Of shape (..., n, n); float32, float64 or complex64.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    tuple of Tensor
        Eigenvalues (..., n) and, as columns, eigenvectors (..., n, n); complex64.

    Raises
    ------
    ShapeError, DtypeError
        If there are no square matrices, or the dtype is another one.
    """
    return apply(eig_p, (_matrices(a, "eig", LANES, True),), (), stream)


@operation("host", name="linalg.eigvals", primitive=eigvals_p, refusals=_NOT_SQUARE, **_RULES,
           reference=lambda a: np.linalg.eigvals(a).astype(complex), samples=_square_samples(_regular))
def eigvals(a, *, stream=None):
    """Return eigenvalues of square matrices; parameters as :func:`eig`."""
    return apply(eigvals_p, (_matrices(a, "eigvals", LANES, True),), (), stream)


def _triangle(uplo, op):
    if uplo not in ("L", "U"):
        raise InvalidValueError(f"[linalg::{op}] UPLO is 'L' or 'U', got {uplo!r}", op=op, UPLO=uplo)
    return uplo


@operation("host", name="linalg.eigh", primitive=eigh_p, samples=_square_samples(_positive), **_RULES,
           reference=lambda a: tuple(np.linalg.eigh(a)),
           refusals=(*_NOT_SQUARE, Refusal((np.eye(2, dtype=np.float32), "X"), InvalidValueError)))
def eigh(a, UPLO="L", *, stream=None):
    """Return eigenvalues and eigenvectors of symmetric or Hermitian matrices.

    Parameters
    ----------
    a : Tensor
        Of shape (..., n, n); float32, float64 or complex64.
    UPLO : {"L", "U"}
        Which triangle is read.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    tuple of Tensor
        Eigenvalues (..., n), ascending, and, as columns, eigenvectors (..., n, n).

    Raises
    ------
    ShapeError, DtypeError, InvalidValueError
        If there are no square matrices, or the dtype or triangle is another one.
    """
    return apply(eigh_p, (_matrices(a, "eigh", LANES, True),), (_triangle(UPLO, "eigh"),), stream)


@operation("host", name="linalg.eigvalsh", primitive=eigvalsh_p, samples=_square_samples(_positive), **_RULES,
           reference=np.linalg.eigvalsh,
           refusals=(*_NOT_SQUARE, Refusal((np.eye(2, dtype=np.float32), "X"), InvalidValueError)))
def eigvalsh(a, UPLO="L", *, stream=None):
    """Return eigenvalues of symmetric or Hermitian matrices; parameters as :func:`eigh`."""
    return apply(eigvalsh_p, (_matrices(a, "eigvalsh", LANES, True),), (_triangle(UPLO, "eigvalsh"),), stream)


# ------------------------------------------------------------------ inverses and solutions

@operation("host", name="linalg.inv", primitive=inv_p, samples=_square_samples(_regular), reference=np.linalg.inv,
           differentiable=(0,), **_RULES,
           refusals=(*_NOT_SQUARE, Refusal((np.zeros((2, 2), np.float32),), FactorizationError)))
def inv(a, *, stream=None):
    """Return inverses of square matrices.

    Parameters
    ----------
    a : Tensor
        Of shape (..., n, n); float32 or float64.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor

    Raises
    ------
    FactorizationError
        If a matrix is singular.
    ShapeError, DtypeError
        If there are no square matrices, or the dtype is another one.
    """
    return apply(inv_p, (_matrices(a, "inv", REAL_LANES, True),), (), stream)


@operation("host", name="linalg.tri_inv", primitive=inv_p, differentiable=(0,), **_RULES, refusals=_NOT_SQUARE,
           samples=lambda rng: (Sample((_regular(rng, 2, 3, 3),), {"upper": upper}) for upper in (False, True)),
           reference=lambda a, upper=False: np.linalg.inv((np.triu if upper else np.tril)(a)))
def tri_inv(a, upper=False, *, stream=None):
    """Return inverses of triangular matrices.

    Parameters
    ----------
    a : Tensor
        Of shape (..., n, n); float32 or float64.
    upper : bool
        Which triangle is read.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor

    Raises
    ------
    FactorizationError
        If a matrix is singular.
    ShapeError, DtypeError
        If there are no square matrices, or the dtype is another one.
    """
    a = _matrices(a, "tri_inv", REAL_LANES, True)
    return apply(inv_p, (ops.triu(a) if upper else ops.tril(a),), (), stream)


@operation("host", name="linalg.cholesky_inv", primitive=inv_p, differentiable=(0,), **_RULES, refusals=_NOT_SQUARE,
           samples=lambda rng: (Sample((_regular(rng, 2, 3, 3),), {"upper": upper}) for upper in (False, True)),
           reference=lambda a, upper=False: np.linalg.inv(
               np.swapaxes(np.triu(a), -1, -2) @ np.triu(a) if upper else np.tril(a) @ np.swapaxes(np.tril(a), -1, -2)))
def cholesky_inv(a, upper=False, *, stream=None):
    """Return the inverses of the matrices whose Cholesky factors are given.

    Parameters
    ----------
    a : Tensor
        Factors as :func:`cholesky` returns them.
    upper : bool
        Whether they are upper triangles.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor

    Raises
    ------
    FactorizationError
        If a factor is singular.
    ShapeError, DtypeError
        If there are no square matrices, or the dtype is another one.
    """
    inverse = tri_inv(a, upper, stream=stream)
    return ops.matmul(inverse, _turned(inverse)) if upper else ops.matmul(_turned(inverse), inverse)


@operation("host", name="linalg.pinv", primitive=svd_p, **_RULES, refusals=_BAD, reference=np.linalg.pinv,
           samples=lambda rng: (Sample((_regular(rng, *shape),)) for shape in ((3, 3), (4, 2), (2, 2, 3))))
def pinv(a, *, stream=None):
    """Return Moore-Penrose inverses of matrices.

    Parameters
    ----------
    a : Tensor
        Of shape (..., m, n); float32 or float64.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor
        Of shape (..., n, m). Singular values below rounding count as zero.

    Raises
    ------
    ShapeError, DtypeError
        If there are no matrices, or the dtype is another one.
    """
    a = _matrices(a, "pinv", REAL_LANES)
    m, n = a.shape[-2:]
    if not a.size:
        return ops.zeros((*a.shape[:-2], n, m), a.dtype, device=a.device)
    k = min(m, n)
    u, s, vt = svd(a, stream=stream)
    cut = multiply(ops.max(s, -1, keepdims=True), max(m, n) * dtypes.finfo(a.dtype).eps)
    inverse = where(ops.greater(s, cut), divide(1.0, s), ops.zeros_like(s))
    return ops.matmul(multiply(_turned(vt[..., :k, :]), expand_dims(inverse, -2)), _turned(u[..., :k]))


def _solved(a, b, op, stream):
    a, b = as_operand(a, op), as_operand(b, op)
    a = _matrices(a, op, REAL_LANES, True)
    dtype = promote_types(a.dtype, b.dtype)
    if dtype not in REAL_LANES:
        raise DtypeError(f"[linalg::{op}] is not defined for {a.dtype.name} and {b.dtype.name}", op=op,
                         dtypes=(a.dtype, b.dtype))
    a, b = astype(a, dtype), astype(b, dtype)
    vector = b.ndim == 1
    columns = expand_dims(b, -1) if vector else b
    if b.ndim < 1 or columns.shape[-2] != a.shape[-1]:
        raise ShapeError(
            f"[linalg::{op}] Last dimension of first input with shape {a.shape} must match second to last dimension of "
            f"second input with shape {b.shape}.", op=op, shapes=(a.shape, b.shape),
        )
    parts = broadcast_shapes(a.shape[:-2], columns.shape[:-2])
    a, columns = (broadcast_to(t, (*parts, *t.shape[-2:])) for t in (a, columns))
    result = apply(solve_p, (a, columns), (), stream)
    return squeeze(result, -1) if vector else result


def _solve_samples(rng):
    yield Sample((_regular(rng, 3, 3), spread(rng, (3,), -1, 1)))
    yield Sample((_regular(rng, 3, 3), spread(rng, (3, 2), -1, 1)))
    yield Sample((_regular(rng, 2, 3, 3), spread(rng, (3, 2), -1, 1)))


_SOLVE: dict[str, Any] = {
    "dtypes": REAL_LANES, "ulps": 256, "scale": lambda a, b, **kw: np.abs(a).sum() + np.abs(b).sum(),
    "differentiable": (0, 1), "samples": _solve_samples,
    "refusals": (
        Refusal((np.ones((2, 3), np.float32), np.ones(2, np.float32)), ShapeError),
        Refusal((np.eye(2, dtype=np.float32), np.ones(3, np.float32)), ShapeError),
        Refusal((np.eye(2, dtype=np.float16), np.ones(2, np.float32)), DtypeError),
        Refusal((np.zeros((2, 2), np.float32), np.ones(2, np.float32)), FactorizationError),
    ),
}


@operation("host", name="linalg.solve", primitive=solve_p, **_SOLVE,
           reference=lambda a, b: np.linalg.solve(a, b) if b.ndim > 1 else np.linalg.solve(a, b[:, None])[..., 0])
def solve(a, b, *, stream=None):
    """Return the solutions x of ``a @ x = b``.

    Parameters
    ----------
    a : Tensor
        Square matrices (..., n, n); float32 or float64.
    b : Tensor
        A vector (n,), or matrices (..., n, k) whose leading axes broadcast with those of `a`.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor

    Raises
    ------
    FactorizationError
        If a matrix is singular.
    ShapeError, DtypeError
        If the operands do not fit each other, or the dtype is another one.
    """
    return _solved(a, b, "solve", stream)


@operation("host", name="linalg.solve_triangular", primitive=solve_p, **_SOLVE,
           reference=lambda a, b: np.linalg.solve(np.tril(a), b) if b.ndim > 1
           else np.linalg.solve(np.tril(a), b[:, None])[..., 0])
def solve_triangular(a, b, *, upper=False, stream=None):
    """Return the solutions x of ``a @ x = b`` for triangular matrices.

    Parameters
    ----------
    a, b : Tensor
        As for :func:`solve`.
    upper : bool
        Which triangle of `a` is read.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor

    Raises
    ------
    FactorizationError
        If a matrix is singular.
    ShapeError, DtypeError
        If the operands do not fit each other, or the dtype is another one.
    """
    a = _matrices(a, "solve_triangular", REAL_LANES, True)
    return _solved(ops.triu(a) if upper else ops.tril(a), b, "solve_triangular", stream)


def _determined(a, op):
    """Return the operand in a dtype that LAPACK takes, and the dtype of the result."""
    a = as_operand(a, op)
    if a.dtype.kind == "c":
        raise DtypeError(f"[linalg::{op}] Complex inputs are not supported.", op=op, dtypes=(a.dtype,))
    result = a.dtype if a.dtype.kind == "f" else dtypes.float32
    return _matrices(astype(a, promote_types(result, dtypes.float32)), op, REAL_LANES, True), result


_DETERMINED: dict[str, Any] = {
    "differentiable": (0,), "dtypes": FLOATING + INTEGER, "ulps": 64, "samples": _square_samples(_regular),
    "refusals": (Refusal((np.ones(3),), ShapeError), Refusal((np.ones((2, 3)),), ShapeError),
                 Refusal((np.ones((2, 2), np.complex64),), DtypeError)),
    "scale": lambda a: np.prod(np.abs(a).sum(-1), -1) + 1,
}


@operation("host", name="linalg.det", primitive=det_p, reference=np.linalg.det, **_DETERMINED)
def det(a, *, stream=None):
    """Return determinants of square matrices.

    Parameters
    ----------
    a : Tensor
        Of shape (..., n, n), real.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError, DtypeError
        If there are no square matrices, or they are complex.
    """
    a, result = _determined(a, "det")
    return astype(apply(det_p, (a,), (), stream), result)


@operation("host", name="linalg.slogdet", primitive=slogdet_p, reference=lambda a: tuple(np.linalg.slogdet(a)),
           **_DETERMINED)
def slogdet(a, *, stream=None):
    """Return signs and logarithms of the absolute values of determinants; parameters as :func:`det`.

    Returns
    -------
    tuple of Tensor
    """
    a, result = _determined(a, "slogdet")
    return tuple(astype(x, result) for x in apply(slogdet_p, (a,), (), stream))


# ------------------------------------------------------------------ norms and products

def _vector_norm(a, order, axes, keepdims):
    size = abs(a)
    if order in (None, 2):
        return sqrt(ops.sum(square(size), axes, keepdims))
    if order == math.inf:
        return ops.max(size, axes, keepdims)
    if order == -math.inf:
        return ops.min(size, axes, keepdims)
    if order == 0:
        return astype(ops.sum(not_equal(a, 0), axes, keepdims), size.dtype)
    if order == 1:
        return ops.sum(size, axes, keepdims)
    return power(ops.sum(power(size, order), axes, keepdims), 1.0 / order)


def _matrix_norm(a, order, axes, keepdims):
    rows, columns = axes
    if order in ("f", "fro"):
        return _vector_norm(a, None, axes, keepdims)
    if order in ("nuc", 2, -2):
        rest = [k for k in range(a.ndim) if k not in axes]
        s = svd(ops.transpose(a, [*rest, rows, columns]), False)
        found = ops.sum(s, -1) if order == "nuc" else (ops.max if order > 0 else ops.min)(s, -1)
    else:
        inner, outer = (rows, columns) if math.fabs(order) == 1 else (columns, rows)
        sums = ops.sum(abs(a), inner, True)
        found = (ops.max if order > 0 else ops.min)(sums, outer, True)
        return found if keepdims else squeeze(found, axes)
    if keepdims:
        return reshape(found, tuple(1 if k in axes else n for k, n in enumerate(a.shape)))
    return found


def _norm_samples(rng):
    for order in (None, 1, 2, 3, 0, -1, 0.5, math.inf, -math.inf):
        yield Sample((spread(rng, (5,), 0.2, 2), order))
        yield Sample((spread(rng, (3, 4), 0.2, 2), order), {"axis": 0, "keepdims": True})
    for order in (None, "fro", "nuc", 1, -1, 2, -2, math.inf, -math.inf):
        yield Sample((spread(rng, (3, 4), -2, 2), order))
        yield Sample((spread(rng, (3, 2, 4), -2, 2), order), {"axis": [0, 2], "keepdims": True})
    yield Sample((spread(rng, (2, 3, 4), -2, 2),))


@operation("reduce", name="linalg.norm", dtypes=REAL_LANES, samples=_norm_samples, ulps=64,
           reference=lambda a, ord=None, axis=None, keepdims=False: np.linalg.norm(
               a if axis is not None or ord is not None else a.ravel(), ord,
               tuple(axis) if isinstance(axis, list) else axis, keepdims),
           refusals=(Refusal((np.ones((2, 2)), 3), InvalidValueError), Refusal((np.ones(2), "fro"), InvalidValueError),
                     Refusal((np.ones((2, 2, 2)), 2), InvalidValueError),
                     Refusal((np.ones((2, 2)), "max"), InvalidValueError),
                     Refusal((np.ones((2, 2)), None, 2), AxisError)))
def norm(a, /, ord=None, axis=None, keepdims=False, *, stream=None):
    """Return norms of vectors or matrices.

    Parameters
    ----------
    a : Tensor
    ord : int, float, inf, -inf, "fro" or "nuc", optional
        Of vectors, ``sum(abs(a) ** ord) ** (1 / ord)``, with its limits at 0 and infinity; 2 by default. Of matrices,
        "fro" by default, the sum of singular values ("nuc"), the extreme singular value (2, -2), or the extreme sum of
        a column (1, -1) or row (inf, -inf).
    axis : int or sequence of int, optional
        One axis for vectors, two for matrices. By default all axes.
    keepdims : bool
        Keep these axes with extent 1.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor
        Real; float32 for integers.

    Raises
    ------
    InvalidValueError
        If there is no such norm, or more than two axes.
    AxisError
        If there is no such axis.
    """
    a = as_operand(a, "norm")
    a = a if a.dtype.kind in "fc" else astype(a, dtypes.float32)
    axes = normalize_axes(axis, a.ndim, "norm")
    if ord is None:
        return _vector_norm(a, None, axes, keepdims)
    if isinstance(ord, str) and (len(axes) != 2 or ord not in ("f", "fro", "nuc")):
        raise InvalidValueError(f"[linalg::norm] Norm {ord!r} only supported for matrices, as 'fro' or 'nuc', but "
                                f"received {len(axes)} axis/axes.", op="norm", ord=ord)
    if len(axes) > 2:
        raise InvalidValueError("[linalg::norm] Received too many axes for norm.", op="norm", axis=axis)
    if len(axes) < 2:
        return _vector_norm(a, ord, axes, keepdims)
    if not isinstance(ord, str) and ord not in (1, -1, 2, -2, math.inf, -math.inf):
        raise InvalidValueError(f"[linalg::norm] Invalid ord {ord} for matrix norm.", op="norm", ord=ord)
    if axis is not None and not hasattr(axis, "__index__"):  # rows and columns as given, not in ascending order
        axes = tuple(normalize_axis(k, a.ndim, "norm") for k in axis)
    return _matrix_norm(a, ord, axes, keepdims)


def _in_space(x: np.ndarray, axis: int) -> np.ndarray:
    """Vectors of two or three components, moved from `axis` to the end and filled up to three."""
    x = np.moveaxis(x, axis, -1)
    return np.concatenate([x, np.zeros((*x.shape[:-1], 3 - x.shape[-1]), x.dtype)], -1)


@operation("elementwise", name="linalg.cross", dtypes=FLOATING + INTEGER, differentiable=(0, 1), ulps=4,
           scale=lambda a, b, axis=-1: np.max(np.abs(a)) * np.max(np.abs(b)),
           reference=lambda a, b, axis=-1: np.cross(_in_space(a, axis), _in_space(b, axis), axisc=axis),
           samples=lambda rng: (Sample((spread(rng, a, 0, 3), spread(rng, b, 0, 3)), kw) for a, b, kw in [
               ((3,), (3,), {}), ((2,), (2,), {}), ((2,), (3,), {}), ((4, 3), (3,), {}),
               ((3, 2), (3, 2), {"axis": 0})]),
           refusals=(Refusal((np.ones(4), np.ones(4)), ShapeError),
                     Refusal((np.ones(3), np.ones(3), 1), AxisError)))
def cross(a, b, axis=-1, *, stream=None):
    """Return cross products.

    Parameters
    ----------
    a, b : Tensor
        Of extent 3, or 2 with a third component of zero, along `axis`; the other axes broadcast.
    axis : int
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If an extent is neither.
    AxisError
        If there is no such axis.
    """
    operands = []
    for x in (as_operand(a, "cross"), as_operand(b, "cross")):
        moved = ops.moveaxis(x, normalize_axis(axis, x.ndim, "cross"), -1)
        if moved.shape[-1] not in (2, 3):
            raise ShapeError(f"[linalg::cross] The specified axis must have size 2 or 3, got shape {x.shape}",
                             op="cross", shapes=(x.shape,))
        parts = [squeeze(part, -1) for part in ops.split(moved, moved.shape[-1], -1)]
        operands.append(parts if len(parts) == 3 else [*parts, ops.zeros_like(parts[0])])
    (a0, a1, a2), (b0, b1, b2) = operands
    result = [subtract(multiply(a1, b2, stream=stream), multiply(a2, b1)),
              subtract(multiply(a2, b0), multiply(a0, b2)), subtract(multiply(a0, b1), multiply(a1, b0))]
    return ops.moveaxis(ops.stack(result, -1), -1, axis)
