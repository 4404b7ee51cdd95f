"""Every elementwise primitive on the stand-in against the CPU backend: dtypes, special values, layouts, orders."""

import itertools

import metal_plans
import numpy as np
import pytest

import mlxr as mx
from mlxr.core.primitive import registry

FLOATS = (mx.float32, mx.float16, mx.bfloat16)
SIGNED = (mx.int8, mx.int16, mx.int32, mx.int64)
UNSIGNED = (mx.uint8, mx.uint16, mx.uint32, mx.uint64)
INTEGERS = SIGNED + UNSIGNED
DTYPES = (mx.bool_, *INTEGERS, *FLOATS)

# Largest difference from the CPU backend in units in the last place, for float32; what is not here has the CPU's bits.
# float16 and bfloat16 are rounded from float32 on both sides: one unit is always enough.
ULPS = {
    "exp": 2, "log": 2, "tanh": 2, "sigmoid": 2, "silu": 2, "gelu": 3, "gelu_sigmoid": 2, "erf": 2, "rsqrt": 1,
    "expm1": 3, "log2": 3, "log10": 3, "log1p": 3, "sin": 2, "cos": 2, "tan": 3, "arcsin": 2, "arccos": 2, "arctan":
    2, "sinh": 3, "cosh": 3, "arcsinh": 3, "arccosh": 3, "arctanh": 3, "erfinv": 4, "gelu_tanh": 4, "softplus": 3,
    "power": 4, "logaddexp": 3, "arctan2": 2,
}
# What the units refer to where the result is a small difference of large numbers.
SCALE = {"logaddexp": 1.0}

FLOAT_UNARY = (
    "sqrt", "rsqrt", "reciprocal", "exp", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "arcsin",
    "arccos", "arctan", "sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh", "sigmoid", "erf", "erfinv", "silu",
    "gelu", "gelu_tanh", "gelu_sigmoid", "softplus",
)
REAL_UNARY = (
    "abs", "sign", "square", "floor", "ceil", "trunc", "rint", "real", "imag", "conjugate", "relu", "logical_not",
    "isnan", "isinf", "isfinite", "isposinf", "isneginf",
)
FLOAT_BINARY = (
    "divide", "logaddexp", "arctan2",
)
REAL_BINARY = (
    "add", "subtract", "multiply", "floor_divide", "remainder", "power", "maximum", "minimum", "equal", "not_equal",
    "less", "less_equal", "greater", "greater_equal", "logical_and", "logical_or", "logical_xor", "equal_nan",
)
INTEGER_BINARY = (
    "bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift",
)


def check(name, device, *operands):
    """Compare one call of a primitive with the CPU's; operands are CPU tensors."""
    function = metal_plans.elementwise(name)
    expected = function(*operands)
    got = function(*metal_plans.on(device, *operands))
    exact = expected.dtype.kind != "f"
    ulps = 0 if exact else ULPS.get(name, 0) if expected.dtype is mx.float32 else min(1, ULPS.get(name, 0))
    metal_plans.agree(expected, got, ulps, SCALE.get(name, 0.0))


@pytest.mark.parametrize("name", FLOAT_UNARY)
def test_float_functions(name, device):
    rng = np.random.default_rng(3)
    for dtype in (*FLOATS, mx.int32, mx.uint8, mx.bool_):
        check(name, device, metal_plans.values(dtype, rng))
    # densely, where the function has its shape
    check(name, device, mx.array(np.linspace(-12, 12, 4001, dtype=np.float32)))
    check(name, device, mx.array(np.linspace(-1, 1, 2001, dtype=np.float32)))


@pytest.mark.parametrize("name", REAL_UNARY)
def test_real_functions(name, device):
    rng = np.random.default_rng(4)
    for dtype in DTYPES:
        check(name, device, metal_plans.values(dtype, rng))


def test_negative_and_invert(device):
    rng = np.random.default_rng(5)
    for dtype in (*FLOATS, *INTEGERS):
        check("negative", device, metal_plans.values(dtype, rng))
    for dtype in (mx.bool_, *INTEGERS):
        check("bitwise_invert", device, metal_plans.values(dtype, rng))


@pytest.mark.parametrize("name", FLOAT_BINARY + REAL_BINARY + INTEGER_BINARY)
def test_binary_functions(name, device):
    rng = np.random.default_rng(6)
    dtypes = (mx.bool_, *INTEGERS) if name in INTEGER_BINARY else DTYPES
    for dtype in dtypes:
        a, b = metal_plans.values(dtype, rng), metal_plans.values(dtype, rng)
        if name == "power" and dtype.kind == "f":
            a = mx.clip(a, -50, 50)
        check(name, device, a, b)
    grid = np.array(list(itertools.product(metal_plans.SPECIAL, metal_plans.SPECIAL)), np.float32)
    if name not in INTEGER_BINARY:
        check(name, device, mx.array(grid[:, 0].copy()), mx.array(grid[:, 1].copy()))


def test_operands_of_two_dtypes_are_cast_first(device):
    rng = np.random.default_rng(7)
    for a, b in itertools.combinations(DTYPES, 2):
        check("add", device, metal_plans.values(a, rng, 64), metal_plans.values(b, rng, 64))
        check("less", device, metal_plans.values(b, rng, 64), metal_plans.values(a, rng, 64))
        check("logical_or", device, metal_plans.values(a, rng, 64), metal_plans.values(b, rng, 64))


def layouts(x):
    """Yield views of a tensor of shape (6, 5, 8) as pairs: a name, and a function of the tensor."""
    yield "transposed", lambda x: x.transpose(2, 0, 1)
    yield "stepped", lambda x: x[::2, :, 1::3]
    yield "backwards", lambda x: x[::-1, :, ::-2]
    yield "offset", lambda x: x[2:, 3]
    yield "row", lambda x: x[3, 2:3]
    yield "column", lambda x: x[:, :1, :1]
    yield "one", lambda x: x[1, 2, 3]
    yield "nothing", lambda x: x[:0]
    yield "diagonal", lambda x: mx.diagonal(x, 0, 0, 1)


@pytest.mark.parametrize("order", ["forward", "reverse", "shuffled"])
def test_layouts(order, device, backend):
    backend.order = order
    rng = np.random.default_rng(8)
    for dtype in (mx.float32, mx.bfloat16, mx.int8, mx.int64, mx.bool_):
        x = mx.reshape(metal_plans.values(dtype, rng, 240), (6, 5, 8))
        (there,) = metal_plans.on(device, x)
        for _, view in layouts(x):
            metal_plans.agree(mx.square(view(x)), mx.square(view(there)))
            if view(x).ndim:
                metal_plans.agree(mx.maximum(view(x), view(x)[..., :1]), mx.maximum(view(there), view(there)[..., :1]))
            metal_plans.agree(view(x) + x[0, 0, 0], view(there) + there[0, 0, 0])
            c, d = view(x) > x[1, 1, 1], view(there) > there[1, 1, 1]
            metal_plans.agree(mx.where(c, view(x), x[0, 0, 0]), mx.where(d, view(there), there[0, 0, 0]))


def test_broadcasting_over_many_dimensions(device):
    rng = np.random.default_rng(9)
    a = rng.standard_normal((2, 1, 3, 1, 2, 1, 4)).astype(np.float32)
    b = rng.standard_normal((1, 3, 1, 2, 1, 3, 1)).astype(np.float32)
    expected = mx.array(a) * mx.array(b)
    got = mx.array(a, device=device) * mx.array(b, device=device)
    metal_plans.agree(expected, got)


def test_select(device):
    rng = np.random.default_rng(10)
    condition = mx.array(rng.random(101) > 0.4)
    for a, b in [(d, d) for d in (*DTYPES, mx.complex64)] + [(mx.int8, mx.float16), (mx.uint8, mx.int64)]:
        x, y = (metal_plans.values(mx.float32 if d is mx.complex64 else d, rng, 101).astype(d) for d in (a, b))
        expected = mx.where(condition, x, y)
        got = mx.where(*metal_plans.on(device, condition, x, y))
        metal_plans.agree(expected, got)


def test_parts_of_complex_numbers(device):
    z = mx.array((np.arange(12) - 3j * np.arange(12)).astype(np.complex64).reshape(3, 4))
    (there,) = metal_plans.on(device, z)
    for view in (lambda z: z, lambda z: z.T, lambda z: z[::-1, ::2]):
        metal_plans.agree(mx.real(view(z)), mx.real(view(there)))
        metal_plans.agree(mx.imag(view(z)), mx.imag(view(there)))


def test_refusals_name_the_dtype(device):
    x = mx.array(np.ones(3), device=device)
    assert x.dtype is mx.float64 or x.dtype is mx.float32
    z = mx.array(np.ones(3, np.complex64), device=device)
    with pytest.raises(mx.errors.UnsupportedOpError, match="complex64") as caught:
        z + z
    assert caught.value.facts["backend"] == "metal"


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.int8, mx.uint64, mx.bool_], ids=lambda d: d.name)
def test_checker_finds_nothing(dtype, device, backend):
    backend.checked = True
    rng = np.random.default_rng(11)
    x = mx.reshape(metal_plans.values(dtype, rng, 60), (3, 4, 5))
    (there,) = metal_plans.on(device, x)
    metal_plans.agree(mx.square(x.T), mx.square(there.T))
    metal_plans.agree(x + x[:, ::-1], there + there[:, ::-1])
    metal_plans.agree(x + x, there + there)
    metal_plans.agree(mx.where(x > x[0], x, x[0, 0, 0]), mx.where(there > there[0], there, there[0, 0, 0]))


def test_every_elementwise_primitive_has_a_plan():
    from mlxr.backends.metal.launch import PLANS

    lacking = [name for name, p in registry.items() if p.family == "elementwise" and name not in PLANS]
    assert lacking == []
