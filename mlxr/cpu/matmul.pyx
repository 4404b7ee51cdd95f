# cython: language_level=3, binding=True, boundscheck=False, wraparound=False
"""Executes the primitives of the matmul family on the CPU kernels."""
from mlxr.backends.cpu cimport CpuBackend
from mlxr.core.abi cimport MAX_NDIM, ArrayRef
from mlxr.core.primitive cimport Primitive
from mlxr.core.storage cimport Storage, host_storage
from mlxr.core.tensor cimport Tensor
from mlxr.cpu.kernels.matmul cimport MatmulArgs, MatmulTable

from mlxr.errors import OutOfMemoryError

cdef const MatmulTable *table = NULL

cdef enum:
    GIL_PRODUCTS = 32768    # multiplications below which releasing the GIL costs more than it frees


cdef void with_batch(Tensor x, Tensor out, ArrayRef *view, Py_ssize_t *shape, Py_ssize_t *strides) noexcept:
    """Make `view` the matrices of `x` with the leading extents of `out`, by strides of 0."""
    cdef int axis, source, ndim = out.ref.ndim
    view[0] = x.ref
    if x.ref.ndim == ndim:
        for axis in range(ndim - 2):
            if x.ref.shape[axis] != out.ref.shape[axis]:
                break
        else:
            return
    view.ndim = ndim
    view.shape = shape
    view.strides = strides
    view.size = 1
    for axis in range(ndim):
        source = axis - ndim + x.ref.ndim
        if axis >= ndim - 2:
            shape[axis] = x.ref.shape[source]
            strides[axis] = x.ref.strides[source]
        else:
            shape[axis] = out.ref.shape[axis]
            strides[axis] = 0 if source < 0 or x.ref.shape[source] == 1 else x.ref.strides[source]
        view.size *= shape[axis]
    view.contiguous = view.size <= 1


cdef int _product(CpuBackend self, Primitive p, Tensor a, Tensor b, Tensor bias, Tensor out, double alpha,
                  double beta) except -1:
    cdef ArrayRef views[3]
    cdef Py_ssize_t dims[6][MAX_NDIM]
    cdef MatmulArgs args
    cdef Storage workspace
    cdef size_t need
    cdef int status
    self.give_storage(out)
    with_batch(a, out, &views[0], dims[0], dims[1])
    with_batch(b, out, &views[1], dims[2], dims[3])
    args.a = &views[0]
    args.b = &views[1]
    args.bias = NULL
    if bias is not None:
        with_batch(bias, out, &views[2], dims[4], dims[5])
        args.bias = &views[2]
    args.out = &out.ref
    args.alpha = alpha
    args.beta = beta
    args.threads = self.threads
    args.workspace = NULL
    need = table.matmul_workspace(&args)
    if need:
        workspace = host_storage(need)
        args.workspace = workspace.data
    if out.ref.size * a.ref.shape[a.ref.ndim - 1] < GIL_PRODUCTS:
        status = table.matmul(&args)
    else:
        with nogil:
            status = table.matmul(&args)
    if status:
        raise OutOfMemoryError(f"[{p.name}] no memory for packed operands", op=p.name)
    return 0


cdef int _matmul(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    return _product(self, p, <Tensor>inputs[0], <Tensor>inputs[1], None, <Tensor>outputs[0], 1.0, 0.0)


cdef int _addmm(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    return _product(
        self, p, <Tensor>inputs[1], <Tensor>inputs[2], <Tensor>inputs[0], <Tensor>outputs[0], params[0], params[1]
    )


def register(CpuBackend backend not None):
    """Add this family's handlers to the backend."""
    global table
    table = <const MatmulTable *>backend.table("matmul")
    backend.bind("matmul", _matmul)
    backend.bind("addmm", _addmm)
