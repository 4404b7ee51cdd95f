"""Making tensors: from Python values and arrays, filled, ranges, and the like of other tensors."""

from __future__ import annotations

import math

import numpy as np

from mlxr.core import dtype as dtypes
from mlxr.core import interop
from mlxr.core.device import device_of, get_device
from mlxr.core.dispatch import as_operand, create
from mlxr.core.tensor import Tensor
from mlxr.errors import ArgumentTypeError, InvalidValueError, ShapeError
from mlxr.ops.declare import primitive
from mlxr.ops.elementwise import astype, copy
from mlxr.ops.layout import broadcast_to, reshape

__all__ = [
    "arange", "asarray", "empty", "empty_like", "eye", "from_slice", "full", "full_like", "identity", "linspace",
    "ones", "ones_like", "tri", "zeros", "zeros_like",
]

full_p = primitive("full", "elementwise")
arange_p = primitive("arange", "elementwise")


def shape_of(shape, op="full"):
    """Return a shape argument (an int or a sequence of ints) as a tuple.

    Raises
    ------
    ArgumentTypeError
        If it is neither.
    ShapeError
        If an extent is negative.
    """
    try:
        result = (shape.__index__(),) if hasattr(shape, "__index__") else tuple([n.__index__() for n in shape])
    except (TypeError, AttributeError):
        raise ArgumentTypeError(f"[{op}] a shape is an int or a sequence of ints, got {shape!r}", op=op) from None
    if min(result, default=0) < 0:
        raise ShapeError(f"[{op}] negative dimensions are not allowed, got {result}", op=op, shapes=(result,))
    if max(result, default=0) >= 1 << 63:
        raise ShapeError(f"[{op}] shape {result} exceeds the address space", op=op, shapes=(result,))
    return result


def _filled(value, shape, dtype, device):
    """Return a tensor of `shape` whose elements are the Python scalar `value`."""
    element = interop.scalar(value, dtype, device)
    return create(full_p, device, shape, element.dtype, (), (element,))


def asarray(a, dtype=None, *, copy=None, device=None):
    """Return `a` as a tensor, sharing its memory where that is possible.

    Parameters
    ----------
    a : scalar, sequence, Tensor, numpy.ndarray, or object with the DLPack or buffer protocol
    dtype : Dtype, optional
        Convert to this dtype (which copies).
    copy : bool, optional
        True: always copy. False: never, and raise if that is impossible. None: copy only where needed.
    device : Device or str, optional
        Where the tensor is to live.

    Returns
    -------
    Tensor

    Raises
    ------
    InvalidValueError
        If `copy` is False and the memory cannot be shared.

    Notes
    -----
    A shared tensor sees later writes to the source. Writing to the tensor never writes to the source: the first write
    copies. ``mlxr.array`` copies NumPy arrays, as upstream MLX does.
    """
    return interop.asarray(a, dtype, copy, device)


def from_slice(values, shape=None, dtype=None, *, device=None):
    """Return a tensor with the elements of a flat sequence or buffer.

    Parameters
    ----------
    values : sequence of scalars, or a buffer
    shape : int or sequence of int, optional
        By default one axis with all elements.
    dtype : Dtype, optional
    device : Device or str, optional

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If `values` does not have as many elements as `shape`.
    """
    flat = Tensor(values, dtype, device=device)
    return flat if shape is None else reshape(flat, shape_of(shape, "from_slice"))


def full(shape, vals, dtype=None, *, device=None, stream=None):
    """Return a tensor of `shape` filled with `vals`.

    Parameters
    ----------
    shape : int or sequence of int
    vals : scalar or Tensor
        Broadcast to `shape`.
    dtype : Dtype, optional
        That of `vals` by default.
    device, stream : Device, Stream or str, optional
        Where the tensor is made.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If the shape has a negative extent, or `vals` cannot be broadcast to it.
    """
    shape = shape_of(shape, "full")
    if isinstance(vals, (bool, int, float, complex)):
        return _filled(vals, shape, dtype, device_of(device if device is not None else stream))
    vals = as_operand(vals, "full")
    if dtype is not None:
        vals = astype(vals, dtype)
    return copy(broadcast_to(vals, shape))


def zeros(shape, dtype=dtypes.float32, *, device=None, stream=None):
    """Return a tensor of zeros.

    Parameters
    ----------
    shape : int or sequence of int
    dtype : Dtype
    device, stream : Device, Stream or str, optional
        Where the tensor is made.

    Returns
    -------
    Tensor
    """
    return _filled(
        0, shape_of(shape, "zeros"), dtype or dtypes.float32, device_of(device if device is not None else stream)
    )


def ones(shape, dtype=dtypes.float32, *, device=None, stream=None):
    """Return a tensor of ones; parameters as :func:`zeros`."""
    return _filled(
        1, shape_of(shape, "ones"), dtype or dtypes.float32, device_of(device if device is not None else stream)
    )


def empty(shape, dtype=dtypes.float32, *, device=None, stream=None):
    """Return a tensor whose elements the caller will overwrite; they are zeros, so that results never depend on chance.

    Parameters as :func:`zeros`.
    """
    return zeros(shape, dtype, device=device, stream=stream)


def zeros_like(a, /, dtype=None, *, stream=None):
    """Return zeros of the shape, dtype and device of `a`.

    Parameters
    ----------
    a : Tensor
    dtype : Dtype, optional
        Instead of a's.
    stream : Stream or Device, optional

    Returns
    -------
    Tensor
    """
    a = as_operand(a, "zeros_like")
    return _filled(0, a.shape, dtype or a.dtype, a.device)


def ones_like(a, /, dtype=None, *, stream=None):
    """Return ones of the shape, dtype and device of `a`; parameters as :func:`zeros_like`."""
    a = as_operand(a, "ones_like")
    return _filled(1, a.shape, dtype or a.dtype, a.device)


def full_like(a, vals, dtype=None, *, stream=None):
    """Return a tensor of the shape and dtype of `a`, filled with `vals`.

    Parameters
    ----------
    a : Tensor
    vals : scalar or Tensor
    dtype : Dtype, optional
        Instead of a's.
    stream : Stream or Device, optional

    Returns
    -------
    Tensor
    """
    a = as_operand(a, "full_like")
    return full(a.shape, vals, dtype or a.dtype, device=a.device)


def empty_like(a, dtype=None, *, stream=None):
    """Return zeros of the shape and dtype of `a`; see :func:`empty`."""
    return zeros_like(a, dtype, stream=stream)


def arange(start, stop=None, step=None, dtype=None, *, device=None, stream=None):
    """Return evenly spaced values in the half-open interval [start, stop).

    Parameters
    ----------
    start, stop, step : int or float
        With one argument: from 0 to it.
    dtype : Dtype, optional
        int32 if all arguments are ints, else float32.
    device, stream : Device, Stream or str, optional
        Where the tensor is made.

    Returns
    -------
    Tensor
        Of ``ceil((stop - start) / step)`` elements.

    Raises
    ------
    InvalidValueError
        If the step is zero, or an argument is not finite.
    """
    if stop is None:
        start, stop = 0, start
    if step is None:
        step = 1
    values = [v.item() if hasattr(v, "item") else v for v in (start, stop, step)]
    if not all(isinstance(v, (int, float)) for v in values):
        raise ArgumentTypeError(f"[arange] expected numbers, got {values}", op="arange")
    start, stop, step = values
    if any(math.isnan(v) for v in values) or math.isinf(start) or math.isinf(stop):
        raise InvalidValueError(f"[arange] cannot compute the length of {values}", op="arange")
    if step == 0:
        raise InvalidValueError("[arange] step must be nonzero.", op="arange", step=step)
    integral = all(isinstance(v, int) for v in values)
    if dtype is None:
        dtype = dtypes.int32 if integral else dtypes.float32
    count = max(0, -((start - stop) // step) if integral else math.ceil((stop - start) / step))
    if count > 2**31 - 1 and not integral:
        raise InvalidValueError(f"[arange] {count} elements are more than the maximum", op="arange")
    device = device_of(device if device is not None else stream)
    if dtype.kind in "ui" and integral:
        return create(arange_p, device, (count,), dtype, (start, step))
    if dtype.kind == "b":
        return astype(create(arange_p, device, (count,), dtypes.float32, (float(start), float(step))), dtype)
    return create(arange_p, device, (count,), dtype, (float(start), float(step)))


def linspace(start, stop, num=50, dtype=dtypes.float32, *, endpoint=True, device=None, stream=None):
    """Return `num` evenly spaced values from `start` to `stop`.

    Parameters
    ----------
    start, stop : scalar
    num : int
        Number of values, at least 0.
    dtype : Dtype
    endpoint : bool
        Whether `stop` is the last value.
    device, stream : Device, Stream or str, optional
        Where the tensor is made.

    Returns
    -------
    Tensor

    Raises
    ------
    InvalidValueError
        If `num` is negative.
    """
    if num < 0:
        raise InvalidValueError(f"[linspace] number of samples, {num}, must be non-negative.", op="linspace", num=num)
    dtype = dtype or dtypes.float32
    device = device_of(device if device is not None else stream)
    start, stop = (v.item() if hasattr(v, "item") else v for v in (start, stop))
    # In double, as the fraction of the way: both ends come out exactly.
    divisor = num - 1 if endpoint else num
    fraction = np.arange(num, dtype=np.float64) / max(divisor, 1)
    values = start * (1.0 - fraction) + stop * fraction
    if dtype.kind in "ui":
        values = np.trunc(values)
    # Cast on the host: not every device has float64.
    host = get_device("cpu")
    cast = astype(interop.asarray(values, dtypes.float64, True, host), dtype)
    return cast if device is host else interop.asarray(cast, dtype, True, device)


def eye(n, m=None, k=0, dtype=dtypes.float32, *, device=None, stream=None):
    """Return a matrix with ones on a diagonal and zeros elsewhere.

    Parameters
    ----------
    n : int
        Rows.
    m : int, optional
        Columns; `n` by default.
    k : int
        Which diagonal: above the main one if positive.
    dtype : Dtype
    device, stream : Device, Stream or str, optional
        Where the tensor is made.

    Returns
    -------
    Tensor
    """
    m = n if m is None else m
    n, m = shape_of((n, m), "eye")
    dtype = dtype or dtypes.float32
    device = device_of(device if device is not None else stream)
    rows = create(arange_p, device, (n, 1), dtypes.int64, (k, 1))
    columns = create(arange_p, device, (m,), dtypes.int64, (0, 1))
    return astype(rows == columns, dtype)


def identity(n, dtype=dtypes.float32, *, device=None, stream=None):
    """Return the n by n identity matrix; parameters as :func:`eye`."""
    return eye(n, dtype=dtype, device=device, stream=stream)


def tri(n, m=None, k=0, dtype=dtypes.float32, *, device=None, stream=None):
    """Return a matrix with ones at and below a diagonal; parameters as :func:`eye`."""
    m = n if m is None else m
    n, m = shape_of((n, m), "tri")
    device = device_of(device if device is not None else stream)
    rows = create(arange_p, device, (n, 1), dtypes.int64, (k, 1))
    columns = create(arange_p, device, (m,), dtypes.int64, (0, 1))
    return astype(rows >= columns, dtype or dtypes.float32)
