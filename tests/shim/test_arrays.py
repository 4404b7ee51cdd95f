"""Arrays in and out: whose memory it is, how long it lives, and what cannot be shared."""

import ctypes
import gc
import mmap

import numpy as np
import pytest

from mlxr.errors import DtypeError, ExportError, InvalidValueError, UnsupportedOpError
from mlxr.shim import abi

DTYPES = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "c8"]


def layouts():
    x = np.arange(64 * 48, dtype=np.float32).reshape(64, 48)
    return {
        "contiguous": x,
        "transposed": x.T,
        "sliced": x[5:9, 7:40],
        "stepped": x[::3, ::2],
        "broadcast": np.broadcast_to(x[0], (16, 48)),
        "broadcast_both": np.broadcast_to(x[0, :1], (16, 48)),
        "scalar": x[3, 4:5].reshape(()),
        "one": x[:1, :1],
        "empty": x[:0],
        "three": x.reshape(4, 16, 48).transpose(1, 2, 0),
    }


@pytest.mark.parametrize("name", layouts())
@pytest.mark.usefixtures("shares_memory")
def test_memory_is_shared_in_and_out(lib, name):
    x = layouts()[name]
    y = lib.to_numpy(lib.from_numpy(x))
    assert y.ctypes.data == x.ctypes.data
    assert y.shape == x.shape
    if x.size:
        assert y.strides == x.strides
    assert not y.flags.writeable
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("name", layouts())
@pytest.mark.usefixtures("shares_memory")
def test_operations_read_shared_memory_right(lib, name):
    x = layouts()[name]
    a = lib.from_numpy(x)
    np.testing.assert_array_equal(lib.to_numpy(lib.binary(abi.ADD, a, a)), x + x)
    np.testing.assert_array_equal(lib.to_numpy(lib.contiguous(a)), x)
    np.testing.assert_allclose(lib.to_numpy(lib.reduce(abi.SUM, a)), x.sum(dtype=np.float64), rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_passes_through(lib, dtype):
    x = np.arange(24).reshape(4, 6).astype(dtype)
    for copy in (False, True) if lib.capability(abi.CAP_SHARE_HOST) else (True,):
        a = lib.from_numpy(x, copy=copy)
        y = lib.to_numpy(a)
        assert y.dtype == x.dtype
        assert (y.ctypes.data == x.ctypes.data) is not copy
        assert lib.describe(a).shared is not copy
        np.testing.assert_array_equal(y, x)


@pytest.mark.usefixtures("shares_memory")
def test_views_of_shared_memory_share_it(lib):
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    a = lib.from_numpy(x)
    assert lib.to_numpy(lib.transpose(a)).ctypes.data == x.ctypes.data
    assert lib.to_numpy(lib.reshape(a, (6, 4))).ctypes.data == x.ctypes.data
    assert lib.to_numpy(lib.slice(a, (1, 2), (4, 6), (1, 1))).ctypes.data == x[1:, 2:].ctypes.data
    assert lib.to_numpy(lib.contiguous(a)).ctypes.data == x.ctypes.data


def test_results_are_views_that_outlive_their_handle(lib):
    x = np.arange(1000, dtype=np.float32)
    a = lib.from_numpy(x, copy=True)
    y = lib.to_numpy(lib.binary(abi.ADD, a, a))
    del a
    gc.collect()
    for _ in range(20):  # what would reuse the memory if it had been given back
        lib.eval(lib.unary(abi.NEGATIVE, lib.from_numpy(x, copy=True)))
    np.testing.assert_array_equal(y, x + x)


@pytest.mark.usefixtures("shares_memory")
def test_owner_lives_until_upstream_lets_go(lib):
    before = lib.shared_owners()
    x = np.ones(100, np.float32)
    a = lib.from_numpy(x)
    b = lib.unary(abi.NEGATIVE, a)
    assert lib.shared_owners() == before + 1
    del a
    gc.collect()
    assert lib.shared_owners() == before + 1  # the graph of b still needs it
    lib.eval(b)
    lib.synchronize()
    assert lib.shared_owners() == before


@pytest.mark.usefixtures("shares_memory")
def test_host_memory_is_never_donated(lib):
    x = np.ones(1000, np.float32)
    y = lib.to_numpy(lib.unary(abi.NEGATIVE, lib.from_numpy(x)))
    assert (x == 1).all()
    assert (y == -1).all()
    assert y.ctypes.data != x.ctypes.data


@pytest.mark.usefixtures("shares_memory")
def test_refused_memory_gives_its_owner_back(lib):
    before = lib.shared_owners()
    with pytest.raises(UnsupportedOpError, match="negative"):
        lib.from_numpy(np.arange(10.0)[::-1])
    assert lib.shared_owners() == before


@pytest.mark.parametrize("offset", [1, 2, 3])
@pytest.mark.usefixtures("shares_memory")
def test_misaligned_memory_is_refused(lib, offset):
    raw = np.zeros(64, np.uint8)
    x = raw[offset : offset + 32].view(np.float32)
    with pytest.raises(UnsupportedOpError, match="aligned"):
        lib.from_numpy(x)
    np.testing.assert_array_equal(lib.to_numpy(lib.from_numpy(x, copy=True)), x)


@pytest.mark.usefixtures("shares_memory")
def test_memory_with_an_unreadable_word_in_front_is_refused(lib):
    page = mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    with mmap.mmap(-1, 2 * page) as block:
        start = ctypes.addressof(ctypes.c_char.from_buffer(block))
        assert libc.mprotect(start, page, 0) == 0
        try:
            with pytest.raises(UnsupportedOpError, match="8 bytes before"):
                lib.share(block, start + page, (16,), None, abi.FLOAT32)
            a = lib.share(block, start + page + 8, (16,), None, abi.FLOAT32)
            assert (lib.to_numpy(lib.contiguous(a)) == 0).all()
            del a
        finally:
            assert libc.mprotect(start, page, mmap.PROT_READ | mmap.PROT_WRITE) == 0
        gc.collect()
        lib.collect()


def test_bfloat16_has_no_numpy_dtype(lib, array):
    a = lib.cast(abi.ASTYPE, array([1.5, -2.0], np.float32), abi.BFLOAT16)
    with pytest.raises(ExportError):
        lib.to_numpy(a)
    bits = lib.to_numpy(lib.cast(abi.VIEW, a, abi.UINT16))
    np.testing.assert_array_equal(bits, np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16)


def test_describe_does_not_evaluate(lib, array):
    a = array(np.ones((3, 4), np.float32))
    b = lib.binary(abi.ADD, a, a)
    what = lib.describe(b)
    assert (what.shape, what.strides, what.dtype) == ((3, 4), (), abi.FLOAT32)
    assert not what.available
    assert what.address == 0
    lib.eval(b)
    what = lib.describe(b)
    assert what.available
    assert what.strides == (4, 1)
    assert what.address != 0


def test_bad_descriptions_are_refused(lib):
    x = np.zeros(4, np.float32)
    with pytest.raises(DtypeError):
        lib.copy(x.ctypes.data, (4,), 14)
    with pytest.raises(InvalidValueError):
        lib.copy(x.ctypes.data, (-4,), abi.FLOAT32)
    with pytest.raises(InvalidValueError):
        lib.copy(0, (4,), abi.FLOAT32)
    with pytest.raises(InvalidValueError):
        lib.share(x, 0, (4,), None, abi.FLOAT32)
    with pytest.raises(InvalidValueError, match="32"):
        lib.copy(x.ctypes.data, (1,) * 33, abi.FLOAT32)
    with pytest.raises(UnsupportedOpError):
        lib.from_numpy(np.zeros(3, np.complex128))


@pytest.mark.usefixtures("shares_memory")
def test_shared_memory_is_not_upstreams(lib):
    lib.clear_cache()
    before = lib.memory(abi.MEMORY_ACTIVE)
    shared = lib.from_numpy(np.ones(1 << 20, np.float32))
    assert lib.memory(abi.MEMORY_ACTIVE) == before
    del shared


def test_memory_figures(lib):
    x = np.ones(1 << 20, np.float32)
    lib.clear_cache()
    before = lib.memory(abi.MEMORY_ACTIVE)
    a = lib.from_numpy(x, copy=True)
    assert lib.memory(abi.MEMORY_ACTIVE) - before >= x.nbytes
    lib.set_memory(abi.MEMORY_PEAK, 0)
    b = lib.unary(abi.EXP, a)
    lib.eval(b)
    assert lib.memory(abi.MEMORY_PEAK) >= before + 2 * x.nbytes
    del a, b
    assert lib.memory(abi.MEMORY_ACTIVE) - before < x.nbytes
    limit = lib.memory(abi.MEMORY_LIMIT)
    assert lib.set_memory(abi.MEMORY_LIMIT, limit - 1) == limit
    assert lib.set_memory(abi.MEMORY_LIMIT, limit) == limit - 1
    for figure, value in ((abi.MEMORY_PEAK, 5), (abi.MEMORY_ACTIVE, 0), (77, 0)):
        with pytest.raises(InvalidValueError):
            lib.set_memory(figure, value)
    with pytest.raises(UnsupportedOpError):
        lib.memory(abi.MEMORY_CACHE_LIMIT)
