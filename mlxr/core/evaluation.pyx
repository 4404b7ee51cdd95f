# cython: language_level=3, binding=True, embedsignature=True
"""Waiting for tensors. Must not know about ops."""
from mlxr.core.tensor cimport Tensor
from mlxr.backends.base cimport Backend


cdef int _wait(Tensor x) except -1:
    # A host storage with data is computed: eager backends leave nothing to wait for.
    if x.ref.data == NULL and x.ref.size:
        (<Backend>x.device_.require_backend()).wait(x)
    return 0


cdef int _walk(object value, bint wait) except -1:
    cdef Tensor x
    if type(value) is Tensor:
        x = <Tensor>value
        if wait:
            _wait(x)
        elif x.ref.data == NULL and x.ref.size:
            (<Backend>x.device_.require_backend()).start(x)
    elif isinstance(value, dict):
        for item in value.values():
            _walk(item, wait)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _walk(item, wait)
    return 0


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
