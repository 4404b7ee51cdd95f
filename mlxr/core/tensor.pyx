# cython: language_level=3, binding=True, embedsignature=True, boundscheck=False, wraparound=False
"""Tensor: a dtype and a strided layout over a storage on a device.

The class holds what a view is and how views are made; it knows no operation. Operators and methods call the functions
that ``mlxr.ops`` installs in ``bindings``, so the arrow points from the ops to the core. Must not know about backends,
kernels or transforms (``node`` is an opaque mark of the tape).
"""
cimport cython
from cpython.buffer cimport (
    PyBUF_ANY_CONTIGUOUS, PyBUF_C_CONTIGUOUS, PyBUF_F_CONTIGUOUS, PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES, PyBUF_WRITABLE
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport Py_EQ, Py_GT, Py_LE, Py_LT, Py_NE
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.string cimport memcpy

from mlxr.errors import ArgumentTypeError, AxisError, ExportError, ShapeError

from mlxr.core.abi cimport ArrayRef, BFLOAT16, INLINE_NDIM, MAX_NDIM
from mlxr.core.device cimport Device
from mlxr.core.dtype cimport ITEMSIZES, Dtype, dtype_of

cdef extern from *:
    bint __builtin_mul_overflow(Py_ssize_t a, Py_ssize_t b, Py_ssize_t *result) nogil


cdef class Bindings:
    """The functions behind Tensor's operators and methods, installed once by mlxr.ops."""

    def __init__(self):
        self.methods = {}


cdef Bindings bindings = Bindings()


def get_bindings():
    """Return the table that mlxr.ops fills."""
    return bindings


@cython.final
@cython.no_gc
@cython.freelist(256)
cdef class Tensor:
    """A multi-dimensional array on a device. ``mlxr.array`` is this class.

    Parameters
    ----------
    val : scalar, (nested) sequence, Tensor, numpy.ndarray or an object with the buffer or DLPack protocol
        The values. See :func:`mlxr.asarray` for when memory is shared and when it is copied.
    dtype : Dtype, optional
        Type of the elements. By default Python bools give ``bool``, ints ``int32`` (``int64`` where the value needs
        it), floats ``float32`` and complex numbers ``complex64``; arrays keep their dtype (NumPy's float64 becomes
        float32, as in upstream MLX).
    device : Device or str, optional
        Where the tensor is made; the default device if None.

    Raises
    ------
    ArgumentTypeError
        If `val` cannot be an array.
    ShapeError
        If nested sequences have different lengths.
    ConversionError
        If a value does not fit `dtype`.
    """

    def __init__(self, val, dtype=None, *, device=None):
        overwrite(self, <Tensor?>bindings.construct(val, dtype, device))

    # ------------------------------------------------------------------ facts

    @property
    def shape(self):
        """tuple of int: The extents of the axes."""
        return shape_tuple(self)

    @property
    def strides(self):
        """tuple of int: The step of each axis, in elements (not bytes)."""
        return strides_tuple(self)

    @property
    def dtype(self):
        """Dtype: The type of the elements."""
        return dtype_of(self.ref.dtype)

    @property
    def device(self):
        """Device: Where the elements live."""
        return self.device_

    @property
    def ndim(self):
        """int: The number of axes."""
        return self.ref.ndim

    @property
    def size(self):
        """int: The number of elements."""
        return self.ref.size

    @property
    def itemsize(self):
        """int: Bytes per element."""
        return ITEMSIZES[self.ref.dtype]

    @property
    def nbytes(self):
        """int: Bytes of all elements."""
        return self.ref.size * ITEMSIZES[self.ref.dtype]

    @property
    def is_contiguous(self):
        """bool: Whether the elements lie in row-major order without gaps."""
        return bool(self.ref.contiguous)

    @property
    def data_ptr(self):
        """int: Address of the first element in host memory; 0 where the host cannot see it."""
        return <size_t>self.ref.data

    def shares_memory(self, Tensor other not None):
        """Tell whether both tensors lie on one storage."""
        return self.storage is other.storage

    @property
    def T(self):
        """Tensor: The axes in reverse order (a view)."""
        return bindings.methods["transpose"](self)

    @property
    def mT(self):
        """Tensor: The last two axes exchanged (a view)."""
        return bindings.methods["matrix_transpose"](self)

    @property
    def real(self):
        """Tensor: The real part."""
        return bindings.methods["real"](self)

    @property
    def imag(self):
        """Tensor: The imaginary part."""
        return bindings.methods["imag"](self)

    @property
    def at(self):
        """ArrayAt: ``x.at[index].add(value)`` and its like return a new tensor with the update applied.

        Unlike ``x[index] += value``, an index that occurs several times takes every update.
        """
        return bindings.at(self)

    # -------------------------------------------------------- Python protocols

    def __len__(self):
        if self.ref.ndim == 0:
            raise ArgumentTypeError("len() of a 0-dimensional array")
        return self.ref.shape[0]

    def __iter__(self):
        if self.ref.ndim == 0:
            raise ArgumentTypeError("iteration over a 0-dimensional array")
        return TensorIterator(self)

    def __getitem__(self, index):
        return bindings.getitem(self, index)

    def __setitem__(self, index, value):
        bindings.setitem(self, index, value)

    def __bool__(self):
        return bool(_scalar(self))

    def __int__(self):
        return int(_scalar(self))

    def __index__(self):
        if self.dtype.kind not in "iu":
            raise ArgumentTypeError(f"only an integer array can be an index, got {self.dtype.name}")
        return _scalar(self)

    def __float__(self):
        return float(_scalar(self))

    def __complex__(self):
        return complex(_scalar(self))

    def __bytes__(self):
        return bindings.to_numpy(self, None, True).tobytes()

    def __hash__(self):
        return <Py_ssize_t><size_t><void *>self >> 4

    def __repr__(self):
        return bindings.to_string(self)

    def __format__(self, str spec):
        return bindings.to_format(self, spec)

    def __copy__(self):
        return bindings.methods["copy"](self)

    def __deepcopy__(self, memo):
        return bindings.methods["copy"](self)

    def __reduce__(self):
        return bindings.methods["reduce_for_pickle"](self)

    def __sizeof__(self):
        return self.nbytes + sizeof(ArrayRef)

    def item(self):
        """Return the value of a tensor with one element as a Python scalar.

        Raises
        ------
        ShapeError
            If the tensor does not have exactly one element.
        """
        return _scalar(self)

    def tolist(self):
        """Return the elements as nested lists of Python scalars; a scalar for a 0-dimensional tensor."""
        return bindings.to_list(self)

    def __array__(self, dtype=None, copy=None):
        """Return the elements as a numpy.ndarray; shares memory unless `dtype` or `copy` asks for a copy."""
        return bindings.to_numpy(self, dtype, copy)

    @property
    def __array_interface__(self):
        """dict: NumPy's array interface, version 3, over the shared memory."""
        self.pinned = (self.storage, self.pinned)
        return bindings.methods["array_interface"](self)

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        """Return a DLPack capsule that shares the memory."""
        return bindings.to_dlpack(self, stream, max_version, dl_device, copy)

    def __dlpack_device__(self):
        """Return the DLPack device type and ordinal."""
        return bindings.methods["dlpack_device"](self)

    def __array_namespace__(self, api_version=None):
        """Return the module that holds the functions for this class."""
        import mlxr

        return mlxr

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        # The buffer owns an alias: this object may become another value while the buffer is in use.
        fill_buffer(new_alias(self), buffer, flags)

    def __releasebuffer__(self, Py_buffer *buffer):
        PyMem_Free(buffer.internal)

    # --------------------------------------------------------------- operators

    def __richcmp__(self, other, int op):
        if op == Py_EQ:
            return bindings.equal(self, other) if _comparable(other) else False
        if op == Py_NE:
            return bindings.not_equal(self, other) if _comparable(other) else True
        if op == Py_LT:
            return bindings.less(self, other)
        if op == Py_LE:
            return bindings.less_equal(self, other)
        if op == Py_GT:
            return bindings.greater(self, other)
        return bindings.greater_equal(self, other)

    def __add__(self, other):
        return bindings.add(self, other)

    def __radd__(self, other):
        return bindings.add(other, self)

    def __iadd__(self, other):
        return _in_place(self, bindings.add(self, other))

    def __sub__(self, other):
        return bindings.subtract(self, other)

    def __rsub__(self, other):
        return bindings.subtract(other, self)

    def __isub__(self, other):
        return _in_place(self, bindings.subtract(self, other))

    def __mul__(self, other):
        return bindings.multiply(self, other)

    def __rmul__(self, other):
        return bindings.multiply(other, self)

    def __imul__(self, other):
        return _in_place(self, bindings.multiply(self, other))

    def __truediv__(self, other):
        return bindings.divide(self, other)

    def __rtruediv__(self, other):
        return bindings.divide(other, self)

    def __itruediv__(self, other):
        return _in_place(self, bindings.divide(self, other))

    def __div__(self, other):
        return bindings.divide(self, other)

    def __rdiv__(self, other):
        return bindings.divide(other, self)

    def __floordiv__(self, other):
        return bindings.floor_divide(self, other)

    def __rfloordiv__(self, other):
        return bindings.floor_divide(other, self)

    def __ifloordiv__(self, other):
        return _in_place(self, bindings.floor_divide(self, other))

    def __mod__(self, other):
        return bindings.remainder(self, other)

    def __rmod__(self, other):
        return bindings.remainder(other, self)

    def __imod__(self, other):
        return _in_place(self, bindings.remainder(self, other))

    def __pow__(self, other, modulo):
        return bindings.power(self, other)

    def __rpow__(self, other, modulo):
        return bindings.power(other, self)

    def __ipow__(self, other):
        return _in_place(self, bindings.power(self, other))

    def __matmul__(self, other):
        return bindings.matmul(self, other)

    def __rmatmul__(self, other):
        return bindings.matmul(other, self)

    def __imatmul__(self, other):
        return _in_place(self, bindings.matmul(self, other))

    def __and__(self, other):
        return bindings.bitwise_and(self, other)

    def __rand__(self, other):
        return bindings.bitwise_and(other, self)

    def __iand__(self, other):
        return _in_place(self, bindings.bitwise_and(self, other))

    def __or__(self, other):
        return bindings.bitwise_or(self, other)

    def __ror__(self, other):
        return bindings.bitwise_or(other, self)

    def __ior__(self, other):
        return _in_place(self, bindings.bitwise_or(self, other))

    def __xor__(self, other):
        return bindings.bitwise_xor(self, other)

    def __rxor__(self, other):
        return bindings.bitwise_xor(other, self)

    def __ixor__(self, other):
        return _in_place(self, bindings.bitwise_xor(self, other))

    def __lshift__(self, other):
        return bindings.left_shift(self, other)

    def __rlshift__(self, other):
        return bindings.left_shift(other, self)

    def __ilshift__(self, other):
        return _in_place(self, bindings.left_shift(self, other))

    def __rshift__(self, other):
        return bindings.right_shift(self, other)

    def __rrshift__(self, other):
        return bindings.right_shift(other, self)

    def __irshift__(self, other):
        return _in_place(self, bindings.right_shift(self, other))

    def __neg__(self):
        return bindings.negative(self)

    def __pos__(self):
        return self

    def __abs__(self):
        return bindings.abs(self)

    def __invert__(self):
        return bindings.bitwise_invert(self)

    # ----------------------------------------------------------------- methods
    # One line each; the documentation lives with the function of the same name.

    def astype(self, dtype, stream=None):
        """See :func:`mlxr.astype`."""
        return bindings.methods["astype"](self, dtype, stream=stream)

    def view(self, dtype, *, stream=None):
        """See :func:`mlxr.view`."""
        return bindings.methods["view"](self, dtype, stream=stream)

    def reshape(self, *shape, stream=None):
        """See :func:`mlxr.reshape`; takes the extents one by one or as one sequence."""
        if len(shape) == 1 and not isinstance(shape[0], int):
            shape = shape[0]
        return bindings.methods["reshape"](self, shape, stream=stream)

    def transpose(self, *axes, stream=None):
        """See :func:`mlxr.transpose`; takes the axes one by one or as one sequence."""
        if len(axes) == 1 and not isinstance(axes[0], int):
            axes = axes[0]
        return bindings.methods["transpose"](self, axes or None, stream=stream)

    def flatten(self, start_axis=0, end_axis=-1, *, stream=None):
        """See :func:`mlxr.flatten`."""
        return bindings.methods["flatten"](self, start_axis, end_axis, stream=stream)

    def squeeze(self, axis=None, *, stream=None):
        """See :func:`mlxr.squeeze`."""
        return bindings.methods["squeeze"](self, axis, stream=stream)

    def moveaxis(self, source, destination, *, stream=None):
        """See :func:`mlxr.moveaxis`."""
        return bindings.methods["moveaxis"](self, source, destination, stream=stream)

    def swapaxes(self, axis1, axis2, *, stream=None):
        """See :func:`mlxr.swapaxes`."""
        return bindings.methods["swapaxes"](self, axis1, axis2, stream=stream)

    def split(self, indices_or_sections, axis=0, *, stream=None):
        """See :func:`mlxr.split`."""
        return bindings.methods["split"](self, indices_or_sections, axis, stream=stream)

    def diagonal(self, offset=0, axis1=0, axis2=1, stream=None):
        """See :func:`mlxr.diagonal`."""
        return bindings.methods["diagonal"](self, offset, axis1, axis2, stream=stream)

    def diag(self, k=0, *, stream=None):
        """See :func:`mlxr.diag`."""
        return bindings.methods["diag"](self, k, stream=stream)

    def abs(self, *, stream=None):
        """See :func:`mlxr.abs`."""
        return bindings.methods["abs"](self, stream=stream)

    def square(self, *, stream=None):
        """See :func:`mlxr.square`."""
        return bindings.methods["square"](self, stream=stream)

    def sqrt(self, *, stream=None):
        """See :func:`mlxr.sqrt`."""
        return bindings.methods["sqrt"](self, stream=stream)

    def rsqrt(self, *, stream=None):
        """See :func:`mlxr.rsqrt`."""
        return bindings.methods["rsqrt"](self, stream=stream)

    def reciprocal(self, *, stream=None):
        """See :func:`mlxr.reciprocal`."""
        return bindings.methods["reciprocal"](self, stream=stream)

    def exp(self, *, stream=None):
        """See :func:`mlxr.exp`."""
        return bindings.methods["exp"](self, stream=stream)

    def log(self, *, stream=None):
        """See :func:`mlxr.log`."""
        return bindings.methods["log"](self, stream=stream)

    def log2(self, *, stream=None):
        """See :func:`mlxr.log2`."""
        return bindings.methods["log2"](self, stream=stream)

    def log10(self, *, stream=None):
        """See :func:`mlxr.log10`."""
        return bindings.methods["log10"](self, stream=stream)

    def log1p(self, *, stream=None):
        """See :func:`mlxr.log1p`."""
        return bindings.methods["log1p"](self, stream=stream)

    def sin(self, *, stream=None):
        """See :func:`mlxr.sin`."""
        return bindings.methods["sin"](self, stream=stream)

    def cos(self, *, stream=None):
        """See :func:`mlxr.cos`."""
        return bindings.methods["cos"](self, stream=stream)

    def conj(self, *, stream=None):
        """See :func:`mlxr.conjugate`."""
        return bindings.methods["conjugate"](self, stream=stream)

    def round(self, decimals=0, *, stream=None):
        """See :func:`mlxr.round`."""
        return bindings.methods["round"](self, decimals, stream=stream)

    def all(self, axis=None, keepdims=False, *, stream=None):
        """See :func:`mlxr.all`."""
        return bindings.methods["all"](self, axis, keepdims, stream=stream)

    def any(self, axis=None, keepdims=False, *, stream=None):
        """See :func:`mlxr.any`."""
        return bindings.methods["any"](self, axis, keepdims, stream=stream)

    def sum(self, axis=None, keepdims=False, *, stream=None):
        """See :func:`mlxr.sum`."""
        return bindings.methods["sum"](self, axis, keepdims, stream=stream)

    def prod(self, axis=None, keepdims=False, *, stream=None):
        """See :func:`mlxr.prod`."""
        return bindings.methods["prod"](self, axis, keepdims, stream=stream)

    def min(self, axis=None, keepdims=False, *, stream=None):
        """See :func:`mlxr.min`."""
        return bindings.methods["min"](self, axis, keepdims, stream=stream)

    def max(self, axis=None, keepdims=False, *, stream=None):
        """See :func:`mlxr.max`."""
        return bindings.methods["max"](self, axis, keepdims, stream=stream)

    def mean(self, axis=None, keepdims=False, *, stream=None):
        """See :func:`mlxr.mean`."""
        return bindings.methods["mean"](self, axis, keepdims, stream=stream)

    def std(self, axis=None, keepdims=False, ddof=0, *, correction=None, stream=None):
        """See :func:`mlxr.std`."""
        return bindings.methods["std"](self, axis, keepdims, ddof, correction=correction, stream=stream)

    def var(self, axis=None, keepdims=False, ddof=0, *, correction=None, stream=None):
        """See :func:`mlxr.var`."""
        return bindings.methods["var"](self, axis, keepdims, ddof, correction=correction, stream=stream)

    def logsumexp(self, axis=None, keepdims=False, *, stream=None):
        """See :func:`mlxr.logsumexp`."""
        return bindings.methods["logsumexp"](self, axis, keepdims, stream=stream)

    def argmin(self, axis=None, keepdims=False, *, stream=None):
        """See :func:`mlxr.argmin`."""
        return bindings.methods["argmin"](self, axis, keepdims, stream=stream)

    def argmax(self, axis=None, keepdims=False, *, stream=None):
        """See :func:`mlxr.argmax`."""
        return bindings.methods["argmax"](self, axis, keepdims, stream=stream)

    def cumsum(self, axis=None, *, reverse=False, inclusive=True, stream=None):
        """See :func:`mlxr.cumsum`."""
        return bindings.methods["cumsum"](self, axis, reverse=reverse, inclusive=inclusive, stream=stream)

    def cumprod(self, axis=None, *, reverse=False, inclusive=True, stream=None):
        """See :func:`mlxr.cumprod`."""
        return bindings.methods["cumprod"](self, axis, reverse=reverse, inclusive=inclusive, stream=stream)

    def cummax(self, axis=None, *, reverse=False, inclusive=True, stream=None):
        """See :func:`mlxr.cummax`."""
        return bindings.methods["cummax"](self, axis, reverse=reverse, inclusive=inclusive, stream=stream)

    def cummin(self, axis=None, *, reverse=False, inclusive=True, stream=None):
        """See :func:`mlxr.cummin`."""
        return bindings.methods["cummin"](self, axis, reverse=reverse, inclusive=inclusive, stream=stream)

    def logcumsumexp(self, axis=None, *, reverse=False, inclusive=True, stream=None):
        """See :func:`mlxr.logcumsumexp`."""
        return bindings.methods["logcumsumexp"](self, axis, reverse=reverse, inclusive=inclusive, stream=stream)


cdef bint _comparable(object other):
    """Whether == with `other` is elementwise; anything else is simply unequal, as upstream has it."""
    return isinstance(other, (Tensor, bool, int, float, complex)) or (
        hasattr(other, "__array__") or hasattr(other, "__mlx_array__")
    )


cdef Tensor _in_place(Tensor target, Tensor result):
    """Give `target` the value of `result`: every name bound to the object sees it, other tensors do not."""
    overwrite(target, result)
    return target


cdef class TensorIterator:
    """Iterator over the first axis of a tensor."""

    cdef Tensor tensor
    cdef Py_ssize_t position

    def __init__(self, Tensor tensor not None):
        self.tensor = tensor

    def __iter__(self):
        return self

    def __next__(self):
        if self.position >= self.tensor.ref.shape[0]:
            raise StopIteration
        item = bindings.getitem(self.tensor, self.position)
        self.position += 1
        return item

    def __length_hint__(self):
        return self.tensor.ref.shape[0] - self.position


# ------------------------------------------------------------------ making tensors

cdef inline int _reserve_dims(Tensor x, int ndim) except -1:
    """Give `x` room for `ndim` extents and strides."""
    x.ref.ndim = ndim
    if ndim > INLINE_NDIM:
        return _reserve_block(x, ndim)
    x.ref.shape = x.inline_dims
    x.ref.strides = x.inline_dims + INLINE_NDIM
    return 0


cdef int _reserve_block(Tensor x, int ndim) except -1:
    if ndim > MAX_NDIM:
        raise ShapeError(f"a tensor has at most {MAX_NDIM} axes, got {ndim}", ndim=ndim)
    x.dims = PyBytes_FromStringAndSize(NULL, 2 * ndim * sizeof(Py_ssize_t))
    x.ref.shape = <Py_ssize_t *>PyBytes_AS_STRING(x.dims)
    x.ref.strides = x.ref.shape + ndim
    return 0


cdef Tensor new_tensor(int dtype, Device device, int ndim, const Py_ssize_t *shape):
    cdef Tensor x = Tensor.__new__(Tensor)
    cdef Py_ssize_t size = 1, extent, nbytes = 0
    cdef int axis
    cdef bint overflow = False
    _reserve_dims(x, ndim)
    for axis in range(ndim - 1, -1, -1):
        extent = shape[axis]
        x.ref.shape[axis] = extent
        x.ref.strides[axis] = size
        if extent < 0:
            raise ShapeError(f"negative dimensions are not allowed, got {extent} on axis {axis}", axis=axis)
        if extent == 0:
            # Strides of an empty tensor never step; what matters is that the product cannot overflow.
            size = 0
            overflow = False
        elif size != 0:
            overflow |= __builtin_mul_overflow(size, extent, &size)
    if overflow or __builtin_mul_overflow(size, ITEMSIZES[dtype], &nbytes):
        _refuse_size(dtype, ndim, shape)
    x.ref.size = size
    x.ref.contiguous = True
    x.ref.dtype = dtype
    x.device_ = device
    return x


cdef int _refuse_size(int dtype, int ndim, const Py_ssize_t *shape) except -1:
    extents = tuple([shape[axis] for axis in range(ndim)])
    raise ShapeError(f"shape {extents} of {dtype_of(dtype).name} exceeds the address space", shapes=(extents,))


cdef Tensor new_like(int dtype, Tensor like):
    cdef Tensor x = Tensor.__new__(Tensor)
    cdef Py_ssize_t step = 1, nbytes = 0
    cdef int axis
    _reserve_dims(x, like.ref.ndim)
    for axis in range(like.ref.ndim - 1, -1, -1):
        x.ref.shape[axis] = like.ref.shape[axis]
        x.ref.strides[axis] = step
        step *= like.ref.shape[axis]
    # The extents are a tensor's, so only the dtype (and a broadcast view, which takes no memory) can be too much.
    if __builtin_mul_overflow(like.ref.size, ITEMSIZES[dtype], &nbytes):
        _refuse_size(dtype, like.ref.ndim, like.ref.shape)
    x.ref.size = like.ref.size
    x.ref.contiguous = True
    x.ref.dtype = dtype
    x.device_ = like.device_
    return x


cdef Tensor new_tensor_from_tuple(Dtype dtype, Device device, tuple shape):
    cdef Py_ssize_t extents[MAX_NDIM]
    cdef Py_ssize_t ndim = len(shape), axis
    if ndim > MAX_NDIM:
        raise ShapeError(f"a tensor has at most {MAX_NDIM} axes, got {ndim}", ndim=ndim)
    for axis in range(ndim):
        extents[axis] = shape[axis]
    return new_tensor(dtype.code, device, <int>ndim, extents)


cdef Tensor new_view(Tensor x, int ndim):
    cdef Tensor view = Tensor.__new__(Tensor)
    _reserve_dims(view, ndim)
    view.ref.data = x.ref.data
    view.ref.dtype = x.ref.dtype
    view.offset = x.offset
    view.storage = x.storage
    view.device_ = x.device_
    return view


cdef Tensor new_alias(Tensor x):
    cdef Tensor alias = new_view(x, x.ref.ndim)
    memcpy(alias.ref.shape, x.ref.shape, x.ref.ndim * sizeof(Py_ssize_t))
    memcpy(alias.ref.strides, x.ref.strides, x.ref.ndim * sizeof(Py_ssize_t))
    alias.ref.size = x.ref.size
    alias.ref.contiguous = x.ref.contiguous
    alias.node = x.node
    alias.output_index = x.output_index
    return alias


cdef tuple aliases(tuple tensors):
    """Return an alias of each of `tensors`."""
    cdef Py_ssize_t n = len(tensors), k
    cdef tuple result = PyTuple_New(n)
    cdef Tensor alias
    for k in range(n):
        alias = new_alias(<Tensor>tensors[k])
        Py_INCREF(alias)
        PyTuple_SET_ITEM(result, k, alias)
    return result


cdef int finish_view(Tensor view) except -1:
    """Derive size and the contiguous flag from shape and strides, and data from the offset."""
    cdef Py_ssize_t size = 1
    cdef bint contiguous = True
    cdef int axis
    for axis in range(view.ref.ndim - 1, -1, -1):
        if view.ref.shape[axis] != 1 and view.ref.strides[axis] != size:
            contiguous = False
        size *= view.ref.shape[axis]
    view.ref.size = size
    view.ref.contiguous = contiguous or size <= 1
    if view.storage is not None and view.storage.data != NULL:
        view.ref.data = view.storage.data + view.offset
    return 0


cdef int overwrite(Tensor target, Tensor source) except -1:
    """Make `target` the same value as `source`: storage, layout, dtype and mark of the tape."""
    cdef int ndim = source.ref.ndim
    if target is source:
        return 0
    target.dims = None
    _reserve_dims(target, ndim)
    memcpy(target.ref.shape, source.ref.shape, ndim * sizeof(Py_ssize_t))
    memcpy(target.ref.strides, source.ref.strides, ndim * sizeof(Py_ssize_t))
    target.ref.data = source.ref.data
    target.ref.size = source.ref.size
    target.ref.dtype = source.ref.dtype
    target.ref.contiguous = source.ref.contiguous
    target.offset = source.offset
    target.storage = source.storage
    target.device_ = source.device_
    target.node = source.node
    target.output_index = source.output_index
    return 0


# ------------------------------------------------------------------------ helpers

cdef object _scalar(Tensor x):
    """The one element of `x` as a Python scalar."""
    if x.ref.size != 1:
        raise ShapeError(
            f"only a tensor with one element can become a Python scalar, got shape {describe_shape(x)}",
            shapes=(shape_tuple(x),),
        )
    return bindings.methods["scalar"](x)


cdef inline tuple _tuple_of(const Py_ssize_t *values, int n):
    cdef tuple result = PyTuple_New(n)
    cdef object value
    cdef int i
    for i in range(n):
        value = values[i]
        Py_INCREF(value)
        PyTuple_SET_ITEM(result, i, value)
    return result


cdef tuple shape_tuple(Tensor x):
    return _tuple_of(x.ref.shape, x.ref.ndim)


cdef tuple strides_tuple(Tensor x):
    return _tuple_of(x.ref.strides, x.ref.ndim)


cdef str describe_shape(Tensor x):
    """Shape as error messages print it: (2,3)."""
    return "(" + ",".join([str(x.ref.shape[axis]) for axis in range(x.ref.ndim)]) + ")"


cpdef int normalize_axis(object axis, int ndim, object op) except -1:
    """Return `axis` counted from the front.

    Raises
    ------
    AxisError
        If it is out of range.
    ArgumentTypeError
        If it is no integer.
    """
    cdef Py_ssize_t k
    try:
        k = axis
    except TypeError:
        raise ArgumentTypeError(f"[{op}] an axis is an int, got {axis!r}", op=str(op), axis=axis) from None
    except OverflowError:
        raise AxisError(
            f"[{op}] axis {axis} is out of bounds for {ndim} dimensions", op=str(op), axis=axis, ndim=ndim
        ) from None
    if k < -ndim or k >= ndim:
        raise AxisError(
            f"[{op}] axis {axis} is out of bounds for an array with {ndim} dimensions", op=str(op), axis=axis, ndim=ndim
        )
    return <int>(k + ndim if k < 0 else k)


# ------------------------------------------------------------------ buffer protocol

cdef const char *_formats[14]
_formats[:] = ["?", "B", "H", "I", "Q", "b", "h", "i", "q", "e", "f", "d", "", "Zf"]


cdef int fill_buffer(Tensor x, Py_buffer *buffer, int flags) except -1:
    """Describe the memory of `x` for PEP 3118. The storage counts the exporter as one more owner of the memory."""
    cdef Py_ssize_t *dims
    cdef int axis, ndim = x.ref.ndim
    cdef bint readonly, fits = True
    if x.ref.dtype == BFLOAT16:
        raise ExportError("bfloat16 has no buffer format; convert it with astype(mlxr.float32)", dtype=x.dtype)
    bindings.methods["wait"](x)
    if x.ref.data == NULL:
        raise ExportError(f"the memory of a tensor on {x.device_!r} is not visible to the host", device=x.device_)
    readonly = x.storage.readonly or _overlapping(x)
    if readonly and flags & PyBUF_WRITABLE:
        raise ExportError("the tensor's memory is read-only", dtype=x.dtype)
    if flags & PyBUF_C_CONTIGUOUS == PyBUF_C_CONTIGUOUS or flags & PyBUF_STRIDES != PyBUF_STRIDES:
        fits = x.ref.contiguous
    elif flags & PyBUF_F_CONTIGUOUS == PyBUF_F_CONTIGUOUS:
        fits = _column_major(x)
    elif flags & PyBUF_ANY_CONTIGUOUS == PyBUF_ANY_CONTIGUOUS:
        fits = x.ref.contiguous or _column_major(x)
    if not fits:
        raise ExportError("the tensor's layout is not what the consumer can take", dtype=x.dtype)
    dims = <Py_ssize_t *>PyMem_Malloc((2 * ndim + 1) * sizeof(Py_ssize_t))
    if dims == NULL:
        raise MemoryError()
    for axis in range(ndim):
        dims[axis] = x.ref.shape[axis]
        dims[ndim + axis] = x.ref.strides[axis] * ITEMSIZES[x.ref.dtype]
    buffer.buf = x.ref.data
    buffer.obj = x
    buffer.len = x.ref.size * ITEMSIZES[x.ref.dtype]
    buffer.readonly = readonly
    buffer.format = <char *>_formats[x.ref.dtype] if flags & PyBUF_FORMAT else NULL
    buffer.ndim = ndim
    buffer.itemsize = ITEMSIZES[x.ref.dtype]
    buffer.shape = dims if flags & PyBUF_ND else NULL
    buffer.strides = dims + ndim if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
    buffer.suboffsets = NULL
    buffer.internal = dims
    return 0


cdef bint _overlapping(Tensor x) noexcept:
    """Whether two indices share an element (a broadcast axis)."""
    cdef int axis
    for axis in range(x.ref.ndim):
        if x.ref.strides[axis] == 0 and x.ref.shape[axis] > 1:
            return True
    return False


cdef bint _column_major(Tensor x) noexcept:
    cdef Py_ssize_t size = 1
    cdef int axis
    for axis in range(x.ref.ndim):
        if x.ref.shape[axis] != 1 and x.ref.strides[axis] != size:
            return False
        size *= x.ref.shape[axis]
    return True
