"""What a device does per second on the shapes of a language model: ``python -m mlxr bench --device NAME``.

Products, norms, softmax, rotary positions and attention, each as one call that is waited for, with the figures that
people compare machines by. Knows the public package alone, so that every backend is measured in the same way. The
benchmarks that follow mlxr's own speed from commit to commit are in ``asv_bench``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

import mlxr
from mlxr.core.device import backend_of
from mlxr.core.tensor import Tensor
from mlxr.errors import MlxrError, UnsupportedOpError

__all__ = ["Case", "Result", "add_arguments", "cases", "execute", "measure"]

DTYPES = ("float32", "float16", "bfloat16")
HEAD = 64  # elements of an attention head
# What a stand-in of a GPU can show, it shows at this size.
STAND_IN_HIDDEN, STAND_IN_TOKENS = 64, 8
STAND_IN_NOTE = "on a software stand-in of a GPU: these times say nothing about a GPU"


@dataclass(frozen=True)
class Case:
    """One call to be timed.

    Attributes
    ----------
    name : str
    run : callable
        Makes the call and returns its result, which may not be computed yet.
    flops : int
        Floating-point operations of a call, for products and attention; 0 where memory is what counts.
    nbytes : int
        Bytes that a call has to read and write.
    rows : int
        Rows that it normalizes, or tokens that it attends for.
    """

    name: str
    run: Callable[[], Tensor]
    flops: int
    nbytes: int
    rows: int


@dataclass(frozen=True)
class Result:
    """The figures of a case: medians of several calls; None where a figure makes no sense for it."""

    name: str
    dtype: str
    seconds: float
    tflops: float | None
    gigabytes: float
    microseconds_per_row: float
    rows_per_second: float


def cases(device: str, dtype: str, hidden: int, tokens: int) -> Iterator[Case]:
    """Yield the cases for a model of `hidden` features that is given `tokens` at a time.

    Parameters
    ----------
    device, dtype : str
        Where the operands live, and their dtype.
    hidden : int
        A multiple of 64.
    tokens : int
    """
    rng = np.random.default_rng(0)
    size = getattr(mlxr, dtype).itemsize

    def tensor(*shape: int) -> Tensor:
        values = rng.standard_normal(shape, np.float32)
        return mlxr.array(values, device=device).astype(getattr(mlxr, dtype))

    products = {
        "matmul square": (hidden, hidden, hidden),
        "matmul prefill, up": (tokens, hidden, 4 * hidden),
        "matmul prefill, down": (tokens, 4 * hidden, hidden),
        "matmul decode, up": (1, hidden, 4 * hidden),
        "matmul decode, down": (1, 4 * hidden, hidden),
    }
    for name, (m, k, n) in products.items():
        product = partial(mlxr.matmul, tensor(m, k), tensor(n, k).T)  # weights have a row for each output
        yield Case(name, product, 2 * m * k * n, size * (m * k + k * n + m * n), m)

    x, weight, bias = tensor(tokens, hidden), tensor(hidden), tensor(hidden)
    through = 2 * size * tokens * hidden
    yield Case("rms_norm", lambda: mlxr.fast.rms_norm(x, weight, 1e-5), 0, through, tokens)
    yield Case("layer_norm", lambda: mlxr.fast.layer_norm(x, weight, bias, 1e-5), 0, through, tokens)
    yield Case("softmax", lambda: mlxr.softmax(x, -1), 0, through, tokens)

    heads = hidden // HEAD
    queries, keys, values = (tensor(1, heads, tokens, HEAD) for _ in range(3))
    turned = partial(mlxr.fast.rope, queries, HEAD, traditional=False, base=1e4, scale=1.0, offset=0)
    yield Case("rope", turned, 0, through, tokens)

    def attend(q: Tensor, mask: str | None) -> Tensor:
        return mlxr.fast.scaled_dot_product_attention(q, keys, values, scale=HEAD**-0.5, mask=mask)

    cache = 2 * size * tokens * hidden
    half = 2 * tokens * tokens * hidden  # what the mask leaves of both products
    yield Case("attention prefill", partial(attend, queries, "causal"), half, through + cache, tokens)
    last = queries[:, :, -1:]
    yield Case("attention decode", partial(attend, last, None), 4 * tokens * hidden, 2 * size * hidden + cache, 1)


def measure(case: Case, dtype: str, budget: float) -> Result:
    """Time a case for about `budget` seconds, after a first call that is not counted.

    Raises
    ------
    UnsupportedOpError
        If the device has no such operation.
    """
    times: list[float] = []
    mlxr.eval(case.run())
    start = time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - start < budget and len(times) < 1000):
        before = time.perf_counter()
        mlxr.eval(case.run())
        times.append(time.perf_counter() - before)
        if len(times) == 1 and times[0] > budget:
            break
    seconds = statistics.median(times)
    return Result(
        case.name, dtype, seconds, case.flops / seconds / 1e12 if case.flops else None, case.nbytes / seconds / 1e9,
        seconds / case.rows * 1e6, case.rows / seconds,
    )


def _row(result: Result) -> str:
    tflops = "" if result.tflops is None else f"{result.tflops:10.4f}"
    return (f"{result.name:22s}{result.dtype:10s}{result.seconds * 1e3:10.3f}{tflops:>10s}{result.gigabytes:10.2f}"
            f"{result.microseconds_per_row:12.2f}{result.rows_per_second:14.0f}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--device", default="cpu", help="device to measure (default: cpu)")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="dtype; may be repeated (default: all three)")
    parser.add_argument("--hidden", type=int, default=1024, help="features, a multiple of 64 (default: 1024)")
    parser.add_argument("--tokens", type=int, default=128, help="tokens at a time (default: 128)")
    parser.add_argument("--seconds", type=float, default=0.3, help="time for each case (default: 0.3)")
    parser.add_argument("--json", type=Path, help="file to write the figures to")


def execute(arguments: argparse.Namespace) -> int:
    """Measure, print the table and write the file; returns the exit status."""
    if arguments.hidden < HEAD or arguments.hidden % HEAD or arguments.tokens < 1:
        print(f"--hidden is a multiple of {HEAD}, and --tokens at least 1", file=sys.stderr)
        return 2
    try:
        facts = backend_of(arguments.device).info()
    except MlxrError as error:
        print(error, file=sys.stderr)
        return 2
    stand_in = "stand-in" in facts
    hidden, tokens = (STAND_IN_HIDDEN, STAND_IN_TOKENS) if stand_in else (arguments.hidden, arguments.tokens)
    print(f"{arguments.device} on {platform.machine()}: {hidden} features, {tokens} tokens at a time")
    if stand_in:
        print(STAND_IN_NOTE)
    print(f"{'':22s}{'dtype':10s}{'ms':>10s}{'TFLOP/s':>10s}{'GB/s':>10s}{'us/row':>12s}{'rows/s':>14s}")
    results = []
    for dtype in arguments.dtype or DTYPES:
        for case in cases(arguments.device, dtype, hidden, tokens):
            try:
                result = measure(case, dtype, arguments.seconds)
            except UnsupportedOpError as error:
                print(f"{case.name:22s}{dtype:10s}not on this device: {error}")
                continue
            results.append(result)
            print(_row(result), flush=True)
    if arguments.json:
        document = {
            "device": arguments.device, "backend": facts, "stand_in": stand_in, "hidden": hidden, "tokens": tokens,
            "mlxr": mlxr.__version__, "results": [asdict(result) for result in results],
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0
