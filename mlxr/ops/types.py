"""Questions about dtypes that take tensors too."""

from __future__ import annotations

import functools

from mlxr.core.dtype import Dtype, promote_types
from mlxr.core.tensor import Tensor
from mlxr.errors import ArgumentTypeError, InvalidValueError

__all__ = ["can_cast", "isdtype", "result_type"]

KINDS = {
    "bool": "b", "signed integer": "i", "unsigned integer": "u", "integral": "ui", "real floating": "f",
    "complex floating": "c", "numeric": "uifc",
}


def _dtype_of(value, op):
    if isinstance(value, Tensor):
        return value.dtype
    if isinstance(value, Dtype):
        return value
    # MLX raises ValueError here, and a dtype of another library is a wrong type: this is both.
    raise InvalidValueError(f"[{op}] Inputs must be arrays or dtypes, got {value!r}.", op=op)


def result_type(*arrays_and_dtypes):
    """Return the dtype to which arrays and dtypes promote together.

    Parameters
    ----------
    *arrays_and_dtypes : Tensor or Dtype
        At least one.

    Returns
    -------
    Dtype

    Raises
    ------
    InvalidValueError
        If there is none, or one is something else.
    """
    if not arrays_and_dtypes:
        raise InvalidValueError("[result_type] At least one array or dtype is required.", op="result_type")
    return functools.reduce(promote_types, (_dtype_of(value, "result_type") for value in arrays_and_dtypes))


def can_cast(from_, to):
    """Tell whether a dtype holds another one: whether they promote to it.

    Parameters
    ----------
    from_ : Tensor or Dtype
    to : Dtype

    Returns
    -------
    bool
    """
    return promote_types(_dtype_of(from_, "can_cast"), _dtype_of(to, "can_cast")) is to


def isdtype(dtype, kind):
    """Tell whether a dtype is of a kind.

    Parameters
    ----------
    dtype : Dtype
    kind : Dtype, str, or tuple of them
        "bool", "signed integer", "unsigned integer", "integral", "real floating", "complex floating" or "numeric". Of
        a tuple, one must fit.

    Returns
    -------
    bool

    Raises
    ------
    InvalidValueError
        If there is no such kind.
    """
    if not isinstance(dtype, Dtype):
        raise ArgumentTypeError(f"[isdtype] expected a dtype, got {dtype!r}", op="isdtype", dtype=dtype)
    if isinstance(kind, tuple):
        return any(isdtype(dtype, one) for one in kind)
    if isinstance(kind, Dtype):
        return dtype is kind
    if not isinstance(kind, str):
        raise InvalidValueError("[isdtype] `kind` must be a dtype, a string, or a tuple of dtypes and strings.",
                                op="isdtype", kind=kind)
    if kind not in KINDS:
        raise InvalidValueError(f"[isdtype] Unknown data type kind: {kind!r}.", op="isdtype", kind=kind)
    return dtype.kind in KINDS[kind]
