# cython: language_level=3, binding=True, boundscheck=False, wraparound=False
"""Executes the primitives of the reduce and scan families on the CPU kernels."""
from libc.stdint cimport uint32_t

from mlxr.backends.cpu cimport CpuBackend
from mlxr.core.abi cimport GIL_WORK
from mlxr.core.primitive cimport Primitive
from mlxr.core.tensor cimport Tensor
from mlxr.cpu.kernels cimport reduce as kernels
from mlxr.cpu.kernels.reduce cimport ReduceTable

from mlxr.errors import OutOfMemoryError

cdef const ReduceTable *table = NULL

cdef enum Kind:
    PLAIN
    MOMENT
    LOGSUMEXP
    ARG


cdef uint32_t axes_mask(tuple axes) except? 0:
    cdef uint32_t mask = 0
    for axis in axes:
        mask |= <uint32_t>1 << <int>axis
    return mask


cdef int out_of_memory(Primitive p) except -1:
    raise OutOfMemoryError(f"[{p.name}] no memory for scratch space", op=p.name)


cdef int _run(CpuBackend self, Primitive p, Kind kind, int op, tuple inputs, tuple outputs, tuple params) except -1:
    cdef Tensor x = <Tensor>inputs[0], out = <Tensor>outputs[0]
    cdef uint32_t axes = axes_mask(params[0])
    cdef int threads = self.threads, status = 0, axis
    cdef Py_ssize_t ddof = params[1] if len(params) > 1 else 0
    self.give_storage(out)
    axis = params[0][0] if kind == ARG else 0
    if x.ref.size <= GIL_WORK:
        status = _call(kind, op, x, axes, axis, ddof, out, 1)
    else:
        with nogil:
            status = _call(kind, op, x, axes, axis, ddof, out, threads)
    return out_of_memory(p) if status else 0


cdef int _call(Kind kind, int op, Tensor x, uint32_t axes, int axis, Py_ssize_t ddof, Tensor out,
               int threads) noexcept nogil:
    if kind == PLAIN:
        return table.reduce(op, &x.ref, axes, &out.ref, threads)
    if kind == MOMENT:
        return table.moments(<kernels.Moment>op, &x.ref, axes, ddof, &out.ref, threads)
    if kind == LOGSUMEXP:
        return table.logsumexp(&x.ref, axes, &out.ref, threads)
    return table.argreduce(op, &x.ref, axis, &out.ref, threads)


cdef int _sum(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    return _run(self, p, PLAIN, kernels.REDUCE_SUM, inputs, outputs, params)


cdef int _prod(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    return _run(self, p, PLAIN, kernels.REDUCE_PROD, inputs, outputs, params)


cdef int _max(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    return _run(self, p, PLAIN, kernels.REDUCE_MAX, inputs, outputs, params)


cdef int _min(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    return _run(self, p, PLAIN, kernels.REDUCE_MIN, inputs, outputs, params)


cdef int _all(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    return _run(self, p, PLAIN, kernels.REDUCE_ALL, inputs, outputs, params)


cdef int _any(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    return _run(self, p, PLAIN, kernels.REDUCE_ANY, inputs, outputs, params)


cdef int _mean(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    return _run(self, p, MOMENT, kernels.MOMENT_MEAN, inputs, outputs, params)


cdef int _var(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    return _run(self, p, MOMENT, kernels.MOMENT_VAR, inputs, outputs, params)


cdef int _logsumexp(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    return _run(self, p, LOGSUMEXP, 0, inputs, outputs, params)


cdef int _argmax(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    return _run(self, p, ARG, 1, inputs, outputs, params)


cdef int _argmin(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    return _run(self, p, ARG, 0, inputs, outputs, params)


cdef int _scan(CpuBackend self, Primitive p, kernels.ScanOp op, tuple inputs, tuple outputs, tuple params) except -1:
    cdef Tensor x = <Tensor>inputs[0], out = <Tensor>outputs[0]
    cdef int axis = params[0], threads = self.threads, status
    cdef bint reverse = params[1], inclusive = params[2]
    self.give_storage(out)
    with nogil:
        status = table.scan(op, &x.ref, axis, reverse, inclusive, &out.ref, threads)
    return out_of_memory(p) if status else 0


cdef int _cumsum(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    return _scan(self, p, kernels.SCAN_SUM, inputs, outputs, params)


cdef int _cumprod(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    return _scan(self, p, kernels.SCAN_PROD, inputs, outputs, params)


cdef int _cummax(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    return _scan(self, p, kernels.SCAN_MAX, inputs, outputs, params)


cdef int _cummin(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    return _scan(self, p, kernels.SCAN_MIN, inputs, outputs, params)


cdef int _logcumsumexp(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    return _scan(self, p, kernels.SCAN_LOGSUMEXP, inputs, outputs, params)


def register(CpuBackend backend not None):
    """Add this family's handlers to the backend."""
    global table
    table = <const ReduceTable *>backend.table("reduce")
    backend.bind("sum", _sum)
    backend.bind("prod", _prod)
    backend.bind("max", _max)
    backend.bind("min", _min)
    backend.bind("all", _all)
    backend.bind("any", _any)
    backend.bind("mean", _mean)
    backend.bind("var", _var)
    backend.bind("logsumexp", _logsumexp)
    backend.bind("argmax", _argmax)
    backend.bind("argmin", _argmin)
    backend.bind("cumsum", _cumsum)
    backend.bind("cumprod", _cumprod)
    backend.bind("cummax", _cummax)
    backend.bind("cummin", _cummin)
    backend.bind("logcumsumexp", _logcumsumexp)
