from collections.abc import Callable
from typing import Any

from mlxr.backends.base import Backend
from mlxr.core.device import Device
from mlxr.core.tensor import Tensor
from mlxr.shim import Array, Library

SIZES: tuple[int, int]
UNARY: dict[str, int]
BINARY: dict[str, int]
REDUCE: dict[str, int]
SCAN: dict[str, int]
LINALG: list[str]
EMPTY_TRAPS: set[int]
UPDATES: dict[str, int]
UNSIGNED: dict[int, int]
MANTISSA: dict[int, int]
COMPOSED: dict[str, Callable[..., Any]]
HANDLERS: dict[str, Callable[..., Any]]

class UpstreamBackend(Backend):
    @property
    def lib(self) -> Library: ...
    @property
    def stream(self) -> int: ...
    def __init__(self, device: Device) -> None: ...
    def handle(self, x: Tensor) -> Array: ...

def make(device: Device) -> UpstreamBackend: ...
