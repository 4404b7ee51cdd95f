# cython: language_level=3, binding=True, boundscheck=False, wraparound=False
"""Executes the convolution primitive on the CPU kernel."""
from mlxr.backends.cpu cimport CpuBackend
from mlxr.core.abi cimport MAX_NDIM
from mlxr.core.primitive cimport Primitive
from mlxr.core.storage cimport Storage, host_storage
from mlxr.core.tensor cimport Tensor
from mlxr.cpu.kernels.conv cimport ConvArgs, ConvTable

from mlxr.errors import OutOfMemoryError

cdef const ConvTable *table = NULL


cdef int _conv(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    """conv: params (stride, padding_lo, kernel_dilation, input_dilation, groups, flip, extents of the result)."""
    cdef Tensor x = <Tensor>inputs[0], w = <Tensor>inputs[1], out = <Tensor>outputs[0]
    cdef Py_ssize_t numbers[4][MAX_NDIM]
    cdef ConvArgs args
    cdef Storage workspace
    cdef size_t need
    cdef int status, k, axis
    for k in range(4):
        for axis in range(x.ref.ndim - 2):
            numbers[k][axis] = params[k][axis]
    self.give_storage(out)
    args.x = &x.ref
    args.w = &w.ref
    args.out = &out.ref
    args.stride = numbers[0]
    args.padding_lo = numbers[1]
    args.kernel_dilation = numbers[2]
    args.input_dilation = numbers[3]
    args.groups = params[4]
    args.flip = params[5]
    args.threads = self.threads
    args.workspace = NULL
    need = table.workspace_size(&args)
    if need:
        workspace = host_storage(need)
        args.workspace = workspace.data
    with nogil:
        status = table.conv(&args)
    if status:
        raise OutOfMemoryError(f"[{p.name}] no memory for packed operands", op=p.name)
    return 0


def register(CpuBackend backend not None):
    """Add this family's handlers to the backend."""
    global table
    table = <const ConvTable *>backend.table("conv")
    backend.bind("conv", _conv)
