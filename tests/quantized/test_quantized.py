"""Quantized and gathered products against upstream where it is installed, and laws that hold for any input."""
import numpy as np
import pytest

import mlxr as mx
from mlxr.errors import BoundsError

BITS = (2, 3, 4, 5, 6, 8)


def random(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_quantize_equals_upstream(bits, group_size):
    upstream = pytest.importorskip("mlx.core")
    w = random((6, 256))
    mine = mx.quantize(mx.array(w), group_size, bits)
    theirs = upstream.quantize(upstream.array(w), group_size, bits, stream=upstream.cpu)
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b))
    back = mx.dequantize(*mine, group_size, bits)
    expected = upstream.dequantize(*theirs, group_size, bits, stream=upstream.cpu)
    np.testing.assert_allclose(np.array(back), np.array(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bits", BITS)
def test_an_element_is_off_by_one_step_at_most(bits):
    w = random((5, 192), 1)
    words, scales, biases = mx.quantize(mx.array(w), 64, bits)
    step = np.abs(np.array(scales)).repeat(64, -1)
    off = np.abs(np.array(mx.dequantize(words, scales, biases, 64, bits)) - w)
    # Half a step inside; the scale is rounded so that zero is exact, which cuts up to half a step off the far edge.
    assert np.all(off <= step * 1.001)
    assert np.mean(off <= step * 0.501) > 0.8


@pytest.mark.parametrize("transpose", [True, False])
def test_a_row_of_the_product_does_not_depend_on_the_others(transpose):
    w = mx.quantize(mx.array(random((128, 128))))
    x = mx.array(random((9, 128), 1))
    whole = mx.quantized_matmul(x, *w, transpose=transpose)
    for k in range(9):
        assert mx.all(mx.quantized_matmul(x[k], *w, transpose=transpose) == whole[k]).item()


def test_gradients_equal_upstreams():
    upstream = pytest.importorskip("mlx.core")
    x, w = random((3, 64), 2), random((8, 64), 3)
    results = []
    for module in (mx, upstream):
        words, scales, biases = module.quantize(module.array(w))

        def f(x, scales, biases, module=module, words=words):
            return module.sum(module.quantized_matmul(x, words, scales, biases) ** 2)

        results.append([np.array(g) for g in module.grad(f, argnums=(0, 1, 2))(module.array(x), scales, biases)])
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-3)


def test_gathered_products_equal_a_loop():
    x, experts = mx.array(random((6, 1, 64))), mx.array(random((4, 32, 64), 1))
    chosen = mx.array([3, 0, 3, 1, 2, 0])
    words, scales, biases = mx.quantize(experts)
    out = mx.gather_qmm(x, words, scales, biases, rhs_indices=chosen)
    plain = mx.gather_mm(x, experts.swapaxes(-1, -2), rhs_indices=chosen)
    for k, expert in enumerate(chosen.tolist()):
        expected = mx.quantized_matmul(x[k], words[expert], scales[expert], biases[expert])
        assert mx.all(out[k] == expected).item()
        assert mx.all(plain[k] == x[k] @ experts[expert].T).item()


def test_an_expert_that_does_not_exist():
    x, w = mx.ones((2, 1, 4)), mx.ones((3, 4, 2))
    with pytest.raises(BoundsError) as error:
        mx.gather_mm(x, w, rhs_indices=mx.array([0, 3]))
    assert (error.value.index, error.value.size) == (3, 3)


def test_strided_operands_need_no_copy_to_be_right():
    w = random((64, 128))
    words, scales, biases = mx.quantize(mx.array(w))
    x = mx.array(random((128, 5), 1))
    expected = mx.quantized_matmul(mx.contiguous(x.T), words, scales, biases)
    assert mx.all(mx.quantized_matmul(x.T, words, scales, biases) == expected).item()
    rows = mx.quantized_matmul(mx.contiguous(x.T), words[::2], scales[::2], biases[::2])
    assert mx.all(rows == expected[:, ::2]).item()


def test_block_mask_of_booleans_hides_infinities():
    a, b = mx.full((4, 4), float("inf")), mx.ones((4, 4))
    mask = mx.array([[False, False], [False, False]])
    assert mx.all(mx.block_masked_mm(a, b, 2, None, mask) == 0).item()
