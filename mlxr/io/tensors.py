"""The bridge between bytes and tensors: the only module of ``mlxr.io`` that knows the tensor core.

Must not know about files or file formats.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mlxr.core.dtype import ALL_DTYPES, bfloat16, uint16
from mlxr.core.tensor import Tensor, from_memory

__all__ = ["Memory", "Tensor", "host_array"]

_BY_NAME = {dtype.name: dtype for dtype in ALL_DTYPES}
_COMPLEX_ALIGNMENT = 4  # complex64 is a pair of float32
_NOTHING = bytes(16)  # what a tensor without elements points at


class Memory:
    """Read-only bytes of which tensors are made.

    Parameters
    ----------
    data : buffer of bytes
        Kept alive by the tensors.
    """

    def __init__(self, data: Any) -> None:
        self._data = data
        self._address = np.frombuffer(data, np.uint8).ctypes.data if memoryview(data).nbytes else 0

    def tensor(self, offset: int, shape: tuple[int, ...], dtype: str) -> Tensor:
        """Return the tensor whose row-major bytes begin at `offset`.

        It shares the memory, and its pages are not read, except that a bool tensor's bytes are checked, and that a
        tensor at an address its elements cannot have (not a multiple of their size) is copied to one that they can.

        Parameters
        ----------
        offset : int
            Checked by the caller, as is that the tensor ends inside the memory.
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
        if 0 in shape:
            return from_memory(_NOTHING, 0, shape, kind)
        alignment = _COMPLEX_ALIGNMENT if dtype == "complex64" else kind.itemsize
        if dtype != "bool" and (self._address + offset) % alignment == 0:
            return from_memory(self._data, offset, shape, kind)
        stored = np.frombuffer(self._data, np.uint8, math.prod(shape) * kind.itemsize, offset)
        if dtype == "bool":
            if stored.max() > 1:
                raise ValueError(f"a bool is stored as the byte {int(stored.max())}, neither 0 nor 1")
            return from_memory(self._data, offset, shape, kind)
        return from_memory(stored.copy(), 0, shape, kind)


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
