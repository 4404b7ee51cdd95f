"""Convolutions against upstream where it is installed, and what follows from their definition."""
import numpy as np
import pytest

import mlxr as mx

CASES = [
    ("conv1d", (2, 17, 6), (8, 3, 3), {"stride": 2, "padding": 1, "dilation": 2, "groups": 2}),
    ("conv2d", (2, 9, 11, 4), (5, 3, 2, 4), {"stride": (2, 1), "padding": (1, 0)}),
    ("conv2d", (1, 8, 8, 16), (16, 3, 3, 1), {"padding": 1, "groups": 16}),
    ("conv3d", (1, 5, 4, 6, 2), (3, 2, 3, 2, 2), {"padding": 1}),
    ("conv_transpose1d", (2, 9, 4), (6, 3, 2), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}),
    ("conv_transpose2d", (1, 5, 4, 3), (2, 3, 3, 3), {"stride": (2, 3), "padding": (1, 2), "dilation": (1, 2)}),
    ("conv_transpose3d", (1, 3, 2, 3, 2), (2, 2, 2, 2, 2), {"stride": 2, "padding": 1}),
    ("conv_general", (1, 9, 2), (3, 2, 2), {"padding": -1, "kernel_dilation": 3}),
    ("conv_general", (2, 7, 6, 2), (3, 2, 3, 2), {"padding": ([2, 0], [1, 3]), "stride": 2, "flip": True}),
]


@pytest.mark.parametrize(("function", "shape", "kernel", "args"), CASES)
def test_equals_upstream(function, shape, kernel, args):
    upstream = pytest.importorskip("mlx.core")
    rng = np.random.default_rng(7)
    x, w = rng.standard_normal(shape, np.float32), rng.standard_normal(kernel, np.float32)
    cotangent = None
    results = []
    for module in (mx, upstream):
        a, b = module.array(x), module.array(w)

        def f(a, b, module=module):
            return getattr(module, function)(a, b, **args)

        if cotangent is None:
            cotangent = rng.standard_normal(f(a, b).shape, np.float32)
        out, grads = module.vjp(f, [a, b], [module.array(cotangent)])
        results.append([np.array(t) for t in (*out, *grads)])
    for mine, theirs in zip(*results, strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


def test_output_padding_and_cropping_of_transposed_convolutions():
    # By the definition: each input element adds the kernel to the result, `stride` apart; padding crops the result.
    x, w = np.array([1.0, 2.0, 3.0], np.float32), np.array([1.0, 10.0], np.float32)
    for padding, more, expected in [
        (0, 0, [1, 10, 0, 2, 20, 0, 3, 30]), (0, 2, [1, 10, 0, 2, 20, 0, 3, 30, 0, 0]), (1, 0, [10, 0, 2, 20, 0, 3]),
        (3, 1, [2, 20, 0]),
    ]:
        def f(x, w, padding=padding, more=more):
            return mx.conv_transpose1d(x, w, stride=3, padding=padding, output_padding=more)

        operands = [mx.array(x).reshape(1, 3, 1), mx.array(w).reshape(1, 2, 1)]
        out = f(*operands)
        assert out.reshape(-1).tolist() == expected
        _, grads = mx.vjp(f, operands, [mx.ones_like(out)])
        assert [g.shape for g in grads] == [t.shape for t in operands]


def test_gradient_of_a_gradient():
    rng = np.random.default_rng(3)
    x, w = mx.array(rng.standard_normal((1, 6, 2), np.float32)), mx.array(rng.standard_normal((2, 3, 2), np.float32))

    def energy(x, w):
        return mx.sum(mx.conv1d(x, w, stride=2, padding=1) ** 2)

    def slope(w):
        return mx.sum(mx.grad(energy)(x, w) ** 2)

    got, step = np.array(mx.grad(slope)(w)), 1e-2
    for index in np.ndindex(*w.shape):
        move = np.zeros(w.shape, np.float32)
        move[index] = step
        numeric = (slope(w + mx.array(move)).item() - slope(w - mx.array(move)).item()) / (2 * step)
        assert got[index] == pytest.approx(numeric, rel=2e-2, abs=0.5)


def test_a_kernel_of_one_tap_is_a_matrix_product_bit_for_bit():
    x = mx.random.normal((3, 5, 7, 40), key=mx.random.key(1))
    w = mx.random.normal((9, 1, 1, 40), key=mx.random.key(2))
    assert mx.all(mx.conv2d(x, w) == x @ mx.reshape(w, (9, 40)).T).item()


# Groups of few output channels are computed in bundles: one bundle, several, and a last one that is not full.
@pytest.mark.parametrize(("groups", "cin", "cout"), [(3, 2, 4), (16, 4, 4), (19, 3, 2), (40, 1, 3), (9, 5, 1)])
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.float64])
def test_groups_are_convolutions_of_their_own_bit_for_bit(groups, cin, cout, dtype):
    rng = np.random.default_rng(groups)
    x = mx.array(rng.standard_normal((2, 7, 9, groups * cin)).astype(np.float32)).astype(dtype)
    w = mx.array(rng.standard_normal((groups * cout, 3, 2, cin)).astype(np.float32)).astype(dtype)
    settings = {"stride": (1, 2), "padding": (1, 0), "dilation": (2, 1)}
    whole = mx.conv2d(x, w, groups=groups, **settings)
    parts = [
        mx.conv2d(x[..., g * cin : (g + 1) * cin], w[g * cout : (g + 1) * cout], **settings) for g in range(groups)
    ]
    assert mx.array_equal(whole, mx.concatenate(parts, axis=-1)).item()
    flipped = mx.conv2d(mx.contiguous(x[..., ::-1])[..., ::-1], w, groups=groups, **settings)
    assert mx.array_equal(whole, flipped).item()


def test_an_image_does_not_depend_on_the_others_of_its_batch():
    x = mx.random.normal((4, 9, 9, 8), key=mx.random.key(1))
    w = mx.random.normal((8, 3, 3, 8), key=mx.random.key(2))
    whole = mx.conv2d(x, w, padding=1)
    for k in range(4):
        assert mx.all(mx.conv2d(x[k:k + 1], w, padding=1)[0] == whole[k]).item()


def test_half_precision_is_rounded_once():
    x = mx.random.normal((1, 30, 64), dtype=mx.float16, key=mx.random.key(1))
    w = mx.random.normal((4, 5, 64), dtype=mx.float16, key=mx.random.key(2))
    exact = mx.conv1d(x.astype(mx.float32), w.astype(mx.float32))
    assert mx.all(mx.conv1d(x, w) == exact.astype(mx.float16)).item()
    assert mx.conv1d(x, w.astype(mx.float32)).dtype is mx.float32
