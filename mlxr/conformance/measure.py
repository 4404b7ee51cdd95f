"""Bring sample arrays to a dtype, and measure differences in units of the last place.

Shared by the conformance suite and the tests. Knows NumPy and the dtypes, nothing of ops, backends or upstream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mlxr.core import dtype as dtypes
from mlxr.core.dtype import Dtype

__all__ = [
    "DTYPES", "NUMPY", "PRECISION", "difference", "map_arrays", "round_to", "unit_in_last_place", "values_for",
    "worst_ulps",
]

NAMES = (
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32",
    "float64", "complex64",
)
DTYPES: dict[str, Dtype] = {name: getattr(dtypes, "bool_" if name == "bool" else name) for name in NAMES}
NUMPY = {name: np.dtype(name) for name in NAMES if name != "bfloat16"}
# Bits of the significand, and exponent of the smallest normal number.
PRECISION = {
    dtypes.float16: (11, -14), dtypes.bfloat16: (8, -126), dtypes.float32: (24, -126), dtypes.float64: (53, -1022),
    dtypes.complex64: (24, -126),
}


def round_to(values: np.ndarray, dtype: Dtype) -> np.ndarray:
    """Return float64 `values` rounded once, to nearest even, to a floating dtype; still float64."""
    values = np.asarray(values, np.float64)
    if dtype is not dtypes.bfloat16:
        with np.errstate(over="ignore"):
            return values.astype(NUMPY[dtype.name]).astype(np.float64)
    bits, lowest = PRECISION[dtype]
    exponent = np.maximum(np.frexp(values)[1] - 1, lowest)
    unit = np.ldexp(1.0, exponent - bits + 1)
    with np.errstate(invalid="ignore"):
        rounded = np.rint(values / unit) * unit
    rounded = np.where(np.abs(rounded) >= 2.0**128, np.copysign(np.inf, values), rounded)
    return np.where(np.isfinite(values), rounded, values)


def values_for(array: np.ndarray, dtype: Dtype) -> np.ndarray:
    """Return the sample values that `dtype` stands for: as NumPy holds them, bfloat16 as float64."""
    if array.dtype.kind in "biu":
        return array  # indices and masks
    if dtype.kind == "b":
        return array > 0
    if dtype.kind == "c":
        return (array + 0.5j * np.flip(array)).astype(np.complex64)
    if dtype.kind == "f":
        return round_to(array, dtype)
    whole = np.trunc(np.nan_to_num(array, posinf=3, neginf=-3))
    return (np.abs(whole) if dtype.kind == "u" else whole).astype(NUMPY[dtype.name])


def map_arrays(function: Callable[[np.ndarray], Any], value: Any) -> Any:
    """Return an argument with every ndarray in it (also within lists and tuples) replaced by ``function(array)``."""
    if isinstance(value, np.ndarray):
        return function(value)
    if isinstance(value, list) or (isinstance(value, tuple) and any(isinstance(v, np.ndarray) for v in value)):
        return type(value)(map_arrays(function, v) for v in value)
    return value


def unit_in_last_place(magnitude: np.ndarray, dtype: Dtype) -> np.ndarray:
    """Return the distance between neighbouring numbers of `dtype` near `magnitude`."""
    bits, lowest = PRECISION[dtype]
    exponent = np.maximum(np.frexp(np.asarray(magnitude, np.float64))[1] - 1, lowest)
    return np.ldexp(1.0, exponent - bits + 1)


def _ulps(a: np.ndarray, b: np.ndarray, same: np.ndarray, magnitude: np.ndarray, dtype: Dtype, scale: Any) -> Any:
    """Return elementwise distances in units of the last place of `magnitude` or `scale`; infinite where none helps."""
    finite = np.isfinite(a) & np.isfinite(b)
    if scale is not None:
        magnitude = np.maximum(magnitude, np.broadcast_to(np.asarray(scale, np.float64), magnitude.shape))
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(a - b) / unit_in_last_place(np.where(finite, magnitude, 1.0), dtype)
    return np.where(same, 0.0, np.where(finite, error, np.inf))


def worst_ulps(got: np.ndarray, wanted: np.ndarray, dtype: Dtype, scale: Any = None) -> float:
    """Return the largest error in units of the last place of max(abs(wanted), scale); infinite where no unit helps."""
    wanted = np.asarray(wanted)
    if wanted.size == 0:
        return 0.0
    if dtype.kind == "c":
        rounded = wanted.astype(np.complex64)
        magnitude = np.abs(wanted)
    else:
        rounded = round_to(wanted, dtype)
        magnitude = np.abs(np.asarray(wanted, np.float64))
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    return 0.0 if same.all() else float(np.max(_ulps(got, wanted, same, magnitude, dtype, scale)))


def difference(a: np.ndarray, b: np.ndarray, dtype: Dtype, scale: Any = None) -> np.ndarray:
    """Return the distances between two results in units of the last place of the larger one, or of `scale`.

    Booleans and integers differ by how far apart they are. NaN equals NaN.
    """
    if dtype.kind in "biu":
        return np.where(a == b, 0.0, np.abs(a.astype(np.float64) - b.astype(np.float64)))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.asarray(_ulps(a, b, same, np.maximum(np.abs(a), np.abs(b)), dtype, scale))
