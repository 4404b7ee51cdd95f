"""A device that runs launch plans on the software stand-in, without the Metal runtime.

Tensors of the device live in host memory; a primitive's plan runs through ``metal/standin/harness.py``. So public
functions of mlxr exercise plans and kernels, in any thread order, with or without the checker. The device is "metal" with
an index that no machine has, and leaves the real backend alone.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import sys
from pathlib import Path

import numpy as np

from mlxr.backends import registry
from mlxr.backends.base import Backend
from mlxr.backends.metal.launch import FAULT_BYTES, PLANS, At, Fault
from mlxr.core import device as devices
from mlxr.core.tensor import Tensor
from mlxr.errors import UnsupportedOpError

ROOT = Path(__file__).parents[2]
INDEX = 63
FAMILIES = ("copy", "elementwise", "indexing", "random", "reduce", "sort")

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
        from metal.standin import harness

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
