"""A short program that shows one difference: inputs, both results, and how far they are apart.

Knows cases and their encoding; nothing of how they were run.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlxr.conformance.cases import Encoded, decode
from mlxr.conformance.compare import Difference

__all__ = ["program", "shown"]

LONGEST = 400  # elements that are written out; more go in as bytes
LARGEST = 1 << 14  # bytes that are written out; more are taken from the suite
# Ops that upstream has no name for, as its own functions.
ELSEWHERE = {
    "core.rint": "m.round", "nn.gelu_sigmoid": "nn.gelu_fast_approx", "nn.gelu_tanh": "nn.gelu_approx",
}
LAYOUTS = {
    "transposed": "m.transpose(m.contiguous(m.transpose({x})))",
    "strided": "m.stack([{x}, {x}], -1)[..., 0]",
    "reversed": "m.contiguous({x}[..., ::-1])[..., ::-1]",
    "offset": "m.concatenate([{x}[:1], {x}], 0)[1:]",
    "permuted": "m.transpose(m.contiguous(m.transpose({x}, {there})), {back})",
    "broadcast": "m.broadcast_to({x}[:1], {shape})",
}
INDENT = " " * 4


def _name(dtype: str) -> str:
    return "bool_" if dtype == "bool" else dtype


def _elements(values: np.ndarray) -> str:
    return repr(values.tolist()).replace("nan", "float('nan')").replace("inf", "float('inf')")


def _in_bytes(value: Encoded) -> str:
    """Return an expression for the tensor that keeps every bit."""
    _, dtype, shape, data, layout = value
    stored = "uint16" if dtype == "bfloat16" else dtype
    raw = np.frombuffer(data, stored).reshape([1, *shape[1:]] if layout == "broadcast" else shape)
    text = np.ascontiguousarray(np.broadcast_to(raw, shape)).tobytes().hex()
    made = f'm.array(np.frombuffer(bytes.fromhex("{text}"), "{stored}").reshape({tuple(shape)}), m.{_name(stored)})'
    return made + ".view(m.bfloat16)" if dtype == "bfloat16" else made


def _tensor(value: Encoded, name: str, path: str, lines: list[str]) -> str:
    """Add the lines that make a tensor, and return its name."""
    _, dtype, shape, data, layout = value
    values = decode(value)
    # Lists go through float or int32, and have no shape where they are empty.
    listed = dtype in ("bool", "float32", "float16", "bfloat16", "int32") or (
        dtype == "complex64" and bool(np.isfinite(values).all())
    )
    if len(data) > LARGEST:
        stored = "float32" if dtype == "bfloat16" else dtype
        made = f'm.array(decode(CASE.{path}).astype("{stored}"), m.{_name(dtype)})'
    elif listed and 0 < values.size <= LONGEST:
        made = f"m.array({_elements(values)}, m.{_name(dtype)})"
    else:
        made = _in_bytes(value)
    lines.append(f"{name} = {made}")
    if layout != "row-major":
        ndim = len(shape)
        how = LAYOUTS[layout].format(
            x=name, shape=tuple(shape), there=[*range(1, ndim), 0], back=[ndim - 1, *range(ndim - 1)]
        )
        lines.append(f"{name} = {how}")
    return name


def _argument(value: Encoded, name: str, path: str, lines: list[str]) -> str:
    """Add the lines that make the tensors of an argument, and return an expression for it."""
    tag = value[0]
    if tag == "a":
        return _tensor(value, name, path, lines)
    if tag == "d":
        return f"m.{_name(value[1])}"
    if tag == "v":
        text = repr(value[1])
        return f"float({text!r})" if text in ("inf", "-inf", "nan") else text
    items = [_argument(v, f"{name}{k}", f"{path}[1][{k}]", lines) for k, v in enumerate(value[1])]
    if tag == "l":
        return f"[{', '.join(items)}]"
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


def shown(answer: tuple[Any, ...], result: int = 0) -> str:
    """Return an answer as people read it."""
    if answer[0] == "error":
        return f"{answer[1][0]}: {answer[2]}"
    if answer[0] != "values":
        return f"{answer[0]}: {answer[1]}"
    value = answer[1][min(result, len(answer[1]) - 1)]
    if value[0] == "v":
        return repr(value[1])
    values = decode(value)
    precision = {"float64": 17, "float32": 9, "complex64": 9}.get(value[1], 6)
    text = np.array2string(values, threshold=60, edgeitems=5, precision=precision, max_line_width=110)
    return f"{value[1]} {tuple(value[2])}\n{text}"


def program(found: Difference) -> str:
    """Return the program, as text."""
    case = found.case
    lines: list[str] = []
    args = [_argument(v, f"x{k}", f"args[{k}]", lines) for k, v in enumerate(case.args)]
    args += [f"{name}={_argument(v, name, f'kwargs[{name!r}]', lines)}" for name, v in case.kwargs.items()]
    suite = ""
    if any("CASE." in line for line in lines):
        suite = f'''
# The input is too large to be written down.
from mlxr.conformance.cases import cases, decode

CASE = next(c for c in cases("full", [{case.op!r}]) if c.key == {case.key!r})
'''
    body = "".join(f"{INDENT}{line}\n" for line in lines)
    name = case.op if case.op.startswith("nn.") else f"m.{case.op}"
    other = ELSEWHERE.get(case.op, name)
    if case.op == "equal_nan":
        other = "lambda a, b: m.equal(a, b) | (m.isnan(a) & m.isnan(b))"
    ours = 'REGISTRY["' + case.op + '"].function'
    ulps = "" if found.ulps is None else f"\n# largest difference: {found.ulps:.6g} ULP"
    facts = "\n".join(f"# {line}" for line in found.text.splitlines())
    expected = "\n".join(f"#     {line}" for line in shown(found.theirs, found.result).splitlines())
    got = "\n".join(f"#     {line}" for line in shown(found.ours, found.result).splitlines())
    return f'''# {case.key}
{facts}{ulps}
# expected
{expected}
# got
{got}
import mlx.core as mx
import mlx.nn as nn
import numpy as np

import mlxr
from mlxr.ops.declare import REGISTRY
{suite}

def call(m, function):
{body}{INDENT}return function(m)({", ".join(args)})


def show(m, function):
    try:
        print(m.__name__, call(m, function))
    except Exception as error:
        print(m.__name__, type(error).__name__, error)


mx.set_default_device(mx.cpu)
show(mlxr, lambda m: {ours})
show(mx, lambda m: {other})
'''
