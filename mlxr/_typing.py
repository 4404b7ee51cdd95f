"""Types of arguments, for annotations. Must not import anything of mlxr when a program runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, Union

import numpy as np

if TYPE_CHECKING:
    from mlxr.core.device import Device, DeviceType, Stream
    from mlxr.core.tensor import Tensor

__all__ = ["ArrayLike", "BinaryFunction", "DeviceLike", "Scalar", "StreamLike", "UnaryFunction"]

Scalar: TypeAlias = bool | int | float | complex
ArrayLike: TypeAlias = Union["Tensor", Scalar, "np.ndarray[Any, Any]", "np.generic"]
DeviceLike: TypeAlias = Union["Device", "DeviceType", "Stream", str, None]
StreamLike: TypeAlias = Union["Stream", "Device", "DeviceType", str, None]
Shape: TypeAlias = int | Sequence[int]


class UnaryFunction(Protocol):
    """An elementwise op of one operand, such as :func:`mlxr.exp`."""

    __name__: str

    def __call__(self, a: ArrayLike, /, *, stream: StreamLike = None) -> Tensor:
        """Return the elementwise result."""


class BinaryFunction(Protocol):
    """An elementwise op of two operands, such as :func:`mlxr.add`."""

    __name__: str

    def __call__(self, a: ArrayLike, b: ArrayLike, stream: StreamLike = None) -> Tensor:
        """Return the elementwise result of the broadcast operands."""
