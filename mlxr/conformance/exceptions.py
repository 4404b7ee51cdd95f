"""Where mlxr differs from upstream MLX on purpose, or upstream is wrong: each declared, bounded and explained.

An exception says for which ops, dtypes, kinds of cases and kinds of differences it holds, and, where the difference is
one of values, what must be true of them. What no exception covers is a failure, and so is an exception that covers
nothing in a full run. Knows differences; nothing of how cases are run or reported.
"""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlxr.conformance.cases import decode
from mlxr.conformance.compare import Difference

__all__ = ["EXCEPTIONS", "METAL_EXCEPTIONS", "SHIM_EXCEPTIONS", "Explained", "explain"]


@dataclass(frozen=True)
class Explained:
    """A declared difference.

    Attributes
    ----------
    name : str
        A short name, for reports.
    ops : tuple of str
        Patterns of ops' names.
    kinds : tuple of str
        Kinds of differences (keys of ``compare.KINDS``).
    reason : str
        Why it is right that way.
    dtypes, cases : tuple of str
        Dtypes and kinds of cases that it is about; empty for all.
    where : callable, optional
        What must be true of the difference.
    """

    name: str
    ops: tuple[str, ...]
    kinds: tuple[str, ...]
    reason: str
    dtypes: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    where: Callable[[Difference], bool] | None = None

    def covers(self, found: Difference) -> bool:
        """Tell whether it explains a difference."""
        case = found.case
        return (
            found.kind in self.kinds
            and (not self.dtypes or case.dtype in self.dtypes)
            and (not self.cases or case.kind in self.cases)
            and any(fnmatch.fnmatchcase(case.op, pattern) for pattern in self.ops)
            and (self.where is None or self.where(found))
        )


# ------------------------------------------------------------------ what must be true of a difference

def accurate(found: Difference) -> bool:
    """Our values are within the op's tolerance of the float64 reference wherever the two differ."""
    return found.accurate()


def closer(found: Difference) -> bool:
    """Our values are closer to the float64 reference, by half at least."""
    return found.closer()


def within(ulps: float) -> Callable[[Difference], bool]:
    """Return the condition that values differ by at most that much."""
    return lambda found: found.ulps is not None and found.ulps <= ulps


def says(*texts: str) -> Callable[[Difference], bool]:
    """Return the condition that the report of the difference contains one of the texts."""
    return lambda found: any(text in found.text for text in texts)


def _pair(found: Difference, result: int) -> tuple[np.ndarray, np.ndarray]:
    return decode(found.ours[1][result]), decode(found.theirs[1][result])


def same_partition(found: Difference) -> bool:
    """Both results have the same element at `kth`, and before and behind it the same elements in some order."""
    a, *rest = (decode(v) for v in found.case.args)
    given = {k: decode(v) for k, v in found.case.kwargs.items()}
    axis = rest[1] if len(rest) > 1 else given.get("axis", -1)
    ours, theirs = _pair(found, 0)
    if axis is None:
        a, axis = a.reshape(-1), 0
    if found.case.op == "argpartition":
        ours, theirs = (np.take_along_axis(a, x.astype(np.int64), axis) for x in (ours, theirs))
    ours, theirs = np.moveaxis(ours, axis, -1), np.moveaxis(theirs, axis, -1)
    cuts = [0, ours.shape[-1]]
    if found.case.op != "topk":
        kth = rest[0] % ours.shape[-1]
        cuts = [0, kth, kth + 1, ours.shape[-1]]
    return all(
        np.array_equal(np.sort(ours[..., i:j], -1), np.sort(theirs[..., i:j], -1), equal_nan=a.dtype.kind != "b")
        for i, j in itertools.pairwise(cuts)
    )


def same_spectrum(found: Difference) -> bool:
    """The eigenvalues are the same in another order, and eigenvectors the same up to a factor of modulus 1."""
    eps = 1e-9 if found.ours[1][0][1] == "float64" else 1e-4

    def equal(a: Any, b: Any) -> bool:
        return bool(np.allclose(a, b, rtol=eps, atol=eps))

    values = _pair(found, 0)
    vectors = _pair(found, 1) if len(found.ours[1]) == 2 else (None, None)
    n = values[0].shape[-1]
    for k, (mine, other) in enumerate(zip(values[0].reshape(-1, n), values[1].reshape(-1, n), strict=True)):
        left = list(range(n))
        for i in range(n):
            j = min(left, key=lambda j: abs(mine[i] - other[j]), default=-1)
            if j < 0 or not equal(mine[i], other[j]):
                return False
            left.remove(j)
            if vectors[0] is not None:
                u, v = (x.reshape(-1, n, n)[k][:, p] for x, p in zip(vectors, (i, j), strict=True))
                if not equal(abs(np.vdot(u, v)), np.linalg.norm(u) * np.linalg.norm(v)):
                    return False
    return True


def at_infinity(found: Difference) -> bool:
    """Where the argument is neither infinite nor the largest number, our values are accurate."""
    size = np.abs(decode(found.case.args[0]))
    return found.accurate(size < np.max(size[np.isfinite(size)]))


def both_tiny(found: Difference) -> bool:
    """Both are 0 but for rounding, in proportion to the square of the operand's largest element."""
    largest = float(np.max(np.abs(decode(found.case.args[0]).astype(np.float64))))
    return all(float(np.max(np.abs(x))) <= 1e-6 * largest**2 for x in _pair(found, found.result))


def zero_extent(found: Difference) -> bool:
    """An operand has no elements."""
    return any(v[0] == "a" and 0 in v[2] for v in (*found.case.args, *found.case.kwargs.values()))


# ------------------------------------------------------------------ the exceptions

FLOAT64 = ("float64",)
HALVES = ("float16", "bfloat16")
CONVOLUTIONS = ("conv*",)
FAST = ("fast.*", "softmax")
BITS = ("bitwise_*", "left_shift", "right_shift")

EXCEPTIONS: tuple[Explained, ...] = (
    # --- numbers that upstream gets wrong, or less right
    Explained(
        "float64-through-float32",
        ("cos", "sin", "exp", "erf", "erfinv", "logaddexp", "logsumexp", "logcumsumexp", "sigmoid", "round", "softmax",
         "convolve", "conv*", "fast.*", "nn.*", "linalg.det", "divmod", "floor_divide"),
        ("value", "sign"),
        "upstream computes these functions of float64 in float32, or with constants of float32; mlxr's values are "
        "within its tolerance of the float64 reference",
        dtypes=FLOAT64, where=accurate,
    ),
    Explained(
        "float64-mixed", ("linalg.solve", "linalg.solve_triangular", "conv*", "fast.*"), ("value",),
        "of operands in float32 and float64, upstream computes a part in float32",
        cases=("mixed",), where=accurate,
    ),
    Explained(
        "less-accurate", ("erf", "logaddexp", "nn.gelu", "nn.gelu_tanh"), ("value",),
        "upstream's approximation, or its composition of roundings and cancellations, is off by more than the "
        "tolerance; mlxr's values are within it",
        where=accurate,
    ),
    Explained(
        "rounds-between-steps",
        ("softmax", "cumsum", "mean", "var", "floor_divide", "divmod", "fast.*", "conv*", "logsumexp"), ("value",),
        "upstream computes in float16 and bfloat16 and rounds (or overflows) after every step; mlxr computes in "
        "float32 and rounds once",
        dtypes=HALVES, where=accurate,
    ),
    Explained(
        "sums-of-large-integers", ("mean", "var"), ("value",),
        "upstream adds integers in float32 one after the other, or lets them overflow; mlxr's mean is within its "
        "tolerance",
        dtypes=("int32", "int64", "uint32", "uint64"), where=accurate,
    ),
    Explained(
        "sums-in-one-chain", ("sum", "mean", "var", "cumsum", "logsumexp", "logcumsumexp"), ("value",),
        "upstream adds up long arrays in one chain, or eight, whose rounding errors add up too; mlxr adds in a tree",
        cases=("long",), where=closer,
    ),
    Explained(
        "running-sums-in-float64", ("cumsum",), ("value",),
        "the reference is a chain in float64 as upstream's is, and cannot tell which of the two is closer",
        dtypes=FLOAT64, cases=("long",), where=within(256),
    ),
    Explained(
        "complex-products-that-overflow", ("prod",), ("value",),
        "whether infinity or NaN comes of an overflowing product depends on the order of the factors",
        dtypes=("complex64",), cases=("long",), where=says("nan+nanj", "inf"),
    ),
    Explained(
        "variance-of-equal-elements", ("var", "std"), ("value",),
        "the variance of equal elements is 0; upstream's mean is rounded, and its square remains",
        cases=("layout",), where=both_tiny,
    ),
    Explained(
        "variance-of-what-overflows", ("var", "std"), ("value",),
        "the squares overflow float64, and whether infinity or NaN comes of it depends on the order of operations",
        dtypes=FLOAT64, cases=("edge",), where=says("inf", "nan"),
    ),
    Explained(
        "sign-of-zero", ("sin", "erf"), ("sign",),
        "upstream loses the sign of a zero",
    ),
    Explained(
        "halves-drop-nan", ("cummax", "cummin"), ("value",),
        "upstream's running maximum of float16 and bfloat16 drops NaN that it keeps in float32",
        dtypes=HALVES, where=accurate,
    ),
    Explained(
        "cross-of-infinities", ("linalg.cross",), ("value",),
        "infinity times 0 is NaN; upstream leaves products with missing components out",
        cases=("edge",), where=accurate,
    ),
    Explained(
        "segmented-halves", ("segmented_mm",), ("value",),
        "upstream's result in float16 and bfloat16 is wrong in all digits",
        dtypes=HALVES, where=accurate,
    ),
    Explained(
        "limits-at-infinity", ("nn.silu", "nn.gelu", "nn.gelu_tanh", "nn.gelu_sigmoid"), ("value",),
        "mlxr returns the limit (0 and the argument); upstream multiplies infinity by 0 and gets NaN, or overflows",
        cases=("edge",), where=at_infinity,
    ),
    Explained(
        "outside-of-the-domain", ("erfinv",), ("value",),
        "just outside of [-1, 1] mlxr returns NaN; upstream rounds to float32 first and returns infinity",
        dtypes=FLOAT64, cases=("edge",), where=says("nan here, inf there", "nan here, -inf there"),
    ),
    Explained(
        "complex-isclose", ("isclose",), ("value",),
        "mlxr compares the distance of complex numbers; upstream compares their real parts first",
        dtypes=("complex64",), where=accurate,
    ),
    Explained(
        "fp8-of-float64", ("to_fp8",), ("value",),
        "upstream reads float64 as if it were of another dtype; mlxr encodes the value",
        dtypes=FLOAT64, where=accurate,
    ),
    Explained(
        "random-through-erfinv", ("random.truncated_normal", "random.multivariate_normal"), ("value",),
        "the same random bits; upstream's erf and the singular vectors of the covariance add rounding errors",
        where=within(256),
    ),
    Explained(
        "random-float64", ("random.normal",), ("value",),
        "the same random bits; upstream computes the inverse error function in float32",
        where=says("ULP"),
    ),
    # --- where a result is not determined
    Explained(
        "order-within-partitions", ("partition", "argpartition", "topk"), ("value",),
        "the order of elements before and behind the pivot is not determined; which ones they are is compared",
        where=same_partition,
    ),
    Explained(
        "order-of-eigenvalues", ("linalg.eig", "linalg.eigvals", "linalg.eigh"), ("value",),
        "the order of eigenvalues and the phase of eigenvectors are not determined; the rest is compared",
        where=same_spectrum,
    ),
    Explained(
        "search-in-unsorted", ("searchsorted",), ("value",),
        "the array is not sorted, so that there is no right answer",
        cases=("edge",),
    ),
    # --- what upstream refuses, or ends the process with
    Explained(
        "integer-division-by-zero", ("floor_divide", "remainder", "divmod"), ("crash",),
        "upstream's process ends with SIGFPE; mlxr returns 0, and the dividend as remainder (docs/numerics.md)",
        where=says("SIGFPE"),
    ),
    Explained(
        "convolution-of-nothing", CONVOLUTIONS, ("crash", "exit"),
        "upstream divides by the number of groups, or of elements of an empty kernel or input",
    ),
    Explained(
        "inverse-of-nothing", ("linalg.inv",), ("crash",),
        "upstream's process ends at an empty matrix",
        where=zero_extent,
    ),
    Explained(
        "convolution-dtypes", CONVOLUTIONS, ("accepts",),
        "upstream's CPU has no convolution of float64 and none of groups in three dimensions",
        where=says("unsupported data type", "groups != 1 in 1D or 2D"),
    ),
    Explained(
        "gather-dtypes", ("gather_mm", "gather_qmm", "quantized_matmul", "hadamard_transform"), ("accepts",),
        "upstream's CPU has this product in fewer dtypes",
        where=says("only supports float32", "only floating types", "Unsupported type"),
    ),
    Explained(
        "blocks-of-any-size", ("block_masked_mm",), ("accepts",),
        "upstream takes blocks of 32 and 64, and on the CPU float32 alone",
        where=says("block_sizes 32, 64", "floating point types", "only supports float32"),
    ),
    Explained(
        "segmented-complex", ("segmented_mm",), ("accepts",),
        "upstream's has no complex numbers",
        where=says("Only real floating point types"),
    ),
    Explained(
        "determinant-of-halves", ("linalg.det", "linalg.slogdet"), ("accepts",),
        "upstream has closed formulas for small matrices of any dtype, and refuses the same dtype for larger ones",
        dtypes=HALVES,
    ),
    Explained(
        "solve-broadcasts", ("linalg.solve",), ("accepts",),
        "upstream does not broadcast a vector, or one matrix, against a stack of others",
        where=says("take_along_axis"),
    ),
    Explained(
        "strided-views", ("as_strided",), ("accepts",),
        "upstream takes row-contiguous arrays alone; mlxr takes any layout, as documented",
        where=says("row contiguous"),
    ),
    Explained(
        "dequantize-nothing", ("dequantize",), ("accepts",),
        "upstream cannot reshape an empty array",
        where=zero_extent,
    ),
    # --- what mlxr refuses
    Explained(
        "values-that-do-not-fit", ("*",), ("refuses",),
        "a Python integer that the dtype cannot hold is an error (docs/decisions/0005)",
        cases=("scalar",), where=says("ConversionError"),
    ),
    Explained(
        "indices-out-of-range", ("*",), ("refuses",),
        "an index out of range is an error (docs/decisions/0005)",
        cases=("refusal",), where=says("BoundsError", "reaches elements"),
    ),
    Explained(
        "arguments-that-mean-nothing",
        ("linalg.cholesky", "linalg.eigh", "linalg.eigvalsh", "block_masked_mm", "hadamard_transform"), ("refuses",),
        "upstream returns garbage for a matrix that is not positive definite, an unknown triangle, blocks of 0 rows",
        cases=("refusal",),
    ),
    Explained(
        "complex-left-out", ("floor_divide", "hadamard_transform", "nn.*", "softmax"), ("refuses",),
        "not defined here for complex numbers, of which upstream takes the floor of the parts, or an order",
        where=says("DtypeError"),
    ),
    Explained(
        "quantization-modes", ("quantize",), ("refuses",),
        "mlxr has the affine mode alone, and says so",
        where=says("UnsupportedOpError"),
    ),
    # --- classes of errors
    Explained(
        "operands-of-bit-operations", BITS, ("error",),
        "upstream raises RuntimeError for a dtype here, and ValueError elsewhere; mlxr has one DtypeError",
        where=says("DtypeError here, RuntimeError there"),
    ),
    Explained(
        "arguments-of-another-type", CONVOLUTIONS, ("error",),
        "upstream's binding refuses tuples of another length by their type; mlxr by their value",
        where=says("incompatible function arguments"),
    ),
    # --- dtypes of results
    Explained(
        "loss-of-float64", ("fast.cross_entropy",), ("dtype",),
        "upstream rounds the loss of float64 logits to float32; mlxr keeps it",
        dtypes=FLOAT64,
    ),
    Explained(
        "dtype-of-samples", ("random.multivariate_normal",), ("dtype",),
        "mlxr returns the dtype that is asked for; upstream that of mean and covariance",
        cases=("foreign",),
    ),
    # --- functions
    Explained(
        "no-public-bits", ("random.bits",), ("absent",),
        "upstream does not export its random bits (tests/golden/upstream_bits.cpp recorded them from C++)",
    ),
)

# Against ``mlx:cpu``: what the shim refuses before upstream sees it (docs/upstream.md), and upstream's own.
SHIM_EXCEPTIONS: tuple[Explained, ...] = (
    Explained(
        "shim-refuses-division", ("floor_divide", "remainder", "divmod"), ("accepts",),
        "by 0, or of the lowest integer by -1, upstream would end the process; the shim raises IntegerDivisionError",
        where=says("IntegerDivisionError"),
    ),
    Explained(
        "shim-gathers-from-rows", ("gather_mm",), ("accepts",),
        "upstream cannot take matrices from a stack that is broadcast",
        where=says("row contiguous"),
    ),
    Explained(
        "shim-poisons", ("*",), ("accepts",),
        "what was in flight when another evaluation failed is not trusted any more",
        where=says("earlier evaluation failed"),
    ),
    *EXCEPTIONS,
)

# Against ``metal``, which is compared with the CPU backend: what is not determined, and what float32 cannot do better.
METAL_EXCEPTIONS: tuple[Explained, ...] = (
    *(e for e in EXCEPTIONS if e.name in ("order-within-partitions", "search-in-unsorted")),
    Explained(
        "cancelling-logaddexp", ("logaddexp",), ("value",),
        "where the result is near 0 it is the difference of two numbers near 1, in float32 on Metal",
        where=within(256),
    ),
)


def explain(found: Difference, among: tuple[Explained, ...]) -> Explained | None:
    """Return the first exception that covers a difference, or None."""
    return next((e for e in among if e.covers(found)), None)
