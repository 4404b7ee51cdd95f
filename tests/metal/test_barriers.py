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


RUNS = {"copy": transpose, "reduce": reductions, "scan": scans, "sort": sorts, "indexing": masks}


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
    from metal.standin import harness
    from metal.standin.errors import CheckError

    for path in harness.KERNELS.iterdir():
        (tmp_path / path.name).write_text(path.read_text())
    text = (tmp_path / f"{library}.metal").read_text()
    found = list(BARRIER.finditer(text))[number]
    (tmp_path / f"{library}.metal").write_text(text[: found.start()] + ";" + text[found.end() :])
    monkeypatch.setattr(harness, "KERNELS", tmp_path)
    harness._shipped.cache_clear()
    backend.checked = True
    try:
        with pytest.raises(CheckError) as caught:
            RUNS[library](device)
        assert caught.value.kind in ("data-race", "uninitialised-read")
    finally:
        harness._shipped.cache_clear()
