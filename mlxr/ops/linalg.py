"""Linear algebra: factorizations by LAPACK, and what follows from them by ops."""

from __future__ import annotations

import numpy as np

from mlxr.core import dtype as dtypes
from mlxr.core.dispatch import apply, as_operand
from mlxr.errors import DtypeError, ShapeError
from mlxr.ops.declare import Refusal, Sample, operation, primitive, spread

__all__ = ["svd"]


def _matrices(a, op, lanes):
    """Return the operand, which must be a stack of matrices of one of the dtypes `lanes`."""
    a = as_operand(a, op)
    if a.dtype not in lanes:
        names = " or ".join(d.name for d in lanes)
        raise DtypeError(f"[linalg::{op}] Arrays must have type {names}. Received array with type {a.dtype.name}.",
                         op=op, dtypes=(a.dtype,))
    if a.ndim < 2:
        raise ShapeError(f"[linalg::{op}] Input array must have >= 2 dimensions. Received array with {a.ndim} "
                         "dimensions.", op=op, shapes=(a.shape,))
    return a


REAL_LANES = (dtypes.float32, dtypes.float64)
LANES = (*REAL_LANES, dtypes.complex64)


def _svd_infer(inputs, params):
    *parts, m, n = inputs[0].shape
    k, dtype = min(m, n), inputs[0].dtype
    s = ((*parts, k), dtypes.float32 if dtype is dtypes.complex64 else dtype)
    return (((*parts, m, m), dtype), s, ((*parts, n, n), dtype)) if params[0] else s


svd_p = primitive("svd", "host", _svd_infer)


@operation("host", name="linalg.svd", primitive=svd_p, dtypes=REAL_LANES, ulps=64,
           samples=lambda rng: (Sample((spread(rng, shape, -1, 1),), {"compute_uv": False})
                                for shape in ((3, 3), (4, 2), (2, 3, 5))),
           reference=lambda a, compute_uv: np.linalg.svd(a, compute_uv=False),
           scale=lambda a, compute_uv: np.abs(a).sum(),
           refusals=(Refusal((np.ones(3),), ShapeError), Refusal((np.ones((2, 2), np.int32),), DtypeError)))
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
