# cython: language_level=3, binding=True, embedsignature=True, boundscheck=False, wraparound=False
"""Arrays of other libraries in and out: NumPy, the buffer protocol and DLPack.

Memory is shared where layout, dtype and alignment allow; what is copied is counted (``get_copied_bytes``). Shared
storages are marked read-only for mlxr, so that a tensor's first write copies and never reaches the source.
Must not know about ops.
"""
from cpython.pycapsule cimport (
    PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New, PyCapsule_SetName
)
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

import numpy as np

from mlxr.core.abi cimport DTypeCode
from mlxr.core.device cimport Device, as_device, current_device
from mlxr.core.dtype cimport ITEMSIZES, Dtype, as_dtype
from mlxr.core.storage cimport count_copy, foreign_storage
from mlxr.core.tensor cimport Tensor, bindings, finish_view, new_alias, new_tensor_from_tuple, shape_tuple
from mlxr.backends.base cimport Backend

from mlxr.core import convert
from mlxr.core.dtype import ALL_DTYPES
from mlxr.errors import ArgumentTypeError, ExportError, InvalidValueError

# NumPy dtype name -> dtype that represents it without conversion.
_NATIVE = {d.name: d for d in ALL_DTYPES}
# NumPy dtype name -> dtype that a tensor gets by default where there is no native one, or upstream chooses another.
_DEFAULT = {"float64": _NATIVE["float32"], "complex128": _NATIVE["complex64"], "longdouble": _NATIVE["float32"]}


# ------------------------------------------------------------------ NumPy in

cdef Tensor _share_numpy(object array, Dtype dtype, Device device):
    """Return a tensor on the memory of an ndarray, or None if its layout does not allow that."""
    cdef Tensor x
    cdef Py_ssize_t itemsize = dtype.itemsize, step, extent, low = 0, high = 0
    cdef size_t address = array.ctypes.data
    cdef int axis, ndim = array.ndim
    if address % itemsize or not array.dtype.isnative:
        return None
    for axis in range(ndim):
        step = array.strides[axis]
        if step % itemsize:
            return None
    x = new_tensor_from_tuple(dtype, device, array.shape)
    for axis in range(ndim):
        step = array.strides[axis]
        extent = x.ref.shape[axis]
        x.ref.strides[axis] = step // itemsize
        if extent > 1:
            if step < 0:
                low += (extent - 1) * step
            else:
                high += (extent - 1) * step
    # The storage starts at the lowest address that the view touches.
    x.storage = foreign_storage(<char *>address + low, high - low + itemsize if x.ref.size else 0, array, True)
    x.offset = -low
    finish_view(x)
    return x


cdef Tensor _copy_numpy(object array, Dtype dtype, Device device):
    """Return a tensor with a storage of its own and the elements of an ndarray."""
    cdef Tensor x = new_tensor_from_tuple(dtype, device, array.shape)
    cdef Backend backend = <Backend>device.require_backend()
    if dtype.code == DTypeCode.BFLOAT16 and array.dtype.name != "bfloat16":
        source = _to_bfloat16(array)
    elif dtype.kind in "bui" and array.dtype.kind in "fc":
        with np.errstate(invalid="ignore"):
            source = np.ascontiguousarray(array.astype(dtype.name))
    else:
        with np.errstate(over="ignore"):
            source = np.ascontiguousarray(array, dtype=None if array.dtype.name == dtype.name else dtype.name)
    backend.copy_in(source.reshape(-1).view(np.uint8), x)
    count_copy(x.nbytes)
    return x


def _to_bfloat16(array):
    """Round an ndarray to bfloat16, to nearest even, and return the bits as uint16."""
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where((bits & 0x7FFFFFFF) > 0x7F800000, (bits >> 16) | 0x40, rounded).astype(np.uint16)


cdef Dtype _dtype_for(object array, object dtype):
    """The dtype of the tensor for an ndarray."""
    if dtype is not None:
        return as_dtype(dtype)
    name = array.dtype.name
    if name in _DEFAULT:
        return _DEFAULT[name]
    if name in _NATIVE:
        return _NATIVE[name]
    if array.dtype.kind in "biufc":
        return _DEFAULT["complex128"] if array.dtype.kind == "c" else _NATIVE["float32"]
    raise ArgumentTypeError(f"no dtype of mlxr corresponds to NumPy's {array.dtype}", dtype=array.dtype)


cdef Tensor _from_numpy(object array, object dtype, object copy, Device device):
    cdef Dtype target = _dtype_for(array, dtype)
    cdef Tensor x = None
    if copy is not True and array.dtype.name == target.name and (<Backend>device.require_backend()).host:
        x = _share_numpy(array, target, device)
    if x is None:
        if copy is False:
            raise InvalidValueError(
                f"the memory of a NumPy array of {array.dtype} cannot be shared as {target.name}", dtype=target
            )
        x = _copy_numpy(array, target, device)
    return x


# ------------------------------------------------------------------ DLPack

cdef struct DLDevice:
    int32_t device_type
    int32_t device_id

cdef struct DLDataType:
    uint8_t code
    uint8_t bits
    uint16_t lanes

cdef struct DLTensor:
    void *data
    DLDevice device
    int32_t ndim
    DLDataType dtype
    int64_t *shape
    int64_t *strides
    uint64_t byte_offset

cdef struct DLManagedTensor:
    DLTensor dl_tensor
    void *manager_ctx
    void (*deleter)(DLManagedTensor *) noexcept

cdef struct DLPackVersion:
    uint32_t major
    uint32_t minor

cdef struct DLManagedTensorVersioned:
    DLPackVersion version
    void *manager_ctx
    void (*deleter)(DLManagedTensorVersioned *) noexcept
    uint64_t flags
    DLTensor dl_tensor

cdef enum:
    DL_CPU = 1
    DL_INT = 0
    DL_UINT = 1
    DL_FLOAT = 2
    DL_BFLOAT = 4
    DL_COMPLEX = 5
    DL_BOOL = 6
    DL_READ_ONLY = 1
    DL_COPIED = 2

# (DLPack type code, bits) by dtype code, and back.
_DL_TYPES = {
    _NATIVE["bool"]: (DL_BOOL, 8), _NATIVE["bfloat16"]: (DL_BFLOAT, 16), _NATIVE["complex64"]: (DL_COMPLEX, 64),
    **{_NATIVE[f"uint{bits}"]: (DL_UINT, bits) for bits in (8, 16, 32, 64)},
    **{_NATIVE[f"int{bits}"]: (DL_INT, bits) for bits in (8, 16, 32, 64)},
    **{_NATIVE[f"float{bits}"]: (DL_FLOAT, bits) for bits in (16, 32, 64)},
}
_DL_DTYPES = {value: key for key, value in _DL_TYPES.items()}


cdef class _Imported:
    """Owns an imported DLPack tensor: calls the producer's deleter when the last storage on it dies."""

    cdef DLManagedTensor *plain
    cdef DLManagedTensorVersioned *versioned

    def __dealloc__(self):
        if self.plain != NULL and self.plain.deleter != NULL:
            self.plain.deleter(self.plain)
        if self.versioned != NULL and self.versioned.deleter != NULL:
            self.versioned.deleter(self.versioned)


def from_dlpack(source, device=None, copy=None):
    """Return a tensor on the memory of an object with the DLPack protocol.

    Parameters
    ----------
    source : object with ``__dlpack__`` and ``__dlpack_device__``
    device : Device or str, optional
        Must be a device with host memory.
    copy : bool, optional
        True: copy instead of sharing.

    Returns
    -------
    Tensor

    Raises
    ------
    InvalidValueError
        If the memory is not host memory.
    ArgumentTypeError
        If the object has no DLPack protocol, or a dtype that mlxr lacks.
    """
    cdef Tensor x = _from_dlpack(source, as_device(device))
    if copy:
        return bindings.methods["copy"](x)
    return x


cdef Tensor _from_dlpack(object source, Device device):
    cdef _Imported owner = _Imported()
    cdef DLTensor *d
    cdef Dtype dtype
    cdef Tensor x
    cdef int axis, ndim
    cdef bint readonly = True
    cdef Py_ssize_t low = 0, high = 0, step, extent
    cdef int64_t row_major = 1
    if not hasattr(source, "__dlpack__"):
        raise ArgumentTypeError(f"{type(source).__name__} has no DLPack protocol", value=source)
    if hasattr(source, "__dlpack_device__"):
        kind = source.__dlpack_device__()[0]
        if int(kind) != DL_CPU:
            raise InvalidValueError(
                f"the DLPack device type is {int(kind)}: only host memory can be shared; move the array there first",
                device_type=int(kind),
            )
    try:
        capsule = source.__dlpack__(max_version=(1, 1))
    except TypeError:
        capsule = source.__dlpack__()
    if PyCapsule_IsValid(capsule, "dltensor_versioned"):
        owner.versioned = <DLManagedTensorVersioned *>PyCapsule_GetPointer(capsule, "dltensor_versioned")
        PyCapsule_SetName(capsule, "used_dltensor_versioned")
        if owner.versioned.version.major > 1:
            raise InvalidValueError(f"DLPack version {owner.versioned.version.major} is not known", op="from_dlpack")
        d = &owner.versioned.dl_tensor
    elif PyCapsule_IsValid(capsule, "dltensor"):
        owner.plain = <DLManagedTensor *>PyCapsule_GetPointer(capsule, "dltensor")
        PyCapsule_SetName(capsule, "used_dltensor")
        d = &owner.plain.dl_tensor
    else:
        raise ArgumentTypeError("__dlpack__ did not return an unused DLPack capsule", value=source)
    ndim = d.ndim
    if d.device.device_type != DL_CPU or d.dtype.lanes != 1 or (d.dtype.code, d.dtype.bits) not in _DL_DTYPES:
        raise ArgumentTypeError(
            f"a DLPack tensor of type code {d.dtype.code}, {d.dtype.bits} bits, {d.dtype.lanes} lanes on device type "
            f"{d.device.device_type} has no counterpart", op="from_dlpack",
        )
    dtype = _DL_DTYPES[(d.dtype.code, d.dtype.bits)]
    x = new_tensor_from_tuple(dtype, device, tuple([d.shape[axis] for axis in range(ndim)]))
    for axis in range(ndim - 1, -1, -1):
        step = d.strides[axis] if d.strides != NULL else row_major
        extent = x.ref.shape[axis]
        row_major *= extent
        x.ref.strides[axis] = step
        if extent > 1:
            if step < 0:
                low += (extent - 1) * step
            else:
                high += (extent - 1) * step
    x.storage = foreign_storage(
        <char *>d.data + d.byte_offset + low * dtype.itemsize,
        (high - low + 1) * dtype.itemsize if x.ref.size else 0, owner, readonly,
    )
    x.offset = -low * dtype.itemsize
    finish_view(x)
    return x


# What an exported DLPack tensor keeps alive. The shape and strides follow the struct in one allocation.
cdef void _delete_plain(DLManagedTensor *managed) noexcept with gil:
    Py_DECREF(<object>managed.manager_ctx)
    free(managed)


cdef void _delete_versioned(DLManagedTensorVersioned *managed) noexcept with gil:
    Py_DECREF(<object>managed.manager_ctx)
    free(managed)


cdef void _drop_plain(object capsule) noexcept:
    """Destructor of a capsule that nobody consumed."""
    cdef DLManagedTensor *managed
    if PyCapsule_IsValid(capsule, "dltensor"):
        managed = <DLManagedTensor *>PyCapsule_GetPointer(capsule, "dltensor")
        managed.deleter(managed)


cdef void _drop_versioned(object capsule) noexcept:
    cdef DLManagedTensorVersioned *managed
    if PyCapsule_IsValid(capsule, "dltensor_versioned"):
        managed = <DLManagedTensorVersioned *>PyCapsule_GetPointer(capsule, "dltensor_versioned")
        managed.deleter(managed)


cdef void _describe(Tensor x, DLTensor *d, int64_t *dims):
    cdef int axis
    code, bits = _DL_TYPES[x.dtype]
    d.data = x.ref.data
    d.device.device_type = DL_CPU
    d.device.device_id = 0
    d.ndim = x.ref.ndim
    d.dtype.code = code
    d.dtype.bits = bits
    d.dtype.lanes = 1
    d.shape = dims
    d.strides = dims + x.ref.ndim
    d.byte_offset = 0
    for axis in range(x.ref.ndim):
        d.shape[axis] = x.ref.shape[axis]
        d.strides[axis] = x.ref.strides[axis]


def to_dlpack(Tensor x not None, stream=None, max_version=None, dl_device=None, copy=None):
    """Return a DLPack capsule on the memory of `x`; versioned if the consumer knows version 1."""
    cdef DLManagedTensor *plain
    cdef DLManagedTensorVersioned *versioned
    cdef size_t dims = 2 * x.ref.ndim * sizeof(int64_t)
    cdef bint is_copy = bool(copy)
    if stream is not None and stream != -1:
        raise ExportError("a stream makes no sense for host memory", stream=stream)
    if dl_device is not None and (int(dl_device[0]), int(dl_device[1])) != (DL_CPU, 0):
        raise ExportError(f"the tensor cannot be exported to DLPack device {dl_device}", device=dl_device)
    if is_copy:
        x = bindings.methods["copy"](x)
    bindings.methods["wait"](x)
    if x.ref.data == NULL:
        raise ExportError(f"the memory of a tensor on {x.device_!r} is not visible to the host", device=x.device_)
    x = new_alias(x)    # the consumer's owner: the tensor object may become another value
    if max_version is not None and max_version[0] >= 1:
        versioned = <DLManagedTensorVersioned *>malloc(sizeof(DLManagedTensorVersioned) + dims)
        if versioned == NULL:
            raise MemoryError()
        _describe(x, &versioned.dl_tensor, <int64_t *>(versioned + 1))
        versioned.version.major = 1
        versioned.version.minor = 0
        versioned.flags = (DL_READ_ONLY if x.storage.readonly else 0) | (DL_COPIED if is_copy else 0)
        versioned.manager_ctx = <void *>x
        versioned.deleter = _delete_versioned
        Py_INCREF(x)
        return PyCapsule_New(versioned, "dltensor_versioned", _drop_versioned)
    plain = <DLManagedTensor *>malloc(sizeof(DLManagedTensor) + dims)
    if plain == NULL:
        raise MemoryError()
    _describe(x, &plain.dl_tensor, <int64_t *>(plain + 1))
    plain.manager_ctx = <void *>x
    plain.deleter = _delete_plain
    Py_INCREF(x)
    return PyCapsule_New(plain, "dltensor", _drop_plain)


def dlpack_device(Tensor x not None):
    """Return the DLPack device of `x`."""
    return (DL_CPU, 0)


# ------------------------------------------------------------------ anything in

def scalar(value, dtype, device):
    """Return a Python scalar as a 0-dimensional tensor."""
    return convert.from_scalar(value, dtype, device)


def asarray(value, dtype=None, copy=None, device=None):
    """Return `value` as a tensor; see :func:`mlxr.asarray`."""
    cdef Device target
    cdef Tensor x
    if type(value) is Tensor:
        x = <Tensor>value
        if device is not None and as_device(device) is not x.device_:
            return bindings.methods["to_device"](x, as_device(device))
        if dtype is not None and as_dtype(dtype) is not x.dtype:
            if copy is False:
                raise InvalidValueError(
                    f"{x.dtype.name} cannot become {dtype.name} without a copy", dtype=dtype, op="asarray"
                )
            return bindings.methods["astype"](x, dtype)
        return bindings.methods["copy"](x) if copy else x
    target = as_device(device)
    if copy is False and isinstance(value, (bool, int, float, complex, list, tuple, range, np.generic)):
        raise InvalidValueError(
            f"a Python {type(value).__name__} has no memory that could be shared", op="asarray", value=value
        )
    if isinstance(value, (bool, int, float, complex)):
        return convert.from_scalar(value, dtype, target)
    if isinstance(value, np.generic):
        return _from_numpy(np.asarray(value), dtype, True, target)
    if isinstance(value, np.ndarray):
        return _from_numpy(value, dtype, copy, target)
    if isinstance(value, (list, tuple)):
        x = convert.from_sequence(value, dtype, target)
        if x is None:
            parts = [asarray(item, dtype, None, target) for item in value]
            return bindings.methods["stack"](parts)
        return x
    if isinstance(value, range):
        return convert.from_sequence(list(value), dtype, target)
    if hasattr(value, "__mlx_array__"):
        return asarray(value.__mlx_array__(), dtype, copy, device)
    if hasattr(value, "__dlpack__") and (<Backend>target.require_backend()).host:
        x = _from_dlpack(value, target)
        # 64-bit floats become 32-bit ones, as from NumPy.
        if dtype is None and x.ref.dtype == DTypeCode.FLOAT64:
            dtype = _NATIVE["float32"]
        return asarray(x, dtype, copy, device)
    if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
        return _from_numpy(np.asarray(value), dtype, copy, target)
    if isinstance(value, (str, bytes)):
        raise ArgumentTypeError(f"Invalid type {type(value).__name__} received in array initialization.", value=value)
    try:
        buffer = memoryview(value)
    except TypeError:
        raise ArgumentTypeError(
            f"Invalid type {type(value).__name__} received in array initialization.", op="array", value=value
        ) from None
    return _from_numpy(np.asarray(buffer), dtype, copy, target)


def construct(value, dtype, device):
    """Return what ``mlxr.array(value, dtype)`` holds.

    NumPy arrays and buffers are copied, as upstream MLX does; DLPack producers share their memory
    (docs/decisions/0004).
    """
    copy = None
    if isinstance(value, np.ndarray) or not (
        hasattr(value, "__dlpack__") or isinstance(value, (list, tuple, range, bool, int, float, complex))
    ):
        copy = True
    return asarray(value, dtype, copy, device)


def from_memory(source, Py_ssize_t offset, tuple shape, dtype, owner=None):
    """Return a read-only tensor on the memory of a buffer, without touching its pages.

    Parameters
    ----------
    source : object with the buffer protocol
    offset : int
        Bytes from the start of the buffer to the first element.
    shape : tuple of int
    dtype : Dtype
    owner : object, optional
        What keeps the memory alive; `source` by default.

    Returns
    -------
    Tensor
        Row-major. Kernels read any address, so the memory need not be aligned.

    Raises
    ------
    InvalidValueError
        If the elements do not lie within the buffer.
    """
    cdef const unsigned char[::1] bytes_ = memoryview(source).cast("B")
    cdef Dtype target = as_dtype(dtype)
    cdef Device device = current_device()
    if not (<Backend>device.require_backend()).host:
        device = as_device("cpu")
    cdef Tensor x = new_tensor_from_tuple(target, device, shape)
    cdef Py_ssize_t nbytes = x.ref.size * target.itemsize
    if offset < 0 or nbytes > bytes_.shape[0] - offset:
        raise InvalidValueError(
            f"{nbytes} bytes at offset {offset} do not fit a buffer of {bytes_.shape[0]}", offset=offset, nbytes=nbytes
        )
    if nbytes == 0:
        (<Backend>device.require_backend()).allocate(x)
        return x
    x.storage = foreign_storage(
        <char *>&bytes_[0], bytes_.shape[0], source if owner is None else (source, owner), True
    )
    x.offset = offset
    finish_view(x)
    return x


# ------------------------------------------------------------------ NumPy out

def to_numpy(Tensor x not None, dtype=None, copy=None):
    """Return `x` as a numpy.ndarray.

    Shares the memory unless `dtype` differs, `copy` is True, or NumPy has no such dtype (bfloat16 becomes float32).
    """
    bindings.methods["wait"](x)
    if x.ref.dtype == DTypeCode.BFLOAT16:
        if copy is False:
            raise ExportError("bfloat16 has no NumPy dtype: it cannot be shared", dtype=x.dtype)
        x = bindings.methods["astype"](x, _NATIVE["float32"])
        copy = None
    if x.ref.data != NULL:
        array = np.asarray(memoryview(x))
        if x.ref.ndim == 0:
            array = array.reshape(())
    else:
        host = new_tensor_from_tuple(x.dtype, as_device("cpu"), shape_tuple(x))
        if not (<Backend>x.device_.require_backend()).lend(x, host):
            if copy is False:
                raise ExportError(
                    f"the memory of a tensor on {x.device_!r} is not visible to the host", device=x.device_
                )
            host = to_device(x, "cpu")
        return to_numpy(host, dtype, copy)
    if dtype is not None and np.dtype(dtype) != array.dtype:
        if copy is False:
            raise ExportError(f"{x.dtype.name} cannot become NumPy's {np.dtype(dtype)} without a copy", dtype=x.dtype)
        count_copy(x.nbytes)
        return array.astype(dtype)
    if copy:
        count_copy(x.nbytes)
        return array.copy()
    return array


def array_interface(Tensor x not None):
    """Return NumPy's array interface of `x`."""
    if x.ref.dtype == DTypeCode.BFLOAT16 or x.ref.data == NULL:
        raise AttributeError("__array_interface__")
    bindings.methods["wait"](x)
    return {
        "version": 3,
        "shape": x.shape,
        "strides": tuple([step * ITEMSIZES[x.ref.dtype] for step in x.strides]),
        "typestr": np.dtype(x.dtype.name).str,
        "data": (x.data_ptr, bool(x.storage.readonly)),
    }


def wait(Tensor x not None):
    """Return when the elements of `x` are computed."""
    (<Backend>x.device_.require_backend()).wait(x)


def reduce_for_pickle(Tensor x not None):
    """Return what pickle stores: the elements' bytes, shape and dtype."""
    return _unpickle, (bindings.methods["row_major_bytes"](x), shape_tuple(x), x.dtype)


def _unpickle(data, shape, dtype):
    """Return a tensor from what :func:`reduce_for_pickle` stored."""
    cdef Tensor x = new_tensor_from_tuple(dtype, current_device(), shape)
    (<Backend>x.device_.require_backend()).copy_in(data, x)
    return x


def row_major_bytes(Tensor x not None):
    """Return the elements of `x` in row-major order as bytes."""
    buffer = bytearray(x.nbytes)
    bindings.methods["wait"](x)
    if x.nbytes:
        (<Backend>x.device_.require_backend()).copy_out(x, buffer)
    return bytes(buffer)


def to_device(Tensor x not None, device):
    """Return `x` on another device: sharing memory where the backends can, copying (and counting) otherwise."""
    cdef Device target = as_device(device)
    cdef Tensor out
    if target is x.device_:
        return x
    out = new_tensor_from_tuple(x.dtype, target, shape_tuple(x))
    if (<Backend>target.require_backend()).share(x, out):
        return out
    if (<Backend>target.backend).host and (<Backend>x.device_.require_backend()).lend(x, out):
        return out
    (<Backend>target.backend).copy_in(row_major_bytes(x), out)
    count_copy(x.nbytes)
    return out
