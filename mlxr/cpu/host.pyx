# cython: language_level=3, binding=True, boundscheck=False, wraparound=False
"""Executes the primitives of the host family with the libraries that NumPy brings: see mlxr/cpu/libraries.py."""
from mlxr.backends.cpu cimport CpuBackend
from mlxr.core.primitive cimport Primitive

import numpy as np

from mlxr.core.interop import to_numpy
from mlxr.cpu.libraries import FUNCTIONS
from mlxr.errors import FactorizationError


cdef int _call(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    arrays = [to_numpy(x) for x in inputs]
    try:
        results = FUNCTIONS[p.name](*arrays, *params)
    except np.linalg.LinAlgError as error:
        raise FactorizationError(f"[{p.name}] {error}", op=p.name) from error
    if not isinstance(results, tuple):
        results = (results,)
    for out, result in zip(outputs, results):
        self.copy_in(np.ascontiguousarray(result, dtype=out.dtype.name).reshape(-1).view(np.uint8), out)
    return 0


def register(CpuBackend backend not None):
    """Add this family's handlers to the backend."""
    for name in FUNCTIONS:
        backend.bind(name, _call)
