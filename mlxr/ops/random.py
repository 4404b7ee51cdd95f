"""Random numbers from keys: raw bits, the distributions, and the generator that serves calls without a key.

A key is two uint32 words, and bits are Threefry-2x32 of a counter (``mlxr/cpu/kernels/random.pxd`` has the layout):
a sample depends on key, shape and dtype alone, and equals upstream's. Uniform, normal and Bernoulli samples with scalar
parameters are primitives; everything else is composed of them. Samples have gradients in their parameters.
"""

from __future__ import annotations

import functools
import operator
import threading

import numpy as np

import mlxr.ops as ops  # other families: complete by the time a function runs
from mlxr.core import dtype as dtypes
from mlxr.core.device import device_of
from mlxr.core.dispatch import apply, as_operand, broadcast_shapes
from mlxr.core.dtype import Dtype
from mlxr.core.interop import to_device
from mlxr.core.tensor import Tensor
from mlxr.errors import ArgumentTypeError, AxisError, DtypeError, InvalidValueError, ShapeError, UnsupportedOpError
from mlxr.ops.creation import shape_of
from mlxr.ops.declare import Refusal, Sample, operation, primitive
from mlxr.ops.elementwise import (
    add,
    astype,
    divide,
    erf,
    erfinv,
    floor,
    less,
    log,
    log1p,
    maximum,
    minimum,
    multiply,
    negative,
    sign,
    subtract,
)
from mlxr.ops.layout import expand_dims

__all__ = [
    "bernoulli", "bits", "categorical", "gumbel", "key", "laplace", "multivariate_normal", "normal", "permutation",
    "randint", "seed", "split", "state", "truncated_normal", "uniform",
]

BELOW_ONE = 1 - 2.0**-24  # the largest float32 below one
# sqrt(2) as upstream has it: a float32 constant that is then rounded to the dtype, but for float64.
SQRT2 = dict.fromkeys((dtypes.float16, dtypes.bfloat16, dtypes.float32), 1.4142135381698608) | {dtypes.float64: 2**0.5}
BERNOULLI_SCALE = 4294967808.0

# ------------------------------------------------------------------ primitives

# Keys of shape [..., 2] each fill one more leading part of the result. The shape of one part comes first.
def _infer(keys, params):
    return keys[0].shape[:-1] + params[0], params[1]


bits_p = primitive("random_bits", "random", _infer)
uniform_p = primitive("random_uniform", "random", _infer)
normal_p = primitive("random_normal", "random", _infer)
bernoulli_p = primitive(
    "random_bernoulli", "random", lambda keys, params: (keys[0].shape[:-1] + params[0], dtypes.bool_)
)

# ------------------------------------------------------------------ keys

_WIDTHS = {1: dtypes.uint8, 2: dtypes.uint16, 4: dtypes.uint32}
_KEY = np.array([3, 7], np.uint32)
_KEY_REFUSALS = (
    Refusal((), ShapeError, {"key": np.zeros(3, np.uint32)}), Refusal((), DtypeError, {"key": np.zeros(2, np.int32)}),
)


def key(seed, *, device=None):
    """Return the key that stands for a seed.

    Parameters
    ----------
    seed : int
        In [0, 2**64).
    device : Device or str, optional
        Where the key is made; samples are made where their key lives.

    Returns
    -------
    Tensor
        The two halves of the seed, as uint32.

    Raises
    ------
    ArgumentTypeError
        If `seed` is no int or out of range.
    """
    try:
        value = operator.index(seed)
    except TypeError:
        value = -1
    if not 0 <= value < 1 << 64:
        raise ArgumentTypeError(f"[key] a seed is an int in [0, 2**64), got {seed!r}", op="key", seed=seed)
    return Tensor([value >> 32, value & 0xFFFFFFFF], dtypes.uint32, device=device)


# The key of the generator that serves calls without a key, once it is seeded (mlxr.random does so with the time). A
# list, so that programs can hold it and compile over it. The key lives on the CPU: a failure on another device may
# leave whatever waits there without a value, and the generator serves all devices.
state: list[Tensor] = []
_lock = threading.Lock()


def seed(seed):
    """Seed the generator that serves calls without a key.

    Parameters
    ----------
    seed : int
        In [0, 2**64). Before the first call the seed is the time.

    Raises
    ------
    ArgumentTypeError
        If `seed` is no int or out of range.
    """
    state[:] = [key(seed, device="cpu")]


def _next_key():
    with _lock:
        pair = apply(bits_p, (state[0],), ((2, 2), dtypes.uint32))
        state[0] = pair[0]
    return pair[1]


def _key(key, stream, op):
    """Return the key to sample with: `key`, checked, or the generator's next one on the device of `stream`."""
    if key is None:
        key, device = _next_key(), device_of(stream)
        return key if key.device is device else to_device(key, device)
    key = as_operand(key, op)
    if key.dtype is not dtypes.uint32:
        raise DtypeError(f"[{op}] Expected key type uint32 but received {key.dtype.name}.", op=op, dtypes=(key.dtype,))
    if key.shape != (2,):
        raise ShapeError(f"[{op}] Expected key shape (2) but received {key.shape}.", op=op, shapes=(key.shape,))
    return key


@operation("random", name="random.split", primitive=bits_p, dtypes=(dtypes.float32,), ulps=0,
           samples=lambda rng: iter([Sample((_KEY,)), Sample((_KEY, 5)), Sample((_KEY, 0))]),
           refusals=(Refusal((np.zeros(3, np.uint32),), ShapeError), Refusal((_KEY, -1), ShapeError)))
def split(key, num=2, stream=None):
    """Return independent keys derived from a key.

    Parameters
    ----------
    key : Tensor
    num : int
        How many.
    stream : Stream or Device, optional
        Must be on the key's device.

    Returns
    -------
    Tensor
        Of shape (num, 2).
    """
    return bits((num, 2), 4, key, stream)


@operation("random", name="random.bits", primitive=bits_p, dtypes=(dtypes.float32,), ulps=0,
           samples=lambda rng: (Sample((shape,), {"width": width, "key": _KEY})
                                for width in _WIDTHS for shape in ((), (0,), (7,), (3, 5), (1030,))),
           refusals=(*_KEY_REFUSALS, Refusal(((-1,),), ShapeError, {"key": _KEY}),
                     Refusal(((2,), 3), InvalidValueError, {"key": _KEY})))
def bits(shape=(), width=4, key=None, stream=None):
    """Return random bits.

    Parameters
    ----------
    shape : int or sequence of int
    width : int
        Bytes of an element: 1, 2 or 4.
    key : Tensor, optional
        By default the global generator's next key.
    stream : Stream or Device, optional
        Must be on the key's device.

    Returns
    -------
    Tensor
        Of dtype uint8, uint16 or uint32.

    Raises
    ------
    ShapeError, DtypeError
        If `key` is not two uint32 words, or an extent is negative.
    InvalidValueError
        If there is no such width.
    """
    if width not in _WIDTHS:
        raise InvalidValueError(f"[bits] Bit width must be in {{1, 2, 4}} but got {width}.", op="bits", width=width)
    return apply(bits_p, (_key(key, stream, "bits"),), (shape_of(shape, "bits"), _WIDTHS[width]), stream)


# ------------------------------------------------------------------ parameters of distributions

def _is_number(value):
    return isinstance(value, (int, float))


@functools.lru_cache(maxsize=256)
def _rounded(value, dtype):
    """Return the number that a Python scalar becomes in `dtype`."""
    return astype(as_operand(value), dtype).item()


def _parameter(value, dtype, key, op):
    """Return a parameter of a distribution as a tensor where the key lives."""
    value = as_operand(value, op) if not isinstance(value, (int, float, complex)) else Tensor(value, device=key.device)
    return astype(value, dtype)


def _real_float(dtype, op):
    dtype = dtype or dtypes.float32
    if not isinstance(dtype, Dtype) or dtype.kind != "f":
        raise DtypeError(f"[{op}] Can only generate uniform numbers with real floating point type.", op=op,
                         dtypes=(dtype,))
    return dtype


def _holding(shape, *operands, op):
    """Return `shape`, to which the operands must broadcast without adding to it."""
    bounds = broadcast_shapes(*(x.shape for x in operands))
    if broadcast_shapes(shape, bounds) != shape:
        raise ShapeError(f"[{op}] Cannot generate random values of shape {shape} from broadcasted shape {bounds}.",
                         op=op, shapes=(shape, bounds))
    return shape


# ------------------------------------------------------------------ distributions

def _uniform_samples(rng):
    for dtype in (dtypes.float32, dtypes.float16, dtypes.bfloat16):
        yield Sample((), {"shape": (4, 5), "dtype": dtype, "key": _KEY})
        yield Sample((-1, 3.5), {"shape": (0,), "dtype": dtype, "key": _KEY})
    yield Sample((np.array([0.0, 2.0]), np.array([[1.0], [4.0]])), {"shape": (3, 2, 2), "key": _KEY})


@operation("random", name="random.uniform", primitive=uniform_p, samples=_uniform_samples, dtypes=(dtypes.float32,),
           refusals=(*_KEY_REFUSALS, Refusal((np.zeros(3, np.float32),), ShapeError, {"shape": (2,)}),
                     Refusal((np.zeros(3, np.float32),), ShapeError),
                     Refusal((), DtypeError, {"dtype": dtypes.int32}),
                     Refusal((), UnsupportedOpError, {"dtype": dtypes.float64})))
def uniform(low=0, high=1, shape=(), dtype=dtypes.float32, key=None, stream=None):
    """Return samples spread evenly over the half-open interval [low, high).

    Parameters
    ----------
    low, high : scalar or Tensor
        Broadcast to `shape`.
    shape : int or sequence of int
    dtype : Dtype
        float32, float16 or bfloat16.
    key : Tensor, optional
        By default the global generator's next key.
    stream : Stream or Device, optional
        Must be on the key's device.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If the bounds do not broadcast to `shape`.
    DtypeError, UnsupportedOpError
        If there are no such samples.
    """
    dtype = _real_float(dtype, "uniform")
    if dtype is dtypes.float64:
        raise UnsupportedOpError("[uniform] Unsupported type: float64.", op="uniform", dtypes=(dtype,), backend="cpu")
    shape = shape_of(shape, "uniform")
    key = _key(key, stream, "uniform")
    if _is_number(low) and _is_number(high):
        return apply(uniform_p, (key,), (shape, dtype, _rounded(low, dtype), _rounded(high, dtype)), stream)
    low, high = _parameter(low, dtype, key, "uniform"), _parameter(high, dtype, key, "uniform")
    _holding(shape, low, high, op="uniform")
    unit = apply(uniform_p, (key,), (shape, dtype, 0.0, 1.0), stream)
    return add(low, multiply(subtract(high, low), unit))


def _normal_samples(rng):
    for dtype in (dtypes.float32, dtypes.float16, dtypes.bfloat16, dtypes.float64, dtypes.complex64):
        yield Sample(((3, 5), dtype), {"key": _KEY})
        yield Sample(((7,), dtype, 2.0, 0.5), {"key": _KEY})
    yield Sample(((3, 2),), {"loc": np.array([1.0, -2.0]), "scale": np.array([0.5, 4.0]), "key": _KEY})


@operation("random", name="random.normal", primitive=normal_p, samples=_normal_samples, dtypes=(dtypes.float32,),
           refusals=(*_KEY_REFUSALS, Refusal((), DtypeError, {"dtype": dtypes.int32})))
def normal(shape=(), dtype=dtypes.float32, loc=None, scale=None, key=None, stream=None):
    """Return samples of the normal distribution.

    Parameters
    ----------
    shape : int or sequence of int
    dtype : Dtype
        Floating or complex64; both parts of a complex sample have variance 1/2.
    loc, scale : scalar or Tensor, optional
        Mean and standard deviation, 0 and 1 by default; the samples broadcast against them.
    key : Tensor, optional
        By default the global generator's next key.
    stream : Stream or Device, optional
        Must be on the key's device.

    Returns
    -------
    Tensor

    Raises
    ------
    DtypeError
        If there are no such samples.
    """
    dtype = dtype or dtypes.float32
    if not isinstance(dtype, Dtype) or dtype.kind not in "fc":
        raise DtypeError("[normal] Only floating point and complex64 types are supported.", op="normal",
                         dtypes=(dtype,))
    shape = shape_of(shape, "normal")
    key = _key(key, stream, "normal")
    # What the kernel draws has variance 1/2 in each part.
    factor = Tensor(SQRT2.get(dtype, 1.0), dtype, device=key.device)
    if scale is not None:
        factor = multiply(factor, _parameter(scale, dtype, key, "normal"))
    scalars = all(value is None or _is_number(value) for value in (loc, scale))
    if scalars and dtype is not dtypes.float64:
        mean = 0.0 if loc is None else _rounded(loc, dtype).real
        return apply(normal_p, (key,), (shape, dtype, mean, factor.item().real), stream)
    lanes = dtypes.float32 if dtype is dtypes.float64 else dtype
    sample = multiply(factor, astype(apply(normal_p, (key,), (shape, lanes, 0.0, 1.0), stream), dtype))
    return sample if loc is None else add(_parameter(loc, dtype, key, "normal"), sample)


def _matrix_root(cov):
    """Return a matrix B with ``B^T B = cov`` for symmetric positive semi-definite `cov`."""
    u, s, vt = ops.linalg.svd(cov)
    return ops.matmul(multiply(u, expand_dims(ops.sqrt(s), -2)), vt)


@operation("random", name="random.multivariate_normal", dtypes=(dtypes.float32,),
           samples=lambda rng: (Sample((np.array([1.0, -1.0]), np.array([[2.0, 0.6], [0.6, 1.0]])),
                                       {"shape": shape, "key": _KEY}) for shape in ((), (4,), (2, 3))),
           refusals=(Refusal((np.zeros((), np.float32), np.eye(2, dtype=np.float32)), ShapeError),
                     Refusal((np.zeros(2, np.float32), np.zeros(2, np.float32)), ShapeError),
                     Refusal((np.zeros(2, np.float32), np.eye(3, dtype=np.float32)), ShapeError),
                     Refusal((np.zeros(2, np.float32), np.eye(2, dtype=np.float32)), DtypeError,
                             {"dtype": dtypes.float16})))
def multivariate_normal(mean, cov, shape=(), dtype=dtypes.float32, key=None, stream=None):
    """Return samples of the joint normal distribution of several variables.

    Parameters
    ----------
    mean : Tensor
        Of shape (..., n).
    cov : Tensor
        Covariances, of shape (..., n, n): symmetric and positive semi-definite.
    shape : int or sequence of int
        Leading axes of the result, to which those of `mean` and `cov` broadcast; empty: what these broadcast to.
    dtype : Dtype
        float32.
    key : Tensor, optional
        By default the global generator's next key.
    stream : Stream or Device, optional
        Must be on the key's device.

    Returns
    -------
    Tensor
        Of shape (..., n).

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    DtypeError
        If `dtype` is not float32.
    """
    op = "multivariate_normal"
    if (dtype or dtypes.float32) is not dtypes.float32:
        raise DtypeError(f"[{op}] dtype must be float32.", op=op, dtypes=(dtype,))
    mean, cov = (astype(as_operand(x, op), dtypes.float32) for x in (mean, cov))
    if mean.ndim < 1 or cov.ndim < 2:
        raise ShapeError(f"[{op}] mean needs one axis and cov two, got {mean.shape} and {cov.shape}", op=op,
                         shapes=(mean.shape, cov.shape))
    n = mean.shape[-1]
    if cov.shape[-2:] != (n, n):
        raise ShapeError(f"[{op}] mean and cov must have compatible shapes, got {mean.shape} and {cov.shape}", op=op,
                         shapes=(mean.shape, cov.shape))
    shape = shape_of(shape, op)
    parts = broadcast_shapes(mean.shape[:-1], cov.shape[:-2])
    if shape and broadcast_shapes(shape, parts) != shape:
        raise ShapeError(f"[{op}] shape {shape} does not hold the {parts} distributions", op=op, shapes=(shape, parts))
    sample = normal((*(shape or parts), 1, n), key=key, stream=stream)
    return add(mean, ops.squeeze(ops.matmul(sample, _matrix_root(cov)), -2))


def _randint_samples(rng):
    for dtype in (dtypes.int32, dtypes.uint8, dtypes.int64, dtypes.bool_):
        yield Sample((3, 100, (9,), dtype), {"key": _KEY})
    yield Sample((np.array([0, 10]), np.array([5, 20]), (4, 2)), {"key": _KEY})


@operation("random", name="random.randint", samples=_randint_samples, dtypes=(dtypes.float32,), ulps=0,
           refusals=(Refusal((0, 5), DtypeError, {"dtype": dtypes.float32}),
                     Refusal((np.zeros(3, np.int32), 5, (2,)), ShapeError)))
def randint(low, high, shape=(), dtype=dtypes.int32, key=None, stream=None):
    """Return integers spread evenly over [low, high).

    Parameters
    ----------
    low, high : scalar or Tensor
        Broadcast to `shape`.
    shape : int or sequence of int
    dtype : Dtype
        Integer or bool.
    key : Tensor, optional
        By default the global generator's next key.
    stream : Stream or Device, optional
        Must be on the key's device.

    Returns
    -------
    Tensor

    Raises
    ------
    DtypeError
        If `dtype` is no integer.

    Notes
    -----
    Drawn as float32, as upstream does: of intervals beyond 2**24 not every integer occurs.
    """
    dtype = dtype or dtypes.int32
    if not isinstance(dtype, Dtype) or dtype.kind not in "bui":
        raise DtypeError("[randint] randint only accepts integer dtypes and bool.", op="randint", dtypes=(dtype,))
    key = _key(key, stream, "randint")
    drawn = astype(floor(uniform(low, high, shape, key=key, stream=stream)), dtype)
    last = subtract(high, 1) if isinstance(high, Tensor) else high - 1
    return maximum(minimum(drawn, _parameter(last, dtype, key, "randint")), _parameter(low, dtype, key, "randint"))


@operation("random", name="random.bernoulli", primitive=bernoulli_p, dtypes=(dtypes.float32,), ulps=0,
           samples=lambda rng: iter([
               *(Sample((p, (40,)), {"key": _KEY}) for p in (0.0, 0.1, 0.5, 1.0)),
               Sample((np.array([0.2, 0.9]),), {"key": _KEY}), Sample((np.array([0.2, 0.9]), (3, 2)), {"key": _KEY}),
           ]),
           refusals=(Refusal((1,), DtypeError), Refusal((np.ones(2, np.int32),), DtypeError),
                     Refusal((np.ones(2, np.float32), (3,)), ShapeError)))
def bernoulli(p=0.5, shape=None, key=None, stream=None):
    """Return booleans that are true with a probability.

    Parameters
    ----------
    p : float or Tensor
        The probability, broadcast to `shape`.
    shape : int or sequence of int, optional
        That of `p` by default.
    key : Tensor, optional
        By default the global generator's next key.
    stream : Stream or Device, optional
        Must be on the key's device.

    Returns
    -------
    Tensor
        Of dtype bool.

    Raises
    ------
    DtypeError
        If `p` is not floating.
    ShapeError
        If `p` does not broadcast to `shape`.
    """
    key = _key(key, stream, "bernoulli")
    chance = as_operand(p, "bernoulli")
    if chance.dtype.kind != "f":
        raise DtypeError("[bernoulli] bernoulli probability `p` must be a float type.", op="bernoulli",
                         dtypes=(chance.dtype,))
    shape = chance.shape if shape is None else shape_of(shape, "bernoulli")
    if isinstance(p, float):
        threshold = float(np.float32(p) * np.float32(BERNOULLI_SCALE))
        return apply(bernoulli_p, (key,), (shape, threshold), stream)
    _holding(shape, chance, op="bernoulli")
    threshold = multiply(_parameter(p, dtypes.float32, key, "bernoulli"), BERNOULLI_SCALE)
    return less(astype(bits(shape, 4, key, stream), dtypes.float32), threshold)


@operation("random", name="random.truncated_normal", dtypes=(dtypes.float32,),
           samples=lambda rng: iter([
               Sample((-1, 2), {"shape": (9,), "key": _KEY}), Sample((np.array([-1.0, 0.0]), 2.0), {"key": _KEY}),
               Sample((-1, 2), {"shape": (9,), "dtype": dtypes.float16, "key": _KEY}),
           ]),
           refusals=(Refusal((-1, 2), DtypeError, {"dtype": dtypes.int32}),
                     Refusal((np.zeros(2, np.float32), 2), ShapeError, {"shape": (3,)})))
def truncated_normal(lower, upper, shape=None, dtype=dtypes.float32, key=None, stream=None):
    """Return samples of the normal distribution within [lower, upper].

    Parameters
    ----------
    lower, upper : scalar or Tensor
        Broadcast to `shape`.
    shape : int or sequence of int, optional
        What the bounds broadcast to by default.
    dtype : Dtype
        float32, float16 or bfloat16.
    key : Tensor, optional
        By default the global generator's next key.
    stream : Stream or Device, optional
        Must be on the key's device.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If the bounds do not broadcast to `shape`.
    DtypeError, UnsupportedOpError
        If there are no such samples.
    """
    dtype = _real_float(dtype, "truncated_normal")
    key = _key(key, stream, "truncated_normal")
    lower, upper = (_parameter(bound, dtype, key, "truncated_normal") for bound in (lower, upper))
    if shape is None:
        shape = broadcast_shapes(lower.shape, upper.shape)
    root = Tensor(SQRT2[dtype], dtype, device=key.device)
    quantile = uniform(erf(divide(lower, root)), erf(divide(upper, root)), shape, dtype, key, stream)
    return maximum(minimum(multiply(root, erfinv(quantile)), upper), lower)


@operation("random", name="random.gumbel", dtypes=(dtypes.float32,),
           samples=lambda rng: (Sample(((9,), dtype), {"key": _KEY}) for dtype in (dtypes.float32, dtypes.bfloat16)),
           refusals=(*_KEY_REFUSALS, Refusal((), DtypeError, {"dtype": dtypes.int32})))
def gumbel(shape=(), dtype=dtypes.float32, key=None, stream=None):
    """Return samples of the standard Gumbel distribution, whose distribution function is ``exp(-exp(-x))``.

    Parameters
    ----------
    shape : int or sequence of int
    dtype : Dtype
        float32, float16 or bfloat16.
    key : Tensor, optional
        By default the global generator's next key.
    stream : Stream or Device, optional
        Must be on the key's device.

    Returns
    -------
    Tensor
    """
    return negative(log(negative(log(uniform(0, 1, shape, dtype, key, stream)))))


@operation("random", name="random.laplace", dtypes=(dtypes.float32,),
           samples=lambda rng: (Sample(((9,), dtype, loc, scale), {"key": _KEY})
                                for dtype in (dtypes.float32, dtypes.float16, dtypes.float64)
                                for loc, scale in ((0.0, 1.0), (1.0, 2.0))),
           refusals=(*_KEY_REFUSALS, Refusal((), DtypeError, {"dtype": dtypes.int32})))
def laplace(shape=(), dtype=dtypes.float32, loc=0.0, scale=1.0, key=None, stream=None):
    """Return samples of the Laplace distribution.

    Parameters
    ----------
    shape : int or sequence of int
    dtype : Dtype
        Floating.
    loc, scale : float
        Mean, and the distance over which the density falls to 1/e of its peak.
    key : Tensor, optional
        By default the global generator's next key.
    stream : Stream or Device, optional
        Must be on the key's device.

    Returns
    -------
    Tensor

    Raises
    ------
    DtypeError
        If `dtype` is not floating.
    """
    dtype = dtype or dtypes.float32
    if not isinstance(dtype, Dtype) or dtype.kind != "f":
        raise DtypeError("[laplace] Only real floating point types are supported.", op="laplace", dtypes=(dtype,))
    key = _key(key, stream, "laplace")
    x = uniform(-BELOW_ONE, 1.0, shape, key=key, stream=stream)
    x = astype(x, dtypes.promote_types(dtype, dtypes.float32))
    sample = astype(multiply(sign(x), log1p(negative(ops.abs(x)))), dtype)
    if not _is_number(scale) or scale != 1:
        sample = multiply(_parameter(scale, dtype, key, "laplace"), sample)
    if not _is_number(loc) or loc != 0:
        sample = add(_parameter(loc, dtype, key, "laplace"), sample)
    return sample


def _categorical_samples(rng):
    logits = np.linspace(-2, 2, 24).reshape(2, 3, 4)
    for kwargs in ({}, {"axis": 1}, {"num_samples": 5}, {"axis": 0, "num_samples": 5}, {"axis": 1, "shape": (5, 2, 4)}):
        yield Sample((logits,), {**kwargs, "key": _KEY})


@operation("random", name="random.categorical", samples=_categorical_samples, dtypes=(dtypes.float32,), ulps=0,
           refusals=(Refusal((np.zeros((2, 3), np.float32),), AxisError, {"axis": 2}),
                     Refusal((np.zeros((2, 3), np.float32),), ShapeError, {"shape": (3,)}),
                     Refusal((np.zeros((2, 3), np.float32),), InvalidValueError, {"shape": (2,), "num_samples": 2}),
                     Refusal((np.zeros((2, 0), np.float32),), ShapeError)))
def categorical(logits, axis=-1, shape=None, num_samples=None, key=None, stream=None):
    """Return numbers of categories, drawn with probabilities ``softmax(logits)``.

    Parameters
    ----------
    logits : Tensor
    axis : int
        The axis of the categories.
    shape : int or sequence of int, optional
        Of the result: the shape of `logits` without `axis` must broadcast to it.
    num_samples : int, optional
        Draw so many times from each distribution; they become the last axis.
    key : Tensor, optional
        By default the global generator's next key.
    stream : Stream or Device, optional
        Must be on the key's device.

    Returns
    -------
    Tensor
        Of dtype uint32.

    Raises
    ------
    AxisError
        If there is no such axis.
    ShapeError
        If the distributions do not broadcast to `shape`, or there are no categories.
    InvalidValueError
        If both `shape` and `num_samples` are given.
    """
    op = "categorical"
    logits = as_operand(logits, op)
    if shape is not None and num_samples is not None:
        raise InvalidValueError(f"[{op}] At most one of shape or num_samples can be specified.", op=op)
    axis = ops.layout.normalize_axis(axis, logits.ndim, op)
    categories = logits.shape[axis]
    parts = logits.shape[:axis] + logits.shape[axis + 1:]
    if num_samples is not None:
        logits, shape = expand_dims(logits, -1), (*parts, num_samples)
        behind = logits.ndim - axis - 1
    else:
        shape = parts if shape is None else shape_of(shape, op)
        behind = logits.ndim - axis - 1
        if broadcast_shapes(shape, parts) != shape:
            raise ShapeError(f"[{op}] Requested shape {shape} is not broadcast compatible with reduced logits shape "
                             f"{parts}.", op=op, shapes=(shape, parts))
    place = len(shape) - behind  # of the categories, counted from the front of the result
    noise = gumbel((*shape[:place], categories, *shape[place:]), key=key, stream=stream)
    return ops.argmax(add(noise, logits), place)


@operation("random", name="random.permutation", dtypes=(dtypes.float32,), ulps=0,
           samples=lambda rng: iter([
               *(Sample((n,), {"key": _KEY}) for n in (0, 1, 10, 65)),
               *(Sample((np.arange(12).reshape(3, 4),), {"axis": axis, "key": _KEY}) for axis in (0, 1, -1)),
           ]),
           refusals=(Refusal((np.zeros((2, 3), np.float32),), AxisError, {"axis": 2}), Refusal((-1,), ShapeError)))
def permutation(x, axis=0, key=None, stream=None):
    """Return a random permutation.

    Parameters
    ----------
    x : int or Tensor
        Permute the integers from 0 to ``x - 1``, or the slices of a tensor along an axis.
    axis : int
    key : Tensor, optional
        By default the global generator's next key.
    stream : Stream or Device, optional
        Must be on the key's device.

    Returns
    -------
    Tensor
        Of dtype uint32 for an int, else of that of `x`.

    Raises
    ------
    AxisError
        If there is no such axis.
    """
    if hasattr(x, "__index__") and not isinstance(x, Tensor):
        return ops.argsort(bits((operator.index(x),), 4, key, stream))
    x = as_operand(x, "permutation")
    axis = ops.layout.normalize_axis(axis, x.ndim, "permutation")
    return ops.take(x, permutation(x.shape[axis], key=key, stream=stream), axis)
