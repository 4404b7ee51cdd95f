"""What crashes, hangs, ends the process or reads foreign memory in upstream must be a typed error here."""

import numpy as np
import pytest

from mlxr.errors import (
    BackendUnavailableError,
    BoundsError,
    DtypeError,
    InvalidValueError,
    MlxrError,
    OutOfMemoryError,
    UnsupportedOpError,
)
from mlxr.shim import abi
from mlxr.shim.errors import ExtentError, HandleError, IntegerDivisionError, PoisonedError, UpstreamError

F4 = np.float32


def ones(*shape, dtype=F4):
    return np.ones(shape, dtype)


# ---- ordinary mistakes, which upstream reports itself

ORDINARY = {
    "shapes that do not broadcast": lambda lib, a: lib.binary(abi.ADD, a(ones(3)), a(ones(4))),
    "matrices that do not fit": lambda lib, a: lib.matmul(a(ones(3, 4)), a(ones(3, 4))),
    "matmul of integers": lambda lib, a: lib.matmul(a(ones(3, 3, dtype=np.int32)), a(ones(3, 3, dtype=np.int32))),
    "axis out of range": lambda lib, a: lib.reduce(abi.SUM, a(ones(3)), (5,)),
    "axis twice": lambda lib, a: lib.transpose(a(ones(3, 3)), (0, 0)),
    "reshape to another size": lambda lib, a: lib.reshape(a(ones(4)), (3,)),
    "max of nothing": lambda lib, a: lib.reduce(abi.MAX, a(ones(0))),
    "group size": lambda lib, a: lib.quantize(a(ones(8, 64)), 48, 4),
    "bits": lambda lib, a: lib.quantize(a(ones(8, 64)), 64, 7),
    "quantization mode": lambda lib, a: lib.quantize(a(ones(8, 64)), 64, 4, 9),
    "norm weight": lambda lib, a: lib.rms_norm(a(ones(2, 4)), a(ones(3)), 1e-5),
    "odd rotary dims": lambda lib, a: lib.rope(a(ones(1, 1, 2, 4)), 3, traditional=False, base=1e4, scale=1, offset=0),
    "arange by nothing": lambda lib, a: lib.arange(0, 10, 0, abi.FLOAT32),
    "arange to nan": lambda lib, a: lib.arange(0, float("nan"), 1, abi.FLOAT32),
    "negative padding": lambda lib, a: lib.pad(a(ones(4)), (-1,), (-1,)),
    "padding of another rank": lambda lib, a: lib.pad(a(ones(4)), (1, 1), (1, 1)),
    "topk of too many": lambda lib, a: lib.sort(abi.TOPK, a(ones(3)), 0, 10),
    "fft of no length": lambda lib, a: lib.fft(abi.FFT, a(ones(4)), (0,), (0,)),
    "cholesky of a rectangle": lambda lib, a: lib.linalg(abi.CHOLESKY, a(ones(2, 3))),
    "linalg of a vector": lambda lib, a: lib.linalg(abi.INV, a(ones(3))),
    "number of outputs": lambda lib, a: lib.linalg(abi.QR, a(ones(3, 3)), outputs=3),
    "random width": lambda lib, a: lib.random_bits(a(np.zeros(2, np.uint32)), (3,), 3),
    "mask without its mode": lambda lib, a: lib.check(
        0 if lib.functions.mlxr_sdpa(*[a(ones(1, 1, 2, 4))] * 3, 1.0, 0, a(ones(2, 2)), 0, 0) else 1
    ),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_mistakes(lib, array, name):
    with pytest.raises((InvalidValueError, BoundsError)) as caught:
        ORDINARY[name](lib, array)
    assert str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_unknown_operations(lib, array):
    a = array(ones(3))
    for call in (
        lambda: lib.unary(abi.ADD, a),
        lambda: lib.binary(abi.ABS, a, a),
        lambda: lib.select(0, a, a, a),
        lambda: lib.cast(0x4FF, a, abi.FLOAT32),
        lambda: lib.reduce(-1, a),
        lambda: lib.scan(abi.SUM, a, 0),
        lambda: lib.sort(abi.SUM, a, 0),
        lambda: lib.fft(0, a, (3,), (0,)),
        lambda: lib.linalg(0, array(ones(2, 2))),
        lambda: lib.slice_update(0, a, a, (0,), (3,), (1,)),
        lambda: lib.scatter_axis(abi.UPDATE_MAX, a, array(np.array([0])), a, 0),
    ):
        with pytest.raises(UnsupportedOpError):
            call()


def test_devices_and_streams_that_do_not_exist(lib, array):
    for call in (
        lambda: lib.stream(abi.CPU, 1),
        lambda: lib.stream(7),
        lambda: lib.stream(abi.GPU, lib.device_count(abi.GPU)),
        lambda: lib.device_info(abi.CPU, -1),
        lambda: lib.unary(abi.ABS, array(ones(3)), stream=63),
        lambda: lib.unary(abi.ABS, array(ones(3)), stream=-1),
        lambda: lib.synchronize(-2),
    ):
        with pytest.raises(BackendUnavailableError):
            call()


# ---- memory

TERABYTES = 1 << 45


def test_larger_than_memory(lib, array):
    tall, wide, big = ones(1 << 20, 1), ones(1, 1 << 20), (1 << 20, 1 << 20, 8)
    for call in (
        lambda: lib.copy(1 << 20, big, abi.FLOAT32),
        lambda: lib.share(None, 1 << 20, big, (0, 0, 0), abi.FLOAT32),
        lambda: lib.full(array(F4(1)), big),
        lambda: lib.binary(abi.ADD, array(tall), array(wide)),
        lambda: lib.matmul(array(tall), array(wide)),
        lambda: lib.broadcast_to(array(F4(1)), big),
        lambda: lib.arange(0, TERABYTES, 1, abi.FLOAT32),
        lambda: lib.random_bits(array(np.zeros(2, np.uint32)), big),
    ):
        with pytest.raises(OutOfMemoryError):
            call()


def test_more_elements_than_can_be_counted(lib, array):
    for shape in ((2**31 - 1, 2**31 - 1, 4), (2**31 - 1,) * 5, (1 << 30, 1 << 30, 16)):
        with pytest.raises(ExtentError):
            lib.full(array(F4(1)), shape)
        with pytest.raises(ExtentError):
            lib.broadcast_to(array(F4(1)), shape)
    with pytest.raises(ExtentError):
        lib.full(array(F4(1)), (2**31,))
    with pytest.raises(OverflowError):
        lib.reshape(array(ones(4)), (2**40,))


def test_allocation_under_an_address_space_limit(run_program):
    code = """
import resource
from mlxr.errors import OutOfMemoryError
limit = 6 << 30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try: lib.full(array(np.float32(1)), (2, 1 << 30))
except OutOfMemoryError: print("refused")
print(lib.to_numpy(lib.full(array(np.float32(1)), (3,))))
"""
    assert run_program(code) == "refused\n[1. 1. 1.]\n"


# ---- indices

INDEXING = {
    "take": lambda lib, a, i: lib.take(a(ones(4)), i, 0),
    "take flattened": lambda lib, a, i: lib.take(a(ones(2, 2)), i),
    "take along": lambda lib, a, i: lib.take_along_axis(a(ones(4)), i, 0),
    "gather": lambda lib, a, i: lib.gather(a(ones(4)), [i], (0,), (1,)),
    "scatter": lambda lib, a, i: lib.scatter(abi.UPDATE_SET, a(ones(4)), [i], (0,), a(ones(1, 1))),
    "scatter along": lambda lib, a, i: lib.scatter_axis(abi.UPDATE_SET, a(ones(4)), i, a(ones(1)), 0),
    "scatter add along": lambda lib, a, i: lib.scatter_axis(abi.UPDATE_ADD, a(ones(4)), i, a(ones(1)), 0),
}


@pytest.mark.parametrize("name", INDEXING)
@pytest.mark.parametrize("index", [4, 100, 2**30, -5, -(2**30)])
def test_index_out_of_range(lib, array, name, index):
    with pytest.raises(BoundsError, match=str(index)) as caught:
        INDEXING[name](lib, array, array(np.array([index])))
    assert isinstance(caught.value, IndexError)


@pytest.mark.parametrize("name", INDEXING)
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"])
def test_index_dtypes(lib, array, get, name, dtype):
    assert get(INDEXING[name](lib, array, array([3], dtype))).size
    with pytest.raises(BoundsError):
        INDEXING[name](lib, array, array([4], dtype))


def test_huge_unsigned_index(lib, array):
    with pytest.raises(BoundsError):
        lib.take(array(ones(4)), array([2**64 - 1], np.uint64), 0)


@pytest.mark.parametrize("dtype", ["f4", "?"])
def test_indices_that_are_no_integers(lib, array, dtype):
    with pytest.raises(DtypeError):
        lib.take(array(ones(4)), array([0], dtype), 0)


def test_windows_that_leave_the_array(lib, array):
    at = [array(np.array([3]))]
    with pytest.raises(BoundsError):
        lib.gather(array(ones(4)), at, (0,), (2,))
    with pytest.raises(InvalidValueError):
        lib.gather(array(ones(4)), at, (0,), (5,))
    with pytest.raises(BoundsError):
        lib.scatter(abi.UPDATE_ADD, array(ones(4)), at, (0,), array(ones(1, 2)))
    with pytest.raises(InvalidValueError):
        lib.scatter(abi.UPDATE_ADD, array(ones(4, 4)), at, (0,), array(ones(1)))


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [((2,), (2**34,), 0), ((2,), (1,), 2**40), ((5,), (1,), 0), ((2,), (1,), 3), ((2,), (-1,), 0), ((1,), (1,), -1),
     ((2, 2), (3, 1), 0), ((2**20, 2**20), (2**43, 2**43), 0)],
)  # fmt: skip
def test_as_strided_out_of_bounds(lib, array, shape, strides, offset):
    with pytest.raises((BoundsError, OutOfMemoryError)):
        lib.as_strided(array(ones(4)), shape, strides, offset)


def test_matrix_indices(lib, array):
    a = array(ones(2, 4, 4))
    quantized = lib.quantize(array(ones(2, 32, 64)))
    x = array(ones(2, 1, 64))
    for bad in (2, 2**28, -1):
        index, zero = array(np.array([bad])), array(np.array([0]))
        for pair in ((index, zero), (zero, index)):
            with pytest.raises(BoundsError):
                lib.gather_mm(a, a, *pair)
            with pytest.raises(BoundsError):
                lib.gather_qmm(x, *quantized, *pair)


def test_segments(lib, array):
    for bounds in ([[0, 2**28]], [[9, 2]], [[0, 9]]):
        with pytest.raises(BoundsError):
            lib.segmented_mm(array(ones(4, 8)), array(ones(8, 4)), array(np.array(bounds, np.uint32)))


def test_classes(lib, array):
    for bad in (4, 2**28, -1):
        with pytest.raises(BoundsError):
            lib.cross_entropy(array(ones(2, 4)), array(np.array([0, bad])))
    with pytest.raises(InvalidValueError):
        lib.cross_entropy(array(F4(1)), array(np.array(0)))


def test_masked_scatter_from_too_little(lib, array):
    with pytest.raises(BoundsError):
        lib.masked_scatter(array(ones(4)), array(np.ones(4, bool)), array(ones(3)))
    with pytest.raises(DtypeError):
        lib.masked_scatter(array(ones(4)), array(ones(4)), array(ones(4)))


# ---- arithmetic that traps

SIGNED = ["i1", "i2", "i4", "i8"]
UNSIGNED = ["u1", "u2", "u4", "u8"]


def divisions(lib):
    return (
        lambda a, b: lib.binary(abi.FLOOR_DIVIDE, a, b),
        lambda a, b: lib.binary(abi.REMAINDER, a, b),
        lambda a, b: lib.divmod(a, b),
    )


@pytest.mark.parametrize("dtype", [*SIGNED, *UNSIGNED, "?"])
def test_integer_division_by_zero(lib, array, dtype):
    for divide in divisions(lib):
        with pytest.raises(IntegerDivisionError) as caught:
            divide(array([1, 1], dtype), array([1, 0], dtype))
        assert isinstance(caught.value, ZeroDivisionError)
        with pytest.raises(IntegerDivisionError):
            divide(array([1, 1], dtype), array(0, dtype))


def test_lazy_divisor_is_evaluated(lib, array):
    zero = lib.binary(abi.SUBTRACT, array([3, 4]), array([3, 1]))
    for divide in divisions(lib):
        with pytest.raises(IntegerDivisionError):
            divide(array([1, 1]), zero)


@pytest.mark.parametrize("dtype", SIGNED)
def test_quotient_that_does_not_fit(lib, array, get, dtype):
    lowest = np.iinfo(dtype).min
    for divide in divisions(lib):
        with pytest.raises(IntegerDivisionError):
            divide(array([lowest], dtype), array([-1], dtype))
    assert get(lib.binary(abi.FLOOR_DIVIDE, array([lowest + 1], dtype), array([-1], dtype)))[0] == np.iinfo(dtype).max
    assert get(lib.binary(abi.FLOOR_DIVIDE, array([lowest], dtype), array([1], dtype)))[0] == lowest


def test_float_division_by_zero_is_none_of_these(lib, array, get):
    assert np.isinf(get(lib.binary(abi.DIVIDE, array([1]), array([0]))))
    assert np.isnan(get(lib.binary(abi.REMAINDER, array([1.0], F4), array([0.0], F4))))


# ---- extents of zero


@pytest.mark.parametrize(("m", "n", "k"), [(0, 32, 64), (4, 32, 0), (4, 0, 64)])
def test_quantized_matmul_of_nothing(lib, array, m, n, k):
    words, scales = array(np.zeros((n, k // 8), np.uint32)), array(ones(n, k // 64))
    with pytest.raises(InvalidValueError, match="extent of 0"):
        lib.quantized_matmul(array(ones(m, k)), words, scales, scales, group_size=64, bits=4)


def test_gather_qmm_of_nothing(lib, array):
    quantized = lib.quantize(array(ones(2, 32, 64)))
    with pytest.raises(InvalidValueError, match="extent of 0"):
        lib.gather_qmm(array(ones(2, 0, 64)), *quantized)


def test_attention_without_key_heads(lib, array):
    q, none = array(ones(1, 2, 2, 4)), array(ones(1, 0, 2, 4))
    with pytest.raises(InvalidValueError, match="0 key heads"):
        lib.sdpa(q, none, none, 1.0)


@pytest.mark.parametrize("op", ["INV", "TRI_INV", "CHOLESKY_INV", "LU", "LU_FACTOR", "SOLVE", "SOLVE_TRIANGULAR"])
def test_empty_matrices(lib, array, op):
    outputs = {"LU": 3, "LU_FACTOR": 2}.get(op, 1)
    empty = array(np.zeros((0, 0), F4))
    b = array(np.zeros((0, 1), F4)) if op.startswith("SOLVE") else None
    with pytest.raises(InvalidValueError, match="empty"):
        lib.linalg(getattr(abi, op), empty, b, outputs=outputs)


def convolve(lib, x, w, **changes):
    params = {
        "stride": [1],
        "padding_low": [0],
        "padding_high": [0],
        "kernel_dilation": [1],
        "input_dilation": [1],
        "groups": 1,
    }
    return lib.conv(x, w, **{**params, **changes})


@pytest.mark.parametrize(
    ("x", "w"),
    [((1, 4, 1), (1, 0, 1)), ((1, 4, 1), (0, 2, 1)), ((1, 4, 0), (1, 2, 0)), ((1, 0, 1), (1, 2, 1)),
     ((0, 0, 1), (1, 2, 1))],
)  # fmt: skip
def test_empty_convolutions(lib, array, x, w):
    with pytest.raises(InvalidValueError, match="empty kernel or input"):
        convolve(lib, array(ones(*x)), array(ones(*w)))


@pytest.mark.parametrize(
    "changes",
    [{"groups": 0}, {"groups": -1}, {"stride": [0]}, {"stride": [-1]}, {"kernel_dilation": [0]},
     {"input_dilation": [0]}],
)  # fmt: skip
def test_convolution_parameters(lib, array, changes):
    with pytest.raises(InvalidValueError):
        convolve(lib, array(ones(1, 4, 1)), array(ones(1, 2, 1)), **changes)


@pytest.mark.parametrize("changes", [{"padding_low": (-1,)}, {"padding_high": (-1,)}])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolution_that_crops_a_dilated_input(lib, array, get, changes, groups):
    """Upstream crops before it dilates: the result would have the wrong shape, and other elements under the taps."""
    x, w = array(ones(1, 6, 2)), array(ones(2, 2, 2 // groups))
    with pytest.raises(UnsupportedOpError):
        convolve(lib, x, w, input_dilation=(2,), groups=groups, **changes)
    assert get(convolve(lib, x, w, groups=groups, **changes)).shape == (1, 4, 2)


def test_convolution_of_an_empty_batch(lib, array, get):
    assert get(convolve(lib, array(ones(0, 4, 1)), array(ones(2, 2, 1)))).shape == (0, 3, 2)


# ---- errors on a worker


def test_lapack_failure_belongs_to_its_call(lib, array, get):
    singular, good = array(ones(4, 4)), array(2 * np.eye(4, dtype=F4))
    for _ in range(3):
        with pytest.raises(UpstreamError, match="LU factorization"):
            lib.linalg(abi.INV, singular)
        assert get(lib.linalg(abi.INV, good)[0])[0, 0] == 0.5
        assert get(lib.binary(abi.ADD, good, good))[0, 0] == 4


@pytest.mark.parametrize("upper", [False, True])
def test_cholesky_of_an_indefinite_matrix(lib, array, upper):
    stack = np.stack([np.eye(3, dtype=F4)] * 4)
    lib.linalg(abi.CHOLESKY, array(stack), flag=upper)
    stack[2] = [[1, 2, 0], [2, 1, 0], [0, 0, 1]]
    with pytest.raises(UpstreamError, match="positive definite"):
        lib.linalg(abi.CHOLESKY, array(stack), flag=upper)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("op", ["PINV", "SVD", "EIG", "EIGVALS", "EIGH", "EIGVALSH"])
def test_decompositions_of_what_is_not_finite(lib, array, op, value):
    outputs = {"EIG": 2, "EIGH": 2}.get(op, 1)
    for matrix in (np.full((3, 3), value, F4), np.diag([1, value, 2]).astype(F4).T):
        with pytest.raises(UpstreamError, match="not finite"):
            lib.linalg(getattr(abi, op), array(matrix), outputs=outputs)


def test_what_a_failure_may_have_hit_tells_of_it(lib, array, get):
    """Upstream has this product in float32 alone on its CPU, and finds out when it runs."""
    matrix, index = array(ones(3, 3, dtype=np.float16)), array([0], np.uint32)
    before, product = lib.unary(abi.NEGATIVE, matrix), lib.gather_mm(matrix, matrix, index, index)
    lib.eval(before)
    in_flight = lib.unary(abi.NEGATIVE, matrix)
    with pytest.raises(UpstreamError, match="GatherMM"):
        lib.eval(product)
    for value in (product, in_flight):
        with pytest.raises(PoisonedError, match=r"earlier evaluation failed.*GatherMM"):
            lib.eval(value)
    with pytest.raises(UpstreamError):
        lib.eval(lib.gather_mm(matrix, matrix, index, index))
    with pytest.raises(PoisonedError, match="GatherMM"):
        lib.unary(abi.NEGATIVE, in_flight)
    np.testing.assert_array_equal(get(before), -ones(3, 3))


def test_lapack_failure_does_not_reach_other_work(lib, array, get):
    x = array(np.random.default_rng(0).random((300, 300), F4))
    pending = x
    for _ in range(4):
        pending = lib.softmax(lib.matmul(pending, x), (-1,))
    lib.async_eval(pending)
    with pytest.raises(UpstreamError):
        lib.linalg(abi.INV, array(ones(4, 4)))
    np.testing.assert_allclose(get(pending).sum(-1), 1, rtol=1e-4)


def test_failures_leave_operands_and_handles_alone(lib, array, get):
    a, b = array(np.arange(3, dtype=F4)), array(ones(4))
    before = lib.live_handles()
    for call in (lambda: lib.binary(abi.ADD, a, b), lambda: lib.take(a, array(np.array([7])), 0)):
        with pytest.raises(MlxrError):
            call()
    assert lib.live_handles() == before
    np.testing.assert_array_equal(get(a), np.arange(3))


def test_missing_operands(lib, array):
    a = array(ones(3))
    with pytest.raises(HandleError):
        lib.select(abi.WHERE, a, None, a)
    with pytest.raises(HandleError):
        lib.linalg(abi.SOLVE, array(ones(2, 2)))
    with pytest.raises(InvalidValueError):
        lib.concatenate([])


# ---- found by the fuzz of the C ABI


def test_slices_by_a_step_of_zero(lib, array):
    a = array(ones(4))
    with pytest.raises(InvalidValueError, match="step of 0"):
        lib.slice(a, (0,), (4,), (0,))
    with pytest.raises(InvalidValueError, match="step of 0"):
        lib.slice_update(abi.UPDATE_SET, a, a, (0,), (4,), (0,))
    with pytest.raises(InvalidValueError, match="each of the 1 axes"):
        lib.slice(a, (0, 0), (4, 4), (1, 1))


@pytest.mark.parametrize("extreme", [2**31 - 1, 2**40, 2**63 - 1])
def test_slices_far_outside_of_the_array(lib, array, get, extreme):
    x = np.arange(5, dtype=F4)
    for start, stop, step in ((0, extreme, 2), (-extreme, extreme, 1), (extreme, -extreme, -1), (1, 5, extreme),
                              (4, -extreme, -extreme), (extreme, extreme, 1)):  # fmt: skip
        np.testing.assert_array_equal(get(lib.slice(array(x), (start,), (stop,), (step,))), x[start:stop:step])


def test_scatter_of_empty_windows_changes_nothing(lib, array, get):
    at = [array(np.array([1]))]
    for shape, updates in (((5, 0), (1, 1, 0)), ((3, 4), (1, 1, 0))):
        result = lib.scatter(abi.UPDATE_ADD, array(ones(*shape)), at, (0,), array(ones(*updates)))
        np.testing.assert_array_equal(get(result), ones(*shape))


def test_masked_scatter_from_nothing_changes_nothing(lib, array, get):
    result = lib.masked_scatter(array(ones(4)), array(np.zeros(4, bool)), array(ones(0)))
    np.testing.assert_array_equal(get(result), 1)


@pytest.mark.parametrize("extent", [3, 300, 36, 0])
def test_hadamard_of_an_extent_without_a_matrix(lib, array, extent):
    with pytest.raises(InvalidValueError, match="no Hadamard matrix"):
        lib.hadamard(array(ones(2, extent)), 1.0)


@pytest.mark.parametrize("extent", [1, 2, 64, 12, 24, 20, 28, 56])
def test_hadamard_of_an_extent_with_one(lib, array, get, extent):
    h = get(lib.hadamard(array(np.eye(extent, dtype=F4)), 1.0))
    np.testing.assert_array_equal(h @ h.T, extent * np.eye(extent))


@pytest.mark.parametrize("lazy", [False, True])
def test_windows_on_stepped_and_broadcast_arrays(lib, array, given, get, lazy):
    """Upstream's own as_strided fails on these when it is evaluated."""
    stepped = lib.slice(array(np.arange(8, dtype=F4)), (0,), (8,), (2,))
    repeated = lib.broadcast_to(array(ones(1, 1)), (4, 1))
    if not lazy:
        lib.eval(stepped, repeated)
    np.testing.assert_array_equal(get(lib.as_strided(stepped, (2, 2), (1, 2), 0)), [[0, 4], [2, 6]])
    np.testing.assert_array_equal(get(lib.as_strided(lib.unary(abi.ABS, repeated), (2,), (1,), 2)), [1, 1])
    np.testing.assert_array_equal(get(lib.as_strided(given(np.arange(9, dtype=F4)[::3]), (2,), (1,), 1)), [3, 6])
