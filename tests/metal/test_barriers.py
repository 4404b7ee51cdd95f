"""Every barrier of the kernels is needed: without it, the checker finds a race in a small run."""

import re

import metal_plans
import numpy as np
import pytest
from metal_plans import on

import mlxr as mx
from mlxr.core.dispatch import apply
from mlxr.core.primitive import registry

BARRIER = re.compile(r"\b(?:threadgroup|simdgroup)_barrier\([^()]*\);")


def transpose(device):
    (a,) = on(device, mx.zeros((40, 35)))
    mx.contiguous(a.T)


def reductions(device):
    a, b = on(device, mx.ones((2, 300)), mx.ones((40, 12)))
    mx.sum(a, 1)
    mx.sum(b, 0)


def scans(device):
    (a,) = on(device, mx.ones((1, 3000)))
    mx.cumsum(a, 1)


def sorts(device):
    (a,) = on(device, mx.array(np.random.default_rng(0).standard_normal(130).astype(np.float32)))
    mx.sort(a)


def masks(device):
    (a,) = on(device, mx.array(np.arange(300_000) % 3 == 0))
    apply(registry["nonzero"], (a,), (100_000,))


def rows(device):
    x, w = on(device, mx.ones((2, 300)), mx.ones((300,)))
    mx.softmax(x, -1)
    apply(registry["rms_norm_vjp"], (x, x, w), (1e-3, True))


def products(device):
    a, b, row = on(device, mx.ones((33, 40)), mx.ones((40, 35)), mx.ones((1, 40)))
    a @ b
    row @ b


def quantized_products(device):
    x, w, scales = on(device, mx.ones((9, 64)), mx.zeros((64, 8), dtype=mx.uint32), mx.ones((64, 2)))
    for rows in (9, 2):
        mx.quantized_matmul(x[:rows], w, scales, scales, False, 32, 4)


def attentions(device):
    q, k, sinks = on(device, mx.ones((1, 2, 20, 16)), mx.ones((1, 1, 40, 16)), mx.ones((2,)))
    for queries in (3, 20):
        mx.fast.scaled_dot_product_attention(q[:, :, :queries], k, k, scale=1.0, sinks=sinks)
    apply(registry["scaled_dot_product_attention_vjp"], (q, k, k, q, sinks), (1.0, False, False, True, mx.float32))


def convolutions(device):
    x, w = on(device, mx.ones((1, 8, 8)), mx.ones((4, 3, 8)))
    mx.conv1d(x, w)


RUNS = {
    "copy": transpose, "reduce": reductions, "scan": scans, "sort": sorts, "indexing": masks, "rows": rows,
    "matmul": products, "quantized": quantized_products, "attention": attentions, "conv": convolutions,
}
# Kernels for longer rows and for half precision have the same text: without them compiling takes half the time.
OTHERS = re.compile(r"^(INSTANTIATE_\w+\(.*(_128|_256|16\").*)$", re.MULTILINE)


def barriers():
    found = []
    for library in RUNS:
        text = (metal_plans.ROOT / "metal" / "kernels" / f"{library}.metal").read_text()
        for k, barrier in enumerate(BARRIER.finditer(text)):
            line = text[: barrier.start()].count("\n") + 1
            found.append(pytest.param(library, k, id=f"{library}-{line}"))
    return found


@pytest.mark.parametrize(("library", "number"), barriers())
def test_kernels_race_without(library, number, device, backend, tmp_path, monkeypatch):
    from standin import harness
    from standin.errors import CheckError

    for path in harness.KERNELS.iterdir():
        (tmp_path / path.name).write_text(path.read_text())
    text = (tmp_path / f"{library}.metal").read_text()
    found = list(BARRIER.finditer(text))[number]
    without = text[: found.start()] + ";" + text[found.end() :]
    (tmp_path / f"{library}.metal").write_text(OTHERS.sub("", without))
    monkeypatch.setattr(harness, "KERNELS", tmp_path)
    harness._shipped.cache_clear()
    backend.checked = True
    try:
        with pytest.raises(CheckError) as caught:
            RUNS[library](device)
        assert caught.value.kind in ("data-race", "uninitialised-read")
    finally:
        harness._shipped.cache_clear()
