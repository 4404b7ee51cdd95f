"""What the tests of the shim share: the loaded library, and programs in processes of their own.

Nothing here may import `mlx.core`: some tests are about which of the two is loaded first.
"""

import importlib.util
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from mlxr import shim
from mlxr.shim import abi

REPOSITORY = pathlib.Path(__file__).parents[2]
NOT_BUILT = "the shim is not built: run `make shim`"

PREAMBLE = """
import numpy as np
from mlxr import shim
from mlxr.shim import abi
lib = shim.load()
def given(x): return lib.from_numpy(x, copy=not lib.capability(abi.CAP_SHARE_HOST))
def array(x, dtype=None): return lib.from_numpy(np.asarray(x, dtype), copy=True)
"""


@pytest.fixture(scope="session")
def library_file():
    """The path of the built library."""
    if not shim.available():
        pytest.skip(NOT_BUILT)
    return shim.library_path()


@pytest.fixture(scope="session")
def lib(library_file):
    """The loaded library."""
    return shim.load()


@pytest.fixture(scope="session")
def build():
    """The build script, as a module."""
    spec = importlib.util.spec_from_file_location("shim_build", REPOSITORY / "shim" / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def shares_memory(lib):
    """The library shares the caller's memory, and its arrays have addresses that the host reads."""
    if not lib.capability(abi.CAP_SHARE_HOST):
        pytest.skip("needs arrays in host memory, which this build of upstream (CUDA, Metal) does not have")


@pytest.fixture
def given(lib):
    """Make an array on NumPy's memory where the library shares it, on a copy elsewhere."""
    return lambda x: lib.from_numpy(x, copy=not lib.capability(abi.CAP_SHARE_HOST))


@pytest.fixture
def array(lib):
    """Make an array from anything that NumPy takes, by copying."""

    def make(x, dtype=None):
        return lib.from_numpy(np.asarray(x, dtype), copy=True)

    return make


@pytest.fixture
def get(lib):
    """Evaluate an array and return it as a NumPy array."""
    return lib.to_numpy


@pytest.fixture
def run_program(library_file):
    """Run Python code in a process of its own, after the preamble; return what it printed. Fails if it crashes."""

    def run(code, *, before="", preamble=PREAMBLE, timeout=60, expect=0, env=None):
        result = subprocess.run(
            [sys.executable, "-c", before + preamble + code],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=REPOSITORY,
            env=env,
        )
        status = result.returncode
        name = signal.Signals(-status).name if status < 0 else f"status {status}"
        assert status == expect, f"ended with {name}:\n{result.stdout}\n{result.stderr}"
        return result.stdout

    return run
