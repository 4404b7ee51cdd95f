"""mlxr.random against upstream's recorded values, and against upstream itself where it is installed."""
import json
import os
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest

import mlxr as mx
from mlxr.errors import ArgumentTypeError, DtypeError, ShapeError

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "random_golden.npz")
CASES = [(str(number), case) for number, case in enumerate(json.loads(str(GOLDEN["cases"])))]
# Steps of the result's format that a value may be off: each is a logarithm, erf or erfinv away from exact bits.
STEP = {"float32": 2.0**-23, "complex64": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
STEPS = 8


def arguments(case, module):
    args = {}
    for name, value in case["args"].items():
        if isinstance(value, dict):
            value = module.array(value["array"], dtype=getattr(module, value["dtype"]))
        args[name] = getattr(module, value) if name == "dtype" else value
    return args


def sequence(draws, shape, seed):
    mx.random.seed(seed)
    return np.stack([np.array(mx.random.uniform(shape=shape)) for _ in range(draws)])


def run(case):
    if case["function"] == "sequence":
        return sequence(seed=case["seed"], **case["args"])
    draw, args, key = getattr(mx.random, case["function"]), arguments(case, mx), mx.random.key(case["seed"])
    if case["function"] == "split":
        return np.array(draw(key, **args))
    keys = mx.random.split(key, case["keys"]) if "keys" in case else [key]
    results = [draw(key=k, **args) for k in keys]
    results = [np.array(x.view(mx.uint16) if x.dtype is mx.bfloat16 else x) for x in results]
    return np.stack(results) if "keys" in case else results[0]


def wide(x, dtype):
    return (x.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else x


@pytest.mark.parametrize("function", sorted({case["function"] for _, case in CASES}))
def test_equals_upstreams_recorded_values(function):
    cases = [(number, case) for number, case in CASES if case["function"] == function]
    for number, case in cases:
        expected, result = GOLDEN[number], run(case)
        assert result.dtype == expected.dtype, case
        assert result.shape == expected.shape, case
        if case["exact"]:
            np.testing.assert_array_equal(result, expected, err_msg=str(case))
        else:
            dtype = case["args"].get("dtype", "float32")
            step = STEPS * STEP[dtype]
            np.testing.assert_allclose(
                wide(result, dtype), wide(expected, dtype), rtol=step, atol=step, err_msg=str(case)
            )
    assert cases


LIVE = [
    ("uniform", {"low": -2.5, "high": 7, "shape": (257, 3)}), ("uniform", {"shape": (1000,), "dtype": "bfloat16"}),
    ("normal", {"shape": (1001,), "loc": 3, "scale": 0.25}), ("normal", {"shape": (99,), "dtype": "float16"}),
    ("randint", {"low": -7, "high": 2**20, "shape": (513,)}),
    ("randint", {"low": 0, "high": 2**40, "shape": (9,), "dtype": "int64"}),
    ("bernoulli", {"p": 0.3, "shape": (4097,)}), ("permutation", {"x": 1000}), ("split", {"num": 33}),
    ("gumbel", {"shape": (100,)}), ("laplace", {"shape": (100,), "loc": -1.0, "scale": 3.0}),
    ("truncated_normal", {"lower": -0.5, "upper": 3.0, "shape": (200,)}),
]


@pytest.mark.parametrize(("function", "args"), LIVE)
def test_equals_upstream_live(function, args):
    upstream = pytest.importorskip("mlx.core")
    draw = {}
    for module in (mx, upstream):
        given = {k: getattr(module, v) if k == "dtype" else v for k, v in args.items()}
        result = getattr(module.random, function)(key=module.random.key(2024), **given)
        draw[module] = np.array(result.astype(module.float32) if "float16" in str(args.get("dtype")) else result)
    if draw[mx].dtype.kind == "f" and function != "uniform":
        step = STEPS * STEP[args.get("dtype", "float32")]
        np.testing.assert_allclose(draw[mx], draw[upstream], rtol=step, atol=step)
    else:
        np.testing.assert_array_equal(draw[mx], draw[upstream])


def test_seed_restarts_the_generator():
    mx.random.seed(11)
    first = [mx.random.normal((3,)).tolist() for _ in range(3)]
    mx.random.seed(11)
    assert [mx.random.normal((3,)).tolist() for _ in range(3)] == first
    assert first[0] != first[1]


def test_state_is_a_list_that_can_be_saved_and_put_back():
    mx.random.seed(5)
    mx.random.uniform()
    held = mx.random.state
    saved = list(held)
    expected = mx.random.uniform(shape=(4,)).tolist()
    mx.random.state[:] = saved
    assert mx.random.uniform(shape=(4,)).tolist() == expected
    assert mx.random.state is held


def test_threads_draw_different_numbers():
    mx.random.seed(3)
    drawn = []

    def work():
        for _ in range(200):
            drawn.append(tuple(mx.random.bits((2,)).tolist()))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(drawn)) == 1600
    mx.random.seed(3)
    assert set(drawn) == {tuple(mx.random.bits((2,)).tolist()) for _ in range(1600)}


def test_result_does_not_depend_on_threads():
    code = (
        "import mlxr as mx, hashlib, numpy as np\n"
        "x = [mx.random.normal((300, 401), key=mx.random.key(9)), mx.random.bits((99999,), 2, mx.random.key(8))]\n"
        "print([hashlib.sha256(np.array(t).tobytes()).hexdigest() for t in x])"
    )
    results = {
        subprocess.run([sys.executable, "-c", code],
                       env={**os.environ, "OMP_NUM_THREADS": n, "PYTHONPATH": ":".join(sys.path)}, check=True,
                       capture_output=True, text=True).stdout
        for n in ("1", "2", "5")
    }
    assert len(results) == 1


def test_samples_have_gradients_in_their_parameters():
    key = mx.random.key(1)

    def f(loc, scale):
        return mx.sum(mx.random.normal((50,), loc=loc, scale=scale, key=key))

    loc, scale = mx.array(0.5), mx.array(2.0)
    d_loc, d_scale = mx.grad(f, argnums=(0, 1))(loc, scale)
    assert d_loc.item() == 50
    assert d_scale.item() == pytest.approx(mx.sum(mx.random.normal((50,), key=key)).item(), rel=1e-5)
    d_high = mx.grad(lambda h: mx.sum(mx.random.uniform(0.0, h, (50,), key=key)))(mx.array(3.0))
    assert d_high.item() == pytest.approx(mx.sum(mx.random.uniform(shape=(50,), key=key)).item(), rel=1e-5)


def test_moments():
    n = 200_000
    for draw, mean, var in [
        (mx.random.uniform(-1, 3, (n,), key=mx.random.key(1)), 1, 16 / 12),
        (mx.random.normal((n,), key=mx.random.key(2)), 0, 1),
        (mx.random.laplace((n,), scale=2.0, key=mx.random.key(3)), 0, 8),
        (mx.random.gumbel((n,), key=mx.random.key(4)), 0.5772157, np.pi**2 / 6),
        (mx.random.bernoulli(0.25, (n,), key=mx.random.key(5)), 0.25, 0.1875),
    ]:
        x = np.array(draw, np.float64)
        assert abs(x.mean() - mean) < 5 * np.sqrt(var / n)
        assert x.var() == pytest.approx(var, rel=0.05)


def test_categorical_follows_its_probabilities():
    logits = mx.array([0.0, 1.0, -1.0, 2.0])
    drawn = np.array(mx.random.categorical(logits, num_samples=100_000, key=mx.random.key(6)))
    p = np.exp(np.array(logits))
    np.testing.assert_allclose(np.bincount(drawn) / drawn.size, p / p.sum(), atol=0.01)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "1", None])
def test_impossible_seeds(seed):
    with pytest.raises(ArgumentTypeError):
        mx.random.key(seed)
    before = mx.random.state[0].tolist()
    with pytest.raises(TypeError):
        mx.random.seed(seed)
    assert mx.random.state[0].tolist() == before


def test_impossible_keys():
    for call in (mx.random.uniform, mx.random.normal, mx.random.bits, mx.random.gumbel, mx.random.laplace):
        with pytest.raises(ShapeError):
            call(key=mx.zeros((3,), mx.uint32))
        with pytest.raises(DtypeError):
            call(key=mx.zeros((2,), mx.int32))
