# cython: language_level=3, binding=True, embedsignature=True, boundscheck=False, wraparound=False, cdivision=True
"""Python scalars and nested sequences to tensors, and back.

Knows how each dtype is laid out in memory, and which dtype a Python value asks for. Must not know about ops, or about
other libraries' arrays (see interop.pyx).
"""
from libc.math cimport isnan
from libc.stdint cimport (
    int8_t, int16_t, int32_t, int64_t, uint16_t, uint32_t, uint64_t
)
from libc.string cimport memcpy

from mlxr.core.abi cimport DTypeCode
from mlxr.core.device cimport Device, as_device, current_device
from mlxr.core.dtype cimport ITEMSIZES, as_dtype, dtype_of
from mlxr.core.storage cimport host_storage
from mlxr.core.tensor cimport Tensor, attach, bindings, new_tensor, new_tensor_from_tuple
from mlxr.backends.base cimport Backend

from mlxr.errors import ArgumentTypeError, ConversionError, ShapeError

cdef extern from "<stdint.h>":
    int64_t INT64_MIN

cdef int64_t INT_MIN_OF[14]
cdef uint64_t INT_MAX_OF[14]
INT_MIN_OF[:] = [0, 0, 0, 0, 0, -128, -32768, -2147483648, INT64_MIN, 0, 0, 0, 0, 0]
INT_MAX_OF[:] = [
    1, 255, 65535, 4294967295, 18446744073709551615, 127, 32767, 2147483647, 9223372036854775807, 0, 0, 0, 0, 0
]


cdef inline uint16_t _half_bits(float value) noexcept nogil:
    """float32 to float16, to nearest even."""
    cdef uint32_t u, sign, magnitude, mantissa, rest, half
    cdef int exponent, shift
    memcpy(&u, &value, 4)
    sign = (u >> 16) & 0x8000
    magnitude = u & 0x7FFFFFFF
    if magnitude > 0x7F800000:
        return <uint16_t>(sign | 0x7E00)
    if magnitude >= 0x477FF000:     # rounds to 65536 or more
        return <uint16_t>(sign | 0x7C00)
    exponent = <int>(magnitude >> 23) - 112
    mantissa = magnitude & 0x7FFFFF
    if exponent <= 0:
        if exponent < -10:
            return <uint16_t>sign
        mantissa |= 0x800000
        shift = 14 - exponent
    else:
        mantissa |= <uint32_t>exponent << 23
        shift = 13
    half = mantissa >> shift
    rest = mantissa & ((<uint32_t>1 << shift) - 1)
    if rest > (<uint32_t>1 << (shift - 1)) or (rest == (<uint32_t>1 << (shift - 1)) and half & 1):
        half += 1
    return <uint16_t>(sign | half)


cdef inline float _half_value(uint16_t h) noexcept nogil:
    """float16 to float32, exactly."""
    cdef uint32_t sign = <uint32_t>(h & 0x8000) << 16, exponent = (h >> 10) & 0x1F, mantissa = h & 0x3FF, u
    cdef float value
    if exponent == 0:
        value = <float>mantissa * <float>5.9604644775390625e-08
        return -value if sign else value
    u = sign | (0x7F800000 if exponent == 31 else (exponent + 112) << 23) | (mantissa << 13)
    memcpy(&value, &u, 4)
    return value


cdef inline uint16_t _bfloat_bits(float value) noexcept nogil:
    """float32 to bfloat16, to nearest even."""
    cdef uint32_t u
    memcpy(&u, &value, 4)
    if u & 0x7FFFFFFF > 0x7F800000:
        return <uint16_t>((u >> 16) | 0x40)
    return <uint16_t>((u + 0x7FFF + ((u >> 16) & 1)) >> 16)


cdef inline float _bfloat_value(uint16_t b) noexcept nogil:
    cdef uint32_t u = <uint32_t>b << 16
    cdef float value
    memcpy(&value, &u, 4)
    return value


cdef int _overflow(object value, int dtype) except -1:
    raise ConversionError(
        f"Converting {value} to {dtype_of(dtype).name} would result in overflow.", value=value, dtype=dtype_of(dtype)
    )


cdef int store_scalar(char *p, int dtype, object value) except -1:
    """Write a Python scalar as one element. Floats are truncated by integer dtypes; what does not fit is an error."""
    cdef int64_t i = 0
    cdef uint64_t u
    cdef double d
    cdef float f
    cdef float c[2]
    cdef uint16_t h
    if dtype == DTypeCode.BOOL:
        p[0] = 1 if value else 0
    elif dtype <= DTypeCode.INT64:
        if isinstance(value, complex):
            raise ConversionError(f"a complex value cannot become {dtype_of(dtype).name}", value=value,
                                  dtype=dtype_of(dtype))
        if isinstance(value, float):
            d = value
            if isnan(d) or d <= -9.3e18 or d >= 1.85e19:
                _overflow(value, dtype)
            value = int(d)
        if dtype == DTypeCode.UINT64:
            try:
                u = value
            except OverflowError:
                _overflow(value, dtype)
            memcpy(p, &u, 8)
            return 0
        try:
            i = value
        except OverflowError:
            _overflow(value, dtype)
        if i < INT_MIN_OF[dtype] or (i > 0 and <uint64_t>i > INT_MAX_OF[dtype]):
            _overflow(value, dtype)
        memcpy(p, &i, ITEMSIZES[dtype])     # little endian: the low bytes come first
    elif dtype == DTypeCode.COMPLEX64:
        z = complex(value)
        c[0] = z.real
        c[1] = z.imag
        memcpy(p, c, 8)
    else:
        if isinstance(value, complex):
            raise ConversionError(f"a complex value cannot become {dtype_of(dtype).name}", value=value,
                                  dtype=dtype_of(dtype))
        try:
            d = value
        except OverflowError:
            _overflow(value, dtype)
        if dtype == DTypeCode.FLOAT32:
            f = <float>d
            memcpy(p, &f, 4)
        elif dtype == DTypeCode.FLOAT64:
            memcpy(p, &d, 8)
        else:
            h = _half_bits(<float>d) if dtype == DTypeCode.FLOAT16 else _bfloat_bits(<float>d)
            memcpy(p, &h, 2)
    return 0


cdef object load_scalar(const char *p, int dtype):
    """Read one element as a Python scalar."""
    cdef int8_t i8
    cdef int16_t i16
    cdef int32_t i32
    cdef int64_t i64 = 0
    cdef uint64_t u64 = 0
    cdef uint16_t h
    cdef float f
    cdef float c[2]
    cdef double d
    if dtype == DTypeCode.FLOAT32:
        memcpy(&f, p, 4)
        return <double>f
    if dtype == DTypeCode.BOOL:
        return p[0] != 0
    if dtype <= DTypeCode.UINT64:
        memcpy(&u64, p, ITEMSIZES[dtype])
        return u64
    if dtype == DTypeCode.INT8:
        memcpy(&i8, p, 1)
        return i8
    if dtype == DTypeCode.INT16:
        memcpy(&i16, p, 2)
        return i16
    if dtype == DTypeCode.INT32:
        memcpy(&i32, p, 4)
        return i32
    if dtype == DTypeCode.INT64:
        memcpy(&i64, p, 8)
        return i64
    if dtype == DTypeCode.FLOAT64:
        memcpy(&d, p, 8)
        return d
    if dtype == DTypeCode.COMPLEX64:
        memcpy(c, p, 8)
        return complex(c[0], c[1])
    memcpy(&h, p, 2)
    return <double>(_half_value(h) if dtype == DTypeCode.FLOAT16 else _bfloat_value(h))


cdef int scalar_dtype(object value) except -1:
    """The dtype that a Python scalar asks for by itself."""
    cdef int64_t i
    if isinstance(value, bool):
        return DTypeCode.BOOL
    if isinstance(value, int):
        try:
            i = value
        except OverflowError:
            raise ConversionError(f"Converting {value} to int64 would result in overflow.", value=value) from None
        return DTypeCode.INT32 if -2147483648 <= i <= 2147483647 else DTypeCode.INT64
    if isinstance(value, float):
        return DTypeCode.FLOAT32
    return DTypeCode.COMPLEX64


cdef Tensor scalar_of_dtype(object value, int dtype, Device device):
    """Return a 0-dimensional tensor."""
    cdef Tensor x = new_tensor(dtype, device, 0, NULL)
    cdef char element[16]
    if (<Backend>device.require_backend()).host:
        attach(x, host_storage(ITEMSIZES[dtype]))
        store_scalar(x.ref.data, dtype, value)
    else:
        store_scalar(element, dtype, value)
        (<Backend>device.backend).copy_in(element[:ITEMSIZES[dtype]], x)
    return x


cdef Tensor scalar_tensor(object value):
    """Return a Python scalar as a tensor of its own dtype on the current device."""
    return scalar_of_dtype(value, scalar_dtype(value), current_device())


cdef Tensor scalar_like(object value, Tensor other):
    """Return a Python scalar as a tensor next to `other`, whose dtype it takes where its kind allows (weak typing)."""
    cdef int dtype = other.ref.dtype
    if isinstance(value, bool):
        dtype = DTypeCode.BOOL
    elif isinstance(value, int):
        if dtype == DTypeCode.BOOL:
            dtype = DTypeCode.INT32
    elif isinstance(value, float):
        if dtype <= DTypeCode.INT64:
            dtype = DTypeCode.FLOAT32
    else:
        dtype = DTypeCode.COMPLEX64
    return scalar_of_dtype(value, dtype, other.device_)


cdef Tensor empty_tensor(object dtype, Device device, tuple shape):
    """Return a tensor with undefined content."""
    cdef Tensor x = new_tensor_from_tuple(dtype, device, shape)
    (<Backend>device.require_backend()).allocate(x)
    return x


def scalar(Tensor x not None):
    """Return the element of a one-element tensor as a Python scalar."""
    cdef char element[16]
    cdef Backend backend = <Backend>x.device_.require_backend()
    if backend.host:
        return load_scalar(x.ref.data, x.ref.dtype)
    backend.copy_out(x, <char[:ITEMSIZES[x.ref.dtype]]>element)
    return load_scalar(element, x.ref.dtype)


cdef list _nested(const char *p, Tensor x, int axis):
    cdef Py_ssize_t step = x.ref.strides[axis] * ITEMSIZES[x.ref.dtype]
    cdef list result = []
    for _ in range(x.ref.shape[axis]):
        if axis == x.ref.ndim - 1:
            result.append(load_scalar(p, x.ref.dtype))
        else:
            result.append(_nested(p, x, axis + 1))
        p += step
    return result


def to_list(Tensor x not None):
    """Return the elements of a tensor as nested lists; a scalar if there is no axis."""
    if x.ref.ndim == 0:
        return scalar(x)
    if x.ref.data == NULL and x.ref.size:
        x = bindings.methods["to_device"](x, "cpu")
    return _nested(x.ref.data, x, 0)


# ------------------------------------------------------------------ sequences

cdef class _Survey:
    """What a walk over a nested sequence finds: shape, the dtype that fits all scalars, and whether arrays occur."""

    cdef list shape
    cdef int dtype          # the largest scalar dtype seen so far, -1 for none
    cdef bint arrays

    cdef int rank(self, int dtype) noexcept:
        """Order of the dtypes that scalars have by themselves."""
        if dtype == DTypeCode.BOOL:
            return 0
        if dtype == DTypeCode.INT32:
            return 1
        if dtype == DTypeCode.INT64:
            return 2
        return 3 if dtype == DTypeCode.FLOAT32 else 4

    cdef int walk(self, object sequence, int level) except -1:
        cdef int dtype
        if level == len(self.shape):
            self.shape.append(len(sequence))
        elif self.shape[level] != len(sequence):
            raise ShapeError(
                "Initialization encountered non-uniform length.", op="array", axis=level,
                lengths=(self.shape[level], len(sequence)),
            )
        for item in sequence:
            if isinstance(item, (list, tuple)):
                if self.dtype >= 0 and level + 1 >= len(self.shape):
                    raise ShapeError("Initialization encountered non-uniform length.", op="array", axis=level)
                self.walk(item, level + 1)
            elif isinstance(item, (bool, int, float, complex)):
                if level + 1 != len(self.shape):
                    raise ShapeError("Initialization encountered non-uniform length.", op="array", axis=level)
                dtype = scalar_dtype(item)
                if self.dtype < 0 or self.rank(dtype) > self.rank(self.dtype):
                    self.dtype = dtype
            elif type(item) is Tensor or hasattr(item, "__array__") or hasattr(item, "__dlpack__"):
                self.arrays = True
                return 0
            else:
                raise ArgumentTypeError(
                    f"Invalid type {type(item).__name__} received in array initialization.", op="array", value=item
                )
        return 0


cdef char *_fill(char *p, int dtype, object sequence) except NULL:
    cdef int itemsize = ITEMSIZES[dtype]
    for item in sequence:
        if isinstance(item, (list, tuple)):
            p = _fill(p, dtype, item)
        else:
            store_scalar(p, dtype, item)
            p += itemsize
    return p


def from_sequence(sequence, dtype, device):
    """Return a (nested) list or tuple as a tensor.

    Parameters
    ----------
    sequence : list or tuple
    dtype : Dtype or None
    device : Device

    Returns
    -------
    Tensor or None
        None if arrays occur among the items: the caller stacks them.
    """
    cdef _Survey survey = _Survey()
    cdef Tensor x
    cdef int code
    cdef Backend backend
    survey.shape = []
    survey.dtype = -1
    survey.walk(sequence, 0)
    if survey.arrays:
        return None
    if dtype is not None:
        code = as_dtype(dtype).code
    else:
        code = survey.dtype if survey.dtype >= 0 else <int>DTypeCode.FLOAT32
    x = new_tensor_from_tuple(dtype_of(code), device, tuple(survey.shape))
    backend = <Backend>(<Device>device).require_backend()
    if backend.host:
        backend.allocate(x)
        _fill(x.ref.data, code, sequence)
    else:
        buffer = bytearray(x.nbytes + 1)
        _fill(<char *>buffer, code, sequence)
        backend.copy_in(memoryview(buffer)[:x.nbytes], x)
    return x


def from_scalar(value, dtype, device):
    """Return a Python scalar as a 0-dimensional tensor of `dtype` (its own if None) on `device`."""
    return scalar_of_dtype(value, scalar_dtype(value) if dtype is None else as_dtype(dtype).code, as_device(device))
