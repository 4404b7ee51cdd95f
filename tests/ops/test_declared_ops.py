"""Every declared op against its NumPy reference: values, shapes, dtypes, refusals, and layouts of the operands.

Driven by the table of declarations, so that an op without samples or reference is a failure, not a gap.
"""

from __future__ import annotations

import numpy as np
import oracle
import pytest

import mlxr as mx
from mlxr.errors import FactorizationError, MlxrError
from mlxr.ops.declare import REGISTRY

OPS = list(REGISTRY.values())
CASES = [pytest.param(op, dtype, id=f"{op.name}-{dtype.name}") for op in OPS for dtype in op.dtypes]

# Result dtypes that are neither the operand's nor bool.
INDICES = {("quantize", 0), ("linalg.lu", 0), ("linalg.lu_factor", 1)}
SMALL_SUMS = {mx.bool_: mx.int32, mx.int8: mx.int32, mx.int16: mx.int32, mx.uint8: mx.uint32, mx.uint16: mx.uint32}


def row_major(dtype):
    """Return what makes a tensor of a sample's array."""
    return lambda array: oracle.tensor_of(oracle.values_for(array, dtype), dtype)


def in_layout(name, dtype):
    """Return what makes a tensor of a sample's array in the named layout, or row-major where there is no such."""

    def convert(array):
        x = row_major(dtype)(array)
        return dict(oracle.layouts(x)).get(name, x)

    return convert


def expected_dtype(op, sample, dtype, wanted, position):
    """The dtype of a result whose reference is `wanted`, by the rules of docs/numerics.md."""
    if op.name == "astype":
        return sample.args[1]
    if wanted.dtype.kind == "b":
        return mx.bool_
    if op.name == "to_fp8":
        return mx.uint8
    if op.name == "from_fp8":
        return sample.args[1]
    if op.name == "unique":
        return (dtype, mx.uint32, mx.uint32, mx.int32)[position]
    if op.name in ("argmax", "argmin", "argsort", "argpartition", "searchsorted") or (op.name, position) in INDICES:
        return mx.uint32
    if op.name in ("sum", "prod", "trace") and sample.args[0].ndim and sample.kwargs.get("axis") != []:
        return SMALL_SUMS.get(dtype, dtype)
    if wanted.dtype.kind == "c":
        return mx.complex64
    if op.name == "fast.cross_entropy":
        return mx.float32 if dtype in (mx.float16, mx.bfloat16) else dtype
    if wanted.dtype.kind == "f":
        return dtype if dtype.kind == "f" else mx.float32
    return dtype


def reference_results(op, sample, dtype):
    """What the reference gives for a sample in `dtype`: in float64 or complex128, or in the integer dtype itself."""

    def widened(array):
        values = oracle.values_for(array, dtype)
        return values.astype(np.complex128) if values.dtype.kind == "c" else values

    with np.errstate(all="ignore"):
        return [np.asarray(r) for r in oracle.results(oracle.call_with(op.reference, sample, widened))]


def scales(op, sample, dtype, count):
    if op.scale is None:
        return [None] * count
    with np.errstate(all="ignore"):
        value = oracle.call_with(op.scale, sample, lambda a: oracle.values_for(a, dtype).astype(
            np.complex128 if dtype.kind == "c" else np.float64) if a.dtype.kind == "f" else a)
    return [np.abs(value)] * count


@pytest.mark.parametrize("op", OPS, ids=[op.name for op in OPS])
def test_declaration_is_complete(op) -> None:
    assert op.samples is not None
    assert oracle.samples_of(op)
    # Casts have no NumPy function of two arguments; random numbers are checked against golden values.
    assert op.reference is not None or op.name == "astype" or op.family == "random"
    assert op.function.__doc__


@pytest.mark.parametrize(("op", "dtype"), [c for c in CASES if c.values[0].reference is not None])
def test_values(op, dtype) -> None:
    for index, sample in enumerate(oracle.samples_of(op)):
        got = oracle.results(oracle.call_with(op.function, sample, row_major(dtype)))
        wanted = reference_results(op, sample, dtype)
        assert len(got) == len(wanted), f"sample {index}"
        magnitudes = scales(op, sample, dtype, len(wanted))
        for position, (x, reference, scale) in enumerate(zip(got, wanted, magnitudes, strict=True)):
            where = f"sample {index}: {sample}"
            assert x.shape == reference.shape, where
            assert x.dtype is expected_dtype(op, sample, dtype, reference, position), where
            values = oracle.numpy_of(x)
            if x.dtype.kind in "biu":
                np.testing.assert_array_equal(values, reference.astype(values.dtype), err_msg=where)
            else:
                error = oracle.worst_ulps(values, reference, x.dtype, scale)
                assert error <= max(op.ulps, 0.5 if op.ulps else 0.0), where + f"\n{values}\n{reference}"


LAYOUT_DTYPES = (mx.float32, mx.bfloat16, mx.int32)


@pytest.mark.parametrize("op", OPS, ids=[op.name for op in OPS])
def test_layout_of_operands_does_not_change_a_bit(op) -> None:
    for dtype in [d for d in LAYOUT_DTYPES if d in op.dtypes] or op.dtypes[:1]:
        for sample in oracle.samples_of(op):
            plain = oracle.results(oracle.call_with(op.function, sample, row_major(dtype)))
            wanted = [oracle.bits_of(x) for x in plain]
            for name in ("transposed", "strided", "reversed", "permuted", "unaligned", "read-only"):
                got = oracle.results(oracle.call_with(op.function, sample, in_layout(name, dtype)))
                assert [oracle.bits_of(x) for x in got] == wanted, f"{name} {dtype} {sample}"


# (A matrix of equal rows is singular: linear algebra refuses it.)
@pytest.mark.parametrize("op", [op for op in OPS if op.primitive and op.family != "host"], ids=lambda op: op.name)
def test_broadcast_operand_has_the_bits_of_its_copy(op) -> None:
    dtype = op.dtypes[0]

    def repeated(a):
        x = row_major(dtype)(a)
        return mx.broadcast_to(x[:1], x.shape) if x.ndim and x.shape[0] else x

    for sample in oracle.samples_of(op):
        try:
            copies = oracle.results(oracle.call_with(op.function, sample, lambda a: mx.contiguous(repeated(a))))
        except FactorizationError:  # a matrix of equal rows has no inverse, and its view none either
            with pytest.raises(FactorizationError):
                oracle.call_with(op.function, sample, repeated)
            continue
        views = oracle.results(oracle.call_with(op.function, sample, repeated))
        assert [oracle.bits_of(x) for x in views] == [oracle.bits_of(x) for x in copies], sample


REFUSALS = [pytest.param(op, refusal, id=f"{op.name}-{k}") for op in OPS for k, refusal in enumerate(op.refusals)]


@pytest.mark.parametrize(("op", "refusal"), REFUSALS)
def test_refusal_is_typed_and_leaves_operands_alone(op, refusal) -> None:
    made = []

    def remembered(array):
        made.append((mx.array(array), array))
        return made[-1][0]

    with pytest.raises(refusal.error) as caught:
        oracle.call_with(op.function, refusal, remembered)
    assert isinstance(caught.value, MlxrError)
    assert caught.value.facts
    for x, array in made:
        np.testing.assert_array_equal(np.array(x), array)
        assert x.shape == array.shape
