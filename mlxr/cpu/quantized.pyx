# cython: language_level=3, binding=True, boundscheck=False, wraparound=False
"""Executes quantization, products with quantized matrices, and products of gathered matrices on the CPU kernels."""
from libc.stdint cimport uint32_t

from mlxr.backends.cpu cimport CpuBackend
from mlxr.core.abi cimport ArrayRef
from mlxr.core.dtype cimport ITEMSIZES
from mlxr.core.primitive cimport Primitive
from mlxr.core.storage cimport Storage, host_storage
from mlxr.core.tensor cimport Tensor
from mlxr.cpu.kernels.matmul cimport MatmulArgs, MatmulTable, QuantizeArgs, QuantizedMatmulArgs

from mlxr.errors import BoundsError, OutOfMemoryError

cdef const MatmulTable *table = NULL


cdef int checked(int status, Primitive p) except -1:
    if status:
        raise OutOfMemoryError(f"[{p.name}] no memory for packed operands", op=p.name)
    return 0


cdef int _quantize(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    """quantize: params (group_size, bits); results words, scales, biases."""
    cdef Tensor x = <Tensor>inputs[0], w = <Tensor>outputs[0], scales = <Tensor>outputs[1], biases = <Tensor>outputs[2]
    cdef QuantizeArgs args
    self.give_storage(w)
    self.give_storage(scales)
    self.give_storage(biases)
    args.x, args.w, args.scales, args.biases = &x.ref, &w.ref, &scales.ref, &biases.ref
    args.group_size, args.bits, args.threads = params[0], params[1], self.threads
    with nogil:
        table.quantize(&args)
    return 0


cdef int _dequantize(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    """dequantize: params (group_size, bits, dtype)."""
    cdef Tensor w = <Tensor>inputs[0], scales = <Tensor>inputs[1], biases = <Tensor>inputs[2], out = <Tensor>outputs[0]
    cdef QuantizeArgs args
    self.give_storage(out)
    args.x, args.w, args.scales, args.biases = &out.ref, &w.ref, &scales.ref, &biases.ref
    args.group_size, args.bits, args.threads = params[0], params[1], self.threads
    with nogil:
        table.dequantize(&args)
    return 0


cdef int _quantized_matmul(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    """quantized_matmul: params (transpose, group_size, bits)."""
    cdef Tensor x = <Tensor>inputs[0], w = <Tensor>inputs[1], scales = <Tensor>inputs[2], biases = <Tensor>inputs[3]
    cdef Tensor out = <Tensor>outputs[0]
    cdef QuantizedMatmulArgs args
    cdef Storage workspace
    cdef size_t need
    cdef int status
    self.give_storage(out)
    args.x, args.w, args.scales, args.biases, args.out = &x.ref, &w.ref, &scales.ref, &biases.ref, &out.ref
    args.transpose, args.group_size, args.bits = params[0], params[1], params[2]
    args.threads = self.threads
    args.workspace = NULL
    need = table.quantized_matmul_workspace(&args)
    if need:
        workspace = host_storage(need)
        args.workspace = workspace.data
    with nogil:
        status = table.quantized_matmul(&args)
    return checked(status, p)


# ------------------------------------------------------------------ gathered

cdef ArrayRef matrix(Tensor stack) noexcept:
    """Return the first matrix of a stack of them; `data` moves it to the others."""
    cdef ArrayRef view = stack.ref
    view.ndim = 2
    view.shape += 1
    view.strides += 1
    view.size = view.shape[0] * view.shape[1]
    view.contiguous = view.size <= 1 or (view.strides[1] == 1 and view.strides[0] == view.shape[1])
    return view


cdef inline char *entry(Tensor stack, Py_ssize_t k) noexcept nogil:
    return stack.ref.data + k * stack.ref.strides[0] * ITEMSIZES[stack.ref.dtype]


cdef int check_indices(Primitive p, Tensor indices, Tensor stack) except -1:
    cdef const uint32_t *index = <const uint32_t *>indices.ref.data
    cdef Py_ssize_t k, n = stack.ref.shape[0]
    for k in range(indices.ref.size):
        if index[k] >= n:
            raise BoundsError(f"[{p.name}] index {index[k]} is out of bounds for a stack of {n} matrices", op=p.name,
                              index=index[k], axis=0, size=n)
    return 0


cdef int _gather_mm(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    """gather_mm: stacks a and b, contiguous uint32 indices into them; one product for each pair of indices."""
    cdef Tensor a = <Tensor>inputs[0], b = <Tensor>inputs[1], lhs = <Tensor>inputs[2], rhs = <Tensor>inputs[3]
    cdef Tensor out = <Tensor>outputs[0]
    cdef const uint32_t *left = <const uint32_t *>lhs.ref.data
    cdef const uint32_t *right = <const uint32_t *>rhs.ref.data
    cdef ArrayRef va = matrix(a), vb = matrix(b), vo = matrix(out)
    cdef MatmulArgs args
    cdef Storage workspace
    cdef size_t need
    cdef int status = 0
    cdef Py_ssize_t k
    check_indices(p, lhs, a)
    check_indices(p, rhs, b)
    self.give_storage(out)
    args.a, args.b, args.bias, args.out = &va, &vb, NULL, &vo
    args.alpha, args.beta, args.threads, args.workspace = 1.0, 0.0, self.threads, NULL
    need = table.matmul_workspace(&args)
    if need:
        workspace = host_storage(need)
        args.workspace = workspace.data
    for k in range(out.ref.shape[0]):
        va.data, vb.data, vo.data = entry(a, left[k]), entry(b, right[k]), entry(out, k)
        with nogil:
            status |= table.matmul(&args)
    return checked(status, p)


cdef int _gather_qmm(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    """gather_qmm: as gather_mm, with quantized matrices on the right; params (transpose, group_size, bits)."""
    cdef Tensor x = <Tensor>inputs[0], w = <Tensor>inputs[1], scales = <Tensor>inputs[2], biases = <Tensor>inputs[3]
    cdef Tensor lhs = <Tensor>inputs[4], rhs = <Tensor>inputs[5], out = <Tensor>outputs[0]
    cdef const uint32_t *left = <const uint32_t *>lhs.ref.data
    cdef const uint32_t *right = <const uint32_t *>rhs.ref.data
    cdef ArrayRef vx = matrix(x), vw = matrix(w), vs = matrix(scales), vb = matrix(biases), vo = matrix(out)
    cdef QuantizedMatmulArgs args
    cdef Storage workspace
    cdef size_t need
    cdef int status = 0
    cdef Py_ssize_t k
    check_indices(p, lhs, x)
    check_indices(p, rhs, w)
    self.give_storage(out)
    args.x, args.w, args.scales, args.biases, args.out = &vx, &vw, &vs, &vb, &vo
    args.transpose, args.group_size, args.bits = params[0], params[1], params[2]
    args.threads, args.workspace = self.threads, NULL
    need = table.quantized_matmul_workspace(&args)
    if need:
        workspace = host_storage(need)
        args.workspace = workspace.data
    for k in range(out.ref.shape[0]):
        vx.data, vw.data, vo.data = entry(x, left[k]), entry(w, right[k]), entry(out, k)
        vs.data, vb.data = entry(scales, right[k]), entry(biases, right[k])
        with nogil:
            status |= table.quantized_matmul(&args)
    return checked(status, p)


def register(CpuBackend backend not None):
    """Add this family's handlers to the backend."""
    global table
    table = <const MatmulTable *>backend.table("matmul")
    backend.bind("quantize", _quantize)
    backend.bind("dequantize", _dequantize)
    backend.bind("quantized_matmul", _quantized_matmul)
    backend.bind("gather_mm", _gather_mm)
    backend.bind("gather_qmm", _gather_qmm)
