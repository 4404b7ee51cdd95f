"""Launch plans of the elementwise primitives. Must not know what a function computes, only which kernel does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlxr.backends.metal.copy import LANES, REAL_DTYPES, parts_of_complex
from mlxr.backends.metal.launch import (
    Argument,
    Launch,
    Layout,
    ceil_div,
    check_dtypes,
    check_size,
    layout,
    lowest,
    plan,
    refuse,
    strided,
)
from mlxr.core import dtype
from mlxr.core.dtype import ALL_DTYPES, Dtype
from mlxr.core.tensor import Tensor

__all__ = ["BINARY", "UNARY", "bound"]

# In the order of the enums in metal/kernels/elementwise.metal.
UNARY = (
    "abs", "negative", "sign", "square", "sqrt", "rsqrt", "reciprocal", "exp", "expm1", "log", "log2", "log10", "log1p",
    "sin", "cos", "tan", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh",
    "sigmoid", "erf", "erfinv", "floor", "ceil", "trunc", "rint", "bitwise_invert", "imag", "relu", "silu", "gelu",
    "gelu_tanh", "gelu_sigmoid", "softplus", "logical_not", "isnan", "isinf", "isfinite", "isposinf", "isneginf",
)
BINARY = (
    "add", "subtract", "multiply", "divide", "floor_divide", "remainder", "power", "maximum", "minimum", "logaddexp",
    "arctan2", "bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift", "equal", "not_equal", "less",
    "less_equal", "greater", "greater_equal", "logical_and", "logical_or", "logical_xor", "equal_nan",
)
# Unary ops that leave real operands as they are.
SAME = ("real", "conjugate")

# Threads of a group; elements that a thread takes (ELEMENTS in the kernels).
GROUP = 256
ELEMENTS = 4


def bound(op: str, space: Layout, tensors: Sequence[Tensor]) -> tuple[tuple[Argument, ...], bytes]:
    """Return the arguments for operands of a strided kernel, and its ``Strided<N>``.

    Parameters
    ----------
    op : str
    space : Layout
        Of `tensors`, in their order.
    tensors : sequence of Tensor
    """
    arguments = []
    starts = []
    for x, strides in zip(tensors, space.strides, strict=True):
        argument, start = lowest(op, x, space.shape, strides)
        arguments.append(argument)
        starts.append(start)
    return tuple(arguments), strided(space, starts)


def _launches(
    op: str, kernel: str, code: int, compute: Dtype, operands: tuple[Tensor, ...], out: Tensor, first: int = 0
) -> list[Launch]:
    """Return the launch of an elementwise kernel; operands from `first` on have their dtypes told."""
    if out.size == 0:
        return []
    check_size(op, (*operands, out))
    space = layout(out.shape, *operands)
    scalar = [space.is_scalar(k) for k in range(len(operands))]
    is_strided = not all(scalar[k] or space.is_dense(k) for k in range(len(operands)))
    if is_strided:
        arguments, params = bound(op, space, operands)
    else:
        arguments, params = operands, strided(Layout((out.size,), ((0,),) * len(operands)), (0,) * len(operands))
    told = operands[first:]
    constants: list[tuple[int, str, Any]] = [
        (0, "uint", code), (1, "uint", compute.code), (2, "uint", out.dtype.code), (5, "bool", is_strided),
    ]
    constants += [(3 + k, "uint", x.dtype.code) for k, x in enumerate(told)]
    constants += [(6 + k, "bool", scalar[first + k]) for k in range(len(told))]
    if first:
        constants.append((8, "bool", scalar[0]))
    return [
        Launch(
            "elementwise", f"{kernel}_{LANES[compute]}", tuple(constants), (*arguments, out, params),
            (ceil_div(out.size, GROUP * ELEMENTS), 1, 1), (GROUP, 1, 1),
        )
    ]


def _unary(op: str) -> None:
    code = UNARY.index(op) if op in UNARY else len(UNARY)

    @plan(op)
    def unary(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
        if op in ("real", "imag") and inputs[0].dtype is dtype.complex64:
            return parts_of_complex(inputs[0], outputs[0], int(op == "imag"))
        check_dtypes(op, inputs, REAL_DTYPES)
        compute = ALL_DTYPES[params[0]]
        chosen = code
        if op == "bitwise_invert" and compute is dtype.bool_:
            chosen = UNARY.index("logical_not")
        return _launches(op, "unary", chosen, compute, inputs, outputs[0])


def _binary(op: str) -> None:
    code = BINARY.index(op)

    @plan(op)
    def binary(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
        check_dtypes(op, inputs, REAL_DTYPES)
        return _launches(op, "binary", code, ALL_DTYPES[params[0]], inputs, outputs[0])


for _op in (*UNARY, *SAME):
    _unary(_op)
for _op in BINARY:
    _binary(_op)


@plan("select")
def select(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan x where the condition holds and y elsewhere; complex numbers move as 64-bit words."""
    x, y = inputs[1:]
    out = outputs[0]
    if out.dtype is dtype.complex64 and x.dtype is y.dtype:
        as_words = _launches("select", "select", 0, dtype.uint64, inputs, out, 1)
        word = dtype.uint64.code
        return [
            launch._replace(
                constants=tuple((k, kind, word if k in (2, 3, 4) else value) for k, kind, value in launch.constants)
            )
            for launch in as_words
        ]
    if out.dtype is dtype.complex64:
        raise refuse("select", "the Metal backend selects complex64 from complex64 only", inputs)
    check_dtypes("select", (x, y), REAL_DTYPES)
    return _launches("select", "select", 0, out.dtype, inputs, out, 1)
