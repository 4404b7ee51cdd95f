# cython: language_level=3, binding=True, boundscheck=False, wraparound=False
"""Executes the primitives of the indexing family on the CPU kernels."""

from mlxr.backends.cpu cimport CpuBackend
from mlxr.core.abi cimport MAX_NDIM, ArrayRef
from mlxr.core.dtype cimport ITEMSIZES
from mlxr.core.primitive cimport Primitive
from mlxr.core.tensor cimport Tensor
from mlxr.cpu.kernels cimport indexing as kernels
from mlxr.cpu.kernels.indexing cimport IndexFault, IndexingTable

from mlxr.errors import BoundsError, InvalidValueError

cdef const IndexingTable *table = NULL

MODES = {
    "assign": kernels.SCATTER_ASSIGN, "add": kernels.SCATTER_ADD, "prod": kernels.SCATTER_PROD,
    "max": kernels.SCATTER_MAX, "min": kernels.SCATTER_MIN,
}


cdef int out_of_range(Primitive p, const IndexFault *fault, axis) except -1:
    raise BoundsError(
        f"[{p.name}] index {fault.value} is out of bounds for axis {axis} with size {fault.extent}",
        op=p.name, index=fault.value, axis=axis, size=fault.extent,
    )


cdef struct Gathered:
    # Index arrays, axes and slice extents as the kernels take them.
    const ArrayRef *arrays[MAX_NDIM]
    int axes[MAX_NDIM]
    Py_ssize_t sizes[MAX_NDIM]
    int count


cdef int _collect(Gathered *g, tuple inputs, int count, tuple axes, tuple sizes) except -1:
    cdef int k
    g.count = count
    for k in range(count):
        g.arrays[k] = &(<Tensor>inputs[1 + k]).ref
        g.axes[k] = axes[k]
    for k in range(<int>len(sizes)):
        g.sizes[k] = sizes[k]
    return 0


cdef int _gather(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    cdef Tensor x = <Tensor>inputs[0], out = <Tensor>outputs[0]
    cdef Gathered g
    cdef IndexFault fault
    cdef int threads = self.threads, status
    _collect(&g, inputs, <int>len(inputs) - 1, params[0], params[1])
    self.give_storage(out)
    with nogil:
        status = table.gather(&x.ref, g.arrays, g.axes, g.count, g.sizes, &out.ref, &fault, threads)
    return out_of_range(p, &fault, params[0][fault.array]) if status else 0


cdef int _scatter(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    cdef Tensor x = <Tensor>inputs[0], updates = <Tensor>inputs[len(inputs) - 1], out = <Tensor>outputs[0]
    cdef Gathered g
    cdef IndexFault fault
    cdef int threads = self.threads, status, mode = MODES[params[2]]
    _collect(&g, inputs, <int>len(inputs) - 2, params[0], params[1])
    self.give_storage(out)
    self.copy(&x.ref, &out.ref)
    with nogil:
        status = table.scatter(&out.ref, g.arrays, g.axes, g.count, g.sizes, &updates.ref, mode, &fault, threads)
    return out_of_range(p, &fault, params[0][fault.array]) if status else 0


cdef int _take(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    cdef Tensor x = <Tensor>inputs[0], indices = <Tensor>inputs[1], out = <Tensor>outputs[0]
    cdef IndexFault fault
    cdef int threads = self.threads, status, axis = params[0]
    self.give_storage(out)
    with nogil:
        status = table.take(&x.ref, &indices.ref, axis, &out.ref, &fault, threads)
    return out_of_range(p, &fault, axis) if status else 0


cdef int _take_along_axis(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    cdef Tensor x = <Tensor>inputs[0], indices = <Tensor>inputs[1], out = <Tensor>outputs[0]
    cdef IndexFault fault
    cdef int threads = self.threads, status, axis = params[0]
    self.give_storage(out)
    with nogil:
        status = table.take_along_axis(&x.ref, &indices.ref, axis, &out.ref, &fault, threads)
    return out_of_range(p, &fault, axis) if status else 0


cdef int _put_along_axis(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    cdef Tensor x = <Tensor>inputs[0], indices = <Tensor>inputs[1], updates = <Tensor>inputs[2]
    cdef Tensor out = <Tensor>outputs[0]
    cdef IndexFault fault
    cdef int threads = self.threads, status, axis = params[0], mode = MODES[params[1]]
    self.give_storage(out)
    self.copy(&x.ref, &out.ref)
    with nogil:
        status = table.put_along_axis(&out.ref, &indices.ref, &updates.ref, axis, mode, &fault, threads)
    return out_of_range(p, &fault, axis) if status else 0


cdef int _nonzero(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    cdef Tensor mask = <Tensor>inputs[0], out = <Tensor>outputs[0]
    cdef Py_ssize_t count
    cdef int threads = self.threads
    with nogil:
        count = table.count_nonzero(&mask.ref, threads)
    if count != out.ref.size:
        raise InvalidValueError(f"[nonzero] the mask has {count} true elements, not {out.ref.size}", op="nonzero")
    self.give_storage(out)
    with nogil:
        table.nonzero(&mask.ref, &out.ref)
    return 0


cdef int _concatenate(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    cdef Tensor out = <Tensor>outputs[0]
    cdef const ArrayRef *arrays[64]
    cdef int count = <int>len(inputs), threads = self.threads, axis = params[0], k, n
    cdef ArrayRef part = out.ref
    cdef Py_ssize_t shape[MAX_NDIM]
    cdef Tensor x
    self.give_storage(out)
    # The kernel takes any number of inputs; batches of 64 keep the list on the stack. A batch fills a block of `out`.
    if count <= 64:
        for k in range(count):
            arrays[k] = &(<Tensor>inputs[k]).ref
        with nogil:
            table.concatenate(arrays, count, axis, &out.ref, threads)
        return 0
    part = out.ref
    part.shape = shape
    part.contiguous = False
    for k in range(count):
        x = <Tensor>inputs[k]
        for n in range(out.ref.ndim):
            shape[n] = x.ref.shape[n]
        part.size = x.ref.size
        self.copy(&x.ref, &part)
        part.data += x.ref.shape[axis] * out.ref.strides[axis] * ITEMSIZES[x.ref.dtype]
    return 0


def register(CpuBackend backend not None):
    """Add this family's handlers to the backend."""
    global table
    table = <const IndexingTable *>backend.table("indexing")
    backend.bind("gather", _gather)
    backend.bind("scatter", _scatter)
    backend.bind("take", _take)
    backend.bind("take_along_axis", _take_along_axis)
    backend.bind("put_along_axis", _put_along_axis)
    backend.bind("nonzero", _nonzero)
    backend.bind("concatenate", _concatenate)
