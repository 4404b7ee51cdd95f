"""Linear algebra: factors multiply back, gradients that samples cannot show, and errors."""
import numpy as np
import pytest

import mlxr as mx
from mlxr.errors import FactorizationError, TransformError


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def product(*factors):
    result = np.array(factors[0])
    for factor in factors[1:]:
        result = result @ np.array(factor)
    return result


@pytest.mark.parametrize("shape", [(3, 3), (5, 3), (2, 3, 5)])
def test_factors_multiply_back(shape):
    a = random(*shape)
    x, k = mx.array(a), min(shape[-2:])
    u, s, vt = mx.linalg.svd(x)
    np.testing.assert_allclose(product(u[..., :k] * s[..., None, :], vt[..., :k, :]), a, atol=1e-5)
    np.testing.assert_allclose(product(*mx.linalg.qr(x)), a, atol=1e-5)
    p, lower, upper = mx.linalg.lu(x)
    assert p.dtype is mx.uint32
    rows = np.take_along_axis(np.array(lower), np.array(p).astype(int)[..., None], -2)
    np.testing.assert_allclose(rows @ np.array(upper), a, atol=1e-5)
    assert np.all(np.abs(np.array(lower)) <= 1)


def test_lu_equals_upstream():
    upstream = pytest.importorskip("mlx.core")
    a = random(4, 5, 5)
    for name in ("lu", "lu_factor"):
        mine = getattr(mx.linalg, name)(mx.array(a))
        theirs = getattr(upstream.linalg, name)(upstream.array(a), stream=upstream.cpu)
        for x, y in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(np.array(x), np.array(y), rtol=1e-4, atol=1e-5)


def test_eigenvectors():
    a = random(4, 4)
    w, v = mx.linalg.eig(mx.array(a))
    np.testing.assert_allclose(product(a.astype(np.complex64), v), product(v * w[None, :]), atol=1e-4)
    np.testing.assert_allclose(np.sort_complex(np.array(mx.linalg.eigvals(mx.array(a)))), np.sort_complex(np.array(w)),
                               atol=1e-5)
    hermitian = a + 1j * random(4, 4, seed=1)
    hermitian = (hermitian + hermitian.conj().T).astype(np.complex64)
    w, v = mx.linalg.eigh(mx.array(hermitian))
    assert w.dtype is mx.float32
    np.testing.assert_allclose(product(hermitian, v), np.array(v) * np.array(w), atol=1e-4)
    only_upper = np.triu(hermitian)
    np.testing.assert_allclose(np.array(mx.linalg.eigvalsh(mx.array(only_upper), "U")), np.array(w), atol=1e-4)


def test_cholesky_solves():
    a = random(3, 3) + 3 * np.eye(3, dtype=np.float32)
    positive = mx.array(a @ a.T)
    lower, upper = mx.linalg.cholesky(positive), mx.linalg.cholesky(positive, upper=True)
    assert mx.array_equal(upper, lower.T).item()
    np.testing.assert_allclose(product(mx.linalg.cholesky_inv(lower), positive), np.eye(3), atol=1e-4)
    b = mx.array(random(3, 2))
    y = mx.linalg.solve_triangular(upper, mx.linalg.solve_triangular(lower, b), upper=True)
    np.testing.assert_allclose(np.array(y), np.array(mx.linalg.solve(positive, b)), atol=1e-4)


def test_gradient_of_cholesky_along_symmetric_directions():
    rng = np.random.default_rng(4)
    a = rng.standard_normal((3, 3)) + 3 * np.eye(3)
    a = a @ a.T
    weights = mx.array(rng.standard_normal((3, 3)), mx.float64)

    def f(x):
        return mx.sum(mx.linalg.cholesky(mx.array(x, mx.float64) if isinstance(x, np.ndarray) else x) * weights)

    gradient = np.array(mx.grad(f)(mx.array(a, mx.float64)))
    for i in range(3):
        for j in range(i + 1):
            move = np.zeros((3, 3))
            move[i, j] = move[j, i] = 1e-6
            numeric = (f(a + move).item() - f(a - move).item()) / 2e-6
            assert np.sum(gradient * (move > 0)) == pytest.approx(numeric, rel=1e-5, abs=1e-6)


def test_norms_have_gradients():
    x = mx.array([[3.0, 0.0], [0.0, 4.0]])
    assert mx.grad(mx.linalg.norm)(x).tolist() == [[pytest.approx(0.6), 0.0], [0.0, pytest.approx(0.8)]]


def test_no_gradient_is_an_error_and_not_a_guess():
    with pytest.raises(TransformError):
        mx.grad(lambda a: mx.sum(mx.linalg.eigvalsh(a)))(mx.eye(2))


def test_singular_matrices():
    for call in (lambda: mx.linalg.inv(mx.zeros((2, 2))), lambda: mx.linalg.solve(mx.zeros((2, 2)), mx.ones(2)),
                 lambda: mx.linalg.cholesky(-mx.eye(2))):
        with pytest.raises(FactorizationError) as error:
            call()
        assert isinstance(error.value, RuntimeError)
    assert mx.linalg.det(mx.zeros((2, 2))).item() == 0
    sign, logarithm = mx.linalg.slogdet(mx.zeros((2, 2)))
    assert (sign.item(), logarithm.item()) == (0, -float("inf"))
