# cython: language_level=3
"""Storage and the host allocator: see storage.pyx."""
from cpython.object cimport PyObject
from libc.stdint cimport int64_t


cdef class Storage:
    cdef char *data             # NULL for storages whose memory the host cannot see
    cdef size_t nbytes
    cdef object owner           # keeps foreign memory (NumPy, mmap, DLPack, a handle) alive; None for own blocks
    cdef bint block             # data is a block of the host allocator
    cdef PyObject *next         # the next free storage of the same size class, while the allocator keeps this one
    cdef bint readonly          # never written: copied before the first write

# Bytes that crossed between storages without the user asking for a new array.
cdef int64_t copied_bytes

cdef Storage host_storage(size_t nbytes)
cdef Storage foreign_storage(char *data, size_t nbytes, object owner, bint readonly)
cdef void count_copy(size_t nbytes) noexcept
