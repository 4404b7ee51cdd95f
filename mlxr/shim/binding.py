"""The library: loading it, calling it, and turning its failures into exceptions.

Methods of :class:`Library` correspond to functions of `shim/include/mlxr_shim.h`, which documents what they do; here
they take Python numbers and sequences, return :class:`Array`, and raise. Must not know of mlxr's tensors or ops.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import pathlib
import struct
import sys
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mlxr.errors import BackendUnavailableError, ExportError, UnsupportedOpError
from mlxr.shim import abi
from mlxr.shim.native import UPSTREAM_FUNCTIONS, Native, OwnedHandle, packer

__all__ = ["Array", "Description", "Library", "Program", "available", "library_path", "load"]

LIBRARY = "libmlxr_shim.dylib" if sys.platform == "darwin" else "libmlxr_shim.so"

# NumPy's dtype of each code; it has none for bfloat16.
NUMPY_DTYPES = {
    abi.BOOL: np.dtype(np.bool_),
    abi.UINT8: np.dtype(np.uint8),
    abi.UINT16: np.dtype(np.uint16),
    abi.UINT32: np.dtype(np.uint32),
    abi.UINT64: np.dtype(np.uint64),
    abi.INT8: np.dtype(np.int8),
    abi.INT16: np.dtype(np.int16),
    abi.INT32: np.dtype(np.int32),
    abi.INT64: np.dtype(np.int64),
    abi.FLOAT16: np.dtype(np.float16),
    abi.FLOAT32: np.dtype(np.float32),
    abi.FLOAT64: np.dtype(np.float64),
    abi.COMPLEX64: np.dtype(np.complex64),
}
_CODES = {dtype: code for code, dtype in NUMPY_DTYPES.items()}


class Array(OwnedHandle):
    """An array of upstream MLX."""

    __slots__ = ()


class Description(NamedTuple):
    """What an array is. `address` is 0 until it is evaluated; strides are in elements, and empty until then."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: int
    address: int
    flags: int

    @property
    def available(self) -> bool:
        """Whether the elements are computed."""
        return bool(self.flags & abi.FLAG_AVAILABLE)

    @property
    def shared(self) -> bool:
        """Whether the memory is not upstream's own."""
        return bool(self.flags & abi.FLAG_SHARED)


_NOTHING = ctypes.c_uint64(0)


def _int64s(values: Sequence[int]) -> bytes:
    return packer(len(values), "q")(*values)


def _int32s(values: Sequence[int]) -> bytes:
    return packer(len(values), "i")(*values)


def _handles(arrays: Sequence[Array]) -> bytes:
    return packer(len(arrays), "Q")(*[a.value for a in arrays])


def _optional(array: Array | None) -> ctypes.c_uint64:
    return _NOTHING if array is None else array


_OWN = {
    "free_many": "mlxr_array_free_many",
    "live": "mlxr_live_handles",
    "released": "mlxr_released",
    "memory_get": "mlxr_memory_get",
    "memory_set": "mlxr_memory_set",
    "clear_cache": "mlxr_memory_clear_cache",
}


class Library(Native):
    """The loaded shim over upstream MLX. Get it from :func:`load`.

    Streams are small numbers. Number 0 is the default stream of the CPU; :meth:`stream` gives those of other devices.

    Parameters
    ----------
    path : pathlib.Path
        The shared library.

    Attributes
    ----------
    upstream_version : str
        The version of MLX behind the library.
    """

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__(path, UPSTREAM_FUNCTIONS, abi.MAKERS, Array, _OWN)
        f = self.functions
        # Where handles and small numbers are all that goes in, ctypes may go by the arguments' own types: looking up
        # how to convert each costs more than the call. An int in place of a handle loses its generation: it is refused.
        for name in abi.MAKERS:
            if set(abi.PROTOTYPES[name][1]) <= {ctypes.c_uint64, ctypes.c_int32}:
                getattr(f, name).argtypes = None
        self.upstream_version: str = f.mlxr_upstream_version_loaded().decode()
        self.stream(abi.CPU)  # the first stream: number 0

    # ---- capabilities, devices, streams

    def supports(self, op: int, dtype: int, device_type: int = abi.CPU) -> bool:
        """Tell whether an operation exists for elements of a dtype on a type of device."""
        return bool(self.functions.mlxr_supports(op, dtype, device_type))

    def device_count(self, device_type: int) -> int:
        """Return the number of devices of a type."""
        count = ctypes.c_int32()
        self.check(self.functions.mlxr_device_count(device_type, ctypes.byref(count)))
        return count.value

    def device_info(self, device_type: int, index: int = 0) -> dict[str, str]:
        """Return upstream's facts about a device."""
        needed = ctypes.c_size_t()
        self.check(self.functions.mlxr_device_info(device_type, index, None, 0, ctypes.byref(needed)))
        text = ctypes.create_string_buffer(needed.value)
        self.check(self.functions.mlxr_device_info(device_type, index, text, needed.value, None))
        return dict(line.split("=", 1) for line in text.value.decode().splitlines())

    def stream(self, device_type: int, index: int = 0, *, new: bool = False) -> int:
        """Return the default stream of a device, or a new one."""
        f = self.functions
        stream = ctypes.c_int32()
        make = f.mlxr_stream_new if new else f.mlxr_stream_default
        self.check(make(device_type, index, ctypes.byref(stream)))
        return stream.value

    # ---- arrays in and out

    def share(self, owner: Any, address: int, shape: Sequence[int], strides: Sequence[int] | None, dtype: int) -> Array:
        """Return an array on the memory at `address`, without copying. `owner` is kept until upstream lets go of it.

        Raises
        ------
        UnsupportedOpError
            If that needs a copy (negative strides, misaligned memory, a build whose arrays are not in host memory).
        """
        layout = _int64s(shape), None if strides is None else _int64s(strides), len(shape)
        make = self.functions.mlxr_array_share
        return self._shared(owner, lambda token: make(address, *layout, dtype, token))

    def copy(self, address: int | bytes, shape: Sequence[int], dtype: int) -> Array:
        """Return an array with a copy of the row-major elements at `address`."""
        return self._made(self.functions.mlxr_array_copy(address, _int64s(shape), len(shape), dtype))

    def from_numpy(self, x: np.ndarray, *, copy: bool = False) -> Array:
        """Return an array on a NumPy array's memory, or on a copy of it. The memory must then not be written."""
        dtype = _CODES.get(x.dtype)
        if dtype is None:
            raise UnsupportedOpError(f"upstream MLX has no dtype {x.dtype}", dtypes=(x.dtype,))
        if copy:
            x = np.asarray(x, order="C")
            return self.copy(x.ctypes.data, x.shape, dtype)
        if any(step % x.itemsize for step in x.strides):
            raise UnsupportedOpError("strides that are no multiple of the item size cannot be shared")
        return self.share(x, x.ctypes.data, x.shape, [step // x.itemsize for step in x.strides], dtype)

    def describe(self, a: Array) -> Description:
        """Return what an array is. Does not evaluate it."""
        info = abi.ArrayInfo(size=ctypes.sizeof(abi.ArrayInfo))
        self.check(self.functions.mlxr_array_info_get(a, ctypes.byref(info)))
        strides = tuple(info.strides[: info.ndim]) if info.flags & abi.FLAG_AVAILABLE else ()
        return Description(tuple(info.shape[: info.ndim]), strides, info.dtype, info.data or 0, info.flags)

    def to_numpy(self, a: Array) -> np.ndarray:
        """Evaluate an array and return a read-only NumPy view on its memory, which keeps it alive."""
        self.eval(a)
        what = self.describe(a)
        if what.dtype not in NUMPY_DTYPES:
            raise ExportError("NumPy has no bfloat16", dtype=what.dtype)
        return np.asarray(_View(a, what))

    def retain(self, a: Array) -> Array:
        """Return a second owner of the same handle."""
        self.check(self.functions.mlxr_array_retain(a))
        return Array(a.value)

    # ---- evaluation and memory

    def eval(self, *arrays: Array) -> None:
        """Run the graphs of arrays and wait for them."""
        self.collect()
        if self.functions.mlxr_eval(_handles(arrays), len(arrays)):
            self.fail()

    def async_eval(self, *arrays: Array) -> None:
        """Start the graphs of arrays."""
        self.collect()
        if self.functions.mlxr_async_eval(_handles(arrays), len(arrays)):
            self.fail()

    def synchronize(self, stream: int = abi.ALL_STREAMS) -> None:
        """Wait for everything that was started on a stream."""
        self.collect()
        self.check(self.functions.mlxr_synchronize(stream))

    # ---- operations; see the header for each of them

    def unary(self, op: int, a: Array, *, stream: int = 0) -> Array:
        """``abi.ABS`` ... ``abi.IMAG``."""
        array = self.functions.mlxr_unary(op, a, stream)
        if not array:
            self.fail()
        return array

    def binary(self, op: int, a: Array, b: Array, *, stream: int = 0) -> Array:
        """``abi.ADD`` ... ``abi.RIGHT_SHIFT``."""
        array = self.functions.mlxr_binary(op, a, b, stream)
        if not array:
            self.fail()
        return array

    def divmod(self, a: Array, b: Array, *, stream: int = 0) -> tuple[Array, Array]:
        """Quotient and remainder."""
        quotient, remainder = self._several(2, self.functions.mlxr_divmod, a, b, stream)
        return quotient, remainder

    def select(self, op: int, a: Array, b: Array | None, c: Array | None, *, stream: int = 0) -> Array:
        """``abi.WHERE`` or ``abi.CLIP``."""
        return self._made(self.functions.mlxr_select(op, a, _optional(b), _optional(c), stream))

    def cast(self, op: int, a: Array, dtype: int, *, stream: int = 0) -> Array:
        """``abi.ASTYPE``, ``abi.VIEW``, ``abi.FROM_FP8``, ``abi.TO_FP8``."""
        return self._made(self.functions.mlxr_cast(op, a, dtype, stream))

    def full(self, value: Array, shape: Sequence[int], dtype: int = abi.SAME_DTYPE, *, stream: int = 0) -> Array:
        """An array filled with a value."""
        return self._made(self.functions.mlxr_full(value, _int64s(shape), len(shape), dtype, stream))

    def arange(self, start: float, stop: float, step: float, dtype: int, *, stream: int = 0) -> Array:
        """Evenly spaced values."""
        return self._made(self.functions.mlxr_arange(start, stop, step, dtype, stream))

    def reduce(
        self,
        op: int,
        a: Array,
        axes: Sequence[int] | None = None,
        *,
        keepdims: bool = False,
        parameter: int = 0,
        stream: int = 0,
    ) -> Array:
        """``abi.SUM`` ... ``abi.ARGMIN`` over axes, or over all of them."""
        packed, count = (None, abi.ALL_AXES) if axes is None else (_int32s(axes), len(axes))
        return self._made(self.functions.mlxr_reduce(op, a, packed, count, keepdims, parameter, stream))

    def scan(
        self,
        op: int,
        a: Array,
        axis: int = abi.FLATTEN,
        *,
        reverse: bool = False,
        inclusive: bool = True,
        stream: int = 0,
    ) -> Array:
        """``abi.CUMSUM`` ... ``abi.LOGCUMSUMEXP``."""
        return self._made(self.functions.mlxr_scan(op, a, axis, reverse, inclusive, stream))

    def sort(self, op: int, a: Array, axis: int = -1, k: int = 0, *, stream: int = 0) -> Array:
        """``abi.SORT`` ... ``abi.TOPK``."""
        return self._made(self.functions.mlxr_sort(op, a, axis, k, stream))

    def searchsorted(self, a: Array, values: Array, *, right: bool = False, stream: int = 0) -> Array:
        """Where values would go in a sorted sequence."""
        return self._made(self.functions.mlxr_searchsorted(a, values, right, stream))

    def softmax(self, a: Array, axes: Sequence[int] | None = None, *, precise: bool = False, stream: int = 0) -> Array:
        """Softmax over axes, or over all of them."""
        packed, count = (None, abi.ALL_AXES) if axes is None else (_int32s(axes), len(axes))
        return self._made(self.functions.mlxr_softmax(a, packed, count, precise, stream))

    def matmul(self, a: Array, b: Array, *, stream: int = 0) -> Array:
        """Matrix product."""
        return self._made(self.functions.mlxr_matmul(a, b, stream))

    def addmm(self, c: Array, a: Array, b: Array, alpha: float = 1.0, beta: float = 1.0, *, stream: int = 0) -> Array:
        """``alpha * a @ b + beta * c``."""
        return self._made(self.functions.mlxr_addmm(c, a, b, alpha, beta, stream))

    def gather_mm(
        self,
        a: Array,
        b: Array,
        lhs: Array | None = None,
        rhs: Array | None = None,
        *,
        sorted_indices: bool = False,
        stream: int = 0,
    ) -> Array:
        """Products of matrices chosen by index."""
        f = self.functions
        return self._made(f.mlxr_gather_mm(a, b, _optional(lhs), _optional(rhs), sorted_indices, stream))

    def block_masked_mm(
        self,
        a: Array,
        b: Array,
        block: int,
        mask_out: Array | None = None,
        mask_lhs: Array | None = None,
        mask_rhs: Array | None = None,
        *,
        stream: int = 0,
    ) -> Array:
        """Matrix product that skips blocks."""
        masks = _optional(mask_out), _optional(mask_lhs), _optional(mask_rhs)
        return self._made(self.functions.mlxr_block_masked_mm(a, b, block, *masks, stream))

    def segmented_mm(self, a: Array, b: Array, segments: Array, *, stream: int = 0) -> Array:
        """One product for each segment of the inner axis."""
        return self._made(self.functions.mlxr_segmented_mm(a, b, segments, stream))

    def reshape(self, a: Array, shape: Sequence[int], *, stream: int = 0) -> Array:
        """Another shape; at most one extent may be -1."""
        return self._made(self.functions.mlxr_reshape(a, _int64s(shape), len(shape), stream))

    def transpose(self, a: Array, axes: Sequence[int] | None = None, *, stream: int = 0) -> Array:
        """Another order of axes, or the reverse one."""
        packed, count = (None, 0) if axes is None else (_int32s(axes), len(axes))
        return self._made(self.functions.mlxr_transpose(a, packed, count, stream))

    def broadcast_to(self, a: Array, shape: Sequence[int], *, stream: int = 0) -> Array:
        """A view in which elements repeat."""
        return self._made(self.functions.mlxr_broadcast_to(a, _int64s(shape), len(shape), stream))

    def slice(
        self, a: Array, start: Sequence[int], stop: Sequence[int], step: Sequence[int], *, stream: int = 0
    ) -> Array:
        """A slice with one start, stop and step for each axis."""
        n = _same_length(start, stop, step)
        return self._made(self.functions.mlxr_slice(a, _int64s(start), _int64s(stop), _int64s(step), n, stream))

    def slice_update(
        self,
        op: int,
        a: Array,
        update: Array,
        start: Sequence[int],
        stop: Sequence[int],
        step: Sequence[int],
        *,
        stream: int = 0,
    ) -> Array:
        """`a` with `update` put into a slice, as ``abi.UPDATE_*`` says."""
        n = _same_length(start, stop, step)
        bounds = _int64s(start), _int64s(stop), _int64s(step)
        return self._made(self.functions.mlxr_slice_update(op, a, update, *bounds, n, stream))

    def as_strided(
        self, a: Array, shape: Sequence[int], strides: Sequence[int], offset: int = 0, *, stream: int = 0
    ) -> Array:
        """A window on the row-major elements."""
        n = _same_length(shape, strides)
        return self._made(self.functions.mlxr_as_strided(a, _int64s(shape), _int64s(strides), n, offset, stream))

    def concatenate(self, arrays: Sequence[Array], axis: int = 0, *, stream: int = 0) -> Array:
        """Arrays one after the other along an axis."""
        return self._made(self.functions.mlxr_concatenate(_handles(arrays), len(arrays), axis, stream))

    def pad(
        self,
        a: Array,
        low: Sequence[int],
        high: Sequence[int],
        value: Array | None = None,
        mode: int = abi.PAD_CONSTANT,
        *,
        stream: int = 0,
    ) -> Array:
        """`a` with margins."""
        n = _same_length(low, high)
        return self._made(self.functions.mlxr_pad(a, _int64s(low), _int64s(high), n, _optional(value), mode, stream))

    def contiguous(self, a: Array, *, allow_column_major: bool = False, stream: int = 0) -> Array:
        """Row-major elements."""
        return self._made(self.functions.mlxr_contiguous(a, allow_column_major, stream))

    def take(self, a: Array, indices: Array, axis: int = abi.FLATTEN, *, stream: int = 0) -> Array:
        """Elements, or whole slices along an axis, by index."""
        return self._made(self.functions.mlxr_take(a, indices, axis, stream))

    def take_along_axis(self, a: Array, indices: Array, axis: int, *, stream: int = 0) -> Array:
        """One element along an axis for each index."""
        return self._made(self.functions.mlxr_take_along_axis(a, indices, axis, stream))

    def gather(
        self, a: Array, indices: Sequence[Array], axes: Sequence[int], slice_sizes: Sequence[int], *, stream: int = 0
    ) -> Array:
        """Windows at positions given by one index array for each of some axes."""
        n = _same_length(indices, axes)
        sizes = _int64s(slice_sizes)
        picks = _handles(indices), _int32s(axes), n
        return self._made(self.functions.mlxr_gather(a, *picks, sizes, len(slice_sizes), stream))

    def scatter(
        self, op: int, a: Array, indices: Sequence[Array], axes: Sequence[int], updates: Array, *, stream: int = 0
    ) -> Array:
        """`a` with windows updated as ``abi.UPDATE_*`` says."""
        n = _same_length(indices, axes)
        return self._made(self.functions.mlxr_scatter(op, a, _handles(indices), _int32s(axes), n, updates, stream))

    def scatter_axis(self, op: int, a: Array, indices: Array, values: Array, axis: int, *, stream: int = 0) -> Array:
        """`a` with one element along an axis updated for each index."""
        return self._made(self.functions.mlxr_scatter_axis(op, a, indices, values, axis, stream))

    def masked_scatter(self, a: Array, mask: Array, source: Array, *, stream: int = 0) -> Array:
        """`a` with the elements under a mask replaced."""
        return self._made(self.functions.mlxr_masked_scatter(a, mask, source, stream))

    def rms_norm(self, x: Array, weight: Array | None, eps: float, *, stream: int = 0) -> Array:
        """Root-mean-square normalization of the last axis."""
        return self._made(self.functions.mlxr_rms_norm(x, _optional(weight), eps, stream))

    def layer_norm(self, x: Array, weight: Array | None, bias: Array | None, eps: float, *, stream: int = 0) -> Array:
        """Layer normalization of the last axis."""
        return self._made(self.functions.mlxr_layer_norm(x, _optional(weight), _optional(bias), eps, stream))

    def rope(
        self,
        x: Array,
        dims: int,
        *,
        traditional: bool,
        base: float | None,
        scale: float,
        offset: int | Array,
        freqs: Array | None = None,
        stream: int = 0,
    ) -> Array:
        """Rotary positions; exactly one of `base` and `freqs` is given."""
        number, array = (0, offset) if isinstance(offset, Array) else (offset, 0)
        angle = 0.0 if base is None else base
        f = self.functions
        return self._made(f.mlxr_rope(x, dims, traditional, angle, scale, number, array, _optional(freqs), stream))

    def sdpa(
        self,
        q: Array,
        k: Array,
        v: Array,
        scale: float,
        *,
        mask: Array | None = None,
        causal: bool = False,
        sinks: Array | None = None,
        stream: int = 0,
    ) -> Array:
        """Scaled dot-product attention."""
        mode = abi.MASK_CAUSAL if causal else abi.MASK_NONE if mask is None else abi.MASK_ARRAY
        f = self.functions
        return self._made(f.mlxr_sdpa(q, k, v, scale, mode, _optional(mask), _optional(sinks), stream))

    def cross_entropy(self, logits: Array, targets: Array, *, stream: int = 0) -> Array:
        """Cross entropy with class indices."""
        return self._made(self.functions.mlxr_cross_entropy(logits, targets, stream))

    def quantize(
        self, w: Array, group_size: int = 0, bits: int = 0, mode: int = abi.AFFINE, *, stream: int = 0
    ) -> tuple[Array, Array, Array | None]:
        """Packed words, scales, and biases in the affine mode."""
        words, scales, biases = self._several(3, self.functions.mlxr_quantize, w, group_size, bits, mode, stream)
        return words, scales, biases or None

    def dequantize(
        self,
        w: Array,
        scales: Array,
        biases: Array | None = None,
        group_size: int = 0,
        bits: int = 0,
        mode: int = abi.AFFINE,
        dtype: int = abi.SAME_DTYPE,
        *,
        stream: int = 0,
    ) -> Array:
        """The matrix that was quantized."""
        f = self.functions
        return self._made(f.mlxr_dequantize(w, scales, _optional(biases), group_size, bits, mode, dtype, stream))

    def quantized_matmul(
        self,
        x: Array,
        w: Array,
        scales: Array,
        biases: Array | None = None,
        *,
        transpose: bool = True,
        group_size: int = 0,
        bits: int = 0,
        mode: int = abi.AFFINE,
        stream: int = 0,
    ) -> Array:
        """Product with a quantized matrix."""
        quantized = w, scales, _optional(biases), transpose, group_size, bits, mode
        return self._made(self.functions.mlxr_quantized_matmul(x, *quantized, stream))

    def gather_qmm(
        self,
        x: Array,
        w: Array,
        scales: Array,
        biases: Array | None = None,
        lhs: Array | None = None,
        rhs: Array | None = None,
        *,
        transpose: bool = True,
        group_size: int = 0,
        bits: int = 0,
        mode: int = abi.AFFINE,
        sorted_indices: bool = False,
        stream: int = 0,
    ) -> Array:
        """Products with quantized matrices chosen by index."""
        arrays = x, w, scales, _optional(biases), _optional(lhs), _optional(rhs)
        quantized = transpose, group_size, bits, mode
        return self._made(self.functions.mlxr_gather_qmm(*arrays, *quantized, sorted_indices, stream))

    def conv(
        self,
        x: Array,
        weight: Array,
        *,
        stride: Sequence[int],
        padding_low: Sequence[int],
        padding_high: Sequence[int],
        kernel_dilation: Sequence[int],
        input_dilation: Sequence[int],
        groups: int = 1,
        flip: bool = False,
        stream: int = 0,
    ) -> Array:
        """Convolution; each sequence has one entry for each spatial axis."""
        n = _same_length(stride, padding_low, padding_high, kernel_dilation, input_dilation)
        if n > 3:
            raise UnsupportedOpError("upstream convolves over at most 3 axes", op="conv")
        params = abi.ConvParams(size=ctypes.sizeof(abi.ConvParams), spatial=n, groups=groups, flip=flip)
        for axis in range(n):
            params.stride[axis] = stride[axis]
            params.padding_low[axis] = padding_low[axis]
            params.padding_high[axis] = padding_high[axis]
            params.kernel_dilation[axis] = kernel_dilation[axis]
            params.input_dilation[axis] = input_dilation[axis]
        return self._made(self.functions.mlxr_conv(x, weight, ctypes.byref(params), stream))

    def random_bits(self, key: Array, shape: Sequence[int], width: int = 4, *, stream: int = 0) -> Array:
        """Random unsigned integers of `width` bytes."""
        return self._made(self.functions.mlxr_random_bits(key, _int64s(shape), len(shape), width, stream))

    def hadamard(self, a: Array, scale: float, *, stream: int = 0) -> Array:
        """Walsh-Hadamard transform of the last axis."""
        return self._made(self.functions.mlxr_hadamard(a, scale, stream))

    def fft(
        self,
        op: int,
        a: Array,
        lengths: Sequence[int],
        axes: Sequence[int],
        norm: int = abi.NORM_BACKWARD,
        *,
        stream: int = 0,
    ) -> Array:
        """``abi.FFT`` ... ``abi.IRFFT``."""
        n = _same_length(lengths, axes)
        return self._made(self.functions.mlxr_fft(op, a, _int64s(lengths), _int32s(axes), n, norm, stream))

    def linalg(
        self, op: int, a: Array, b: Array | None = None, *, flag: bool = False, outputs: int = 1
    ) -> tuple[Array, ...]:
        """``abi.INV`` ... ``abi.EIGVALSH``; runs at once."""
        out = (ctypes.c_uint64 * outputs)()
        self.check(self.functions.mlxr_linalg(op, a, _optional(b), flag, out, outputs))
        return tuple(Array(handle) for handle in out)

    def _several(self, count: int, function: Any, *arguments: Any) -> tuple[Array, ...]:
        out = (ctypes.c_uint64 * count)()
        self.check(function(*arguments, out))
        return tuple(Array(handle) for handle in out)

    # ---- programs

    def run(self, program: Program, inputs: Sequence[Array], *, stream: int = 0) -> list[Array]:
        """Build a program's operations on these inputs, in one call; returns its results."""
        if len(inputs) != program.inputs:
            raise ValueError(f"the program takes {program.inputs} inputs, got {len(inputs)}")
        packed = program.packed()
        out = (ctypes.c_uint64 * packed.nresults)()
        if self.functions.mlxr_run(ctypes.byref(packed), _handles(inputs), stream, out):
            self.fail()
        return [Array(handle) for handle in out]


class Program:
    """A sequence of operations that :meth:`Library.run` builds in one call.

    Values are numbered: the inputs first, then one for each step. The operations and what they take are listed with
    ``mlxr_run()`` in the header.

    Parameters
    ----------
    inputs : int
        How many arrays go in.

    Examples
    --------
    >>> program = Program(2)
    >>> total = program.step(abi.ADD, 0, 1)
    >>> program.result(program.step(abi.SUM, total, ints=[0, 0]))
    """

    # One step: size, op, four operands, and where its parameters lie.
    _STEP = struct.Struct("I9i")
    _NONE = (-1, -1, -1, -1)

    def __init__(self, inputs: int) -> None:
        self.inputs = inputs
        self._steps = bytearray()
        self._count = 0
        self._results: list[int] = []
        self._ints: list[int] = []
        self._floats: list[float] = []
        self._packed: tuple[abi.Program, tuple[Any, ...]] | None = None

    def step(self, op: int, *operands: int, ints: Sequence[int] = (), floats: Sequence[float] = ()) -> int:
        """Append an operation and return the number of its value. An operand of -1 is left out."""
        self._packed = None
        where = operands if len(operands) == 4 else (*operands, *self._NONE[len(operands) :])
        self._steps += self._STEP.pack(
            self._STEP.size, op, *where, len(self._ints), len(ints), len(self._floats), len(floats)
        )
        self._ints += ints
        self._floats += floats
        self._count += 1
        return self.inputs + self._count - 1

    def result(self, *values: int) -> None:
        """Hand values out, in this order."""
        self._packed = None
        self._results += values

    def packed(self) -> abi.Program:
        """Return the C struct; it stays valid as long as the program is not changed."""
        if self._packed is None:
            parts = (
                ctypes.create_string_buffer(bytes(self._steps), len(self._steps)),
                ctypes.create_string_buffer(_int32s(self._results), 4 * len(self._results)),
                ctypes.create_string_buffer(_int64s(self._ints), 8 * len(self._ints)),
                ctypes.create_string_buffer(packer(len(self._floats), "d")(*self._floats), 8 * len(self._floats)),
            )
            program = abi.Program(
                size=ctypes.sizeof(abi.Program),
                ninputs=self.inputs,
                ninstrs=self._count,
                nresults=len(self._results),
                nints=len(self._ints),
                nfloats=len(self._floats),
                instrs=ctypes.addressof(parts[0]),
                results=ctypes.addressof(parts[1]),
                ints=ctypes.addressof(parts[2]),
                floats=ctypes.addressof(parts[3]),
            )
            self._packed = program, parts
        return self._packed[0]


class _View:
    """What NumPy reads an array's memory through; it becomes the view's base, and so keeps the handle."""

    def __init__(self, array: Array, what: Description) -> None:
        self.array = array
        dtype = NUMPY_DTYPES[what.dtype]
        self.__array_interface__ = {
            "version": 3,
            "typestr": dtype.str,
            "shape": what.shape,
            "strides": tuple(step * dtype.itemsize for step in what.strides),
            "data": (what.address, True),
        }


def _same_length(first: Sequence[Any], *others: Sequence[Any]) -> int:
    if any(len(other) != len(first) for other in others):
        raise ValueError("these sequences must have one length")
    return len(first)


# ---- loading

_library: Library | None = None
_loading = threading.Lock()


def library_path() -> pathlib.Path:
    """Return where the library is expected: the environment variable ``MLXR_SHIM``, or beside this module."""
    return pathlib.Path(os.environ.get("MLXR_SHIM") or pathlib.Path(__file__).with_name(LIBRARY))


def available() -> bool:
    """Tell whether the library has been built."""
    return library_path().exists()


def load() -> Library:
    """Load the library, or return it if it is loaded.

    The environment variable ``MLXR_SHIM_BLAS`` names a BLAS library to put in front of the one that upstream's Linux
    wheel bundles; ``numpy`` stands for the OpenBLAS inside NumPy's wheel. It has no effect where `mlx.core` was
    imported first.

    Raises
    ------
    BackendUnavailableError
        If it is not built or cannot be loaded.
    AbiError
        If it was built for another version of this package, or of MLX.
    """
    global _library
    with _loading:
        if _library is None:
            path = library_path()
            if not path.exists():
                raise BackendUnavailableError(f"{path} does not exist: run `make shim`", reason="not built")
            blas = os.environ.get("MLXR_SHIM_BLAS")
            if blas:
                _preload_blas(blas, path)
            _library = Library(path)
            atexit.register(_finish, _library)
        return _library


def _preload_blas(blas: str, shim: pathlib.Path) -> None:
    libraries = [pathlib.Path(blas)]
    if blas == "numpy":
        folder = pathlib.Path(np.__file__).parent.parent / "numpy.libs"
        bundled = sorted(folder.glob("libscipy_openblas64_*.so"))
        if not bundled:
            raise BackendUnavailableError("this NumPy bundles no OpenBLAS", reason=f"nothing in {folder}")
        libraries = [bundled[0], shim.with_name("libmlxr_blas.so")]
    for library in libraries:
        try:
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise BackendUnavailableError(f"{library} cannot be loaded: {error}", reason=str(error)) from error


def _finish(library: Library) -> None:
    """At exit: wait for the workers, which would otherwise outlive what they use."""
    library.collect()
    library.functions.mlxr_synchronize(abi.ALL_STREAMS)
