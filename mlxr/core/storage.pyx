# cython: language_level=3, binding=True, embedsignature=True, cdivision=True
"""Storage: a counted block of bytes on a device; and the caching allocator behind host storages.

A storage knows neither shape nor dtype. Sharing and copy on write rest on its reference count.

The allocator rounds a request up to a size class (four per octave while small, eight per octave when large) and keeps
freed storages with their blocks in one list per class, because on most machines a page fault costs more than the
arithmetic on the page, and a new object more than the arithmetic on a few elements. Small blocks are aligned to 64
bytes, large ones to 16 KiB, the page of Apple silicon, so that Metal can wrap them. In front of every block stands a
64-byte header whose last word is the block's size: a readable word that upstream MLX reads when it shares the memory.

Must not know about dtypes, tensors or kernels. All functions run with the GIL held.
"""
cimport cython
from cpython.object cimport PyObject, PyTypeObject, destructor
from cpython.ref cimport Py_DECREF
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free

import os

from mlxr.errors import InvalidValueError, OutOfMemoryError

cdef extern from "Python.h":
    PyObject *PyObject_Init(PyObject *o, PyTypeObject *type)

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void **memptr, size_t alignment, size_t size)

cdef extern from "<sys/mman.h>" nogil:
    int madvise(void *addr, size_t length, int advice)

cdef extern from *:
    """
    #if defined(__linux__) && defined(MADV_HUGEPAGE)
    #define MLXR_ADVISE_HUGE(p, n) ((void)madvise((p), (n), MADV_HUGEPAGE))
    #else
    #define MLXR_ADVISE_HUGE(p, n) ((void)(p), (void)(n))
    #endif
    """
    void MLXR_ADVISE_HUGE(void *p, size_t n) nogil

cdef enum:
    SMALL_ALIGNMENT = 64
    LARGE_ALIGNMENT = 16384
    LARGE_FROM = 65536              # blocks of at least this many bytes are page aligned
    HUGE_ALIGNMENT = 2097152
    HUGE_FROM = 8388608             # blocks of at least this many bytes ask for huge pages
    CLASS_COUNT = 512
    HEADER_BYTES = 64

# Lies directly in front of the memory it describes.
cdef struct Header:
    void *base                      # what posix_memalign returned
    uint64_t size_class
    uint64_t unused[5]
    uint64_t capacity               # the prefix word at data - 8: usable bytes

# The latest of the free storages of each class, borrowed from nobody: objects without references, with their blocks.
cdef PyObject *_free_storages[CLASS_COUNT]

cdef int64_t _active = 0
cdef int64_t _peak = 0
cdef int64_t _cached = 0
cdef int64_t _memory_limit = 0
cdef int64_t _cache_limit = 0
cdef int64_t _wired_limit = 0
cdef int64_t copied_bytes = 0


cdef inline Header *_header(char *data) noexcept:
    return <Header *>(data - HEADER_BYTES)


cdef inline int _size_class(size_t nbytes, size_t *capacity) noexcept:
    """Return the index of the smallest size class that holds `nbytes`, and its capacity."""
    cdef size_t units
    cdef int octave, steps, step_bits
    if nbytes <= 64:
        capacity[0] = 64
        return 0
    # 2^octave < nbytes <= 2^(octave + 1)
    octave = 63 - __builtin_clzll(nbytes - 1)
    step_bits = 2 if octave < 16 else 3
    units = (nbytes - 1 - (<size_t>1 << octave)) >> (octave - step_bits)
    steps = 1 << step_bits
    capacity[0] = (<size_t>1 << octave) + ((units + 1) << (octave - step_bits))
    return (octave - 5) * 8 + <int>units if steps == 8 else (octave - 5) * 8 + 2 * <int>units

cdef extern from *:
    int __builtin_clzll(unsigned long long) nogil


cdef Header *_system_allocate(size_t capacity) noexcept nogil:
    """Get a fresh block from the operating system, or NULL."""
    cdef void *base = NULL
    cdef Header *header
    cdef size_t alignment = SMALL_ALIGNMENT
    if capacity >= HUGE_FROM:
        alignment = HUGE_ALIGNMENT
    elif capacity >= LARGE_FROM:
        alignment = LARGE_ALIGNMENT
    # The memory starts one alignment unit after the base, so that the header fits in front of it.
    if posix_memalign(&base, alignment, capacity + alignment) != 0:
        return NULL
    header = <Header *>(<char *>base + alignment - HEADER_BYTES)
    if capacity >= HUGE_FROM:
        MLXR_ADVISE_HUGE(<char *>base + alignment, capacity)
    header.base = base
    header.capacity = capacity
    return header


cdef int _drop_cache(int64_t keep) noexcept:
    """Give cached blocks back, largest classes first, until at most `keep` bytes stay cached."""
    global _cached
    cdef int k
    cdef PyObject *storage
    for k in range(CLASS_COUNT - 1, -1, -1):
        while _cached > keep and _free_storages[k] != NULL:
            storage = _free_storages[k]
            _free_storages[k] = (<Storage>storage).next
            _cached -= <int64_t>_header((<Storage>storage).data).capacity
            free(_header((<Storage>storage).data).base)
            _dealloc_fields(storage)
    return 0


cdef char *_allocate(size_t nbytes, size_t capacity, int size_class) except NULL:
    """Return a block of `capacity` bytes, enough for `nbytes`, aligned, with a header in front."""
    cdef Header *header
    if _active + _cached + <int64_t>capacity > _memory_limit:
        _drop_cache(max(<int64_t>0, _memory_limit - _active - <int64_t>capacity))
    header = _system_allocate(capacity)
    if header == NULL:
        _drop_cache(0)
        header = _system_allocate(capacity)
    if header == NULL:
        raise OutOfMemoryError(
            f"cannot allocate {nbytes} bytes; {_active} bytes are in use", nbytes=nbytes, active=_active
        )
    header.size_class = size_class
    return <char *>header + HEADER_BYTES


@cython.final
@cython.no_gc
@cython.freelist(128)
cdef class Storage:
    """A reference-counted run of bytes on one device (internal; tensors share storages)."""


# What Cython makes of a `__dealloc__` method saves and restores the pending exception around it, which takes longer
# than to release a block. So the type's destructor is wrapped here.
cdef destructor _dealloc_fields = (<PyTypeObject *>Storage).tp_dealloc


cdef void _dealloc(PyObject *storage) noexcept:
    """Destroy a storage, or keep it with its block in the cache while there is room."""
    global _active, _cached
    cdef Header *header
    if (<Storage>storage).block:
        header = _header((<Storage>storage).data)
        _active -= <int64_t>header.capacity
        if _cached + <int64_t>header.capacity <= _cache_limit:
            _cached += <int64_t>header.capacity
            (<Storage>storage).next = _free_storages[header.size_class]
            _free_storages[header.size_class] = storage
            return
        free(header.base)
    _dealloc_fields(storage)


(<PyTypeObject *>Storage).tp_dealloc = _dealloc


cdef Storage host_storage(size_t nbytes):
    """Return a new host storage of `nbytes` bytes with undefined content."""
    global _active, _peak, _cached
    cdef Storage s
    cdef PyObject *kept
    cdef size_t capacity = 0
    cdef int k
    if nbytes > (<size_t>1 << 62):
        raise OutOfMemoryError(f"cannot allocate {nbytes} bytes: more than the address space holds", nbytes=nbytes)
    k = _size_class(nbytes, &capacity)
    kept = _free_storages[k]
    if kept != NULL:
        _free_storages[k] = (<Storage>kept).next
        _cached -= <int64_t>capacity
        PyObject_Init(kept, <PyTypeObject *>Storage)
        s = <Storage>kept
        Py_DECREF(s)        # the variable has taken a reference of its own
        s.readonly = False
    else:
        s = Storage.__new__(Storage)
        s.data = _allocate(nbytes, capacity, k)
        s.block = True
    s.nbytes = nbytes
    _active += <int64_t>capacity
    if _active > _peak:
        _peak = _active
    return s


cdef Storage foreign_storage(char *data, size_t nbytes, object owner, bint readonly):
    """Return a storage over memory that `owner` keeps alive."""
    cdef Storage s = Storage.__new__(Storage)
    s.data = data
    s.nbytes = nbytes
    s.owner = owner
    s.readonly = readonly
    return s


cdef void count_copy(size_t nbytes) noexcept:
    """Add to the counter behind :func:`get_copied_bytes`."""
    global copied_bytes
    copied_bytes += <int64_t>nbytes


def get_copied_bytes():
    """Return how many bytes were copied on the way in, on the way out, or between devices, since the last reset.

    Sharing memory (views, NumPy and DLPack where the layout allows, mapped files) adds nothing, so a test can prove
    that a path does not copy.
    """
    return copied_bytes


def reset_copied_bytes():
    """Set the counter behind :func:`get_copied_bytes` to zero."""
    global copied_bytes
    copied_bytes = 0


def get_active_memory():
    """Return the bytes of host memory held by living tensors."""
    return _active


def get_peak_memory():
    """Return the largest value that :func:`get_active_memory` had since the start or the last reset."""
    return _peak


def reset_peak_memory():
    """Set the peak to zero; it rises again with the next allocation, as upstream's does."""
    global _peak
    _peak = 0


def get_cache_memory():
    """Return the bytes of freed memory that are kept for reuse."""
    return _cached


def _checked_limit(limit):
    value = int(limit)
    if value < 0 or value >= 1 << 62:
        raise InvalidValueError(f"a memory limit must lie in [0, 2**62), got {limit}", limit=limit)
    return value


def set_memory_limit(limit):
    """Set the guideline for host memory: above it the cache is given back before memory is asked for.

    Parameters
    ----------
    limit : int
        Bytes.

    Returns
    -------
    int
        The previous limit.
    """
    global _memory_limit
    previous = _memory_limit
    _memory_limit = _checked_limit(limit)
    return previous


def get_memory_limit():
    """Return the memory limit in bytes."""
    return _memory_limit


def set_cache_limit(limit):
    """Set how many bytes of freed memory may be kept for reuse; 0 keeps none.

    Parameters
    ----------
    limit : int
        Bytes.

    Returns
    -------
    int
        The previous limit.
    """
    global _cache_limit
    previous = _cache_limit
    _cache_limit = _checked_limit(limit)
    _drop_cache(_cache_limit)
    return previous


def get_cache_limit():
    """Return the cache limit in bytes."""
    return _cache_limit


def set_wired_limit(limit):
    """Set the wired limit, which matters to Metal only; returns the previous one."""
    global _wired_limit
    previous = _wired_limit
    _wired_limit = _checked_limit(limit)
    return previous


def clear_cache():
    """Give all cached memory back to the operating system."""
    _drop_cache(0)


def _physical_memory():
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 8 << 30


_memory_limit = _physical_memory() * 4 // 5
_cache_limit = _physical_memory() // 4
