# cython: language_level=3, binding=True, embedsignature=True
"""Waiting for tensors. Must not know about ops."""
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF

from mlxr.core.function cimport PyVectorcall_NARGS, call_general, make_function
from mlxr.core.tensor cimport Tensor
from mlxr.backends.base cimport Backend


cdef int _wait(Tensor x) except -1:
    # A host storage with data is computed: eager backends leave nothing to wait for.
    if x.ref.data == NULL and x.ref.size:
        (<Backend>x.device_.require_backend()).wait(x)
    return 0


cdef int _start(Tensor x) except -1:
    if x.ref.data == NULL and x.ref.size:
        (<Backend>x.device_.require_backend()).start(x)
    return 0


cdef int _walk(object value, bint wait) except -1:
    if type(value) is Tensor:
        return _wait(<Tensor>value) if wait else _start(<Tensor>value)
    if isinstance(value, dict):
        for item in (<dict>value).values():
            _walk(item, wait)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _walk(item, wait)
    return 0


cdef PyObject *_call(PyObject *function, PyObject *const *args, size_t flagged, PyObject *names) noexcept:
    """Take the call with one tensor, which is computed already on an eager backend."""
    if names == NULL and PyVectorcall_NARGS(flagged) == 1 and args[0].ob_type == <PyTypeObject *>Tensor \
            and (<Tensor>args[0]).ref.data != NULL:
        Py_INCREF(None)
        return <PyObject *>None
    return call_general(function, args, flagged, names)


def eval(*args):
    """Compute trees of tensors. Tensors of eager backends are computed already.

    Parameters
    ----------
    *args : tree of Tensor
    """
    _walk(args, True)


def async_eval(*args):
    """Start to compute trees of tensors, and return without waiting. Tensors of eager backends are computed already.

    Parameters
    ----------
    *args : tree of Tensor
    """
    _walk(args, False)


eval = make_function(_call, eval, None)
async_eval = make_function(_call, async_eval, None)
