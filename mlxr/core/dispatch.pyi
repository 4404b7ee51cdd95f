from collections.abc import Sequence
from typing import Any

from mlxr._typing import ArrayLike, BinaryFunction, StreamLike, UnaryFunction
from mlxr.core.device import Device
from mlxr.core.dtype import Dtype
from mlxr.core.primitive import Primitive
from mlxr.core.tensor import Tensor

def product(p: Primitive, a: Any, b: Any, stream: StreamLike) -> Tensor | None: ...

# One tensor, or a tuple of them, as the primitive's `infer` says.
def apply(
    p: Primitive, inputs: tuple[Tensor, ...], params: tuple[Any, ...] = (), stream: StreamLike = None
) -> Any: ...
def create(
    p: Primitive,
    device: Device,
    shape: tuple[int, ...],
    dtype: Dtype,
    params: tuple[Any, ...] = (),
    inputs: tuple[Tensor, ...] = (),
) -> Tensor: ...
def unary_function(p: Primitive, name: str, doc: str) -> UnaryFunction: ...
def binary_function(p: Primitive, name: str, doc: str) -> BinaryFunction: ...
def as_operand(value: ArrayLike, op: str = "array") -> Tensor: ...
def as_operands(a: ArrayLike, b: ArrayLike, op: str = "array") -> tuple[Tensor, Tensor]: ...
def broadcast_shapes(*shapes: Sequence[int]) -> tuple[int, ...]: ...
