"""The same bits for any number of threads, any layout and alignment, alone or in a batch, and for v3 and v4.

The cases are large enough that every kernel takes its threaded and its blocked path. Golden hashes pin the float32 bits
of exactly specified arithmetic; docs/numerics.md says which instruction sets share them (v2 has no fused multiply-add).
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import subprocess
import sys

import measure
import numpy as np
import oracle
import pytest

import mlxr as mx
from mlxr.cpu import select
from mlxr.ops import elementwise

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "bits.json"
FUSED = [isa for isa in select.built() if isa in select.supported() and isa in ("v3", "v4", "base")]


def numbers(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> mx.array:
    """Return seeded float32 numbers whose bits do not depend on mlxr."""
    rng = np.random.default_rng(seed)
    return mx.array((low + (high - low) * rng.random(shape)).astype(np.float32))


def half(x: mx.array) -> mx.array:
    return x.astype(mx.bfloat16)


def attention(q, k, v, **kwargs):
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=0.125, **kwargs)


# Every float function of one operand, and of two.
UNARY = [getattr(elementwise, name) for name in measure.UNARY]
BINARY = [getattr(elementwise, name) for name in measure.BINARY]


def squares(f, *operands):
    """The gradients of the sum of squares of what a function gives."""
    return mx.grad(lambda *xs: f(*xs).square().sum(), tuple(range(len(operands))))(*operands)


def quantized(x, weights, **kwargs):
    """A product with weights that are quantized first."""
    return mx.quantized_matmul(x, *mx.quantize(mx.contiguous(weights), **kwargs), transpose=True, **kwargs)


# name -> (function, operands). Rows are the first axis of the first operand.
CASES = {
    "add": (mx.add, (numbers(300, 1000), numbers(300, 1000, seed=1))),
    "add rows": (mx.add, (numbers(300, 1000), numbers(1000, seed=1))),
    "exp": (mx.exp, (numbers(300, 1000),)),
    "tanh": (mx.tanh, (numbers(300, 1000),)),
    "erf": (mx.erf, (numbers(300, 1000),)),
    "log": (mx.log, (numbers(300, 1000, low=0.01),)),
    "sin": (mx.sin, (numbers(300, 1000, low=-50, high=50),)),
    "power": (mx.power, (numbers(300, 1000, low=0.01), numbers(300, 1000, seed=1))),
    "sigmoid bfloat16": (mx.sigmoid, (half(numbers(300, 1000)),)),
    "every unary": (lambda x: [f(x) for f in UNARY], (numbers(40, 1000, low=-9, high=9),)),
    "every unary float16": (lambda x: [f(x) for f in UNARY], (numbers(40, 100, low=-9, high=9).astype(mx.float16),)),
    "every binary": (lambda x, y: [f(x, y) for f in BINARY], (numbers(40, 1000), numbers(40, 1000, seed=1))),
    "every binary bfloat16": (lambda x, y: [f(x, y) for f in BINARY],
                              (half(numbers(40, 100)), half(numbers(40, 100, seed=1)))),
    "where": (lambda x, y: mx.where(x > y, x, 0.5), (numbers(300, 1000), numbers(1000, seed=1))),
    "sum": (mx.sum, (numbers(300, 1000),)),
    "sum rows": (lambda x: mx.sum(x, 1), (numbers(300, 1000),)),
    "sum columns": (lambda x: mx.sum(x, 0), (numbers(300, 1000),)),
    "sum middle": (lambda x: mx.sum(x, 1), (numbers(30, 100, 100),)),
    "sum float16": (lambda x: mx.sum(x, 1), (numbers(300, 1000).astype(mx.float16),)),
    "mean": (lambda x: mx.mean(x, 1), (numbers(300, 1000),)),
    "var": (lambda x: mx.var(x, 1), (numbers(300, 1000),)),
    "prod": (lambda x: mx.prod(x, 1), (numbers(300, 1000, low=0.99, high=1.01),)),
    "max": (lambda x: mx.max(x, 0), (numbers(300, 1000),)),
    "argmin": (lambda x: mx.argmin(x, 1), (numbers(300, 1000),)),
    "std columns": (lambda x: mx.std(x, 0, ddof=1), (numbers(300, 1000),)),
    "logsumexp": (lambda x: mx.logsumexp(x, 1), (numbers(300, 1000),)),
    "cumsum": (lambda x: mx.cumsum(x, 1), (numbers(300, 1000),)),
    "cumprod reverse": (lambda x: mx.cumprod(x, 0, reverse=True), (numbers(300, 500, low=0.99, high=1.01),)),
    "cummax": (lambda x: mx.cummax(x, 1), (numbers(300, 1000),)),
    "logcumsumexp": (lambda x: mx.logcumsumexp(x, 1), (numbers(300, 1000),)),
    "softmax": (lambda x: mx.softmax(x, -1), (numbers(300, 1000),)),
    "softmax bfloat16": (lambda x: mx.softmax(x, -1), (half(numbers(300, 1000)),)),
    "layer norm": (lambda x, w, b: mx.fast.layer_norm(x, w, b, 1e-5),
                   (numbers(300, 1000), numbers(1000, seed=1), numbers(1000, seed=2))),
    "rms norm": (lambda x, w: mx.fast.rms_norm(x, w, 1e-5), (numbers(300, 1000), numbers(1000, seed=1))),
    "rope": (lambda x: mx.fast.rope(x, 64, traditional=False, base=1e4, scale=1.0, offset=3),
             (numbers(8, 4, 100, 64),)),
    "matmul": (mx.matmul, (numbers(150, 300), numbers(300, 170, seed=1))),
    "matmul square": (mx.matmul, (numbers(400, 400), numbers(400, 400, seed=1))),
    "matmul bfloat16": (mx.matmul, (half(numbers(150, 300)), half(numbers(300, 170, seed=1)))),
    "matmul bfloat16 blocks": (lambda a, b: a @ b.T, (half(numbers(70, 1101)), half(numbers(130, 1101, seed=1)))),
    "matrix vector bfloat16": (mx.matmul, (half(numbers(1, 1100)), half(numbers(1100, 700, seed=1)))),
    "conv 2d groups": (lambda x, w: mx.conv2d(x, w, padding=1, groups=20),
                       (numbers(4, 20, 20, 60), numbers(80, 3, 3, 3, seed=1))),
    "matmul float64": (mx.matmul, (numbers(90, 200).astype(mx.float64), numbers(200, 80, seed=1).astype(mx.float64))),
    "matmul complex": (mx.matmul, (numbers(60, 90) + 1j * numbers(60, 90, seed=3), numbers(90, 50, seed=1) + 0j)),
    "matmul batch": (mx.matmul, (numbers(6, 40, 90), numbers(6, 90, 50, seed=1))),
    "matmul float16": (mx.matmul, (numbers(70, 300).astype(mx.float16), numbers(300, 90, seed=1).astype(mx.float16))),
    "addmm": (lambda c, a, b: mx.addmm(c, a, b, alpha=0.5, beta=2.0),
              (numbers(150, 170, seed=2), numbers(150, 300), numbers(300, 170, seed=1))),
    "gather_mm": (lambda a, b: mx.gather_mm(a, b, rhs_indices=mx.arange(20) * 3 % 5),
                  (numbers(20, 30, 64), numbers(5, 64, 50, seed=1))),
    "quantize": (lambda w: mx.quantize(mx.contiguous(w), group_size=32, bits=4), (numbers(200, 512),)),
    "quantized 4 bits": (lambda x, w: quantized(x, w, group_size=64, bits=4),
                         (numbers(90, 512), numbers(300, 512, seed=1))),
    "quantized 8 bits bfloat16": (lambda x, w: quantized(x, w, group_size=32, bits=8),
                                  (half(numbers(90, 512)), half(numbers(300, 512, seed=1)))),
    "quantized vector": (lambda x, w: quantized(x, w, group_size=64, bits=4),
                         (numbers(1, 1024), numbers(700, 1024, seed=1))),
    "conv 1d": (lambda x, w: mx.conv1d(x, w, padding=2, dilation=2), (numbers(4, 300, 40), numbers(50, 5, 40, seed=1))),
    "conv 2d": (lambda x, w: mx.conv2d(x, w, stride=2, padding=1),
                (numbers(3, 41, 37, 24), numbers(40, 3, 3, 24, seed=1))),
    "conv 2d bfloat16": (lambda x, w: mx.conv2d(x, w, padding=1),
                         (half(numbers(2, 20, 20, 16)), half(numbers(24, 3, 3, 16, seed=1)))),
    "conv 2d depthwise": (lambda x, w: mx.conv2d(x, w, padding=1, groups=48),
                          (numbers(3, 30, 30, 48), numbers(48, 3, 3, 1, seed=1))),
    "conv 2d transposed": (lambda x, w: mx.conv_transpose2d(x, w, stride=2, padding=1),
                           (numbers(2, 15, 17, 24), numbers(20, 4, 4, 24, seed=1))),
    "conv 3d": (lambda x, w: mx.conv3d(x, w, padding=1), (numbers(2, 9, 10, 11, 8), numbers(12, 3, 3, 3, 8, seed=1))),
    "conv gradient": (lambda x, w: squares(lambda x, w: mx.conv2d(x, w, stride=2, padding=1), x, w),
                      (numbers(2, 21, 19, 12), numbers(16, 3, 3, 12, seed=1))),
    "matrix vector": (mx.matmul, (numbers(700, 900), numbers(900, seed=1))),
    "attention": (attention, (numbers(2, 4, 80, 64), numbers(2, 2, 130, 64, seed=1), numbers(2, 2, 130, 64, seed=2))),
    "attention causal": (lambda q, k, v: attention(q, k, v, mask="causal"),
                         (numbers(2, 4, 80, 64), numbers(2, 2, 130, 64, seed=1), numbers(2, 2, 130, 64, seed=2))),
    "attention mask": (lambda q, k, v, m: attention(q, k, v, mask=m),
                       (numbers(2, 4, 80, 64), numbers(2, 2, 130, 64, seed=1), numbers(2, 2, 130, 64, seed=2),
                        numbers(80, 130, seed=3))),
    "attention bfloat16": (lambda q, k, v: attention(q, k, v, mask="causal"),
                           (half(numbers(2, 4, 40, 64)), half(numbers(2, 2, 90, 64, seed=1)),
                            half(numbers(2, 2, 90, 64, seed=2)))),
    "attention decode": (attention,
                         (numbers(2, 8, 1, 64), numbers(2, 2, 300, 64, seed=1), numbers(2, 2, 300, 64, seed=2))),
    "cross entropy": (lambda x: mx.fast.cross_entropy(x, mx.arange(300)), (numbers(300, 1000),)),
    "softmax gradient": (mx.grad(lambda x: (mx.softmax(x, -1) * mx.sin(x)).sum()), (numbers(300, 1000),)),
    "layer norm gradient": (mx.grad(lambda x, w: mx.fast.layer_norm(x, w, None, 1e-5).square().sum(), (0, 1)),
                            (numbers(300, 1000), numbers(1000, seed=1))),
    "attention gradient": (mx.grad(lambda q, k, v: attention(q, k, v, mask="causal").square().sum(), (0, 1, 2)),
                           (numbers(1, 4, 70, 32), numbers(1, 2, 70, 32, seed=1), numbers(1, 2, 70, 32, seed=2))),
    "rms norm gradient": (lambda x, w: squares(lambda x, w: mx.fast.rms_norm(x, w, 1e-5), x, w),
                          (numbers(300, 1000), numbers(1000, seed=1))),
    "cross entropy gradient": (mx.grad(lambda x: mx.fast.cross_entropy(x, mx.arange(300)).sum()),
                               (numbers(300, 1000),)),
    "matmul gradient": (mx.grad(lambda a, b: (a @ b).square().sum(), (0, 1)),
                        (numbers(3, 50, 70), numbers(70, 40, seed=1))),
    "gather": (lambda x: mx.take(x, mx.arange(1000) * 7 % 300, axis=0), (numbers(300, 200),)),
    "scatter add": (lambda x: x.at[mx.arange(1000) * 7 % 300].add(numbers(1000, 200, seed=1)), (numbers(300, 200),)),
    "sort": (lambda x: mx.sort(x, -1), (numbers(300, 1000),)),
    "argsort": (lambda x: mx.argsort(x, 0), (numbers(300, 200),)),
    "topk": (lambda x: mx.topk(x, 20, -1), (numbers(300, 1000),)),
    "take along axis": (lambda x: mx.take_along_axis(x, mx.argsort(x, 1), 1), (numbers(300, 200),)),
    "scatter max": (lambda x: x.at[mx.arange(1000) * 7 % 300].maximum(numbers(1000, 200, seed=1)),
                    (numbers(300, 200),)),
    "cast": (lambda x: x.astype(mx.bfloat16).astype(mx.float16), (numbers(300, 1000),)),
    "random": (lambda: mx.random.normal((300, 1000), key=mx.random.key(5)), ()),
    "random others": (lambda: [
        mx.random.bits((300, 100), key=mx.random.key(1)), mx.random.uniform(shape=(300, 100), key=mx.random.key(2)),
        mx.random.truncated_normal(-1.0, 2.0, (300, 100), key=mx.random.key(3)),
        mx.random.gumbel((300, 100), key=mx.random.key(4)), mx.random.permutation(1000, key=mx.random.key(6)),
        mx.random.categorical(numbers(300, 100), key=mx.random.key(7)),
    ], ()),
}
NAMES = list(CASES)


def bits(name: str, convert=lambda x: x, after=lambda y: y) -> list:
    function, operands = CASES[name]
    return [oracle.bits_of(after(y)) for y in oracle.results(function(*[convert(x) for x in operands]))]


@pytest.fixture
def threads():
    """A function that sets the number of threads until the test ends."""
    before = mx.get_num_threads()
    yield mx.set_num_threads
    mx.set_num_threads(before)


@pytest.mark.parametrize("name", NAMES)
def test_number_of_threads_does_not_change_a_bit(name, threads) -> None:
    threads(1)
    wanted = bits(name)
    for count in (2, 3, 7):
        threads(count)
        assert bits(name) == wanted, count


@pytest.mark.parametrize("name", [n for n in NAMES if CASES[n][1]])
def test_layout_and_alignment_do_not_change_a_bit(name) -> None:
    wanted = bits(name)
    for layout in ("transposed", "strided", "reversed", "permuted", "unaligned"):
        assert bits(name, lambda x, layout=layout: dict(oracle.layouts(x)).get(layout, x)) == wanted, layout


@pytest.fixture
def pair_instruction():
    """The function that takes the processor's instruction for pairs of bfloat16 or leaves it; undone afterwards."""
    use = select.load(select.choose(), "matmul").use_pair_instruction
    before = use(True)
    if not use(True):
        pytest.skip("needs AVX512-BF16 and kernels for x86-64-v4")
    yield use
    use(before)


@pytest.mark.parametrize("name", [n for n in NAMES if "bfloat16" in n])
def test_the_instruction_for_pairs_of_bfloat16_does_not_change_a_bit(name, pair_instruction) -> None:
    wanted = bits(name)
    assert pair_instruction(False)
    assert bits(name) == wanted
    assert not pair_instruction(False)


def one_row(name: str, count: int):
    """The result of a case's rows 0..count-1 of 64, as NumPy arrays."""
    rng = np.random.default_rng(3)

    def rows(*shape, dtype=mx.float32):
        return mx.array(rng.standard_normal((64, *shape)).astype(np.float32)).astype(dtype)[:count]

    weights = mx.array(np.random.default_rng(4).standard_normal((700, 90)).astype(np.float32))
    vector = mx.array(np.random.default_rng(5).standard_normal(700).astype(np.float32))
    if name == "matmul":
        return rows(700) @ weights
    if name == "matmul transposed":
        return rows(700) @ mx.contiguous(weights.T).T
    if name == "matmul bfloat16":
        return rows(700, dtype=mx.bfloat16) @ weights.astype(mx.bfloat16)
    if name == "matmul float64":
        return rows(700, dtype=mx.float64) @ weights.astype(mx.float64)
    if name == "matmul batch":
        return rows(5, 700) @ weights
    if name == "addmm":
        return mx.addmm(weights[0], rows(700), weights)
    if name == "softmax":
        return mx.softmax(rows(700), -1)
    if name == "layer norm":
        return mx.fast.layer_norm(rows(700), vector, vector, 1e-5)
    if name == "rms norm":
        return mx.fast.rms_norm(rows(700), vector, 1e-5)
    if name == "sum":
        return rows(700).sum(-1)
    if name == "var":
        return rows(700).var(-1)
    if name == "logsumexp":
        return mx.logsumexp(rows(700), -1)
    if name == "cumsum":
        return mx.cumsum(rows(700), -1)
    if name == "cross entropy":
        return mx.fast.cross_entropy(rows(700), mx.arange(count))
    if name == "every unary":
        return mx.stack([f(rows(100)) for f in UNARY], 1)
    if name == "cross entropy gradient":
        return mx.grad(lambda x: mx.fast.cross_entropy(x, mx.arange(count)).sum())(rows(700))
    if name == "quantized":
        return quantized(rows(512), mx.contiguous(weights.T)[:, :512], group_size=64, bits=4)
    if name == "quantized bfloat16":
        return quantized(half(rows(512)), half(mx.contiguous(weights.T)[:, :512]), group_size=64, bits=4)
    if name == "conv":
        return mx.conv2d(rows(9, 8, 10), weights[:360].reshape(90, 2, 2, 90)[..., :10], padding=1)
    if name == "rope":
        return mx.fast.rope(rows(3, 5, 32), 32, traditional=False, base=1e4, scale=1.0, offset=2)
    if name == "sort":
        return mx.sort(rows(700), -1)
    if name == "attention bfloat16":
        queries, keys = half(rows(4, 3, 32)), half(rows(2, 90, 32))
        return mx.fast.scaled_dot_product_attention(queries, keys, keys, scale=0.2)
    queries, keys = rows(4, 3, 32), rows(2, 90, 32)
    return mx.fast.scaled_dot_product_attention(queries, keys, keys, scale=0.2, mask="causal")


@pytest.mark.parametrize("name", [
    "matmul", "matmul transposed", "matmul bfloat16", "matmul float64", "matmul batch", "addmm", "softmax",
    "layer norm", "rms norm", "sum", "var", "logsumexp", "cumsum", "cross entropy", "cross entropy gradient",
    "every unary", "quantized", "quantized bfloat16", "conv", "rope", "sort", "attention", "attention bfloat16",
])
def test_a_row_alone_has_the_bits_it_has_in_a_batch(name) -> None:
    batch = one_row(name, 64)
    for count in (1, 2, 5, 17):
        some = one_row(name, count)
        assert oracle.bits_of(mx.contiguous(some)) == oracle.bits_of(mx.contiguous(batch[:count])), count


@pytest.mark.parametrize(("queries", "keys"), [(40, 40), (33, 70)])
def test_a_decoded_token_has_the_bits_it_has_in_the_prefill(queries, keys) -> None:
    q, k, v = numbers(1, 4, queries, 32), numbers(1, 2, keys, 32, seed=1), numbers(1, 2, keys, 32, seed=2)
    whole = attention(q, k, v, mask="causal")
    last = attention(q[:, :, -1:], k, v)
    assert oracle.bits_of(mx.contiguous(whole[:, :, -1:])) == oracle.bits_of(last)


def one_nan(x: mx.array) -> mx.array:
    """Return the same numbers with one NaN for all: that of sqrt(-1) is negative on x86 and positive on AArch64."""
    return mx.where(mx.isnan(x), mx.nan, x) if mx.issubdtype(x.dtype, mx.floating) else x


def hashes() -> dict[str, str]:
    """Return a digest of the bits of every case."""
    return {name: hashlib.sha256(repr(bits(name, after=one_nan)).encode()).hexdigest()[:16] for name in NAMES}


def test_runs_repeat() -> None:
    assert hashes() == hashes()


@pytest.mark.skipif(len(FUSED) < 2, reason="fewer than two instruction sets with fused multiply-add are built")
def test_instruction_sets_agree() -> None:
    found = {}
    for isa in FUSED:
        environment = {**os.environ, "MLXR_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)}
        found[isa] = json.loads(subprocess.run(
            [sys.executable, __file__], env=environment, capture_output=True, text=True, check=True).stdout)
    first, *others = FUSED
    for isa in others:
        assert {n: h for n, h in found[isa].items() if h != found[first][n]} == {}, f"{first} against {isa}"


@pytest.mark.skipif(not FUSED, reason="only the instruction set without fused multiply-add is built")
def test_golden_bits() -> None:
    if select.choose() == "v2":
        pytest.skip("needs fused multiply-add, which x86-64-v2 lacks: its bits differ, as docs/numerics.md says")
    golden = json.loads(GOLDEN.read_text())
    found = hashes()
    assert {n: h for n, h in found.items() if golden.get(n) != h} == {}
    assert set(golden) == set(found)


def test_setting_threads() -> None:
    before = mx.get_num_threads()
    assert mx.set_num_threads(3) == before
    assert mx.get_num_threads() == 3
    assert mx.set_num_threads(before) == 3
    for wrong, error in ((0, ValueError), (-1, ValueError), (2**40, ValueError), ("2", TypeError)):
        with pytest.raises(error) as caught:
            mx.set_num_threads(wrong)
        assert isinstance(caught.value, mx.errors.MlxrError)
    assert mx.get_num_threads() == before


# PYTHONPATH=.:tests/helpers:tests/numerics python tests/cpu/test_determinism.py [file]: print or write the digests
if __name__ == "__main__":
    text = json.dumps(hashes(), indent=0)
    pathlib.Path(sys.argv[1]).write_text(text + "\n") if len(sys.argv) > 1 else print(text)
