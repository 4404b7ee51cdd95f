# cython: language_level=3
"""The elementwise kernels' contract: op codes, fused programs, and the table of functions that each build exports.

It must not know about Python objects, tensors or devices, and says nothing of how the work is done (elementwise.pyx).

Rules for every function
    Shapes      All operands of a call have the output's shape; broadcasting is a stride of 0. Strides are free on every
                operand and on the output, which must have no zero stride. Size 0 is fine.
    Dtypes      `compute` is the dtype the op is computed in; operands of other dtypes are cast to it as they are
                loaded. The result, whose dtype is `compute` except for predicates and comparisons (BOOL) and for abs,
                real and imag of COMPLEX64 (FLOAT32), is cast to the output's dtype as it is stored. float16 and
                bfloat16 are computed in float32 and rounded once. Integers wrap around.
    Overlap     The output of unary, binary, select and copy may be one of the operands (same address, strides and
                itemsize), and overlap them in no other way. Outputs of `program` overlap no input.
    Result      0; UNSUPPORTED if the op has no meaning in `compute`; NO_MEMORY; TOO_LONG for a program beyond the
                limits. Nothing has been written unless the result is 0.
    Threads     `threads` is the most that a call may use. The result does not depend on it.

Casts: integer to integer keeps the low bits; to BOOL is `!= 0` (NaN is true); complex to real drops the imaginary
part; to float16 and bfloat16 goes through float32; float to integer truncates, and out of range or NaN gives what x86
gives: for 8-, 16- and 32-bit signed targets and for 8- and 16-bit unsigned ones the low bits of INT32_MIN, for int64
INT64_MIN, for uint32 and uint64 the same after taking 2**31 or 2**63 off values at or above it.
"""
from libc.stdint cimport int64_t

from mlxr.core.abi cimport DTYPE_COUNT, ArrayRef

cdef enum Status:
    OK = 0
    UNSUPPORTED = 1
    NO_MEMORY = 2
    TOO_LONG = 3

# Adding an op: a value here, its function of one element in vecmath.pxd, and its line in `unary_f32` (elementwise.pyx).
cdef enum UnaryOp:
    ABS
    NEGATIVE
    SIGN                # 0 for NaN; z/|z| for complex
    SQUARE
    SQRT
    RSQRT
    RECIPROCAL
    EXP
    EXPM1
    LOG
    LOG2
    LOG10
    LOG1P
    SIN
    COS
    TAN
    ARCSIN
    ARCCOS
    ARCTAN
    SINH
    COSH
    TANH
    ARCSINH
    ARCCOSH
    ARCTANH
    SIGMOID
    ERF
    ERFINV
    FLOOR
    CEIL
    TRUNC
    ROUND               # to nearest, ties to even; complex: each part
    BITWISE_INVERT
    REAL                # complex -> FLOAT32
    IMAG                # complex -> FLOAT32; 0 of a real dtype
    CONJUGATE
    RELU                # max(x, 0); NaN stays
    SILU                # x sigmoid(x)
    GELU                # x Phi(x)
    GELU_TANH           # with the tanh approximation of Phi
    GELU_SIGMOID        # x sigmoid(1.702 x)
    SOFTPLUS            # log(1 + exp(x))
    LOGICAL_NOT         # from here on the result is BOOL
    ISNAN
    ISINF
    ISFINITE
    ISPOSINF
    ISNEGINF
    UNARY_COUNT

cdef enum BinaryOp:
    ADD
    SUBTRACT
    MULTIPLY
    DIVIDE              # floating only
    FLOOR_DIVIDE        # floor(x / y); integers: x // 0 is 0, and MIN // -1 wraps to MIN
    REMAINDER           # sign of the divisor; integers: x % 0 is x
    POWER               # integers wrap; a negative exponent gives 0
    MAXIMUM             # NaN if either is; of equals the second; complex: lexicographic
    MINIMUM
    LOGADDEXP
    ARCTAN2
    BITWISE_AND
    BITWISE_OR
    BITWISE_XOR
    LEFT_SHIFT          # counts modulo 32 (64 for 64-bit integers), the result cut to the dtype
    RIGHT_SHIFT
    EQUAL               # from here on the result is BOOL
    NOT_EQUAL
    LESS                # complex: lexicographic
    LESS_EQUAL
    GREATER
    GREATER_EQUAL
    LOGICAL_AND
    LOGICAL_OR
    LOGICAL_XOR
    EQUAL_NAN           # equal, or both NaN
    BINARY_COUNT

# ---- Fused programs ------------------------------------------------------------------------------------------------
#
# A program works on registers, each of which holds one tile of an array of some dtype. Registers 0 .. n_in-1 hold the
# inputs, in their own dtypes. Instructions run in order; an operand is cast to the instruction's dtype. Every result
# has the bits that the same op gives on its own (float16 and bfloat16 results are rounded, small integers wrapped).
# STORE casts to the output's dtype. `dst` may be any register, also one in use, operands of the same instruction
# included.
cdef enum InstructionKind:
    CONSTANT            # dst = immediate: the bytes of one element of `dtype`
    UNARY               # dst = op(a)
    BINARY              # dst = op(a, b)
    SELECT              # dst = b if a else c
    CAST                # dst = a as dtype
    STORE               # outputs[dst] = a

ctypedef struct Instruction:
    int kind            # InstructionKind
    int op              # UnaryOp or BinaryOp
    int dtype           # compute dtype
    int dst
    int a
    int b
    int c
    int64_t immediate

cdef enum:
    MAX_INPUTS = 16
    MAX_OUTPUTS = 8
    MAX_REGISTERS = 64          # numbers that a program may use
    MAX_INSTRUCTIONS = 64

# ---- The table -----------------------------------------------------------------------------------------------------

# Row-major contiguous operands of dtype `compute`, output of the op's result dtype; runs on the calling thread.
# UNSUPPORTED if there is no such op. A NULL entry in the table: no op of that dtype.
ctypedef int (*UnaryLoop)(int op, const void *x, void *out, Py_ssize_t n) noexcept nogil
ctypedef int (*BinaryLoop)(int op, const void *x, const void *y, void *out, Py_ssize_t n) noexcept nogil

ctypedef struct ElementwiseTable:
    int (*unary)(int op, int compute, const ArrayRef *x, const ArrayRef *out, int threads) noexcept nogil
    int (*binary)(int op, int compute, const ArrayRef *x, const ArrayRef *y, const ArrayRef *out,
                  int threads) noexcept nogil
    # out = x if condition else y, cast to out's dtype
    int (*select)(const ArrayRef *condition, const ArrayRef *x, const ArrayRef *y, const ArrayRef *out,
                  int threads) noexcept nogil
    # out = x: cast, gather into contiguous, or scatter into a view
    int (*copy)(const ArrayRef *x, const ArrayRef *out, int threads) noexcept nogil
    # out = the element at `value`, of out's dtype
    int (*fill)(const ArrayRef *out, const void *value, int threads) noexcept nogil
    # out (contiguous) = start + i * step, in double, rounded once; integers: start and start + step are cut to int64
    # first (upstream's rule)
    int (*arange)(const ArrayRef *out, double start, double step) noexcept nogil
    # the same in exact integers, wrapped to out's integer dtype
    int (*arange_int)(const ArrayRef *out, int64_t start, int64_t step) noexcept nogil
    int (*program)(const Instruction *code, int n_instructions, const ArrayRef *inputs, int n_inputs,
                   const ArrayRef *outputs, int n_outputs, int threads) noexcept nogil
    UnaryLoop unary_contig[DTYPE_COUNT]
    BinaryLoop binary_contig[DTYPE_COUNT]
