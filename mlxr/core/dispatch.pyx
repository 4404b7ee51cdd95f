# cython: language_level=3, binding=True, embedsignature=True
# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Dispatch: from an op's call to the backend of its operands.

Checks that operands live on one device, infers shape and dtype of the results, asks the device's backend to execute the
primitive, and records a node when an operand is traced. Elementwise primitives have a path of their own that costs a
few tens of nanoseconds; everything else goes through :func:`apply`.

Must not know about particular ops or kernels.
"""
from cpython.object cimport PyObject, PyTypeObject

from mlxr.core.abi cimport FLOAT16, GIL_WORK, MAX_NDIM
from mlxr.core.convert cimport scalar_like, scalar_tensor
from mlxr.core.device cimport Device, check_stream
from mlxr.core.function cimport Function, PyVectorcall_NARGS, call_general, make_function
from mlxr.core.primitive cimport Primitive
from mlxr.core.tape cimport record
from mlxr.core.tensor cimport (
    Tensor, aliases, bindings, describe_shape, new_alias, new_like, new_tensor, new_tensor_from_tuple, shape_tuple
)
from mlxr.backends.base cimport Backend

from mlxr.errors import ArgumentTypeError, DeviceMismatchError, DtypeError, ShapeError


cdef inline PyObject *_backend(Tensor x) except NULL:
    """The backend of x's device, borrowed."""
    if x.device_.backend is None:
        x.device_.require_backend()
    return <PyObject *>x.device_.backend


cdef inline bint _is_scalar(object value):
    return isinstance(value, (bool, int, float, complex))


cdef Tensor as_tensor(object value, object op):
    """Return `value` as a tensor, or raise ArgumentTypeError that names the op."""
    if type(value) is Tensor:
        return <Tensor>value
    if _is_scalar(value):
        return scalar_tensor(value)
    if hasattr(value, "__array__") or hasattr(value, "__dlpack__") or hasattr(value, "__mlx_array__"):
        return bindings.construct(value, None, None)
    raise ArgumentTypeError(
        f"[{op}] expected a tensor or a scalar, got {type(value).__name__}", op=str(op), value=value
    )


cdef int _refuse(Primitive p, tuple operands) except -1:
    raise DtypeError(
        f"[{p.name}] {p.refusal or 'is not defined'} for {' and '.join([x.dtype.name for x in operands])}",
        op=p.name, dtypes=tuple([x.dtype for x in operands]),
    )


cdef int _refuse_devices(object op, tuple operands) except -1:
    devices = tuple([x.device for x in operands])
    raise DeviceMismatchError(
        f"[{op}] the operands live on different devices: {', '.join([repr(d) for d in devices])}; move them first",
        op=str(op), devices=devices,
    )


cdef inline bint _same_shape(Tensor x, Tensor y) noexcept:
    cdef int axis
    if x.ref.ndim != y.ref.ndim:
        return False
    for axis in range(x.ref.ndim):
        if x.ref.shape[axis] != y.ref.shape[axis]:
            return False
    return True


cdef Tensor unary(Primitive p, object a, object stream):
    """Apply an elementwise primitive of one operand."""
    return _unary(p, <Tensor>a if type(a) is Tensor else as_tensor(a, p.name), stream)


cdef Tensor _unary(Primitive p, Tensor x, object stream):
    cdef int lane = p.compute[x.ref.dtype][x.ref.dtype]
    cdef Tensor out
    if lane < 0:
        _refuse(p, (x,))
    if stream is not None:
        check_stream(stream, x.device_, p.name)
    out = new_like(p.result[lane], x)
    if out.ref.size <= GIL_WORK:
        (<Backend>_backend(x)).unary(p, lane, x, out)
    else:
        (<Backend>_backend(x)).unary(p, lane, new_alias(x), out)
    if x.node is not None:
        record(p, (x,), (out,), ())
    return out


cdef Tensor binary(Primitive p, object a, object b, object stream):
    """Apply an elementwise primitive of two operands, with broadcasting, promotion and weak Python scalars."""
    cdef Tensor x, y
    if type(a) is Tensor and type(b) is Tensor:
        return _binary(p, <Tensor>a, <Tensor>b, stream)
    if type(a) is Tensor:
        return _binary(p, <Tensor>a, scalar_like(b, <Tensor>a) if _is_scalar(b) else as_tensor(b, p.name), stream)
    if type(b) is Tensor:
        return _binary(p, scalar_like(a, <Tensor>b) if _is_scalar(a) else as_tensor(a, p.name), <Tensor>b, stream)
    x = as_tensor(a, p.name)
    y = scalar_like(b, x) if _is_scalar(b) and not _is_scalar(a) else as_tensor(b, p.name)
    return _binary(p, x, y, stream)


cdef Tensor _binary(Primitive p, Tensor x, Tensor y, object stream):
    cdef int lane = p.compute[x.ref.dtype][y.ref.dtype]
    cdef Tensor out
    if x.device_ is not y.device_:
        _refuse_devices(p.name, (x, y))
    if stream is not None:
        check_stream(stream, x.device_, p.name)
    if lane < 0:
        _refuse(p, (x, y))
    out = new_like(p.result[lane], x) if _same_shape(x, y) else _new_broadcast(p.result[lane], p.name, x, y)
    if out.ref.size <= GIL_WORK:
        (<Backend>_backend(x)).binary(p, lane, x, y, out)
    else:
        (<Backend>_backend(x)).binary(p, lane, new_alias(x), new_alias(y), out)
    if x.node is not None or y.node is not None:
        record(p, (x, y), (out,), ())
    return out


cdef Tensor _new_broadcast(int dtype, object op, Tensor x, Tensor y):
    """Return a tensor without storage of the shape that x and y broadcast to."""
    cdef Py_ssize_t shape[MAX_NDIM]
    cdef int ndim = max(x.ref.ndim, y.ref.ndim), axis, i, j
    cdef Py_ssize_t m, n
    for axis in range(ndim):
        i = axis - ndim + x.ref.ndim
        j = axis - ndim + y.ref.ndim
        m = x.ref.shape[i] if i >= 0 else 1
        n = y.ref.shape[j] if j >= 0 else 1
        if m != n and m != 1 and n != 1:
            raise ShapeError(
                f"[{op}] shapes {describe_shape(x)} and {describe_shape(y)} cannot be broadcast",
                op=str(op), shapes=(shape_tuple(x), shape_tuple(y)),
            )
        shape[axis] = n if m == 1 else m
    return new_tensor(dtype, x.device_, ndim, shape)


cdef int _product_extents(Tensor x, Tensor y, Py_ssize_t *shape) noexcept:
    """Work out the extents of the product of two stacks of matrices. Returns their number, or -1 if they do not fit."""
    cdef int axis, i, j, ndim = max(x.ref.ndim, y.ref.ndim)
    cdef Py_ssize_t m, n
    if x.ref.ndim < 2 or y.ref.ndim < 2 or x.ref.shape[x.ref.ndim - 1] != y.ref.shape[y.ref.ndim - 2]:
        return -1
    for axis in range(ndim - 2):
        i = axis - ndim + x.ref.ndim
        j = axis - ndim + y.ref.ndim
        m = x.ref.shape[i] if i >= 0 else 1
        n = y.ref.shape[j] if j >= 0 else 1
        if m != n and m != 1 and n != 1:
            return -1
        shape[axis] = n if m == 1 else m
    shape[ndim - 2] = x.ref.shape[x.ref.ndim - 2]
    shape[ndim - 1] = y.ref.shape[y.ref.ndim - 1]
    return ndim


def product_shape(Tensor x not None, Tensor y not None):
    """Return the shape of the product of two stacks of matrices, or None if their shapes do not fit."""
    cdef Py_ssize_t shape[MAX_NDIM]
    cdef int axis, ndim = _product_extents(x, y, shape)
    return None if ndim < 0 else tuple([shape[axis] for axis in range(ndim)])


cpdef Tensor product(Primitive p, object a, object b, object stream):
    """Apply a matrix product to operands that need no preparation.

    Parameters
    ----------
    p : Primitive
        Takes two stacks of matrices and no parameters.
    a, b : Tensor or anything else
    stream : Stream or Device, optional

    Returns
    -------
    Tensor or None
        The product of two tensors of one inexact dtype, on one device, that have two axes at least and shapes that fit.
        None for all others: what to make of them, and of errors, is the op's business.
    """
    cdef Py_ssize_t shape[MAX_NDIM]
    cdef Tensor x, y, out
    cdef tuple inputs
    cdef int ndim
    if type(a) is not Tensor or type(b) is not Tensor:
        return None
    x, y = <Tensor>a, <Tensor>b
    if x.ref.dtype != y.ref.dtype or x.ref.dtype < FLOAT16 or x.device_ is not y.device_:
        return None
    ndim = _product_extents(x, y, shape)
    if ndim < 0:
        return None
    if stream is not None:
        check_stream(stream, x.device_, p.name)
    out = new_tensor(x.ref.dtype, x.device_, ndim, shape)
    inputs = (new_alias(x), new_alias(y))
    (<Backend>_backend(x)).run(p, inputs, (out,), ())
    if x.node is not None or y.node is not None:
        record(p, inputs, (out,), ())
    return out


cpdef apply(Primitive p, tuple inputs, tuple params=(), object stream=None):
    """Execute a primitive on tensors.

    Parameters
    ----------
    p : Primitive
    inputs : tuple of Tensor
        At least one; all on one device.
    params : tuple
        The primitive's parameters: plain Python values.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor or tuple of Tensor
        As the primitive's ``infer`` says.
    """
    cdef Tensor x = <Tensor>inputs[0]
    cdef Tensor y
    cdef tuple outputs, shape
    cdef Device device = x.device_
    for y in inputs:
        if y.device_ is not device:
            _refuse_devices(p.name, inputs)
    if stream is not None:
        check_stream(stream, device, p.name)
    inputs = aliases(inputs)
    inferred = p.infer(inputs, params)
    if type(inferred[0]) is tuple and inferred and len(inferred[0]) == 2 and type(inferred[0][0]) is tuple:
        outputs = tuple([new_tensor_from_tuple(dtype, device, shape) for shape, dtype in inferred])
        (<Backend>_backend(x)).run(p, inputs, outputs, params)
        record(p, inputs, outputs, params)
        return outputs
    shape, dtype = inferred
    outputs = (new_tensor_from_tuple(dtype, device, shape),)
    (<Backend>_backend(x)).run(p, inputs, outputs, params)
    record(p, inputs, outputs, params)
    return outputs[0]


cpdef create(Primitive p, Device device, tuple shape, dtype, tuple params=(), tuple inputs=()):
    """Execute a primitive whose result's shape and dtype do not follow from its operands, such as arange."""
    cdef Tensor out = new_tensor_from_tuple(dtype, device, shape)
    (<Backend>_backend(out)).run(p, inputs, (out,), params)
    return out


# ------------------------------------------------------------------ callables for ops

# A Function's C side takes the call with as many positional tensors as there are operands, and nothing else. References
# stay borrowed on the way, which a cast to `object` would not leave them.
ctypedef PyObject *(*Unary)(PyObject *p, PyObject *x, PyObject *stream) noexcept
ctypedef PyObject *(*Binary)(PyObject *p, PyObject *x, PyObject *y, PyObject *stream) noexcept

cdef Unary _unary_borrowed = <Unary>_unary
cdef Binary _binary_borrowed = <Binary>_binary


cdef inline bint _is_tensor(PyObject *value) noexcept:
    return value.ob_type == <PyTypeObject *>Tensor


cdef PyObject *_call_unary(PyObject *function, PyObject *const *args, size_t flagged, PyObject *names) noexcept:
    if names == NULL and PyVectorcall_NARGS(flagged) == 1 and _is_tensor(args[0]):
        return _unary_borrowed(<PyObject *>(<Function>function).context, args[0], <PyObject *>None)
    return call_general(function, args, flagged, names)


cdef PyObject *_call_binary(PyObject *function, PyObject *const *args, size_t flagged, PyObject *names) noexcept:
    if names == NULL and PyVectorcall_NARGS(flagged) == 2 and _is_tensor(args[0]) and _is_tensor(args[1]):
        return _binary_borrowed(<PyObject *>(<Function>function).context, args[0], args[1], <PyObject *>None)
    return call_general(function, args, flagged, names)


def unary_function(Primitive p not None, str name, str doc):
    """Return the public function of an elementwise primitive of one operand."""

    def function(a, /, *, stream=None):
        return unary(p, a, stream)

    return make_function(_call_unary, _dress(function, name, doc), p)


def binary_function(Primitive p not None, str name, str doc):
    """Return the public function of an elementwise primitive of two operands."""

    def function(a, b, stream=None):
        return binary(p, a, b, stream)

    return make_function(_call_binary, _dress(function, name, doc), p)


cdef object _dress(object function, str name, str doc):
    function.__name__ = name
    function.__qualname__ = name
    function.__module__ = "mlxr"
    function.__doc__ = doc
    return function


def as_operand(value, op="array"):
    """Return `value` (tensor, scalar, NumPy or DLPack array) as a tensor."""
    return as_tensor(value, op)


def as_operands(a, b, op="array"):
    """Return two operands as tensors; a Python scalar takes its dtype from the other one (weak typing)."""
    if _is_scalar(a) and not _is_scalar(b):
        y = as_tensor(b, op)
        return scalar_like(a, y), y
    if _is_scalar(b) and not _is_scalar(a):
        x = as_tensor(a, op)
        return x, scalar_like(b, x)
    return as_tensor(a, op), as_tensor(b, op)


def broadcast_shapes(*shapes):
    """Return the shape that arrays of the given shapes broadcast to.

    Parameters
    ----------
    *shapes : sequence of int

    Returns
    -------
    tuple of int

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    """
    cdef list result
    cdef Py_ssize_t m, n
    cdef tuple first = tuple(shapes[0]) if shapes else (), shape
    result = [n for n in first]
    for other in shapes[1:]:
        shape = tuple(other)
        if shape == first:
            continue
        if len(shape) > len(result):
            result = [1] * (len(shape) - len(result)) + result
        for axis in range(-len(shape), 0):
            m = result[len(result) + axis]
            n = shape[len(shape) + axis]
            if m != n and m != 1 and n != 1:
                raise ShapeError(
                    f"[broadcast_shapes] shapes {', '.join([str(tuple(s)) for s in shapes])} cannot be broadcast",
                    op="broadcast_shapes", shapes=tuple([tuple(s) for s in shapes]),
                )
            result[len(result) + axis] = n if m == 1 else m
    return tuple(result)
