"""Loading and saving .npy and .npz: round trips, agreement with NumPy and upstream, damaged files."""

from __future__ import annotations

import io
import os
import pathlib
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from io_cases import NAMES, bits_of, random_bits, tensor_of

import mlxr as mx
from mlxr.errors import ArgumentTypeError, FileAccessError, FileFormatError, FileMissingError, InvalidValueError


def npy_bytes(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def header_bytes(text):
    """Return a .npy file that is only a header, the one given."""
    raw = text.encode("latin1")
    return b"\x93NUMPY\x01\x00" + len(raw).to_bytes(2, "little") + raw


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(NAMES),
    shape=st.lists(st.integers(0, 4), max_size=4).map(tuple),
    seed=st.integers(0, 2**32 - 1),
)
def test_round_trip(name, shape, seed):
    bits = random_bits(np.random.default_rng(seed), name, shape)
    single, archive, packed = io.BytesIO(), io.BytesIO(), io.BytesIO()
    tensor = tensor_of(bits, name)
    mx.save(single, tensor)
    mx.savez(archive, tensor, named=tensor)
    mx.savez_compressed(packed, tensor, named=tensor)
    loaded = [mx.load(io.BytesIO(single.getvalue()), format="npy")]
    for stream in (archive, packed):
        tensors = mx.load(io.BytesIO(stream.getvalue()), format="npz")
        assert list(tensors) == ["arr_0", "named"]
        loaded += tensors.values()
    for each in loaded:
        assert each.dtype.name == name
        assert each.shape == shape
        assert bits_of(each) == bits.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_numpy_reads_what_we_write(folder, rng, name):
    bits = random_bits(rng, name, (3, 5))
    tensor = tensor_of(bits, name)
    mx.save("x", tensor)
    mx.savez("z", tensor, b=tensor)
    mx.savez_compressed("c", tensor, b=tensor)
    expected = np.dtype("V2") if name == "bfloat16" else bits.dtype
    with np.load("z.npz") as stored, np.load("c.npz") as packed:
        for each in (np.load("x.npy"), stored["arr_0"], stored["b"], packed["arr_0"], packed["b"]):
            assert each.dtype == expected
            assert each.shape == (3, 5)
            assert each.tobytes() == bits.tobytes()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "bfloat16"])
def test_we_read_what_numpy_writes(folder, rng, name, byte_order, order):
    bits = random_bits(rng, name, (3, 4, 5))
    np.save("x.npy", np.asarray(bits.astype(bits.dtype.newbyteorder(byte_order)), order=order))
    loaded = mx.load("x.npy")
    assert loaded.dtype.name == name
    assert loaded.shape == (3, 4, 5)
    assert bits_of(loaded) == bits.tobytes()


def test_upstream_reads_what_we_write_and_we_what_it_writes(folder, rng):
    upstream = pytest.importorskip("mlx.core")
    for name in NAMES:
        bits = random_bits(rng, name, (2, 3))
        with upstream.stream(upstream.cpu):
            theirs = upstream.array(bits, dtype=upstream.float64) if name == "float64" else upstream.array(bits)
            theirs = theirs.view(upstream.bfloat16) if name == "bfloat16" else theirs
            upstream.save("theirs", theirs)
            upstream.savez("theirs", theirs, t=theirs.transpose())
            mx.save("ours", tensor_of(bits, name))
            mx.savez("ours", tensor_of(bits, name))
            for there in (upstream.load("ours.npy"), upstream.load("ours.npz")["arr_0"]):
                assert there.dtype == theirs.dtype
                assert upstream.array_equal(
                    there.view(upstream.uint8), theirs.view(upstream.uint8)
                ).item()  # as bytes: the elements may be NaN
        archive = mx.load("theirs.npz")
        for here in (mx.load("theirs.npy"), archive["arr_0"]):
            assert here.dtype.name == name
            assert here.shape == (2, 3)
            assert bits_of(here) == bits.tobytes()
        assert archive["t"].shape == (3, 2)
        assert bits_of(archive["t"]) == bits.T.tobytes()


def test_an_npy_file_is_mapped(folder):
    np.save("x.npy", np.arange(12, dtype=np.float32).reshape(3, 4))
    first, second = mx.load("x.npy"), mx.load("x.npy")
    os.unlink("x.npy")
    # NumPy pads its header to 64 bytes, and a mapping is page aligned: this is no copy.
    assert first.data_ptr % 4096 == second.data_ptr % 4096 == 128
    assert np.asarray(first).tolist() == np.asarray(second).tolist()


def test_archives_depend_on_the_tensors_alone():
    def archive():
        stream = io.BytesIO()
        mx.savez_compressed(stream, mx.array(np.zeros(9, np.float32)))
        return stream.getvalue()

    assert archive() == archive()


def test_names(folder):
    tensor = mx.array(np.zeros(2, np.float32))
    names = ["x/y", "q.npy", "", "spaced out", "\N{GREEK SMALL LETTER ALPHA}", "allow_pickle"]
    mx.savez("x", **dict.fromkeys(names, tensor))
    assert list(mx.load("x.npz")) == names
    mx.savez("empty")
    assert mx.load("empty.npz") == {}
    with pytest.raises(InvalidValueError, match="arr_0"):
        mx.savez("x", tensor, arr_0=tensor)
    with pytest.raises(InvalidValueError, match="NUL"):
        mx.savez("x", **{"a\0b": tensor})
    assert list(mx.load("x.npz")) == names


@pytest.mark.parametrize("name", ["a", "a.npy", "a.foo", ".npy", "b.NPY", "c.npz", "npz"])
def test_the_extension_is_appended_as_upstream_does(folder, name):
    tensor = mx.array(np.zeros(2, np.float32))
    mx.save(name, tensor)
    mx.savez(pathlib.Path(name), tensor)
    expected = {name if name.endswith(end) else name + end for end in (".npy", ".npz")}
    assert set(os.listdir()) == expected


DAMAGED = {
    "no bytes": b"",
    "junk": b"junk",
    "only the magic": b"\x93NUMPY\x01\x00",
    "version 9": b"\x93NUMPY\x09\x00" + npy_bytes(np.zeros(2))[8:],
    "cut in the header": npy_bytes(np.zeros(2))[:40],
    "cut in the data": npy_bytes(np.zeros(2))[:-1],
    "text": npy_bytes(np.array(["a"])),
    "complex128": npy_bytes(np.zeros(2, np.complex128)),
    "longdouble": npy_bytes(np.zeros(2, np.longdouble)),
    "structure of two bytes": npy_bytes(np.zeros(2, [("a", "u1"), ("b", "u1")])),
    "void of four bytes": npy_bytes(np.zeros(2, "V4")),
    "dates": npy_bytes(np.zeros(2, "M8[s]")),
    "bool of 2": npy_bytes(np.array([2], np.uint8)).replace(b"|u1", b"|b1"),
    "negative shape": header_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"),
    "bool shape": header_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}") + b"1234",
    "huge shape": header_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (2**62,)}"),
    "shape that wraps": header_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4)}"),
    "text as shape": header_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': 'x'}"),
    "dtype that is none": header_bytes("{'descr': '<q9', 'fortran_order': False, 'shape': ()}"),
    "dtype with a shape": header_bytes("{'descr': ('u1', (2,)), 'fortran_order': False, 'shape': (1,)}") + b"12",
    "nested": header_bytes("(" * 4000 + ")" * 4000),
    "not a dict": header_bytes("[]"),
    "code": header_bytes("__import__('os').abort()"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_npy_file(folder, case):
    pathlib.Path("x.npy").write_bytes(DAMAGED[case])
    with pytest.raises(FileFormatError) as caught:
        mx.load("x.npy")
    assert caught.value.file == "x.npy"
    assert caught.value.reason in str(caught.value)
    with zipfile.ZipFile("x.npz", "w") as archive:
        archive.writestr("weight.npy", DAMAGED[case])
    with pytest.raises(FileFormatError, match="weight") as caught:
        mx.load("x.npz")
    assert (caught.value.file, caught.value.tensor) == ("x.npz", "weight")


def test_objects_are_not_unpickled(folder):
    np.save("x.npy", np.array([{}], dtype=object))
    with pytest.raises(FileFormatError, match="not supported"):
        mx.load("x.npy")


def test_a_damaged_npz_file(folder, rng):
    tensor = mx.array(np.arange(20, dtype=np.float32))
    mx.savez("x", tensor, b=tensor)
    raw = pathlib.Path("x.npz").read_bytes()
    for position in rng.integers(0, len(raw), 300):
        changed = bytearray(raw)
        changed[position] ^= 1 << int(rng.integers(8))
        try:
            loaded = mx.load(io.BytesIO(bytes(changed)), format="npz")
        except FileFormatError:
            continue
        # A bit that carries no data, such as a time or a name.
        assert all(np.asarray(each).tolist() == list(range(20)) for each in loaded.values())
    for content in (b"", b"junk", raw[:-1], raw[: len(raw) // 2]):
        pathlib.Path("y.npz").write_bytes(content)
        with pytest.raises(FileFormatError, match=r"y\.npz"):
            mx.load("y.npz")


def test_two_members_of_one_name(folder):
    with zipfile.ZipFile("x.npz", "w") as archive:
        archive.writestr("a.npy", npy_bytes(np.zeros(2)))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.npy", npy_bytes(np.zeros(2)))
    with pytest.raises(FileFormatError, match="two members"):
        mx.load("x.npz")


def test_wrong_arguments(folder):
    tensor = mx.array(np.zeros(2, np.float32))
    mx.save("x", tensor)
    mx.savez("x", tensor)
    for name in ("x.npy", "x.npz"):
        with pytest.raises(InvalidValueError, match="metadata not supported"):
            mx.load(name, return_metadata=True)
    for name in ("none.npy", "none.npz"):
        with pytest.raises(FileMissingError):
            mx.load(name)
    for value in (np.zeros(2), [1.0], 1.0, None):
        with pytest.raises(ArgumentTypeError):
            mx.save("y", value)
        with pytest.raises(ArgumentTypeError):
            mx.savez("y", value)
        with pytest.raises(ArgumentTypeError):
            mx.savez_compressed("y", a=value)
    for call in (mx.save, mx.savez, mx.savez_compressed):
        with pytest.raises(InvalidValueError, match="file-like object"):
            call(3, tensor)
        with pytest.raises(FileMissingError):
            call("no/where", tensor)
        with open("x.npy", "rb") as stream, pytest.raises(FileAccessError):
            call(stream, tensor)
    assert sorted(os.listdir()) == ["x.npy", "x.npz"]
