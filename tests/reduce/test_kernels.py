"""Reductions and scans: one order of operations for every layout and number of rows; accuracy; NaN; integers."""
import math

import numpy as np
import pytest

import mlxr as mx

FLOATS = [mx.float16, mx.bfloat16, mx.float32, mx.float64]
INTEGERS = [mx.bool_, mx.int8, mx.uint8, mx.int16, mx.uint16, mx.int32, mx.uint32, mx.int64, mx.uint64]
REDUCTIONS = {
    "sum": mx.sum,
    "prod": mx.prod,
    "max": mx.max,
    "min": mx.min,
    "mean": mx.mean,
    "var": mx.var,
    "logsumexp": mx.logsumexp,
}
SCANS = {"cumsum": mx.cumsum, "cumprod": mx.cumprod, "cummax": mx.cummax, "logcumsumexp": mx.logcumsumexp}
NAN, INF = float("nan"), float("inf")


def normal(shape, dtype=mx.float32, seed=0):
    return mx.array(np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def bits(a):
    if a.dtype == mx.bfloat16:
        a = a.view(mx.uint16)
    return np.array(a).tobytes()


def layouts(x):
    """The same values as x in other places: turned, reversed, spread out."""
    yield mx.contiguous(x.T).T
    yield mx.contiguous(x[::-1, ::-1])[::-1, ::-1]
    yield mx.repeat(x, 2, axis=1)[:, ::2]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_do_not_see_the_layout(name, axis, dtype):
    x = normal((1100, 37), dtype)
    expected = bits(REDUCTIONS[name](x, axis))
    for turned in layouts(x):
        assert bits(REDUCTIONS[name](turned, axis)) == expected


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", SCANS)
def test_scans_do_not_see_the_layout(name, reverse, axis, dtype):
    x = normal((300, 37), dtype)
    expected = bits(SCANS[name](x, axis, reverse=reverse))
    for turned in layouts(x):
        assert bits(SCANS[name](turned, axis, reverse=reverse)) == expected


@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_row_alone_has_the_bits_it_has_in_a_batch(name):
    x = normal((64, 5000))
    batch = REDUCTIONS[name](x, 1)
    columns = REDUCTIONS[name](mx.contiguous(x.T), 0)
    for i in (0, 31, 63):
        assert bits(REDUCTIONS[name](x[i])) == bits(batch[i]) == bits(columns[i])


@pytest.mark.parametrize("n", [1, 15, 16, 17, 127, 128, 129, 1023, 1024, 1025, 5000, 300_000])
def test_sums_are_as_accurate_as_pairwise_ones(n):
    a = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    exact = math.fsum(a.astype(np.float64))
    # Depth of the tree: 8 additions in each lane of a chunk, 3 within a block, 4 over lanes, the rest over chunks.
    depth = 8 + 3 + 4 + max(0, math.ceil(math.log2(n / 1024)))
    assert abs(mx.sum(mx.array(a)).item() - exact) <= depth * 2.0**-24 * np.abs(a).sum(dtype=np.float64)


def test_sums_of_float16_round_once():
    x = mx.array([2048.0] + [1.0] * 2000).astype(mx.float16)
    assert mx.sum(x).item() == 4048.0
    assert mx.mean(mx.full((70_000,), 3.0, dtype=mx.float16)).item() == 3.0


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_wrap_around(dtype):
    a = np.array(mx.array(np.random.default_rng(1).integers(0, 256, (5, 300))).astype(dtype))
    total = mx.sum(mx.array(a), 1)
    np.testing.assert_array_equal(np.array(total), a.sum(1, dtype=np.array(total).dtype))
    product = mx.prod(mx.array(a), 1)
    np.testing.assert_array_equal(np.array(product), a.prod(1, dtype=np.array(product).dtype))
    for op, reference in ((mx.max, np.max), (mx.min, np.min), (mx.all, np.all), (mx.any, np.any)):
        np.testing.assert_array_equal(np.array(op(mx.array(a), 0)), reference(a, 0))


def test_variance_far_from_zero_keeps_its_digits():
    a = (1e4 + np.random.default_rng(2).standard_normal((3, 4000))).astype(np.float32)
    np.testing.assert_allclose(np.array(mx.var(mx.array(a), 1)), a.astype(np.float64).var(1), rtol=1e-5)


@pytest.mark.parametrize("n", [3, 200, 3000])
@pytest.mark.parametrize("axis", [0, 1])
def test_nan_wins_extrema_and_the_first_one_has_the_index(n, axis):
    a = np.random.default_rng(3).standard_normal((n, n % 50 + 9)).astype(np.float32)
    a[n // 2, 4] = a[n // 3, 4] = a[1, 5] = NAN
    x = mx.array(a)
    np.testing.assert_array_equal(np.array(mx.max(x, axis)), a.max(axis))
    np.testing.assert_array_equal(np.array(mx.min(x, axis)), a.min(axis))
    np.testing.assert_array_equal(np.array(mx.argmax(x, axis)), a.argmax(axis))
    np.testing.assert_array_equal(np.array(mx.argmin(x, axis)), a.argmin(axis))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-INF, -INF], -INF),
        ([INF, 1.0], INF),
        ([INF, -INF], INF),
        ([NAN, INF], NAN),
        ([1000.0, 1000.0], 1000 + math.log(2)),
    ],
)
def test_logsumexp_of_the_extreme(values, expected):
    for padding in (0, 2000):  # within a chunk, and across chunks
        x = mx.array(values + [-INF] * padding)
        np.testing.assert_allclose(mx.logsumexp(x).item(), expected, rtol=1e-7)
        np.testing.assert_allclose(mx.logcumsumexp(x)[-1].item(), expected, rtol=1e-6)


def test_cumulative_products_do_not_overflow_before_their_time():
    a = np.full(400, 2.0, np.float32)
    a[:200] = 0.5
    np.testing.assert_array_equal(np.array(mx.cumprod(mx.array(a))), np.cumprod(a))


@pytest.mark.parametrize("n", [1, 2, 127, 129, 1024, 1500])
def test_exclusive_scans_start_from_the_identity(n):
    a = np.random.default_rng(4).integers(-9, 9, (3, n)).astype(np.int8)
    x = mx.array(a)
    low = np.full((3, 1), np.iinfo(np.int8).min, np.int8)
    np.testing.assert_array_equal(np.array(mx.cummax(x, 1, inclusive=False)),
                                  np.maximum.accumulate(np.concatenate([low, a[:, :-1]], 1), 1))
    shifted = np.concatenate([a[:, 1:], np.zeros((3, 1), np.int8)], 1)[:, ::-1]
    np.testing.assert_array_equal(np.array(mx.cumsum(x, 1, reverse=True, inclusive=False)),
                                  np.cumsum(shifted, 1, dtype=np.int8)[:, ::-1])


def test_complex_numbers():
    a = np.array([1 + 2j, 1 + 3j, 9j, -2 + 1j], np.complex64)
    x = mx.array(a)
    assert mx.max(x).item() == 1 + 3j
    assert mx.min(x).item() == -2 + 1j
    assert mx.argmax(x).item() == 1
    np.testing.assert_allclose(mx.sum(x).item(), a.sum(), rtol=1e-6)
    np.testing.assert_allclose(mx.prod(x).item(), a.prod(), rtol=1e-6)
    np.testing.assert_allclose(np.exp(mx.logsumexp(x).item()), np.exp(a).sum(), rtol=1e-5)
    np.testing.assert_allclose(mx.var(x).item(), a.var(), rtol=1e-6)
    np.testing.assert_allclose(np.array(mx.cumprod(x)), np.cumprod(a), rtol=1e-6)
