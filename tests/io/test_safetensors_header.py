"""The parser of safetensors headers on its own: every refusal, its words, and what is accepted."""

from __future__ import annotations

import json
import pickle
import sys
import time

import pytest
from io_cases import assemble, describe

from mlxr.errors import FileFormatError, MlxrError
from mlxr.io.safetensors import MAX_DEPTH, Entry, parse_header


def one(**changes):
    """Return a file with the tensor 'a' of four bytes, its description changed."""
    return assemble({"a": {**describe(), **changes}}, b"\0" * 4)


def text(raw):
    """Return a file with the tensor 'a' of four bytes, described by raw JSON."""
    return assemble(b'{"a":' + raw + b"}", b"\0" * 4)


REFUSED = {
    "no bytes": (b"", None, "too short"),
    "seven bytes": (b"1234567", None, "too short"),
    "length zero": (assemble(b""), None, "header length is 0"),
    "length one": (assemble(b"{"), None, "header length is 1"),
    "length past the end": (assemble(b"{}", length=3), None, "cut short"),
    "length over the cap": (assemble(b"{}", length=100_000_001), None, "limit"),
    "length 2**64-1": (assemble(b"{}", length=2**64 - 1), None, "limit"),
    "list": (assemble(b"[]"), None, "begin with '{'"),
    "leading space": (assemble(b" {}"), None, "begin with '{'"),
    "byte order mark": (assemble(b"\xef\xbb\xbf{}"), None, "begin with '{'"),
    "not UTF-8": (assemble(b'{"\xff":1}'), None, "not UTF-8"),
    "not JSON": (assemble(b"{abc}"), None, "not sound JSON"),
    "text behind": (assemble(b"{} x"), None, "not sound JSON"),
    "two objects": (assemble(b"{}{}"), None, "not sound JSON"),
    "NUL padding": (assemble(b"{}\0\0"), None, "not sound JSON"),
    "unbalanced": (assemble(b'{"a":['), None, "not sound JSON"),
    "control character": (assemble(b'{"a\x01":1}'), None, "not sound JSON"),
    "unpaired surrogate": (text(json.dumps(describe()).encode()[:-1] + b',"x":"\\ud800"}'), None, "surrogate"),
    "unpaired surrogate as name": (assemble(b'{"\\uDFFF":1}'), None, "surrogate"),
    "NaN": (text(b"NaN"), None, "NaN is not JSON"),
    "Infinity": (text(b"-Infinity"), None, "is not JSON"),
    "float overflow": (text(b"1e999"), None, "out of range"),
    "integer overflow": (text(b"1" + b"0" * 400), None, "out of range"),
    "lists nest": (text(b"[" * 200_000 + b"]" * 200_000), None, "nests deeper"),
    "objects nest": (text(b'{"a":' * 100 + b"1" + b"}" * 100), None, "nests deeper"),
    "lists nest, open": (text(b"[" * 200_000), None, "nests deeper"),
    "duplicate tensor": (assemble(b'{"a":1,"b":2,"a":3}'), None, "duplicate name 'a'"),
    "duplicate by escape": (assemble(b'{"a":1,"\\u0061":3}'), None, "duplicate name 'a'"),
    "duplicate field": (text(b'{"dtype":"F32","dtype":"F32"}'), None, "duplicate name 'dtype'"),
    "duplicate metadata": (assemble(b'{"__metadata__":{"k":"1","k":"2"}}'), None, "duplicate name 'k'"),
    "metadata list": (assemble({"__metadata__": []}), None, "not an object"),
    "metadata text": (assemble({"__metadata__": "x"}), None, "not an object"),
    "metadata to int": (assemble({"__metadata__": {"k": 1}}), None, "not a string"),
    "metadata to null": (assemble({"__metadata__": {"k": None}}), None, "not a string"),
    "description list": (text(b"[]"), "a", "not an object"),
    "description null": (text(b"null"), "a", "not an object"),
    "no dtype": (text(b'{"shape":[1],"data_offsets":[0,4]}'), "a", "no 'dtype'"),
    "no shape": (text(b'{"dtype":"F32","data_offsets":[0,4]}'), "a", "no 'shape'"),
    "no offsets": (text(b'{"dtype":"F32","shape":[1]}'), "a", "no 'data_offsets'"),
    "dtype unknown": (one(dtype="F33"), "a", "dtype 'F33' is not supported"),
    "dtype in lower case": (one(dtype="f32"), "a", "not supported"),
    "dtype number": (one(dtype=32), "a", "not supported"),
    "dtype list": (one(dtype=["F32"]), "a", "not supported"),
    "dtype of 8 bits that MLX lacks": (one(dtype="F8_E5M2"), "a", "not supported"),
    "shape null": (one(shape=None), "a", "not a list"),
    "shape number": (one(shape=1), "a", "not a list"),
    "shape negative": (one(shape=[-1]), "a", "negative"),
    "shape twice negative": (one(shape=[-1, -1]), "a", "negative"),
    "shape float": (one(shape=[1.0]), "a", "not an integer"),
    "shape exponent": (text(b'{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}'), "a", "not an integer"),
    "shape bool": (one(shape=[True]), "a", "not an integer"),
    "shape text": (one(shape=["1"]), "a", "not an integer"),
    "shape nested": (one(shape=[[1]]), "a", "not an integer"),
    "shape 2**64": (one(shape=[2**64]), "a", "2**63 - 1 bytes"),
    "shape 10**30": (one(shape=[10**30]), "a", "not an integer"),
    "shape 2**64 beside a zero": (one(shape=[2**64, 0], data_offsets=[0, 0]), "a", "2**63 - 1 bytes"),
    "shape 2**63": (one(shape=[2**63]), "a", "2**63 - 1 bytes"),
    "shape product overflows": (one(shape=[2**32, 2**31]), "a", "2**63 - 1 bytes"),
    "shape product wraps to 4": (one(shape=[2**62, 4]), "a", "2**63 - 1 bytes"),
    "shape overflows beside a zero": (one(shape=[2**62, 4, 0], data_offsets=[0, 0]), "a", "2**63 - 1 bytes"),
    "too many axes": (one(shape=[1] * 33), "a", "33 axes"),
    "offsets null": (one(data_offsets=None), "a", "pair of integers"),
    "offsets single": (one(data_offsets=[0]), "a", "pair of integers"),
    "offsets triple": (one(data_offsets=[0, 4, 4]), "a", "pair of integers"),
    "offsets float": (one(data_offsets=[0.0, 4.0]), "a", "pair of integers"),
    "offsets text": (one(data_offsets=["0", "4"]), "a", "pair of integers"),
    "offsets bool": (one(data_offsets=[False, 4]), "a", "pair of integers"),
    "offsets minus zero": (text(b'{"dtype":"F32","shape":[1],"data_offsets":[-0,4]}'), "a", "pair of integers"),
    "offsets 2**64": (one(data_offsets=[2**64, 2**64 + 4]), "a", "leave the file"),
    "offsets 10**30": (one(data_offsets=[0, 10**30]), "a", "pair of integers"),
    "offsets negative": (one(data_offsets=[-4, 0]), "a", "negative or in the wrong order"),
    "offsets reversed": (one(data_offsets=[4, 0]), "a", "negative or in the wrong order"),
    "offsets too long": (one(data_offsets=[0, 8]), "a", "takes 4"),
    "offsets too short": (one(data_offsets=[0, 3]), "a", "takes 4"),
    "offsets past the end": (assemble({"a": describe()}, b"\0" * 3), "a", "leave the file"),
    "offsets far away": (one(shape=[2**40], data_offsets=[0, 2**42]), "a", "leave the file"),
    "empty tensor past the end": (one(shape=[0], data_offsets=[5, 5]), "a", "leave the file"),
    "overlap": (assemble({"a": describe(), "b": describe()}, b"\0" * 4), "b", "overlaps tensor 'a'"),
    "partial overlap": (
        assemble({"b": describe(offsets=[2, 6]), "a": describe()}, b"\0" * 6), "b", "overlaps tensor 'a'"
    ),
    "empty tensor inside another": (
        assemble({"a": describe(), "z": describe(shape=[0], offsets=[2, 2])}, b"\0" * 4), "z", "overlaps tensor 'a'"
    ),
    "gap": (assemble({"a": describe(), "b": describe(offsets=[8, 12])}, b"\0" * 12), "b", "4 bytes in front of it"),
    "gap in front": (assemble({"a": describe(offsets=[4, 8])}, b"\0" * 8), "a", "4 bytes in front of it"),
    "bytes behind": (assemble({"a": describe()}, b"\0" * 5), None, "1 bytes at the end"),
    "bytes behind nothing": (assemble(b"{}", b"\0"), None, "1 bytes at the end"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_file_tensor_and_reason(case):
    data, tensor, words = REFUSED[case]
    with pytest.raises(FileFormatError) as caught:
        parse_header(data, "model.safetensors")
    error = caught.value
    assert isinstance(error, MlxrError)
    assert isinstance(error, ValueError)
    assert isinstance(error, RuntimeError)  # what upstream MLX raises for most of these
    assert error.file == "model.safetensors"
    assert error.tensor == tensor
    assert words in error.reason
    assert "model.safetensors" in str(error)
    assert error.reason in str(error)
    assert len(str(error)) < 1000
    assert tensor is None or repr(tensor) in str(error)
    assert pickle.loads(pickle.dumps(error)).facts == error.facts


def test_a_hostile_name_does_not_flood_the_message():
    with pytest.raises(FileFormatError) as caught:
        parse_header(assemble({"n" * 1_000_000: 1}), "f")
    assert len(str(caught.value)) < 300
    assert len(caught.value.tensor) == 1_000_000


def test_nesting_is_refused_whatever_the_recursion_limit():
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10**8)
    try:
        with pytest.raises(FileFormatError, match="nests deeper"):
            parse_header(text(b"[" * 5_000_000 + b"]" * 5_000_000), "f")
    finally:
        sys.setrecursionlimit(limit)


ACCEPTED = {
    "nothing": (b"{}", b"", []),
    "padding": (b"{}  \n\t", b"", []),
    "null metadata": (b'{"__metadata__":null}', b"", []),
    "0-d": ({"a": describe(shape=[])}, b"\0" * 4, [("a", "F32", (), 0, 4)]),
    "empty name": ({"": describe()}, b"\0" * 4, [("", "F32", (1,), 0, 4)]),
    "zero size": ({"a": describe(shape=[3, 0], offsets=[0, 0])}, b"", [("a", "F32", (3, 0), 0, 0)]),
    "zero size at the end": (
        {"z": describe(shape=[0], offsets=[4, 4]), "a": describe()}, b"\0" * 4,
        [("z", "F32", (0,), 4, 4), ("a", "F32", (1,), 0, 4)],
    ),
    "zero size in front": (
        {"a": describe(), "z": describe(shape=[0], offsets=[0, 0])}, b"\0" * 4,
        [("a", "F32", (1,), 0, 4), ("z", "F32", (0,), 0, 0)],
    ),
    "misaligned": (
        {"a": describe("U8", [1], [0, 1]), "b": describe(offsets=[1, 5])}, b"\0" * 5,
        [("a", "U8", (1,), 0, 1), ("b", "F32", (1,), 1, 5)],
    ),
    "32 axes": ({"a": describe(shape=[1] * 32)}, b"\0" * 4, [("a", "F32", (1,) * 32, 0, 4)]),
    "unknown field": ({"a": {**describe(), "x": [1.5, {"y": None}]}}, b"\0" * 4, [("a", "F32", (1,), 0, 4)]),
    "paired surrogates": (b'{"\\ud83d\\ude00":' + json.dumps(describe()).encode() + b"}", b"\0" * 4,
                          [("\N{GRINNING FACE}", "F32", (1,), 0, 4)]),
    "brackets in a name": ({"[{" * 200 + '"\\': describe()}, b"\0" * 4, [("[{" * 200 + '"\\', "F32", (1,), 0, 4)]),
    "8-bit floats of MLX": ({"a": describe("F8_E4M3", [4])}, b"\0" * 4, [("a", "F8_E4M3", (4,), 0, 4)]),
}  # fmt: skip


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(case):
    header, data, entries = ACCEPTED[case]
    raw = assemble(header, data)
    parsed = parse_header(raw, "f")
    assert parsed.entries == [Entry(*entry) for entry in entries]
    assert parsed.metadata == {}
    assert parsed.data_start == len(raw) - len(data)


def test_metadata_and_header_order():
    raw = assemble({"b": describe(), "__metadata__": {"k": "v"}, "a": describe(offsets=[4, 8])}, b"\0" * 8)
    parsed = parse_header(memoryview(raw), "f")
    assert parsed.metadata == {"k": "v"}
    assert [entry.name for entry in parsed.entries] == ["b", "a"]


def test_depth_limit_is_where_it_says():
    inside = MAX_DEPTH - 2  # the header and the description are two levels
    sound = json.dumps(describe()).encode()[:-1] + b',"x":'
    parse_header(text(sound + b"[" * inside + b"]" * inside + b"}"), "f")
    with pytest.raises(FileFormatError, match="nests deeper"):
        parse_header(text(sound + b"[" * 2 * MAX_DEPTH + b"]" * 2 * MAX_DEPTH + b"}"), "f")


def test_a_large_header_takes_linear_time():
    def parse_time(count):
        header = {f"layer.{i}.weight": describe(offsets=[4 * i, 4 * i + 4]) for i in range(count)}
        raw = assemble(header, bytes(4 * count))
        start = time.perf_counter()
        assert len(parse_header(raw, "f").entries) == count
        return time.perf_counter() - start

    small = min(parse_time(2_000) for _ in range(3))
    assert parse_time(20_000) < 40 * small
