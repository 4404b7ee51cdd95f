# cython: language_level=3
"""Device and Stream: see device.pyx."""


cdef class Device:
    cdef readonly object type
    cdef readonly int index
    cdef readonly str name
    cdef object backend       # a mlxr.backends.base.Backend, or None until the registry binds one

    cdef object require_backend(self)

cdef class Stream:
    cdef readonly Device device
    cdef readonly int index

cdef Device as_device(object value)
cdef Device current_device()
cdef int check_stream(object stream, Device device, object op) except -1
