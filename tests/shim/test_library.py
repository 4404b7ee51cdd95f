"""The built library: what it exports, what it agrees to serve, and its ABI against the one on record."""

import os
import pathlib
import shutil
import subprocess

import pytest

from mlxr.shim import abi
from mlxr.shim.errors import AbiError
from mlxr.shim.native import UPSTREAM_FUNCTIONS

REPOSITORY = pathlib.Path(__file__).parents[2]
DUMP = REPOSITORY / "tests" / "golden" / "shim" / "mlxr_shim-1.abi"


def exported(library_file):
    """The names that a library defines for others."""
    nm = shutil.which("nm") or pytest.skip("no nm")
    output = subprocess.run([nm, "-D", "--defined-only", library_file], check=True, capture_output=True, text=True)
    return {line.split()[-1].split("@")[0] for line in output.stdout.splitlines()}


def test_exports_are_the_header_and_nothing_else(library_file):
    assert exported(library_file) - {"MLXR_1.0"} == set(UPSTREAM_FUNCTIONS)


def test_symbols_carry_a_version(library_file):
    output = subprocess.run(
        ["nm", "-D", "--with-symbol-versions", library_file], check=True, capture_output=True, text=True
    )
    lines = [line for line in output.stdout.splitlines() if " T mlxr_" in line]
    assert len(lines) == len(UPSTREAM_FUNCTIONS)
    assert all("@@MLXR_1.0" in line for line in lines)


def test_versions(lib):
    f = lib.functions
    assert f.mlxr_abi_version() == abi.ABI_MAJOR << 16 | abi.ABI_MINOR
    assert f.mlxr_upstream_version_compiled() == f.mlxr_upstream_version_loaded()
    assert f.mlxr_upstream_version_loaded().decode() == lib.upstream_version


@pytest.mark.parametrize("want", [0, (abi.ABI_MAJOR + 1) << 16, abi.ABI_MAJOR << 16 | (abi.ABI_MINOR + 1)])
def test_other_abi_is_refused(lib, want):
    with pytest.raises(AbiError, match="the caller wants"):
        lib.check(lib.functions.mlxr_init(want))
    assert lib.functions.mlxr_init(abi.ABI_MAJOR << 16 | abi.ABI_MINOR) == abi.OK


def test_nothing_works_before_init(run_program):
    code = """
import ctypes
from mlxr.shim import abi, binding
f = ctypes.CDLL(str(binding.library_path()))
from mlxr.shim.native import UPSTREAM_FUNCTIONS
half = {name: abi.PROTOTYPES[name] for name in UPSTREAM_FUNCTIONS}
for name, (result, arguments) in half.items():
    getattr(f, name).argtypes, getattr(f, name).restype = arguments, result
free = {"mlxr_abi_version", "mlxr_init", "mlxr_upstream_version_compiled", "mlxr_upstream_version_loaded",
        "mlxr_last_error_code", "mlxr_last_error", "mlxr_supports", "mlxr_released", "mlxr_live_handles"}
for name, (result, arguments) in half.items():
    if name in free: continue
    zeros = [None if a is ctypes.c_void_p else a(1).value for a in arguments]
    status = getattr(f, name)(*zeros)
    assert status == (0 if name in abi.MAKERS else abi.E_STATE), name
    assert f.mlxr_last_error_code() == abi.E_STATE, name
print("done")
"""
    assert run_program(code, preamble="") == "done\n"


def test_capabilities(lib):
    assert lib.capability(abi.CAP_UPSTREAM) == 1
    assert lib.capability(abi.CAP_CPU_COUNT) == lib.device_count(abi.CPU) == 1
    assert lib.capability(abi.CAP_GPU_COUNT) == lib.device_count(abi.GPU)
    assert lib.capability(abi.CAP_MEMORY_LIMIT) > 1 << 28
    assert "device_name" in lib.device_info(abi.CPU)


def test_supports_knows_every_operation_and_no_other(lib):
    for name, value in vars(abi).items():
        if isinstance(value, int) and value >= 0x100 and name.isupper() and not name.startswith("METAL_"):
            assert lib.supports(value, abi.FLOAT32), name
    for unknown in (0, 0xFF, abi.IMAG + 1, abi.RIGHT_SHIFT + 1, abi.ARANGE + 1, 0xFFFF, -1):
        assert not lib.supports(unknown, abi.FLOAT32)
    assert not lib.supports(abi.ADD, 14)
    assert not lib.supports(abi.ADD, abi.FLOAT32, 7)
    assert not lib.supports(abi.INV, abi.FLOAT32, abi.GPU)


def test_abi_against_the_record(library_file, tmp_path):
    """Against the recorded dump: additions only. To record the present ABI: MLXR_UPDATE_GOLDEN=1 pytest ..."""
    if not (shutil.which("abidw") and shutil.which("abidiff")):
        pytest.skip("abigail-tools (abidw, abidiff) is not installed")
    now = tmp_path / "now.abi"
    headers = REPOSITORY / "shim" / "include"
    options = ["--no-corpus-path", "--no-comp-dir-path", "--short-locs", "--drop-private-types"]
    subprocess.run(["abidw", *options, "--headers-dir", headers, "--out-file", now, library_file], check=True)
    if os.environ.get("MLXR_UPDATE_GOLDEN"):
        shutil.copyfile(now, DUMP)
    result = subprocess.run(["abidiff", "--no-added-syms", DUMP, now], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
