# cython: language_level=3
"""Interface of the matmul kernels: descriptors and the table of function pointers.

A caller cimports the types from here and takes the table from the capsule `table` of the per-ISA module that it
selected; it must not cimport functions. Nothing here knows of Python objects.

Order of operations (a promise, the same for every path, shape, thread count and instruction set with fused
multiply-add). With T = float64 for a float64 output and float32 for every other:

    for each block of KC consecutive k, in order:
        partial = +0;  for k in the block, in order:  partial = fma(T(A[i, k]), T(B[k, j]), partial)
        sum = partial for the first block, sum + partial for the others
    C[i, j] = round_to_dtype(fma(beta, T(bias[i, j]), alpha * sum))       without bias: alpha * sum

Element (i, j) is therefore a function of row i of A, column j of B and K alone. Complex products are a chain of twice
the length, re: +re*re, -im*im, im: +re*im, +im*re for each k; its blocks hold KC/2 complex k. x86-64-v2 has no fused
multiply-add and rounds twice in its place.
"""
from mlxr.core.abi cimport ArrayRef

cdef enum:
    MATMUL_KC = 512  # length of a block of k; part of the promise above, so the same on every machine

# C = alpha * A @ B + beta * bias, for a batch of matrices.
#
#   a, b, out  rank >= 2 and equal rank; (..., M, K), (..., K, N), (..., M, N). The leading (batch) extents of a and b
#              equal those of out, broadcast ones by stride 0. Any strides in a and b: no contiguous copy is ever made.
#   bias       NULL, or an array of the shape of out (0 strides where broadcast). Not read when beta == 0, as in BLAS.
#   dtypes     any of float16, bfloat16, float32, float64, complex64 for each; out float64 computes in float64, out
#              complex64 in complex64 and all others in float32. A complex or float64 input needs such an output.
#   out        any strides without overlap; overlaps none of the inputs. Row-major is the fast case.
#   alpha      real; 1 for a plain product
#   threads    upper bound >= 1; small problems stay on the calling thread whatever it says
#   workspace  NULL, or `workspace_size(args)` bytes aligned to 64, from an allocator that caches blocks. With NULL the
#              kernel calls malloc for what its small stack buffer cannot hold, and fresh pages cost time.
ctypedef struct MatmulArgs:
    const ArrayRef *a
    const ArrayRef *b
    const ArrayRef *bias
    const ArrayRef *out
    double alpha
    double beta
    int threads
    char *workspace

ctypedef struct MatmulTable:
    # Both return 0, or -1 when memory ran out (out is unspecified then).
    int (*matmul)(const MatmulArgs *) noexcept nogil
    size_t (*workspace_size)(const MatmulArgs *) noexcept nogil
