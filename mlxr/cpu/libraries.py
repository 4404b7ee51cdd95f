"""The host family as functions on ndarrays: LAPACK and FFT, as NumPy carries them. Knows nothing of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["FUNCTIONS"]


def _svd(a: np.ndarray, compute_uv: bool) -> Any:
    result = np.linalg.svd(a, full_matrices=True, compute_uv=compute_uv)
    return tuple(result) if compute_uv else result


# Primitive name -> function of the operands and the primitive's parameters.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "svd": _svd,
}
