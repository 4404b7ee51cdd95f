"""Memory in and out without a copy: NumPy, DLPack, buffers, array interface; and what has to copy, and says so."""

from __future__ import annotations

import gc
import sys
import weakref

import numpy as np
import pytest

import mlxr as mx
from mlxr.core.interop import from_memory
from mlxr.errors import ArgumentTypeError, ConversionError, ExportError, InvalidValueError, MlxrError, ShapeError

SHARED = ["bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32",
          "float64", "complex64"]


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


@pytest.fixture(autouse=True)
def _counter() -> None:
    mx.reset_copied_bytes()


@pytest.mark.parametrize("name", SHARED)
def test_numpy_round_trip_keeps_the_pointer(name) -> None:
    source = np.arange(24).astype(name).reshape(4, 6)
    dtype = getattr(mx, "bool_" if name == "bool" else name)
    x = mx.asarray(source, dtype)
    assert x.data_ptr == address(source)
    back = np.asarray(x)
    assert address(back) == address(source)
    assert back.dtype == source.dtype
    np.testing.assert_array_equal(back, source)
    assert mx.get_copied_bytes() == 0


@pytest.mark.parametrize("view", [
    lambda a: a.T, lambda a: a[::2], lambda a: a[::-1, ::-2], lambda a: a[1:, 2:5], lambda a: a[None, :, None],
    lambda a: a[2], lambda a: a[2, 3:3], lambda a: np.broadcast_to(a[0], (5, 6)),
])
def test_numpy_views_are_shared_with_their_strides(view) -> None:
    source = view(np.arange(24, dtype=np.float32).reshape(4, 6))
    x = mx.asarray(source)
    assert x.shape == source.shape
    if source.size:
        assert x.data_ptr == address(source)
    np.testing.assert_array_equal(np.array(x), source)
    np.testing.assert_array_equal(np.array(x + 1), source + 1)
    out = np.asarray(x)
    if source.size:
        assert address(out) == address(source)
        assert out.strides == source.strides
    assert mx.get_copied_bytes() == 0


def test_array_copies_numpy_as_upstream_does() -> None:
    source = np.ones(1000, np.float32)
    x = mx.array(source)
    assert mx.get_copied_bytes() == 4000
    source[:] = 5
    assert x.sum().item() == 1000


def test_tensor_sees_the_source_but_never_writes_it() -> None:
    source = np.zeros(4, np.float32)
    x = mx.asarray(source)
    source[1] = 7
    assert x.tolist() == [0, 7, 0, 0]
    x[0] = 3
    assert source.tolist() == [0, 7, 0, 0]
    assert x.tolist() == [3, 7, 0, 0]


def test_readonly_source_is_shared_and_handed_on_readonly() -> None:
    source = np.arange(5, dtype=np.int32)
    source.flags.writeable = False
    x = mx.asarray(source)
    assert x.data_ptr == address(source)
    assert not np.asarray(x).flags.writeable
    x += 1
    assert x.tolist() == [1, 2, 3, 4, 5]
    assert source.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["float16", "float32", "float64", "int64", "complex64", "bool"])
@pytest.mark.parametrize("skew", [1, 3])
def test_unaligned_memory_is_read_where_it_lies(name, skew) -> None:
    wanted = np.arange(1, 38).astype(name)
    raw = bytearray(skew) + bytearray(wanted.tobytes())
    source = np.frombuffer(raw, np.uint8)[skew:].view(name)
    x = mx.asarray(source, getattr(mx, "bool_" if name == "bool" else name))
    np.testing.assert_array_equal(np.array(x), wanted)
    np.testing.assert_array_equal(np.array(mx.concatenate([x, x])), np.concatenate([wanted, wanted]))
    np.testing.assert_array_equal(np.array(x[::3]), wanted[::3])
    np.testing.assert_array_equal(np.array(x == x), True)


def test_copy_argument() -> None:
    source = np.ones(10, np.float32)
    assert mx.asarray(source, copy=False).data_ptr == address(source)
    assert mx.asarray(source, copy=True).data_ptr != address(source)
    assert mx.get_copied_bytes() == 40
    with pytest.raises(InvalidValueError):
        mx.asarray(source, mx.float16, copy=False)
    with pytest.raises(InvalidValueError):
        mx.asarray([1.0, 2.0], copy=False)


def test_out_with_copy_argument() -> None:
    x = mx.ones((10,))
    assert address(x.__array__(copy=True)) != x.data_ptr
    assert mx.get_copied_bytes() == 40
    with pytest.raises((ExportError, ValueError)):
        x.astype(mx.bfloat16).__array__(copy=False)


def test_bfloat16_becomes_float32_in_numpy_and_has_no_buffer() -> None:
    x = mx.array([1.0, 2.5, -3.0]).astype(mx.bfloat16)
    assert np.array(x).dtype == np.float32
    assert np.array(x).tolist() == [1.0, 2.5, -3.0]
    with pytest.raises(ExportError) as caught:
        memoryview(x)
    assert caught.value.dtype is mx.bfloat16
    assert not hasattr(x, "__array_interface__")
    assert x.tolist() == [1.0, 2.5, -3.0]
    assert x[1].item() == 2.5


def test_array_interface_describes_the_memory() -> None:
    x = mx.arange(12, dtype=mx.int16).reshape(3, 4).T
    facts = x.__array_interface__
    assert facts["data"][0] == x.data_ptr
    assert facts["shape"] == (4, 3)
    assert facts["strides"] == (2, 8)
    assert np.dtype(facts["typestr"]) == np.int16


def test_buffer_protocol_both_ways() -> None:
    x = mx.arange(6, dtype=mx.int32).reshape(2, 3)
    view = memoryview(x)
    assert (view.shape, view.strides, view.format, view.itemsize) == ((2, 3), (12, 4), "i", 4)
    assert view.tolist() == [[0, 1, 2], [3, 4, 5]]
    y = mx.asarray(view)
    assert y.data_ptr == x.data_ptr
    z = mx.array(bytearray(b"\x01\x02\x03"))
    assert z.dtype is mx.uint8
    assert z.tolist() == [1, 2, 3]


def test_exported_buffer_keeps_its_values() -> None:
    x = mx.zeros((4,))
    view = np.asarray(x)
    x += 1
    assert x.tolist() == [1, 1, 1, 1]
    assert view.tolist() == [0, 0, 0, 0]


def test_memory_lives_as_long_as_anyone_uses_it() -> None:
    x = mx.ones((1000,)) * 3
    view = np.asarray(x)
    del x
    gc.collect()
    mx.clear_cache()
    trash = [mx.zeros((1000,)) for _ in range(10)]
    assert view.sum() == 3000
    assert len(trash) == 10


def test_source_is_released_with_the_last_tensor() -> None:
    class Owned(np.ndarray):
        pass

    source = np.ones(10, np.float32).view(Owned)
    ghost = weakref.ref(source)
    x = mx.asarray(source)
    y = x[2:]
    del source, x
    gc.collect()
    assert ghost() is not None or y.sum().item() == 8
    del y
    gc.collect()
    assert ghost() is None


class Producer:
    """A DLPack producer that is nobody's array class: NumPy's capsule behind our own object."""

    def __init__(self, array, versioned=True):
        self.array, self.versioned = array, versioned

    def __dlpack__(self, **kwargs):
        return self.array.__dlpack__(**(kwargs if self.versioned else {}))

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize("name", SHARED)
def test_dlpack_in_shares(name, versioned) -> None:
    source = np.arange(12).astype(name).reshape(3, 4)[:, ::2]
    x = mx.from_dlpack(Producer(source, versioned))
    assert x.data_ptr == address(source)
    assert x.shape == (3, 2)
    np.testing.assert_array_equal(np.asarray(x), source)
    assert mx.array(Producer(source), x.dtype).data_ptr == address(source)
    assert mx.get_copied_bytes() == 0


@pytest.mark.parametrize("name", SHARED)
def test_dlpack_out_shares(name) -> None:
    x = mx.asarray(np.arange(12).astype(name).reshape(3, 4), getattr(mx, "bool_" if name == "bool" else name)).T
    back = np.from_dlpack(x)
    assert address(back) == x.data_ptr
    assert back.shape == (4, 3)
    np.testing.assert_array_equal(back, np.arange(12).astype(name).reshape(3, 4).T)
    assert mx.get_copied_bytes() == 0


def test_dlpack_capsules_that_nobody_takes_are_freed() -> None:
    x = mx.ones((100_000,))
    before = mx.get_active_memory()
    for _ in range(50):
        x.__dlpack__()
        x.__dlpack__(max_version=(1, 0))
    assert mx.get_active_memory() == before
    assert sys.getrefcount(x) < 10


def test_torch_round_trip() -> None:
    torch = pytest.importorskip("torch")
    source = torch.arange(12, dtype=torch.float32).reshape(3, 4).t()
    x = mx.array(source)
    assert x.data_ptr == source.data_ptr()
    back = torch.from_dlpack(x)
    assert back.data_ptr() == source.data_ptr()
    assert torch.equal(back, source)
    y = mx.array([1.0, 2.0]).astype(mx.bfloat16)
    assert torch.from_dlpack(y).dtype is torch.bfloat16
    assert mx.array(torch.tensor([1.5], dtype=torch.bfloat16)).dtype is mx.bfloat16
    assert mx.get_copied_bytes() == 0


def test_from_memory_checks_its_bounds() -> None:
    buffer = bytes(64)
    assert from_memory(buffer, 4, (15,), mx.float32).sum().item() == 0
    for offset, shape in ((4, (16,)), (-4, (1,)), (64, (1,)), (0, (2**60,))):
        with pytest.raises(MlxrError):
            from_memory(buffer, offset, shape, mx.float32)


@pytest.mark.parametrize(("value", "error"), [
    (object(), ArgumentTypeError), ("text", ArgumentTypeError), ([1, "x"], ArgumentTypeError),
    ({1, 2}, ArgumentTypeError),
    ([[1, 2], [3]], ShapeError), ([1, [2]], ShapeError), (None, ArgumentTypeError), (2**80, ConversionError),
    (np.array(["a"]), ArgumentTypeError), (np.array([object()]), ArgumentTypeError),
])
def test_what_cannot_be_an_array(value, error) -> None:
    with pytest.raises(error) as caught:
        mx.array(value)
    assert isinstance(caught.value, MlxrError)


@pytest.mark.parametrize(("value", "dtype"), [(True, "bool_"), (3, "int32"), (2**31, "int64"), (-1.5, "float32"),
                                              (1j, "complex64"), ([1, 2.0], "float32"), ([True, 2], "int32"),
                                              ([], "float32"),
                                              (np.float64(1), "float32"), (np.int64(3), "int64"), (range(3), "int32")])
def test_dtype_of_python_values(value, dtype) -> None:
    assert mx.array(value).dtype is getattr(mx, dtype)
