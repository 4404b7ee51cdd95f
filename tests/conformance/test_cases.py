"""Which cases the declarations give, and their encoding."""

from collections import Counter

import numpy as np
import pytest

import mlxr as mx
from mlxr.conformance import worker
from mlxr.conformance.cases import KINDS, Case, cases, decode, edge_values, encode_array
from mlxr.conformance.measure import DTYPES, NAMES
from mlxr.conformance.suite import Shard
from mlxr.ops.declare import REGISTRY


@pytest.fixture(scope="module")
def full() -> list[Case]:
    return list(cases("full"))


def test_the_full_suite_has_every_op_in_every_dtype_and_every_kind(full):
    assert len(full) >= 20_000
    met = Counter((c.op, c.dtype) for c in full if c.kind in ("sample", "layout", "dense", "edge"))
    for op in REGISTRY.values():
        for dtype in op.dtypes:
            assert met[op.name, dtype.name], (op.name, dtype.name)
    assert {c.kind for c in full} == set(KINDS)
    assert {c.layout for c in full} == set(worker.LAYOUTS)


def test_keys_are_unique_and_cases_the_same_every_time(full):
    assert len({c.key for c in full}) == len(full)
    again = list(cases("full", ["sort", "matmul"]))
    before = {c.key: c.fingerprint for c in full}
    assert again
    assert all(before[c.key] == c.fingerprint for c in again)


def test_the_core_suite_is_a_part_of_the_declarations_of_each_op():
    core = Counter((c.op, c.dtype) for c in cases("core") if c.kind == "sample")
    assert {(op.name, d.name) for op in REGISTRY.values() for d in op.dtypes} == set(core)


@pytest.mark.parametrize("dtype", NAMES)
def test_arrays_keep_every_bit_on_their_way(dtype):
    x = edge_values(dtype)
    back = decode(encode_array(x, dtype))
    np.testing.assert_array_equal(back, x)
    if DTYPES[dtype].kind == "f":
        np.testing.assert_array_equal(np.signbit(back), np.signbit(x))
    library = worker._mlxr("cpu")
    tensor = library.tensor(*encode_array(x, dtype)[1:])
    assert tensor.dtype is DTYPES[dtype]
    assert library.encode(tensor) == encode_array(x, dtype)


@pytest.mark.parametrize("layout", worker.LAYOUTS)
def test_layouts_have_the_same_elements_elsewhere(layout):
    values = np.arange(24.0).reshape(2, 3, 4)
    if layout == "broadcast":
        values = np.broadcast_to(values[:1], values.shape)
    encoded = encode_array(values, "float32", layout)
    np.testing.assert_array_equal(decode(encoded), values)
    x = worker._mlxr("cpu").tensor(*encoded[1:])
    np.testing.assert_array_equal(np.array(x), values)
    strides = np.array(x, copy=False).strides
    row_major = (48, 16, 4)
    assert (strides == row_major) == (layout in ("row-major", "offset"))


def test_the_library_reports_lists_dtypes_and_python_values():
    library = worker._mlxr("cpu")
    answer = library.call("split", [encode_array(np.arange(6.0), "int32"), ("v", 2)], {"axis": ("v", 0)})
    assert [v[1:3] for v in answer[1]] == [("int32", [3]), ("int32", [3])]
    answer = library.call("astype", [encode_array(np.arange(3.0), "float32"), ("d", "bfloat16")], {})
    assert answer[1][0][1] == "bfloat16"
    answer = library.call("concatenate", [("l", [encode_array(np.ones(2), "float32")] * 2)], {})
    assert answer[1][0][2] == [4]
    assert library.call("add", [("v", 1)], {})[0] == "error"
    assert library.encode(3) == ("v", 3)
    assert mx.default_device() == mx.cpu


@pytest.mark.parametrize("text", ["0/2", "3/2", "x", "1/0", ""])
def test_shards_that_are_none(text):
    with pytest.raises(ValueError):
        Shard.parse(text)


def test_shards_are_a_partition(full):
    some = full[:1000]
    parts = [Shard.parse(f"{k}/7").of(some) for k in range(1, 8)]
    assert sorted(c.key for part in parts for c in part) == sorted(c.key for c in some)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
