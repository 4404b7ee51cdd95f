"""dtypes: promotion over every pair, weak Python scalars, categories, limits; equal to upstream's."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import mlxr as mx
from mlxr.core.dtype import promote_types
from mlxr.errors import ArgumentTypeError, ConversionError, DtypeError

SHORT = {
    "b": "bool", "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64", "i8": "int8", "i16": "int16",
    "i32": "int32", "i64": "int64", "f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64",
    "c64": "complex64",
}
NAMES = list(SHORT.values())
# Row promoted with column, in the order of NAMES, as upstream MLX 0.32 has it.
PROMOTION = """
b u8 u16 u32 u64 i8 i16 i32 i64 f16 bf16 f32 f64 c64
u8 u8 u16 u32 u64 i16 i16 i32 i64 f16 bf16 f32 f64 c64
u16 u16 u16 u32 u64 i32 i32 i32 i64 f16 bf16 f32 f64 c64
u32 u32 u32 u32 u64 i64 i64 i64 i64 f16 bf16 f32 f64 c64
u64 u64 u64 u64 u64 f32 f32 f32 f32 f16 bf16 f32 f64 c64
i8 i16 i32 i64 f32 i8 i16 i32 i64 f16 bf16 f32 f64 c64
i16 i16 i32 i64 f32 i16 i16 i32 i64 f16 bf16 f32 f64 c64
i32 i32 i32 i64 f32 i32 i32 i32 i64 f16 bf16 f32 f64 c64
i64 i64 i64 i64 f32 i64 i64 i64 i64 f16 bf16 f32 f64 c64
f16 f16 f16 f16 f16 f16 f16 f16 f16 f16 f32 f32 f64 c64
bf16 bf16 bf16 bf16 bf16 bf16 bf16 bf16 bf16 f32 bf16 f32 f64 c64
f32 f32 f32 f32 f32 f32 f32 f32 f32 f32 f32 f32 f64 c64
f64 f64 f64 f64 f64 f64 f64 f64 f64 f64 f64 f64 f64 c64
c64 c64 c64 c64 c64 c64 c64 c64 c64 c64 c64 c64 c64 c64
"""
TABLE = {
    (row, column): SHORT[result]
    for row, line in zip(NAMES, PROMOTION.split("\n")[1:], strict=False)
    for column, result in zip(NAMES, line.split(), strict=True)
}
DTYPES = {name: getattr(mx, "bool_" if name == "bool" else name) for name in NAMES}


def test_table_covers_every_pair() -> None:
    assert len(TABLE) == 14 * 14


@pytest.mark.parametrize(("pair", "wanted"), TABLE.items(), ids=["-".join(pair) for pair in TABLE])
def test_promotion(pair, wanted) -> None:
    a, b = (DTYPES[name] for name in pair)
    assert promote_types(a, b) is DTYPES[wanted]
    assert (mx.zeros((1,), a) + mx.zeros((2,), b)).dtype is DTYPES[wanted]
    assert mx.where(mx.array(True), mx.zeros((), a), mx.zeros((), b)).dtype is DTYPES[wanted]


def test_promotion_is_upstreams() -> None:
    upstream = pytest.importorskip("mlx.core")
    for (a, b), wanted in TABLE.items():
        x, y = (upstream.zeros((), getattr(upstream, "bool_" if n == "bool" else n)) for n in (a, b))
        assert str(upstream.add(x, y, stream=upstream.cpu).dtype) == f"mlx.core.{wanted}", (a, b)


@pytest.mark.parametrize("name", NAMES)
def test_python_scalars_are_weak(name) -> None:
    dtype = DTYPES[name]
    x = mx.zeros((2,), dtype)
    kind = dtype.kind
    assert (x + True).dtype is dtype
    assert (x + 1).dtype is (mx.int32 if kind == "b" else dtype)
    assert (x + 1.5).dtype is (mx.float32 if kind in "bui" else dtype)
    assert (x + 1j).dtype is mx.complex64
    assert (1 + x).dtype is (x + 1).dtype
    assert (1.5 * x).dtype is (x * 1.5).dtype


@pytest.mark.parametrize("name", [n for n in NAMES if DTYPES[n].kind in "ui"])
def test_integer_scalar_that_does_not_fit(name) -> None:
    limits = mx.iinfo(DTYPES[name])
    x = mx.zeros((2,), DTYPES[name])
    assert (x + limits.max).tolist() == [limits.max] * 2
    assert (x + limits.min).tolist() == [limits.min] * 2
    for value in (limits.max + 1, limits.min - 1, 2**70):
        with pytest.raises(ConversionError) as caught:
            x + value
        assert caught.value.value == value
        assert caught.value.dtype is DTYPES[name]
    assert x.tolist() == [0, 0]


def test_float_scalars_round_and_overflow_to_infinity() -> None:
    assert (mx.zeros((), mx.float16) + 1e6).item() == float("inf")
    assert (mx.zeros((), mx.float32) + 1e300).item() == float("inf")
    assert (mx.zeros((), mx.float32) + 0.1).item() == float(np.float32(0.1))
    assert (mx.zeros((), mx.bfloat16) + (1 + 2**-9)).item() == 1.0
    assert (mx.zeros((), mx.float64) + 0.1).item() == 0.1


@pytest.mark.parametrize("name", NAMES)
def test_identity_of_dtypes(name) -> None:
    dtype = DTYPES[name]
    assert pickle.loads(pickle.dumps(dtype)) is dtype
    assert copy.deepcopy(dtype) is dtype
    assert repr(dtype).endswith(name)
    assert dtype == dtype
    assert len({dtype, dtype}) == 1
    assert dtype.size == mx.zeros((), dtype).itemsize == {"b": 1}.get(dtype.kind, dtype.size)


def test_dtypes_cannot_be_made() -> None:
    with pytest.raises(ArgumentTypeError):
        type(mx.float32)()


@pytest.mark.parametrize(("name", "category", "belongs"), [
    ("float32", "floating", True), ("float32", "inexact", True), ("float32", "number", True),
    ("float32", "generic", True), ("float32", "integer", False), ("complex64", "complexfloating", True),
    ("complex64", "inexact", True), ("complex64", "floating", False), ("uint8", "unsignedinteger", True),
    ("uint8", "signedinteger", False), ("int8", "integer", True), ("bool", "generic", True), ("bool", "number", False),
])
def test_issubdtype(name, category, belongs) -> None:
    assert mx.issubdtype(DTYPES[name], getattr(mx, category)) is belongs


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_finfo_is_numpys(name) -> None:
    ours, theirs = mx.finfo(DTYPES[name]), np.finfo(name)
    assert (ours.min, ours.max, ours.eps) == (float(theirs.min), float(theirs.max), float(theirs.eps))
    assert ours.smallest_normal == float(theirs.smallest_normal)
    assert ours.bits == theirs.bits


@pytest.mark.parametrize("name", [n for n in NAMES if DTYPES[n].kind in "ui"])
def test_iinfo_is_numpys(name) -> None:
    ours, theirs = mx.iinfo(DTYPES[name]), np.iinfo(name)
    assert (ours.min, ours.max) == (theirs.min, theirs.max)


def test_finfo_and_iinfo_refuse_other_kinds() -> None:
    with pytest.raises(DtypeError):
        mx.finfo(mx.int32)
    with pytest.raises(DtypeError):
        mx.iinfo(mx.float32)
