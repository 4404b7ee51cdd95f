"""Runs a primitive's launch plan on the software stand-in, on tensors of the CPU, and compares with the CPU backend.

The kernels run in three thread orders, and once more with every memory access checked.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from standin import harness

import mlxr as mx
from mlxr.backends.metal import attention, conv, matmul, quantized, rows  # noqa: F401 - they register the plans
from mlxr.backends.metal.launch import FAULT_BYTES, PLANS, At, Fault, Launch
from mlxr.core.dispatch import apply
from mlxr.core.dtype import Dtype
from mlxr.core.primitive import registry
from mlxr.core.tensor import Tensor

UNIT = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}  # half of a unit in the last place of 1
MODES = (("forward", False), ("reverse", False), ("shuffled", False), ("forward", True))


def tensor(rng: np.random.Generator, shape: Sequence[int], dtype: Dtype = mx.float32, low: float = -1.0,
           high: float = 1.0) -> Tensor:
    """Return random values between `low` and `high`."""
    return mx.array(rng.uniform(low, high, shape).astype(np.float32)).astype(dtype)


def _memory(x: Tensor, offset: int = 0) -> np.ndarray:
    """Return a tensor's bytes, from `offset` after its first element to the last one that lies above it."""
    above = sum((extent - 1) * step for extent, step in zip(x.shape, x.strides, strict=True) if step > 0)
    nbytes = (above + 1) * x.itemsize - offset if x.size else 0
    return np.frombuffer((ctypes.c_ubyte * nbytes).from_address(x.data_ptr + offset), np.uint8) if nbytes else (
        np.zeros(0, np.uint8))


def run(launches: Iterable[Launch], order: str = "forward", checked: bool = False) -> None:
    """Run launches in the memory of the CPU tensors that they name; raise the error of a wrong index."""
    faults: dict[Fault, np.ndarray] = {}

    def arrays(argument: Any) -> np.ndarray:
        if isinstance(argument, Fault):
            return faults.setdefault(argument, np.zeros(FAULT_BYTES, np.uint8))
        return _memory(*argument) if isinstance(argument, At) else _memory(argument)

    harness.run_launches(launches, arrays, checked, order)
    for fault, record in faults.items():
        error = fault.error(record.tobytes())
        if error:
            raise error


def agree(expected: Tensor, got: Tensor, ulps: float, scale: float | None, what: str) -> None:
    """Assert that two tensors hold the same, floating ones within `ulps` halves of the last place of `scale`.

    `scale` is the size that rounding errors refer to, where results are sums of larger terms; by default the largest
    element.
    """
    assert got.shape == expected.shape
    assert got.dtype is expected.dtype
    if expected.dtype.kind != "f":
        assert np.array_equal(np.array(expected), np.array(got)), what
        return
    a, b = (np.array(x.astype(mx.float32)).astype(np.float64) for x in (expected, got))
    if not a.size:
        return
    size = np.abs(np.where(np.isfinite(a), a, 0.0))
    bound = ulps * UNIT[expected.dtype.name] * np.maximum(size, size.max() if scale is None else scale)
    with np.errstate(invalid="ignore"):
        wrong = ~((np.abs(a - b) <= bound) | (np.isnan(a) & np.isnan(b)) | (a == b))
    assert not wrong.any(), (
        f"{what}: {wrong.sum()} of {wrong.size} differ, by up to {np.max((np.abs(a - b) / bound)[wrong]):.3g} times "
        f"the bound: {a[wrong][:4]} and {b[wrong][:4]} at {np.argwhere(wrong)[:4].tolist()}"
    )


def check(name: str, inputs: Sequence[Tensor], params: Sequence[Any] = (), ulps: float = 8.0,
          scale: float | None = None) -> None:
    """Compare a primitive's plan with the CPU backend, in all modes."""
    found = apply(registry[name], tuple(inputs), tuple(params))
    expected = found if isinstance(found, (tuple, list)) else (found,)
    for order, checked in MODES:
        outs = tuple(mx.full(e.shape, 7, dtype=e.dtype) for e in expected)
        run(PLANS[name](tuple(inputs), outs, tuple(params)), order, checked)
        for k, (e, out) in enumerate(zip(expected, outs, strict=True)):
            agree(e, out, ulps, scale, f"{name}, result {k}, {order}{', checked' * checked}")
