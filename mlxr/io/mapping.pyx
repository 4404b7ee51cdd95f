# cython: language_level=3, binding=True, embedsignature=True, freethreading_compatible=True
"""A read-only mapping of a file that needs no open file descriptor.

Python's own ``mmap`` keeps a duplicate of the descriptor for as long as the mapping lives, and a model can have more
files than a process may hold open. Must not know about file formats or tensors.
"""
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.exc cimport PyErr_SetFromErrno

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *address, size_t length, int protection, int flags, int descriptor, long long offset)
    int munmap(void *address, size_t length)
    void *MAP_FAILED
    int PROT_READ
    int MAP_PRIVATE


cdef class Mapping:
    """The first `length` bytes of an open file, as a read-only buffer.

    No page is read before it is used. The mapping lives as long as this object or any buffer taken from it; the
    descriptor may be closed, and the file deleted or replaced, at once. Cutting the file short under a mapping makes
    the lost pages unreadable (SIGBUS), as for every mapping.

    Parameters
    ----------
    descriptor : int
        An open, regular, readable file.
    length : int
        Bytes to map, at least 1.

    Raises
    ------
    OSError
        As the operating system reports it.
    """
    cdef void *_address
    cdef readonly Py_ssize_t length

    def __cinit__(self, int descriptor, Py_ssize_t length):
        cdef void *address
        self._address = NULL
        if length < 1:
            raise ValueError(f"a mapping has at least one byte, got {length}")
        address = mmap(NULL, <size_t>length, PROT_READ, MAP_PRIVATE, descriptor, 0)
        if address == MAP_FAILED:
            PyErr_SetFromErrno(OSError)
        self._address = address
        self.length = length

    def __dealloc__(self):
        if self._address != NULL:
            munmap(self._address, <size_t>self.length)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self._address, self.length, 1, flags)

    def __len__(self):
        return self.length
