"""Handles: ownership, and every kind of number that is not a live handle."""

import ctypes
import gc
import pathlib
import threading

import numpy as np
import pytest

from mlxr.shim import abi

FUZZ = pathlib.Path(__file__).with_name("fuzz.py")


def raw(lib, x):
    """A handle that Python does not own."""
    array = lib.from_numpy(x, copy=True)
    lib.functions.mlxr_array_retain(array)  # `array` gives one ownership back when it dies
    return array.value


@pytest.fixture
def handle(lib):
    value = raw(lib, np.ones(4, np.float32))
    lib.collect()
    yield value
    lib.functions.mlxr_array_free(value)


def test_ownership_is_counted(lib, handle):
    f = lib.functions
    assert f.mlxr_array_retain(handle) == abi.OK
    assert f.mlxr_array_free(handle) == abi.OK
    assert f.mlxr_array_retain(handle) == abi.OK  # still alive
    assert f.mlxr_array_free(handle) == abi.OK
    assert f.mlxr_array_free(handle) == abi.OK
    assert f.mlxr_array_free(handle) == abi.E_HANDLE


def test_free_of_nothing(lib):
    assert lib.functions.mlxr_array_free(0) == abi.OK
    assert lib.functions.mlxr_array_free_many(None, 0) == abi.OK
    assert lib.functions.mlxr_array_free_many(None, 1) == abi.E_INVALID
    assert lib.functions.mlxr_array_free_many(None, -1) == abi.E_INVALID


def test_free_many_skips_bad_handles(lib):
    good = [raw(lib, np.ones(4, np.float32)) for _ in range(3)]
    live = lib.live_handles()
    mixed = (ctypes.c_uint64 * 6)(good[0], 0, 12345, good[1], good[0], good[2])
    assert lib.functions.mlxr_array_free_many(mixed, 6) == abi.E_HANDLE
    assert b"2 stale" in lib.functions.mlxr_last_error()
    assert lib.live_handles() == live - 3


def test_stale_handles_are_refused_everywhere(lib):
    stale = raw(lib, np.ones(4, np.float32))
    lib.functions.mlxr_array_free(stale)
    successor = raw(lib, np.zeros(4, np.float32))  # takes the slot over
    lib.collect()
    checked = 0
    for name, (_, arguments) in abi.PROTOTYPES.items():
        if name in abi.MAKERS and arguments and ctypes.c_uint64 in arguments and name != "mlxr_array_share":
            values = [stale if a is ctypes.c_uint64 else None if a is ctypes.c_void_p else 0 for a in arguments]
            result = getattr(lib.functions, name)(*values)
            assert not result, name
            if name != "mlxr_conv":  # looks at its parameters first
                assert lib.functions.mlxr_last_error_code() in (abi.E_HANDLE, abi.E_DTYPE), name
            checked += 1
    assert checked > 30
    info = abi.ArrayInfo(size=ctypes.sizeof(abi.ArrayInfo))
    assert lib.functions.mlxr_array_info_get(stale, ctypes.byref(info)) == abi.E_HANDLE
    assert lib.functions.mlxr_eval(ctypes.byref(ctypes.c_uint64(stale)), 1) == abi.E_HANDLE
    assert lib.functions.mlxr_array_retain(stale) == abi.E_HANDLE
    assert lib.functions.mlxr_array_free(successor) == abi.OK


def test_foreign_handles_are_refused(lib, handle):
    numbers = [1, 12345, id(lib), 1 << 63, (1 << 64) - 1, handle + 1, handle ^ 1 << 40, handle & 0xFFFFFFFF]
    for number in numbers:
        assert not lib.functions.mlxr_unary(abi.ABS, number, 0)
        assert lib.functions.mlxr_last_error_code() == abi.E_HANDLE


def test_python_owns_what_it_is_given(lib):
    live = lib.live_handles()
    a = lib.from_numpy(np.ones(4, np.float32), copy=True)
    b = lib.retain(a)
    assert b.value == a.value
    del a
    gc.collect()
    assert lib.live_handles() == live + 1
    np.testing.assert_array_equal(lib.to_numpy(b), 1)
    del b
    gc.collect()
    assert lib.live_handles() == live


def test_many_dead_arrays_are_given_back_without_being_asked(lib):
    a = lib.from_numpy(np.ones(4, np.float32), copy=True)
    before = lib.live_handles()
    for _ in range(2000):
        lib.unary(abi.ABS, a)
    assert lib.functions.mlxr_live_handles() < before + 300


def test_last_error_belongs_to_the_thread(lib):
    assert not lib.functions.mlxr_unary(abi.ABS, 12345, 0)
    seen = []

    def other():
        seen.append(lib.functions.mlxr_last_error_code())
        lib.functions.mlxr_unary(abi.ABS, 0, 0)
        seen.append(lib.functions.mlxr_last_error())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen[0] == abi.OK
    assert b"handle is 0" in seen[1]
    assert b"12345" in lib.functions.mlxr_last_error()


@pytest.mark.parametrize("seed", range(4))
def test_random_calls_survive(run_program, seed):
    code = f"import runpy, sys; sys.argv[1:] = ['{seed}', '4000']; runpy.run_path({str(FUZZ)!r}, run_name='__main__')"
    assert run_program(code, preamble="", timeout=300) == "survived\n"
