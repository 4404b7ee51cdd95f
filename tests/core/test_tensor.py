"""Tensor as a Python object: protocols, in-place operators, copy on write, printing."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import mlxr as mx
from mlxr.errors import ArgumentTypeError, AxisError, MlxrError, ShapeError

EVERY = [mx.bool_, mx.uint8, mx.uint16, mx.uint32, mx.uint64, mx.int8, mx.int16, mx.int32, mx.int64, mx.float16,
         mx.bfloat16, mx.float32, mx.float64, mx.complex64]


def test_array_is_tensor() -> None:
    assert mx.array is mx.Tensor


def test_facts() -> None:
    x = mx.zeros((2, 3, 4), mx.int16)
    assert (x.shape, x.strides, x.ndim, x.size, x.itemsize, x.nbytes) == ((2, 3, 4), (12, 4, 1), 3, 24, 2, 48)
    assert x.dtype is mx.int16
    assert x.T.shape == (4, 3, 2)
    assert x.mT.shape == (2, 4, 3)
    assert not x.T.is_contiguous
    assert x.T.shares_memory(x)


@pytest.mark.parametrize("dtype", EVERY, ids=lambda d: d.name)
def test_pickle_and_copies_keep_every_bit(dtype) -> None:
    x = mx.array([[0, 1, 2], [3, 4, 5]]).astype(dtype).T
    for y in (pickle.loads(pickle.dumps(x)), copy.copy(x), copy.deepcopy(x)):
        assert y.dtype is dtype
        assert y.shape == (3, 2)
        assert y.tolist() == x.tolist()
        assert not y.shares_memory(x)
    for shape in ((), (0, 3)):
        assert pickle.loads(pickle.dumps(mx.zeros(shape, dtype))).shape == shape


def test_pickle_keeps_nan_payloads_and_signed_zero() -> None:
    bits = np.array([0x7FC01234, 0x80000000, 0xFF800000], np.uint32)
    x = mx.array(bits).view(mx.float32)
    assert np.array(pickle.loads(pickle.dumps(x)).view(mx.uint32)).tolist() == bits.tolist()


def test_hash_is_identity() -> None:
    x, y = mx.array([1]), mx.array([1])
    assert len({x, y, x}) == 2
    assert {x: "x"}[x] == "x"


def test_iteration_and_length() -> None:
    x = mx.arange(6).reshape(3, 2)
    assert len(x) == 3
    assert [row.tolist() for row in x] == [[0, 1], [2, 3], [4, 5]]
    assert [row.shape for row in x] == [(2,)] * 3
    assert [v.item() for v in mx.arange(3)] == [0, 1, 2]
    for attempt in (len, iter):
        with pytest.raises(ArgumentTypeError):
            attempt(mx.array(1))


def test_python_scalars_out() -> None:
    assert bool(mx.array(2.0)) is True
    assert bool(mx.array([[0]])) is False
    assert int(mx.array(2.9)) == 2
    assert float(mx.array([3])) == 3.0
    assert complex(mx.array(1 + 2j)) == 1 + 2j
    assert [10, 20, 30][mx.array(1)] == 20
    assert mx.array(2**63 + 1, mx.uint64).item() == 2**63 + 1
    assert mx.array(True).item() is True
    for convert in (bool, int, float):
        with pytest.raises(ShapeError) as caught:
            convert(mx.array([1, 2]))
        assert caught.value.shapes == ((2,),)
    with pytest.raises(ArgumentTypeError):
        [10][mx.array(0.0)]


def test_comparison_is_elementwise_and_anything_else_is_unequal() -> None:
    x = mx.array([1, 2, 3])
    assert (x == mx.array([1, 0, 3])).tolist() == [True, False, True]
    assert (x != 2).tolist() == [True, False, True]
    assert (x < 2.5).tolist() == [True, True, False]
    assert (x <= 2).tolist() == [True, True, False]
    assert (x == "text") is False
    assert (x != None) is True  # noqa: E711
    assert (x == np.array([1, 2, 4])).tolist() == [True, True, False]


IN_PLACE = {
    "+=": lambda a: a.__iadd__(2), "-=": lambda a: a.__isub__(2), "*=": lambda a: a.__imul__(2),
    "/=": lambda a: a.__itruediv__(2), "//=": lambda a: a.__ifloordiv__(2), "%=": lambda a: a.__imod__(2),
    "**=": lambda a: a.__ipow__(2),
}
PLAIN = {
    "+=": lambda a: a + 2, "-=": lambda a: a - 2, "*=": lambda a: a * 2, "/=": lambda a: a / 2, "//=": lambda a: a // 2,
    "%=": lambda a: a % 2, "**=": lambda a: a**2,
}


@pytest.mark.parametrize("symbol", IN_PLACE)
@pytest.mark.parametrize("dtype", [mx.int32, mx.float32], ids=lambda d: d.name)
def test_in_place_operator_changes_the_object_and_nothing_else(symbol, dtype) -> None:
    a = mx.array([1, 5, 7], dtype)
    b, view, plus = a, a[1:], +a
    older = mx.array(a)
    wanted = PLAIN[symbol](older)
    result = IN_PLACE[symbol](a)
    assert result is a
    assert b is a
    assert b.tolist() == wanted.tolist()
    assert b.dtype is wanted.dtype
    assert plus is a
    assert view.tolist() == [5, 7]
    assert older.tolist() == [1, 5, 7]


def test_bitwise_in_place_operators() -> None:
    a = mx.array([1, 6], mx.uint8)
    b = a
    a |= 8
    a &= 12
    a ^= 1
    a <<= 1
    a >>= 2
    assert b.tolist() == [(((1 | 8) & 12 ^ 1) << 1) >> 2, (((6 | 8) & 12 ^ 1) << 1) >> 2]
    m = mx.ones((2, 2))
    n = m
    m @= m
    assert n.tolist() == [[2, 2], [2, 2]]


def test_assignment_does_not_reach_copies_views_or_sources() -> None:
    a = mx.zeros((2, 3))
    row, turned, same, host = a[0], a.T, mx.array(a), np.asarray(a)
    alias = a
    a[0, 1] = 5
    assert alias.tolist() == [[0, 5, 0], [0, 0, 0]]
    for other in (row, turned, same):
        assert other.sum().item() == 0
    assert host.sum() == 0
    row[2] = 9
    assert a.tolist() == [[0, 5, 0], [0, 0, 0]]


def test_assignment_from_an_overlapping_view_reads_before_it_writes() -> None:
    a = mx.arange(6)
    a[1:] = a[:-1]
    assert a.tolist() == [0, 0, 1, 2, 3, 4]
    a = mx.arange(4)
    a[:] = a[::-1]
    assert a.tolist() == [3, 2, 1, 0]


def test_assignment_alone_writes_in_place() -> None:
    a = mx.zeros((1000,))
    a[0] = 1
    before = a.data_ptr
    a[1:10] = 2
    assert a.data_ptr == before
    assert a.sum().item() == 19


def test_failed_assignment_changes_nothing() -> None:
    a = mx.arange(6).reshape(2, 3)
    for attempt in (lambda: a.__setitem__(2, 0), lambda: a.__setitem__(0, mx.zeros((4,))),
                    lambda: a.__setitem__((0, 0, 0), 1), lambda: a.__setitem__(0, object()),
                    lambda: a.__iadd__(mx.zeros((4,))), lambda: a.__imatmul__(mx.zeros((2, 2)))):
        with pytest.raises(MlxrError):
            attempt()
        assert a.tolist() == [[0, 1, 2], [3, 4, 5]]
        assert a.dtype is mx.int32


def test_methods_are_the_functions() -> None:
    x = mx.array([[1.0, 4.0], [9.0, 16.0]])
    for name in ("sqrt", "rsqrt", "exp", "log", "sin", "cos", "square", "abs", "sum", "mean", "max", "min", "prod",
                 "var", "std", "argmax", "argmin", "cumsum", "cumprod", "cummax", "cummin", "logsumexp",
                 "reciprocal", "log2", "log10", "log1p", "all", "any", "flatten", "squeeze", "transpose", "round"):
        assert getattr(x, name)().tolist() == getattr(mx, name)(x).tolist(), name
    assert x.reshape(4).tolist() == x.reshape((4,)).tolist() == x.reshape(-1).tolist()
    assert x.astype(mx.int32).dtype is mx.int32
    assert x.item if x.size == 1 else True
    assert x.moveaxis(0, 1).tolist() == x.swapaxes(0, 1).tolist() == x.T.tolist()


def test_shape_and_axis_errors_carry_their_facts() -> None:
    with pytest.raises(ShapeError) as caught:
        mx.zeros((2, 3)) + mx.zeros((2, 4))
    assert caught.value.op == "add"
    assert caught.value.shapes == ((2, 3), (2, 4))
    with pytest.raises(AxisError) as caught:
        mx.zeros((2, 3)).sum(axis=5)
    assert (caught.value.axis, caught.value.ndim) == (5, 2)
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is AxisError
    assert again.facts == caught.value.facts
    assert str(again) == str(caught.value)


PRINTED = [
    ([1, 2, 3], "int32"), ([[1.0, 2.5], [-3.0, 4.0]], "float32"), (3, "int32"), (2.5, "float32"),
    ([True, False], "bool_"),
    ([], "float32"), ([[1, 2], [3, 4]], "uint8"), ([1.5, float("nan"), float("inf")], "float32"),
    (list(range(2000)), "int32"),
    ([1e10, 1e-10], "float32"), ([[[1], [2]], [[3], [4]]], "int64"), ([1 + 2j, -1j], "complex64"), ([0.1], "float16"),
]


@pytest.mark.parametrize(("value", "name"), PRINTED)
def test_repr_is_upstreams(value, name) -> None:
    upstream = pytest.importorskip("mlx.core")
    ours = repr(mx.array(value, getattr(mx, name)))
    theirs = repr(upstream.array(value, getattr(upstream, name)))
    assert ours.split() == theirs.split()


def test_repr() -> None:
    assert repr(mx.array([1, 2, 3])) == "array([1, 2, 3], dtype=int32)"
    assert repr(mx.array(2.5)) == "array(2.5, dtype=float32)"
    assert f"{mx.array(3.14159):.2f}" == "3.14"
