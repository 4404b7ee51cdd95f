"""The bridge between bytes and tensors: the only module of ``mlxr.io`` that knows the tensor core.

Must not know about files or file formats.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mlxr.core.device import device_of
from mlxr.core.dtype import ALL_DTYPES, bfloat16, uint16
from mlxr.core.interop import from_memory, to_device
from mlxr.core.tensor import Tensor

__all__ = ["Tensor", "device_of", "host_array", "tensor_at", "to_device"]

_BY_NAME = {dtype.name: dtype for dtype in ALL_DTYPES}


def tensor_at(data: Any, offset: int, shape: tuple[int, ...], dtype: str) -> Tensor:
    """Return the tensor whose row-major bytes begin at `offset` of `data`.

    It shares the memory, whatever the address (kernels read any), and lives on the host. Its pages are not read,
    except that the bytes of a bool tensor are checked.

    Parameters
    ----------
    data : buffer of bytes
        Read-only; kept alive by the tensor.
    offset : int
        Checked by the caller, as is that the tensor ends inside `data`.
    shape : tuple of int
        Checked by the caller (:func:`mlxr.io.layout.byte_size`).
    dtype : str
        Name of an mlxr dtype.

    Returns
    -------
    Tensor

    Raises
    ------
    ValueError
        With the reason as text, if a bool is stored as neither 0 nor 1.
    """
    kind = _BY_NAME[dtype]
    if dtype == "bool" and 0 not in shape:
        largest = int(np.frombuffer(data, np.uint8, math.prod(shape), offset).max())
        if largest > 1:
            raise ValueError(f"a bool is stored as the byte {largest}, neither 0 nor 1")
    return from_memory(data, offset, shape, kind)


def host_array(tensor: Tensor) -> tuple[np.ndarray, str]:
    """Return a tensor's elements as a row-major NumPy array, and the name of its dtype.

    NumPy has no bfloat16: those elements come as uint16. The memory is shared where the layout allows.

    Parameters
    ----------
    tensor : Tensor

    Returns
    -------
    (numpy.ndarray, str)
    """
    name = tensor.dtype.name
    bits = tensor.view(uint16) if tensor.dtype is bfloat16 else tensor
    return np.asarray(bits, order="C"), name
