"""A device that runs launch plans on the software stand-in, without the Metal runtime.

Tensors of the device live in host memory; a primitive's plan runs through ``metal/standin/harness.py``. So public
functions of mlxr exercise plans and kernels, in any thread order, with or without the checker. The device is "metal"
with an index that no machine has, and leaves the real backend alone. Beside it: operands, and how results are compared.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import sys
from pathlib import Path

import numpy as np

import mlxr as mx
from mlxr.backends import registry
from mlxr.backends.base import Backend
from mlxr.backends.metal.launch import FAULT_BYTES, PLANS, At, Fault
from mlxr.core import device as devices
from mlxr.core.dispatch import binary_function, unary_function
from mlxr.core.primitive import registry as primitives
from mlxr.core.tensor import Tensor
from mlxr.errors import UnsupportedOpError

ROOT = Path(__file__).parents[2]
INDEX = 63
# What a function meets at the edges of its domain, and near them.
SPECIAL = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3.0, 10.0, -10.0, 1e-4, -1e-4, np.inf, -np.inf,
           np.nan, 100.0, -100.0, 30000.0, 1.0001, 0.9999]
FAMILIES = (
    "attention", "conv", "copy", "elementwise", "indexing", "matmul", "quantized", "random", "reduce", "rows", "scan",
    "sort",
)

if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))


def memory(x: Tensor, offset: int = 0) -> np.ndarray:
    """Return a tensor's bytes from `offset` after its first element to its last one."""
    if not x.size:
        return np.zeros(0, np.uint8)
    above = sum((extent - 1) * step for extent, step in zip(x.shape, x.strides, strict=True) if step > 0)
    nbytes = (above + 1) * x.itemsize - offset
    return np.frombuffer((ctypes.c_ubyte * nbytes).from_address(x.data_ptr + offset), np.uint8)


class PlanBackend(Backend):
    """Runs plans on the stand-in.

    Attributes
    ----------
    order, seed, checked
        As ``harness.run_launches`` takes them, for the launches that follow.
    ran : list of str
        Names of the primitives that ran.
    """

    def __new__(cls, device):
        return super().__new__(cls, "metal", device)

    def __init__(self, device):
        Backend.__init__(self, "metal", device)
        from standin import harness

        self.harness = harness
        self.cpu = devices.backend_of("cpu")
        self.order, self.seed, self.checked = "forward", 0, False
        self.ran = []

    def allocate(self, out):
        self.cpu.allocate(out)
        # A result that some kernel leaves unwritten has to be seen.
        if out.size:
            memory(out)[:] = 0xAA

    def copy_in(self, source, out):
        self.cpu.copy_in(source, out)

    def copy_out(self, x, destination):
        self.cpu.copy_out(x, destination)

    def launch(self, launches):
        faults = {}

        def arrays(argument):
            if isinstance(argument, Fault):
                return faults.setdefault(argument, np.zeros(FAULT_BYTES, np.uint8))
            return memory(*argument) if isinstance(argument, At) else memory(argument)

        self.harness.run_launches(launches, arrays, self.checked, self.order, self.seed)
        for fault, record in faults.items():
            error = fault.error(record.tobytes())
            if error:
                raise error

    def execute(self, primitive, inputs, outputs, params):
        if primitive.name not in PLANS:
            raise UnsupportedOpError(f"[{primitive.name}] no plan", op=primitive.name, backend="metal")
        for out in outputs:
            self.allocate(out)
        self.launch(PLANS[primitive.name](inputs, outputs, params))
        self.ran.append(primitive.name)

    def write(self, target, value):
        from mlxr.backends.metal.copy import write

        self.launch(write(target, value))

    def supports(self, primitive, dtypes):
        return primitive.name in PLANS


def device():
    """Return the stand-in device, making its backend at the first call."""
    for family in FAMILIES:
        name = f"mlxr.backends.metal.{family}"
        if importlib.util.find_spec(name):
            importlib.import_module(name)

    def bind(wanted):
        return PlanBackend(wanted) if wanted.name == "metal" and wanted.index == INDEX else registry.bind(wanted)

    devices.install_binder(bind)
    return devices.get_device("metal", INDEX)


def ordinals(values: np.ndarray, dtype) -> np.ndarray:
    """Return where float32 values stand among the values of a floating dtype: neighbours differ by one."""
    bits = np.ascontiguousarray(values, np.float32).view(np.int32).astype(np.int64)
    if dtype.name == "bfloat16":
        bits >>= 16
    elif dtype.name == "float16":
        bits = np.ascontiguousarray(values, np.float32).astype(np.float16).view(np.int16).astype(np.int64)
    sign = -(2**31) if dtype.name == "float32" else -(2**15)
    return np.where(bits < 0, sign - bits, bits)


def as_numpy(x) -> np.ndarray:
    """Return a tensor's elements; floating ones as float32, which holds them all."""
    return np.array(x.astype(mx.float32) if x.dtype.kind == "f" else x)


def agree(expected: Tensor, got: Tensor, ulps: float = 0, scale: float = 0.0) -> None:
    """Assert that two tensors have the same shape, dtype and elements.

    Parameters
    ----------
    expected, got : Tensor
        Of a host backend and of the stand-in.
    ulps : float
        How many values of the dtype floats may lie apart. NaN equals NaN; zeros of either sign are equal.
    scale : float
        Differences of up to `ulps` units in the last place of a number of this size are forgiven too.
    """
    assert got.shape == expected.shape
    assert got.dtype is expected.dtype
    a, b = (np.atleast_1d(as_numpy(x)) for x in (expected, got))
    if expected.dtype.kind != "f":
        assert np.array_equal(a, b, equal_nan=expected.dtype.kind == "c"), f"{a} != {b}"
        return
    nan = np.isnan(a)
    assert np.array_equal(nan, np.isnan(b)), f"NaN at {np.argwhere(nan != np.isnan(b))[:5].tolist()}"
    apart = np.abs(ordinals(np.where(nan, 0, a), expected.dtype) - ordinals(np.where(nan, 0, b), expected.dtype))
    bits = {"float32": 24, "float16": 11, "bfloat16": 8}[expected.dtype.name]
    with np.errstate(invalid="ignore"):
        near = np.abs(a - b) <= ulps * scale * 2.0**-bits
    wrong = (apart > ulps) & ~near & (a != b) & ~nan
    assert not wrong.any(), (
        f"{wrong.sum()} of {wrong.size} differ, by up to {apart[wrong].max()} ulp, e.g. "
        f"{[(x.item(), y.item()) for x, y in zip(a[wrong][:4], b[wrong][:4], strict=True)]} "
        f"at {np.argwhere(wrong)[:4].tolist()}"
    )


def bits_of(x: Tensor) -> np.ndarray:
    """Return a tensor's elements as a NumPy array that any device takes in: bfloat16 as its 16 bits."""
    return np.array(x.view(mx.uint16)) if x.dtype is mx.bfloat16 else np.array(x)


def elementwise(name: str):
    """Return the function of the elementwise primitive called `name`."""
    if hasattr(mx, name):
        return getattr(mx, name)
    from mlxr.backends.metal.elementwise import UNARY

    unary = name in UNARY
    return (unary_function if unary else binary_function)(primitives[name], name, "")


def values(dtype, rng: np.random.Generator, n: int = 300) -> Tensor:
    """Return `n` values of a dtype, special ones among them."""
    if dtype is mx.bool_:
        return mx.array(rng.random(n) > 0.5)
    if dtype.kind in "ui":
        low, high = mx.iinfo(dtype).min, mx.iinfo(dtype).max
        some = [low, low + 1, 0, 1, 2, 3, 7, high, high - 1] + ([-1, -2, -3, -7] if dtype.kind == "i" else [])
        small = rng.integers(-9 if dtype.kind == "i" else 0, 10, n)
        wide = rng.integers(low, high, n, dtype=np.dtype(dtype.name), endpoint=True)
        array = np.where(rng.random(n) < 0.5, small.astype(wide.dtype), wide)
        array[: len(some)] = some
        return mx.array(rng.permutation(array))
    array = rng.standard_normal(n) * np.exp(rng.uniform(-3, 4, n))
    array[: len(SPECIAL)] = SPECIAL
    return mx.array(rng.permutation(array).astype(np.float32)).astype(dtype)


def on(device, *tensors: Tensor) -> list[Tensor]:
    """Return tensors' elements on a device."""
    return [mx.array(bits_of(x), device=device).view(x.dtype) for x in tensors]
