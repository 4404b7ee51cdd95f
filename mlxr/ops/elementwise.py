"""Elementwise operations: one declaration each.

Gradients are written in terms of ops, so that gradients of gradients work. Complex derivatives follow upstream's
convention (the cotangent is multiplied by the conjugate of the derivative).
"""

from __future__ import annotations

import builtins
import math

import numpy as np

import mlxr.ops as ops  # other families, in gradients: complete by the time a gradient runs
from mlxr._typing import BinaryFunction, UnaryFunction
from mlxr.core import dtype
from mlxr.core.dispatch import apply, as_operand, as_operands, broadcast_shapes
from mlxr.core.dtype import Dtype
from mlxr.errors import DtypeError, InvalidValueError, ShapeError
from mlxr.ops.declare import (
    BOOL,
    COMPLEX,
    EVERY,
    FLOATING,
    INTEGER,
    NUMERIC,
    REAL,
    Refusal,
    Sample,
    binary,
    operation,
    primitive,
    spread,
    unary,
)

__all__ = [
    "abs", "acos", "acosh", "add", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh", "asin",
    "asinh", "astype", "atan", "atan2", "atanh", "bitwise_and", "bitwise_invert", "bitwise_left_shift",
    "bitwise_or", "bitwise_right_shift", "bitwise_xor", "ceil", "clip", "conj", "conjugate", "contiguous", "cos",
    "cosh", "degrees", "divide", "divmod", "equal", "erf", "erfinv", "exp", "expm1", "floor", "floor_divide",
    "greater", "greater_equal", "imag", "isfinite", "isinf", "isnan", "isneginf", "isposinf", "left_shift", "less",
    "less_equal", "log", "log1p", "log2", "log10", "logaddexp", "logical_and", "logical_not", "logical_or",
    "logical_xor", "maximum", "minimum", "multiply", "nan_to_num", "negative", "not_equal", "positive", "pow",
    "power", "radians", "real", "reciprocal", "remainder", "right_shift", "round", "rsqrt", "sigmoid", "sign",
    "sin", "sinh", "sqrt", "square", "subtract", "tan", "tanh", "trunc", "where",
]



# ------------------------------------------------------------------ arithmetic

add: BinaryFunction = binary(
    "add", "Return the elementwise sum.", rule="any", reference=np.add, dtypes=EVERY, ulps=1,
    vjp=(lambda g, out, a, b: g, lambda g, out, a, b: g),
)
subtract: BinaryFunction = binary(
    "subtract", "Return the elementwise difference ``a - b``.", rule="any", reference=lambda a, b: a - b,
    dtypes=NUMERIC, ulps=1, vjp=(lambda g, out, a, b: g, lambda g, out, a, b: negative(g)),
)
multiply: BinaryFunction = binary(
    "multiply", "Return the elementwise product.", rule="any", reference=np.multiply, dtypes=EVERY, ulps=1,
    vjp=(lambda g, out, a, b: multiply(g, conjugate(b)), lambda g, out, a, b: multiply(g, conjugate(a))),
)
divide: BinaryFunction = binary(
    "divide", "Return the elementwise quotient; integers are divided as float32.", rule="float",
    reference=np.true_divide, domain=(-3.0, 3.0, 0.5, 4.0), dtypes=NUMERIC, ulps=1,
    vjp=(
        lambda g, out, a, b: divide(g, conjugate(b)),
        lambda g, out, a, b: negative(divide(multiply(g, conjugate(out)), conjugate(b))),
    ),
)
floor_divide: BinaryFunction = binary(
    "floor_divide", "Return the largest integer at most ``a / b``.", rule="real", reference=np.floor_divide,
    domain=(-9.3, 9.1, 0.7, 4.0), dtypes=FLOATING + INTEGER,
    notes="Integer division by zero gives 0; the most negative integer by -1 wraps around.",
    vjp=(lambda g, out, a, b: ops.zeros_like(g), lambda g, out, a, b: ops.zeros_like(g)),
)


def _remainder_reference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """NumPy's remainder, but an integer modulo zero is the integer itself."""
    whole = np.result_type(a, b).kind in "ui"
    return np.where(b == 0, a, np.remainder(a, np.where(b == 0, 1, b).astype(b.dtype))) if whole else np.remainder(a, b)


remainder: BinaryFunction = binary(
    "remainder", "Return the remainder of the division, with the sign of `b`.", rule="real",
    reference=_remainder_reference,
    domain=(-9.3, 9.1, 0.7, 4.0), dtypes=FLOATING + INTEGER, ulps=8,
    notes="An integer modulo zero is the integer itself.",
    vjp=(lambda g, out, a, b: g, lambda g, out, a, b: negative(multiply(g, floor_divide(a, b)))),
)
power: BinaryFunction = binary(
    "power", "Return `a` raised to the power `b`.", rule="any", reference=np.power, domain=(0.2, 3.0, -2.0, 3.0),
    vjp=(
        lambda g, out, a, b: multiply(g, multiply(b, power(a, subtract(b, 1)))),
        lambda g, out, a, b: multiply(g, where(equal(a, 0), ops.zeros_like(out), multiply(out, log(a)))),
    ),
    notes="Integers wrap around, and a negative integer exponent gives 0.",
)
maximum: BinaryFunction = binary(
    "maximum", "Return the larger of the two operands; NaN if either is NaN.", rule="any", reference=np.maximum,
    dtypes=EVERY, ulps=0,
    vjp=(
        lambda g, out, a, b: multiply(g, astype(greater(a, b), g.dtype)),
        lambda g, out, a, b: multiply(g, astype(less_equal(a, b), g.dtype)),
    ),
)
minimum: BinaryFunction = binary(
    "minimum", "Return the smaller of the two operands; NaN if either is NaN.", rule="any", reference=np.minimum,
    dtypes=EVERY, ulps=0,
    vjp=(
        lambda g, out, a, b: multiply(g, astype(less(a, b), g.dtype)),
        lambda g, out, a, b: multiply(g, astype(greater_equal(a, b), g.dtype)),
    ),
)
logaddexp: BinaryFunction = binary(
    "logaddexp", "Return ``log(exp(a) + exp(b))`` without overflow.", rule="float", reference=np.logaddexp,
    vjp=(
        lambda g, out, a, b: multiply(g, exp(subtract(a, out))),
        lambda g, out, a, b: multiply(g, exp(subtract(b, out))),
    ),
)
arctan2: BinaryFunction = binary(
    "arctan2", "Return the angle of the point (b, a), in radians.", rule="real float", reference=np.arctan2,
    vjp=(
        lambda g, out, a, b: divide(multiply(g, b), add(square(a), square(b))),
        lambda g, out, a, b: negative(divide(multiply(g, a), add(square(a), square(b)))),
    ),
)

# ------------------------------------------------------------------ signs and parts

negative: UnaryFunction = unary(
    "negative", "Return the elementwise negative.", rule="number", reference=np.negative, dtypes=NUMERIC, ulps=0,
    vjp=lambda g, out, x: negative(g), notes="Refuses bool: use logical_not.",
)
abs: UnaryFunction = unary(
    "abs", "Return the elementwise absolute value.", rule="magnitude", reference=np.abs, dtypes=EVERY, ulps=2,
    vjp=lambda g, out, x: multiply(g, sign(x)),
)
sign: UnaryFunction = unary(
    "sign", "Return the elementwise sign: -1, 0 or 1; ``z / |z|`` for complex numbers.", rule="any",
    reference=lambda x: np.where(x == 0, 0, x / np.where(x == 0, 1, np.abs(x))), dtypes=FLOATING, ulps=2,
    vjp=lambda g, out, x: ops.zeros_like(g),
)
square: UnaryFunction = unary(
    "square", "Return the elementwise square.", rule="any", reference=np.square, dtypes=NUMERIC, ulps=1,
    vjp=lambda g, out, x: multiply(g, multiply(2, conjugate(x))),
)
reciprocal: UnaryFunction = unary(
    "reciprocal", "Return the elementwise reciprocal ``1 / a``.", rule="float", reference=np.reciprocal,
    domain=(0.4, 3.0), vjp=lambda g, out, x: negative(multiply(g, square(conjugate(out)))), ulps=1,
)
sqrt: UnaryFunction = unary(
    "sqrt", "Return the elementwise square root.", rule="float", reference=np.sqrt, domain=(0.1, 9.0), ulps=1,
    vjp=lambda g, out, x: divide(g, multiply(2, conjugate(out))),
)
rsqrt: UnaryFunction = unary(
    "rsqrt", "Return the elementwise reciprocal square root.", rule="float", reference=lambda x: 1 / np.sqrt(x),
    domain=(0.1, 9.0), ulps=2, vjp=lambda g, out, x: multiply(g, multiply(-0.5, conjugate(divide(out, x)))),
)
conjugate: UnaryFunction = unary(
    "conjugate", "Return the elementwise complex conjugate; real operands come back unchanged in value.", rule="any",
    reference=np.conjugate, dtypes=EVERY, ulps=0, vjp=lambda g, out, x: conjugate(g),
)
real: UnaryFunction = unary(
    "real", "Return the real part.", rule="magnitude", reference=np.real, dtypes=FLOATING + COMPLEX, ulps=0,
    vjp=lambda g, out, x: astype(g, x.dtype),
)
imag: UnaryFunction = unary(
    "imag", "Return the imaginary part; zeros for real operands.", rule="magnitude", reference=np.imag,
    dtypes=FLOATING + COMPLEX, ulps=0,
    vjp=lambda g, out, x: multiply(g, 1j) if x.dtype is dtype.complex64 else ops.zeros_like(g),
)

# ------------------------------------------------------------------ exponentials and logarithms

exp: UnaryFunction = unary(
    "exp", "Return the elementwise exponential.", rule="float", reference=np.exp,
    vjp=lambda g, out, x: multiply(g, conjugate(out)), dtypes=FLOATING + COMPLEX,
)
expm1: UnaryFunction = unary(
    "expm1", "Return ``exp(a) - 1``, accurate for small `a`.", rule="float", reference=np.expm1,
    vjp=lambda g, out, x: multiply(g, add(out, 1)),
)
log: UnaryFunction = unary(
    "log", "Return the elementwise natural logarithm.", rule="float", reference=np.log, domain=(0.1, 9.0),
    vjp=lambda g, out, x: divide(g, conjugate(x)), dtypes=FLOATING + COMPLEX,
)
log2: UnaryFunction = unary(
    "log2", "Return the elementwise base-2 logarithm.", rule="float", reference=np.log2, domain=(0.1, 9.0),
    vjp=lambda g, out, x: divide(g, multiply(x, math.log(2))),
)
log10: UnaryFunction = unary(
    "log10", "Return the elementwise base-10 logarithm.", rule="float", reference=np.log10, domain=(0.1, 9.0),
    vjp=lambda g, out, x: divide(g, multiply(x, math.log(10))),
)
log1p: UnaryFunction = unary(
    "log1p", "Return ``log(1 + a)``, accurate for small `a`.", rule="float", reference=np.log1p, domain=(-0.7, 4.0),
    vjp=lambda g, out, x: divide(g, add(x, 1)),
)

# ------------------------------------------------------------------ trigonometry

sin: UnaryFunction = unary(
    "sin", "Return the elementwise sine.", rule="float", reference=np.sin, dtypes=FLOATING + COMPLEX,
    vjp=lambda g, out, x: multiply(g, conjugate(cos(x))),
)
cos: UnaryFunction = unary(
    "cos", "Return the elementwise cosine.", rule="float", reference=np.cos, dtypes=FLOATING + COMPLEX,
    vjp=lambda g, out, x: negative(multiply(g, conjugate(sin(x)))),
)
tan: UnaryFunction = unary(
    "tan", "Return the elementwise tangent.", rule="float", reference=np.tan, domain=(-1.3, 1.3),
    dtypes=FLOATING + COMPLEX, vjp=lambda g, out, x: multiply(g, add(1, square(conjugate(out)))),
)
arcsin: UnaryFunction = unary(
    "arcsin", "Return the elementwise inverse sine.", rule="float", reference=np.arcsin, domain=(-0.9, 0.9),
    vjp=lambda g, out, x: multiply(g, rsqrt(subtract(1, square(x)))),
)
arccos: UnaryFunction = unary(
    "arccos", "Return the elementwise inverse cosine.", rule="float", reference=np.arccos, domain=(-0.9, 0.9),
    vjp=lambda g, out, x: negative(multiply(g, rsqrt(subtract(1, square(x))))),
)
arctan: UnaryFunction = unary(
    "arctan", "Return the elementwise inverse tangent.", rule="float", reference=np.arctan,
    vjp=lambda g, out, x: divide(g, add(1, square(x))),
)
sinh: UnaryFunction = unary(
    "sinh", "Return the elementwise hyperbolic sine.", rule="float", reference=np.sinh,
    vjp=lambda g, out, x: multiply(g, cosh(x)),
)
cosh: UnaryFunction = unary(
    "cosh", "Return the elementwise hyperbolic cosine.", rule="float", reference=np.cosh,
    vjp=lambda g, out, x: multiply(g, sinh(x)),
)
tanh: UnaryFunction = unary(
    "tanh", "Return the elementwise hyperbolic tangent.", rule="float", reference=np.tanh, dtypes=FLOATING + COMPLEX,
    vjp=lambda g, out, x: multiply(g, subtract(1, square(conjugate(out)))),
)
arcsinh: UnaryFunction = unary(
    "arcsinh", "Return the elementwise inverse hyperbolic sine.", rule="float", reference=np.arcsinh,
    vjp=lambda g, out, x: multiply(g, rsqrt(add(1, square(x)))),
)
arccosh: UnaryFunction = unary(
    "arccosh", "Return the elementwise inverse hyperbolic cosine.", rule="float", reference=np.arccosh,
    domain=(1.2, 6.0), vjp=lambda g, out, x: multiply(g, rsqrt(subtract(square(x), 1))),
)
arctanh: UnaryFunction = unary(
    "arctanh", "Return the elementwise inverse hyperbolic tangent.", rule="float", reference=np.arctanh,
    domain=(-0.9, 0.9), vjp=lambda g, out, x: divide(g, subtract(1, square(x))),
)

# ------------------------------------------------------------------ special functions and activations

_TWO_OVER_SQRT_PI = 2 / math.sqrt(math.pi)
_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
_erf = np.vectorize(math.erf, otypes=[np.float64])
_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _inverse_erf(y: np.ndarray) -> np.ndarray:
    """Inverse of the error function by bisection: slow, and sure. Odd, so that zero is met exactly."""
    y, sign = np.abs(y), np.sign(y)
    low, high = np.zeros(np.shape(y)), np.full(np.shape(y), 6.0)
    for _ in range(80):
        middle = (low + high) / 2
        below = _erf(middle) < y
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return sign * (low + high) / 2


def _gelu_reference(x: np.ndarray) -> np.ndarray:
    """X * Phi(x); the tail is so steep that the rounding of erfc's own argument has to be made good."""
    exact = -np.asarray(x, np.longdouble) / np.sqrt(np.longdouble(2))
    t = exact.astype(np.float64)
    return x * (_erfc(t) - _TWO_OVER_SQRT_PI * np.exp(-t * t) * (exact - t).astype(np.float64)) / 2


sigmoid: UnaryFunction = unary(
    "sigmoid", "Return the logistic function ``1 / (1 + exp(-a))``.", rule="float",
    reference=lambda x: 1 / (1 + np.exp(-x)),
    vjp=lambda g, out, x: multiply(g, multiply(out, subtract(1, out))),
)
erf: UnaryFunction = unary(
    "erf", "Return the error function.", rule="real float", reference=_erf,
    vjp=lambda g, out, x: multiply(g, multiply(_TWO_OVER_SQRT_PI, exp(negative(square(x))))),
)
erfinv: UnaryFunction = unary(
    "erfinv", "Return the inverse of the error function.", rule="real float", reference=_inverse_erf,
    domain=(-0.95, 0.95), ulps=8,
    vjp=lambda g, out, x: multiply(g, multiply(1 / _TWO_OVER_SQRT_PI, exp(square(out)))),
)

# The activations that mlxr.nn.layers calls; fused, because composed they would cross memory several times.
relu: UnaryFunction = unary(
    "relu", "Return ``max(a, 0)``.", rule="real number", reference=lambda x: np.maximum(x, 0), namespace="nn.", ulps=0,
    vjp=lambda g, out, x: multiply(g, astype(greater(x, 0), g.dtype)),
)
silu: UnaryFunction = unary(
    "silu", "Return ``a * sigmoid(a)``.", rule="real float", reference=lambda x: x / (1 + np.exp(-x)), namespace="nn.",
    vjp=lambda g, out, x: multiply(g, add(sigmoid(x), multiply(out, subtract(1, sigmoid(x))))),
)
gelu: UnaryFunction = unary(
    "gelu", "Return ``a * Phi(a)``, Phi being the normal distribution function.", rule="real float", namespace="nn.",
    reference=_gelu_reference, ulps=6,
    vjp=lambda g, out, x: multiply(
        g,
        add(
            multiply(0.5, add(1, erf(multiply(x, math.sqrt(0.5))))),
            multiply(x, multiply(1 / math.sqrt(2 * math.pi), exp(multiply(-0.5, square(x))))),
        ),
    ),
)


def _gelu_tanh_vjp(g, out, x):
    inner = multiply(_SQRT_2_OVER_PI, add(x, multiply(0.044715, multiply(x, square(x)))))
    t = tanh(inner)
    slope = multiply(_SQRT_2_OVER_PI, add(1, multiply(3 * 0.044715, square(x))))
    half = multiply(0.5, add(1, t))
    return multiply(g, add(half, multiply(multiply(0.5, x), multiply(subtract(1, square(t)), slope))))


gelu_tanh: UnaryFunction = unary(
    "gelu_tanh", "Return GELU with the tanh approximation of the normal distribution function.", rule="real float",
    reference=lambda x: x / (1 + np.exp(-2 * _SQRT_2_OVER_PI * (x + 0.044715 * x**3))), namespace="nn.",
    vjp=_gelu_tanh_vjp, ulps=8,
)


def _gelu_sigmoid_vjp(g, out, x):
    s = sigmoid(multiply(1.702, x))
    return multiply(g, add(s, multiply(multiply(1.702, out), subtract(1, s))))


gelu_sigmoid: UnaryFunction = unary(
    "gelu_sigmoid", "Return ``a * sigmoid(1.702 a)``.", rule="real float",
    reference=lambda x: x / (1 + np.exp(-1.702 * x)), namespace="nn.", vjp=_gelu_sigmoid_vjp, ulps=6,
)
softplus: UnaryFunction = unary(
    "softplus", "Return ``log(1 + exp(a))`` without overflow.", rule="real float",
    reference=lambda x: np.logaddexp(x, 0), namespace="nn.", vjp=lambda g, out, x: multiply(g, sigmoid(x)),
)

# ------------------------------------------------------------------ rounding

floor: UnaryFunction = unary(
    "floor", "Round towards minus infinity.", rule="any", reference=np.floor, dtypes=FLOATING, ulps=0,
    vjp=lambda g, out, x: ops.zeros_like(g),
)
ceil: UnaryFunction = unary(
    "ceil", "Round towards plus infinity.", rule="any", reference=np.ceil, dtypes=FLOATING, ulps=0,
    vjp=lambda g, out, x: ops.zeros_like(g),
)
trunc: UnaryFunction = unary(
    "trunc", "Round towards zero.", rule="any", reference=np.trunc, dtypes=FLOATING, ulps=0,
    vjp=lambda g, out, x: ops.zeros_like(g),
)
_rint: UnaryFunction = unary(
    "rint", "Round to the nearest integer, ties to even.", rule="any", reference=np.rint, dtypes=FLOATING, ulps=0,
    vjp=lambda g, out, x: ops.zeros_like(g), namespace="core.",
)


def _round_samples(rng):
    for decimals in (0, 1, 2, -1):
        yield Sample((spread(rng, (4, 5), -21.3, 19.7),), {"decimals": decimals})


@operation("elementwise", samples=_round_samples, ulps=8, dtypes=(dtype.float32, dtype.float64),
           reference=lambda a, decimals=0: np.round(a, decimals))
def round(a, /, decimals=0, *, stream=None):
    """Round to a number of decimals, ties to even.

    Parameters
    ----------
    a : Tensor
    decimals : int
        Digits behind the decimal point; negative ones round to tens, hundreds, ...
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor
    """
    a = as_operand(a, "round")
    if decimals == 0:
        return _rint(a, stream=stream)
    if a.dtype.kind in "bui" and decimals > 0:
        return a
    factor = 10.0 ** builtins.abs(decimals)
    if decimals > 0:
        return divide(_rint(multiply(a, factor), stream=stream), factor)
    result = multiply(_rint(divide(a, factor), stream=stream), factor)
    return astype(result, a.dtype)


# ------------------------------------------------------------------ comparison

equal: BinaryFunction = binary(
    "equal", "Tell where the operands are equal.", rule="compare", reference=np.equal, dtypes=EVERY, ulps=0
)
not_equal: BinaryFunction = binary(
    "not_equal", "Tell where the operands differ.", rule="compare", reference=np.not_equal, dtypes=EVERY, ulps=0
)
less: BinaryFunction = binary("less", "Tell where ``a < b``.", rule="compare", reference=np.less, dtypes=REAL, ulps=0)
less_equal: BinaryFunction = binary(
    "less_equal", "Tell where ``a <= b``.", rule="compare", reference=np.less_equal, dtypes=REAL, ulps=0
)
greater: BinaryFunction = binary(
    "greater", "Tell where ``a > b``.", rule="compare", reference=np.greater, dtypes=REAL, ulps=0
)
greater_equal: BinaryFunction = binary(
    "greater_equal", "Tell where ``a >= b``.", rule="compare", reference=np.greater_equal, dtypes=REAL, ulps=0
)
_equal_nan: BinaryFunction = binary(
    "equal_nan", "Tell where the operands are equal or both NaN.", rule="compare", dtypes=EVERY, ulps=0,
    reference=lambda a, b: (a == b) | (np.isnan(a) & np.isnan(b)),
)
isnan: UnaryFunction = unary(
    "isnan", "Tell where elements are NaN.", rule="compare", reference=np.isnan, dtypes=EVERY, ulps=0
)
isinf: UnaryFunction = unary(
    "isinf", "Tell where elements are infinite.", rule="compare", reference=np.isinf, dtypes=EVERY, ulps=0
)
isfinite: UnaryFunction = unary(
    "isfinite", "Tell where elements are finite.", rule="compare", reference=np.isfinite, dtypes=EVERY, ulps=0
)
isposinf: UnaryFunction = unary(
    "isposinf", "Tell where elements are plus infinity.", rule="compare", reference=np.isposinf, dtypes=REAL, ulps=0
)
isneginf: UnaryFunction = unary(
    "isneginf", "Tell where elements are minus infinity.", rule="compare", reference=np.isneginf, dtypes=REAL, ulps=0
)

# ------------------------------------------------------------------ logic and bits

logical_and: BinaryFunction = binary(
    "logical_and", "Return the elementwise logical and.", rule="logical", reference=np.logical_and, dtypes=EVERY, ulps=0
)
logical_or: BinaryFunction = binary(
    "logical_or", "Return the elementwise logical or.", rule="logical", reference=np.logical_or, dtypes=EVERY, ulps=0
)
logical_xor: BinaryFunction = binary(
    "logical_xor", "Return the elementwise logical exclusive or.", rule="logical", reference=np.logical_xor,
    dtypes=EVERY, ulps=0,
)
logical_not: UnaryFunction = unary(
    "logical_not", "Return the elementwise logical not.", rule="logical", reference=np.logical_not, dtypes=EVERY, ulps=0
)
bitwise_and: BinaryFunction = binary(
    "bitwise_and", "Return the elementwise bitwise and.", rule="integer", reference=np.bitwise_and,
    dtypes=INTEGER + BOOL, ulps=0,
)
bitwise_or: BinaryFunction = binary(
    "bitwise_or", "Return the elementwise bitwise or.", rule="integer", reference=np.bitwise_or,
    dtypes=INTEGER + BOOL, ulps=0,
)
bitwise_xor: BinaryFunction = binary(
    "bitwise_xor", "Return the elementwise bitwise exclusive or.", rule="integer", reference=np.bitwise_xor,
    dtypes=INTEGER + BOOL, ulps=0,
)
bitwise_invert: UnaryFunction = unary(
    "bitwise_invert", "Return the elementwise bitwise inverse; logical not for booleans.", rule="integer",
    reference=np.bitwise_not, dtypes=INTEGER + BOOL, ulps=0,
)
left_shift: BinaryFunction = binary(
    "left_shift", "Return `a` shifted left by `b` bits.", rule="bits", reference=np.left_shift,
    domain=(0.0, 9.0, 0.0, 4.0), dtypes=INTEGER, ulps=0,
)
right_shift: BinaryFunction = binary(
    "right_shift", "Return `a` shifted right by `b` bits.", rule="bits", reference=np.right_shift,
    domain=(0.0, 99.0, 0.0, 4.0), dtypes=INTEGER, ulps=0,
)

# ------------------------------------------------------------------ copies, casts, selection

copy_p = primitive(
    "copy", "elementwise", lambda inputs, params: (inputs[0].shape, inputs[0].dtype), linear=True,
    vjp=lambda needs, g, out, x: g,
)
astype_p = primitive(
    "astype", "elementwise", lambda inputs, params: (inputs[0].shape, params[0]), linear=True,
    vjp=lambda needs, g, out, x, to: astype(g, x.dtype),
)
select_p = primitive(
    "select", "elementwise",
    lambda inputs, params: (
        broadcast_shapes(*(x.shape for x in inputs)), dtype.promote_types(inputs[1].dtype, inputs[2].dtype)
    ),
    vjp=lambda needs, g, out, c, x, y: (
        None,
        where(c, g, ops.zeros_like(g)) if needs[1] else None,
        where(c, ops.zeros_like(g), g) if needs[2] else None,
    ),
)


def copy(a):
    """Return a tensor with the same values and a storage of its own."""
    return apply(copy_p, (a,))


@operation("elementwise", primitive=copy_p, samples=lambda rng: iter([Sample((spread(rng, (4, 3), -2, 2).T,))]), ulps=0,
           reference=lambda a, allow_col_major=False: a, dtypes=EVERY, differentiable=(0,))
def contiguous(a, /, allow_col_major=False, *, stream=None):
    """Return a row-major tensor with the same values; `a` itself if it is one.

    Parameters
    ----------
    a : Tensor
    allow_col_major : bool
        Also accept a column-major tensor as it is.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor
    """
    a = as_operand(a, "contiguous")
    if a.is_contiguous or (allow_col_major and a.T.is_contiguous):
        return a
    return apply(copy_p, (a,), (), stream)


def _astype_samples(rng):
    for to in (dtype.float32, dtype.int32, dtype.float16, dtype.bool_, dtype.complex64):
        yield Sample((spread(rng, (3, 4), 0, 60), to))


@operation("elementwise", primitive=astype_p, samples=_astype_samples, dtypes=EVERY, ulps=0)
def astype(a, dtype, stream=None):
    """Return `a` as another dtype; `a` itself if it has it.

    Parameters
    ----------
    a : Tensor
    dtype : Dtype
        Floats are truncated by integer dtypes; integers keep their low bits; complex numbers lose the imaginary part.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor
    """
    a = as_operand(a, "astype")
    if a.dtype is dtype:
        return a
    if not isinstance(dtype, Dtype):
        raise DtypeError(f"[astype] expected a dtype such as mlxr.float32, got {dtype!r}", op="astype", dtypes=(dtype,))
    return apply(astype_p, (a,), (dtype,), stream)


def _where_samples(rng):
    for c, x, y in [((4, 5), (4, 5), (4, 5)), ((5,), (4, 1), ()), ((), (3,), (3,)), ((0,), (0,), (1,))]:
        yield Sample((spread(rng, c, -1, 1) > 0, spread(rng, x, -2, 2), spread(rng, y, -2, 2)))


@operation("elementwise", primitive=select_p, samples=_where_samples, reference=np.where, dtypes=EVERY, ulps=0,
           differentiable=(1, 2),
           refusals=(Refusal((np.ones(3, bool), np.ones(4), np.ones(3)), ShapeError),))
def where(condition, x, y, /, *, stream=None):
    """Return `x` where `condition` holds and `y` elsewhere.

    Parameters
    ----------
    condition : Tensor or scalar
        Anything nonzero holds.
    x, y : Tensor or scalar
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor
        Of the shape to which all three broadcast.

    Raises
    ------
    ShapeError
        If the shapes cannot be broadcast.
    """
    x, y = as_operands(x, y, "where")
    condition = as_operand(condition, "where")
    if condition.dtype is not dtype.bool_:
        condition = not_equal(condition, 0)
    return apply(select_p, (condition, x, y), (), stream)


@operation(
    "elementwise",
    differentiable=(0,),
    reference=lambda a, lo, hi: np.clip(a, lo, hi),
    ulps=0,
    samples=lambda rng: iter(
        [
            Sample((spread(rng, (5, 4), -3, 3), -1.0, 1.5)),
            Sample((spread(rng, (6,), -3, 3), None, 0.5)),
            Sample((spread(rng, (6,), -3, 3), 0.25, None)),
            Sample((spread(rng, (2, 3), -3, 3), spread(rng, (3,), -2, 0), 1.0)),
        ]
    ),
)
def clip(a, /, a_min, a_max, *, stream=None):
    """Limit the elements to an interval; NaN stays NaN.

    Parameters
    ----------
    a : Tensor
    a_min, a_max : scalar, Tensor or None
        Bounds, broadcast against `a`. Where they cross, the upper one wins.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor

    Raises
    ------
    InvalidValueError
        If both bounds are None.
    """
    if a_min is None and a_max is None:
        raise InvalidValueError("[clip] at most one bound can be None", op="clip")
    a = as_operand(a, "clip")
    if a_min is not None:
        a = maximum(a, a_min, stream=stream)
    if a_max is not None:
        a = minimum(a, a_max, stream=stream)
    return a


@operation(
    "elementwise",
    reference=lambda a, b: (np.floor_divide(a, b), _remainder_reference(a, b)),
    samples=lambda rng: iter([Sample((spread(rng, (5,), -9.3, 9.1), spread(rng, (5,), 0.7, 4.0))),
                              Sample((spread(rng, (4, 5), -99.0, 99.0), spread(rng, (5,), 1.0, 9.0)))]),
    dtypes=FLOATING + INTEGER,
    ulps=8,
)
def divmod(a, b, stream=None):
    """Return the pair ``(a // b, a % b)``.

    Parameters
    ----------
    a, b : Tensor or scalar
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    list of Tensor
    """
    return [floor_divide(a, b, stream=stream), remainder(a, b, stream=stream)]


@operation("elementwise", differentiable=(0,), reference=np.degrees,
           samples=lambda rng: iter([Sample((spread(rng, (7,), -7, 7),))]))
def degrees(a, /, *, stream=None):
    """Return angles in degrees for angles in radians.

    Parameters
    ----------
    a : Tensor
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor
    """
    return multiply(a, 180.0 / math.pi, stream=stream)


@operation("elementwise", differentiable=(0,), reference=np.radians,
           samples=lambda rng: iter([Sample((spread(rng, (7,), -400, 400),))]))
def radians(a, /, *, stream=None):
    """Return angles in radians for angles in degrees.

    Parameters
    ----------
    a : Tensor
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor
    """
    return multiply(a, math.pi / 180.0, stream=stream)


def positive(a, /, *, stream=None):
    """Return `a`."""
    return as_operand(a, "positive")


@operation(
    "elementwise",
    reference=lambda a, nan=0.0, posinf=None, neginf=None: np.nan_to_num(a, nan=nan, posinf=posinf, neginf=neginf),
    dtypes=(dtype.float32, dtype.float64),
    ulps=0,
    samples=lambda rng: iter(
        [Sample((np.array([1.0, np.nan, np.inf, -np.inf, -0.0]),), {"posinf": 7.0, "neginf": -7.0})]
    ),
)
def nan_to_num(a, nan=0.0, posinf=None, neginf=None, *, stream=None):
    """Replace NaN and infinities by finite numbers.

    Parameters
    ----------
    a : Tensor
    nan : float
    posinf, neginf : float, optional
        By default the largest and lowest finite numbers of the dtype.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor
    """
    a = as_operand(a, "nan_to_num")
    if a.dtype.kind not in "fc":
        return a
    limits = dtype.finfo(a.dtype)
    a = where(isnan(a), nan, a, stream=stream)
    a = where(isposinf(a), limits.max if posinf is None else posinf, a)
    return where(isneginf(a), limits.min if neginf is None else neginf, a)


# Other names for the same functions, as upstream has them.
acos, acosh, asin, asinh, atan, atan2, atanh = arccos, arccosh, arcsin, arcsinh, arctan, arctan2, arctanh
bitwise_left_shift, bitwise_right_shift, conj, pow = left_shift, right_shift, conjugate, power
