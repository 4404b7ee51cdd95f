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

Where A and B are both bfloat16, k go in pairs, the odd one first, as the instruction vdpbf16ps has it:

        for even k:  partial = fma(A[i, k + 1], B[k + 1, j], partial);  partial = fma(A[i, k], B[k, j], partial)

with zero behind an odd K, and every float32 operation, those of the last line included, takes subnormal operands and
results as zero. (pairs.h; docs/decisions/0006 says what this buys.)

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
#   workspace  NULL, or `matmul_workspace(args)` bytes aligned to 64, from an allocator that caches blocks. With
#              NULL the kernel calls malloc for what its stack buffer cannot hold, and fresh pages cost time.
ctypedef struct MatmulArgs:
    const ArrayRef *a
    const ArrayRef *b
    const ArrayRef *bias
    const ArrayRef *out
    double alpha
    double beta
    int threads
    char *workspace

# out = x @ W or x @ W.T for a batch, W being affine-quantized: w_hat = scale * q + bias per group of columns.
#
#   x, out      (..., M, K) and (..., M, N), float16, bfloat16 or float32, any strides, as in MatmulArgs
#   w           uint32, rows of W: (..., N, K * bits / 32) if `transpose`, else (..., K, N * bits / 32). A row is a
#               little-endian stream of `bits`-bit integers; its words are contiguous (last stride 1), rows may have any
#               stride and batch axes any, 0 included. One expert of a gathered product is one batch entry.
#   scales, biases  (..., rows of W, columns of W / group_size), each of any of the three dtypes, last stride 1
#   bits        1, 2, 3, 4, 5, 6, 8;  group_size 32, 64 or 128, a divisor of the columns of W
#
# The order is that of matmul on w_hat = fma(float32(scale), q, float32(bias)), a float32 rounded once (a scale of less
# than 2^-102 may be rounded before). dequantize rounds twice, to the dtype of its result, as upstream does; so the last
# bits differ from matmul(x, dequantize(w)).
# M = 1 reads the packed words once and makes no panel, with the same bits as any other M.
ctypedef struct QuantizedMatmulArgs:
    const ArrayRef *x
    const ArrayRef *w
    const ArrayRef *scales
    const ArrayRef *biases
    const ArrayRef *out
    int bits
    int group_size
    bint transpose
    int threads
    char *workspace

# Affine quantization of rows, by upstream's rule. quantize: x (float16, bfloat16, float32, any strides) to row-major w,
# scales, biases. dequantize: w (words contiguous), scales, biases (any strides) to row-major x, float16, bfloat16 or
# float32. Leading axes of all four are equal; the last are C, C * bits / 32, C / group_size, C / group_size.
ctypedef struct QuantizeArgs:
    const ArrayRef *x
    const ArrayRef *w
    const ArrayRef *scales
    const ArrayRef *biases
    int bits
    int group_size
    int threads

ctypedef struct MatmulTable:
    # These return 0, or -1 when memory ran out (out is unspecified then).
    int (*matmul)(const MatmulArgs *) noexcept nogil
    size_t (*matmul_workspace)(const MatmulArgs *) noexcept nogil
    int (*quantized_matmul)(const QuantizedMatmulArgs *) noexcept nogil
    size_t (*quantized_matmul_workspace)(const QuantizedMatmulArgs *) noexcept nogil
    void (*quantize)(const QuantizeArgs *) noexcept nogil
    void (*dequantize)(const QuantizeArgs *) noexcept nogil
