# cython: language_level=3, binding=True, embedsignature=True
"""Function: a Python function whose plain calls skip argument parsing.

For an op on few elements, sorting arguments into parameters costs as much as the arithmetic. A Function answers
CPython's vectorcall protocol with a C function, which takes the calls that it knows (such as two positional tensors)
and leaves all others to an ordinary function of the same meaning. That one also gives name, signature and
documentation.

Must not know about tensors or ops.
"""
from cpython.object cimport PyTypeObject

from types import MethodType

cdef extern from *:
    """
    /* Instances hold their vectorcall function at `offset`. Cython has no words for these slots of a type. */
    static void mlxr_use_vectorcall(PyTypeObject *type, Py_ssize_t offset) {
        type->tp_vectorcall_offset = offset;
        type->tp_call = PyVectorcall_Call;
        type->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL;
        PyType_Modified(type);
    }
    """
    void mlxr_use_vectorcall(PyTypeObject *type, Py_ssize_t offset)

cdef extern from "Python.h":
    PyObject *PyObject_Vectorcall(PyObject *function, PyObject *const *args, size_t flagged, PyObject *names)


cdef class Function:
    """A function that C code answers; everything that can be asked of a Python function can be asked of it."""

    def __init__(self):
        raise TypeError("Function objects are made by mlxr's modules only")

    def __call__(self, *args, **kwargs):
        # The slot exists from the start, so that the type is callable; `mlxr_use_vectorcall` replaces it.
        return self.general(*args, **kwargs)

    def __get__(self, instance, owner):
        return self if instance is None else MethodType(self, instance)

    def __getattr__(self, name):
        return getattr(self.general, name)

    @property
    def __doc__(self):
        """str: The documentation of the function."""
        return self.general.__doc__

    @property
    def __module__(self):
        """str: Where users find the function."""
        return self.general.__module__

    def __repr__(self):
        return f"<function {self.general.__qualname__}>"

    def __reduce__(self):
        return self.general.__qualname__


cdef Function make_function(Vectorcall vectorcall, object general, object context):
    cdef Function function = Function.__new__(Function)
    function.vectorcall = vectorcall
    function.general = general
    function.context = context
    return function


cdef PyObject *call_general(PyObject *function, PyObject *const *args, size_t flagged, PyObject *names) noexcept:
    return PyObject_Vectorcall(<PyObject *>(<Function>function).general, args, flagged, names)


cdef Function _probe = Function.__new__(Function)
mlxr_use_vectorcall(<PyTypeObject *>Function, <char *>&_probe.vectorcall - <char *><void *>_probe)
