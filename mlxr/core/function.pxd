# cython: language_level=3
"""Function, a callable with a way around Python's argument parsing: see function.pyx."""
from cpython.object cimport PyObject

# CPython's vectorcall protocol: positional arguments first, then the values of the keywords that `names` holds. All
# references that come in are borrowed; the result is a new one, or NULL with an exception set.
ctypedef PyObject *(*Vectorcall)(PyObject *function, PyObject *const *args, size_t flagged, PyObject *names) noexcept

cdef extern from "Python.h":
    Py_ssize_t PyVectorcall_NARGS(size_t flagged) noexcept


cdef class Function:
    cdef Vectorcall vectorcall
    cdef object general         # the same function by Python's rules: keywords, defaults, errors, signature
    cdef readonly object context    # what `vectorcall` works on, such as a primitive
    cdef object __weakref__

cdef Function make_function(Vectorcall vectorcall, object general, object context)
# Give the call to the general function: what `vectorcall` returns for arguments that it does not take.
cdef PyObject *call_general(PyObject *function, PyObject *const *args, size_t flagged, PyObject *names) noexcept
