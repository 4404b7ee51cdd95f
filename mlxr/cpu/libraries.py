"""The host family as functions on ndarrays: LAPACK and FFT, as NumPy carries them. Knows nothing of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["FUNCTIONS"]


def _svd(a: np.ndarray, compute_uv: bool) -> Any:
    return tuple(np.linalg.svd(a)) if compute_uv else np.linalg.svd(a, compute_uv=False)


def _solve(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.solve(a, b)


def _lu_factor(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factor a stack of matrices by elimination with row exchanges; NumPy hands out no LAPACK routine for it."""
    lu = np.array(a)
    *parts, m, n = lu.shape
    pivots = np.zeros((*parts, min(m, n)), np.uint32)
    for index in np.ndindex(*parts):
        x, pivot = lu[index], pivots[index]
        for k in range(min(m, n)):
            best = pivot[k] = k + int(np.argmax(np.abs(x[k:, k])))
            if best != k:
                x[[k, best]] = x[[best, k]]
            if x[k, k] != 0:
                x[k + 1:, k] /= x[k, k]
                x[k + 1:, k + 1:] -= np.outer(x[k + 1:, k], x[k, k + 1:])
    return lu, pivots


def _fft(a: np.ndarray, axes: tuple[int, ...], inverse: bool) -> np.ndarray:
    return (np.fft.ifftn if inverse else np.fft.fftn)(a, axes=axes)


# Primitive name -> function of the operands and the primitive's parameters.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "svd": _svd,
    "qr": lambda a: tuple(np.linalg.qr(a)),
    "inv": np.linalg.inv,
    "solve": _solve,
    "cholesky": np.linalg.cholesky,
    "eig": lambda a: tuple(np.linalg.eig(a)),
    "eigvals": np.linalg.eigvals,
    "eigh": lambda a, uplo: tuple(np.linalg.eigh(a, uplo)),
    "eigvalsh": np.linalg.eigvalsh,
    "lu_factor": _lu_factor,
    "slogdet": lambda a: tuple(np.linalg.slogdet(a)),
    "det": np.linalg.det,
    "fft": _fft,
    "rfft": lambda a, axis: np.fft.rfft(a, axis=axis),
    "irfft": lambda a, axis, n: np.fft.irfft(a, n, axis),
}
