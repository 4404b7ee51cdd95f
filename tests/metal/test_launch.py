"""What plans share: layouts, memory of plans, refusals. No device is needed."""

import pytest

import mlxr as mx
from mlxr.backends.metal import copy, elementwise, random  # noqa: F401
from mlxr.backends.metal.launch import (
    PLANS,
    At,
    Launch,
    Scratch,
    ceil_div,
    check_size,
    collapse,
    layout,
    lowest,
    plan,
    row_major,
    strided,
)

FLOAT32 = mx.float32.code


def test_dimensions_merge_where_every_array_walks_them_as_one():
    assert collapse((2, 3, 4), (12, 4, 1)) == ((24,), ((1,),))
    assert collapse((2, 3, 4), (12, 4, 1), (0, 4, 1)) == ((2, 12), ((12, 1), (0, 1)))
    assert collapse((2, 1, 3), (3, 99, 1)) == ((6,), ((1,),))
    assert collapse((), ()) == ((1,), ((0,),))
    assert collapse((3, 4), (0, 0)) == ((12,), ((0,),))
    assert collapse((2, 3), (-3, -1)) == ((6,), ((-1,),))
    assert collapse((2, 0, 3), (0, 3, 1)).size == 0


def test_layouts_tell_dense_and_scalar_arrays():
    x, row, one = mx.zeros((4, 5)), mx.zeros((5,)), mx.zeros(())
    space = layout((4, 5), x, row, one)
    assert [space.is_dense(k) for k in range(3)] == [True, False, False]
    assert [space.is_scalar(k) for k in range(3)] == [False, False, True]
    assert layout((4, 5), x[::-1]).is_dense(0) is False
    assert layout((1, 1), mx.zeros((1, 1))).is_dense(0)


def test_views_are_bound_from_their_lowest_address():
    x = mx.zeros((4, 5))
    assert lowest("op", x, x.shape, x.strides) == (x, 0)
    back = x[::-1, ::-1]
    argument, start = lowest("op", back, back.shape, back.strides)
    assert (argument.tensor is back, argument.offset, start) == (True, -19 * 4, 19)


def test_what_32_bits_cannot_count_is_refused():
    one = mx.zeros((1,))
    wide = mx.broadcast_to(one, (2**16, 2**16))
    with pytest.raises(mx.errors.UnsupportedOpError, match="32 bits; here are 4294967296") as caught:
        check_size("add", (wide,))
    assert caught.value.facts["backend"] == "metal"
    with pytest.raises(mx.errors.UnsupportedOpError, match="2\\*\\*31"):
        lowest("add", one, (2, 2), (2**31, 1))


def test_params_of_strided_kernels():
    packed = strided(collapse((2, 3), (4, 1), (0, 1)), (7, 0))
    assert len(packed) == 4 * (2 + 2 + 32 + 2 * 32)
    assert packed[:24] == b"".join(n.to_bytes(4, "little") for n in (6, 2, 7, 0, 2, 3))


def test_plans_are_made_once_per_layout_and_name_the_tensors_of_the_call():
    calls = []

    @plan("test_launch.once")
    def once(inputs, outputs, params):
        calls.append(params)
        scratch = Scratch(4)
        return [
            Launch("copy", "f", (), (inputs[0], At(inputs[-1], 8), scratch, b"p", outputs[0]), (1, 1, 1), (1, 1, 1))
        ]

    try:
        made = PLANS["test_launch.once"]
        x, y, out = mx.zeros((3,)), mx.zeros((3,)), mx.zeros((3,))
        made((x, y), (out,), (1,))
        (launch,) = made((y, x), (out,), (1,))
        assert calls == [(1,)]
        assert launch.arguments[0] is y
        assert launch.arguments[1].tensor is x
        assert launch.arguments[1].offset == 8
        assert launch.arguments[4] is out
        (launch,) = made((x, x), (out,), (1,))  # another case: both places hold one tensor
        assert launch.arguments[0] is x
        (launch,) = made((x, y), (out,), (1,))
        assert launch.arguments[1].tensor is y
        assert len(calls) == 2
        for params in [(1.0,), (True,), (0.0,), (-0.0,), (0,), ((0, 1),)]:
            made((x, y), (out,), params)
        assert len(calls) == 8
        made((x[::-1], y), (out,), (1,))
        made((x.astype(mx.int32), y), (out,), (1,))
        assert len(calls) == 10
        with pytest.raises(ValueError, match="two plans"):
            plan("test_launch.once")(once)
    finally:
        del PLANS["test_launch.once"]


def test_scratch_and_launches_are_told_apart_by_identity():
    assert Scratch(4) != Scratch(4)
    assert ceil_div(7, 4) == 2
    assert row_major((2, 3, 4)) == (12, 4, 1)


def test_memory_of_plans_keeps_no_tensor_alive():
    x, out = mx.zeros((123, 7)), mx.zeros((123, 7))
    PLANS["exp"]((x,), (out,), (FLOAT32,))
    steps = list(PLANS["exp"].made.values())[-1]
    assert [launch.arguments[:2] for launch, _ in steps] == [(None, None)]
