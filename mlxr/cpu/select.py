"""Which instruction set, which kernel modules, how many threads. Must not know about tensors or primitives.

``MLXR_ISA`` forces an instruction set; ``OMP_NUM_THREADS`` is honoured.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pathlib
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from mlxr.errors import BackendUnavailableError, InvalidValueError

# Families with a module of handlers in this package, in the order in which they register.
FAMILIES = ("reduce", "indexing", "matmul", "fused", "random", "sort", "conv", "quantized", "host")

X86_SETS = ("v2", "v3", "v4")


def built() -> list[str]:
    """Return the instruction sets whose kernels are in this installation, poorest first."""
    here = pathlib.Path(__file__).parent
    return [isa for isa in ("base", *X86_SETS) if any(here.joinpath(isa).glob("elementwise*.so"))]


def supported() -> list[str]:
    """Return the instruction sets that this processor runs, poorest first."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return ["base"]
    detect = importlib.import_module("mlxr.cpu.detect")
    return list(X86_SETS[: detect.x86_level() - 1])


def choose(isa: str | None = None) -> str:
    """Return the instruction set to use: `isa`, MLXR_ISA, or the richest that is built and runs here.

    Raises
    ------
    InvalidValueError
        If a set was asked for that is not built or does not run here.
    BackendUnavailableError
        If nothing that is built runs here.
    """
    usable = [name for name in built() if name in supported()]
    wanted = isa or os.environ.get("MLXR_ISA")
    if wanted:
        if wanted not in usable:
            raise InvalidValueError(
                f"instruction set {wanted!r} cannot be used: built {built()}, this processor runs {supported()}",
                isa=wanted,
            )
        return wanted
    if not usable:
        raise BackendUnavailableError(
            f"no CPU kernels run here: built {built()}, this processor runs {supported()}", device="cpu",
            reason="no kernels",
        )
    return usable[-1]


# How often an idle OpenMP thread looks for work before it sleeps: some 100 us. The runtime's own default is tens of
# milliseconds, during which it takes a processor from the rest of the program.
SPIN_COUNT = "5000"


@contextmanager
def _brief_spinning() -> Iterator[None]:
    """Let the OpenMP runtime spin briefly, unless the user chose otherwise; it reads this when it is loaded."""
    chosen = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ)
    if not chosen:
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
    try:
        yield
    finally:
        if not chosen:
            del os.environ["GOMP_SPINCOUNT"]


def load(isa: str, family: str) -> ModuleType:
    """Return the kernel module of `family` for an instruction set."""
    with _brief_spinning():
        return importlib.import_module(f"mlxr.cpu.{isa}.{family}")


def families() -> list[ModuleType]:
    """Return the modules with the handlers of each family."""
    return [importlib.import_module(f"mlxr.cpu.{name}") for name in FAMILIES]


def default_threads() -> int:
    """Return OMP_NUM_THREADS, or the number of processors this process may run on."""
    value = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if value.isdigit() and int(value) > 0:
        return int(value)
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
