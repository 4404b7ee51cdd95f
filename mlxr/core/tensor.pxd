# cython: language_level=3
"""Tensor, and the functions that make tensors over storages: see tensor.pyx."""
from mlxr.core.abi cimport ArrayRef, INLINE_NDIM, MAX_NDIM
from mlxr.core.device cimport Device
from mlxr.core.dtype cimport Dtype
from mlxr.core.storage cimport Storage


cdef class Tensor:
    # The view: data is NULL while a lazy backend holds the elements behind `storage.owner`.
    cdef ArrayRef ref
    # Bytes from the start of the storage to the element at index (0, 0, ...).
    cdef Py_ssize_t offset
    cdef Storage storage
    cdef Device device_
    # Where the tape knows this value: a mlxr.core.tape.Node, or None outside transforms.
    cdef object node
    cdef int output_index
    # Storages whose address was given away without an owner (see __array_interface__): alive as long as the tensor.
    cdef object pinned
    # Extents and strides: in the object, or above INLINE_NDIM axes in the bytes object `dims`.
    cdef Py_ssize_t inline_dims[2 * INLINE_NDIM]
    cdef object dims
    cdef object __weakref__


# What mlxr.ops installs: the functions behind the operators and methods.
cdef class Bindings:
    cdef public object construct, getitem, setitem, at, to_numpy, to_dlpack, to_string, to_list, to_format
    cdef public object add, subtract, multiply, divide, floor_divide, remainder, power, matmul
    cdef public object negative, abs, bitwise_invert, logical_not
    cdef public object bitwise_and, bitwise_or, bitwise_xor, left_shift, right_shift
    cdef public object equal, not_equal, less, less_equal, greater, greater_equal
    cdef public dict methods

cdef Bindings bindings

# A tensor with the layout of a fresh row-major array and no storage yet. Raises ShapeError for an impossible shape.
cdef Tensor new_tensor(int dtype, Device device, int ndim, const Py_ssize_t *shape)
cdef Tensor new_tensor_from_tuple(Dtype dtype, Device device, tuple shape)
# The same with the shape and the device of another tensor.
cdef Tensor new_like(int dtype, Tensor like)
# A tensor on the storage of x with room for ndim extents; the caller fills shape and strides, then calls finish_view.
cdef Tensor new_view(Tensor x, int ndim)
cdef int finish_view(Tensor view) except -1
# Another tensor object for the same value, marks included: what happens to x later does not concern it.
cdef Tensor new_alias(Tensor x)
cdef tuple aliases(tuple tensors)

# Put a tensor fresh from new_tensor on its storage.
cdef inline void attach(Tensor x, Storage storage) noexcept:
    x.storage = storage
    x.ref.data = storage.data

cdef tuple shape_tuple(Tensor x)
cdef tuple strides_tuple(Tensor x)
cdef int overwrite(Tensor target, Tensor source) except -1
cpdef int normalize_axis(object axis, int ndim, object op) except -1
cdef str describe_shape(Tensor x)
