# cython: language_level=3, binding=True, embedsignature=True
"""What the Metal backend does to tensors and storages below their Python surface.

A Metal storage's owner is whatever the backend puts there; its `data` is NULL, so that nobody reads it before it is
computed. Must not know what an owner is, nor about the runtime.
"""
from libc.stdint cimport uint64_t

from mlxr.core.storage cimport foreign_storage
from mlxr.core.tensor cimport Tensor, attach, finish_view


def give(Tensor out not None, object owner, Py_ssize_t nbytes):
    """Put a tensor without storage on a new storage that belongs to `owner`."""
    attach(out, foreign_storage(NULL, nbytes, owner, False))


def place(Tensor x not None):
    """Return the owner of a tensor's storage, and the bytes from the storage's start to the first element."""
    return x.storage.owner, x.offset


def host_block(Tensor x not None):
    """Return the storage of a host tensor, its address, and how many bytes there may be used.

    A block of mlxr's own allocator is larger than what was asked for: its whole capacity counts, which the word in
    front of it tells (see storage.pyx).
    """
    cdef char *data = x.storage.data
    cdef size_t nbytes = x.storage.nbytes
    if x.storage.block:
        nbytes = (<uint64_t *>data)[-1]
    return x.storage, <size_t>data, nbytes


def freeze(Tensor x not None):
    """Mark the storage of `x` as shared: it is copied before the next write."""
    x.storage.readonly = True


def view_like(Tensor x not None, Tensor out not None, object owner, size_t address, Py_ssize_t nbytes):
    """Give `out` a read-only storage at `address` (0: memory that the host does not see) with the layout of `x`."""
    cdef int axis
    out.storage = foreign_storage(<char *>address, nbytes, owner, True)
    out.offset = x.offset
    for axis in range(out.ref.ndim):
        out.ref.strides[axis] = x.ref.strides[axis]
    finish_view(out)
