"""Linear algebra under MLX's name ``mlxr.linalg``: see mlxr/ops/linalg.py."""

from mlxr.ops.linalg import (
    cholesky,
    cholesky_inv,
    cross,
    det,
    eig,
    eigh,
    eigvals,
    eigvalsh,
    inv,
    lu,
    lu_factor,
    norm,
    pinv,
    qr,
    slogdet,
    solve,
    solve_triangular,
    svd,
    tri_inv,
)

__all__ = [
    "cholesky", "cholesky_inv", "cross", "det", "eig", "eigh", "eigvals", "eigvalsh", "inv", "lu", "lu_factor", "norm",
    "pinv", "qr", "slogdet", "solve", "solve_triangular", "svd", "tri_inv",
]
