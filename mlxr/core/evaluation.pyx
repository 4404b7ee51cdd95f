# cython: language_level=3, binding=True, embedsignature=True
"""Waiting for tensors. Must not know about ops."""
from mlxr.core.tensor cimport Tensor
from mlxr.backends.base cimport Backend


cdef int _wait(Tensor x) except -1:
    # A host storage with data is computed: eager backends leave nothing to wait for.
    if x.ref.data == NULL and x.ref.size:
        (<Backend>x.device_.require_backend()).wait(x)
    return 0


cdef int _walk(object value) except -1:
    if type(value) is Tensor:
        _wait(<Tensor>value)
    elif isinstance(value, dict):
        for item in value.values():
            _walk(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _walk(item)
    return 0


def eval(*args):
    """Compute trees of tensors. Tensors of eager backends are computed already.

    Parameters
    ----------
    *args : tree of Tensor
    """
    for value in args:
        _walk(value)
