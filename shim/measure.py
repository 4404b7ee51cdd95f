"""Measure what going through the shim costs, against upstream's own Python in the same process.

    python shim/measure.py [--rounds N] [--device mlx:gpu]      what each of 64 lazy additions costs
    python shim/measure.py --matmul 8192 [--device mlx:gpu]     one large bfloat16 product

Prints medians, and ratios of measurements that lie next to each other in time: other load on the machine hits both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import mlx.core as mx
import numpy as np

import mlxr
from mlxr import shim
from mlxr.shim import abi

LENGTH = 64
Ways = dict[str, Callable[[], None]]


def chains(device: str) -> Ways:
    """Ways to build a lazy chain of additions and evaluate it once. Upstream's Python comes first."""
    lib = shim.load()
    stream = lib.stream(abi.GPU if device == "mlx:gpu" else abi.CPU)
    x = np.ones(1024, np.float32)
    theirs, ours, tensor = mx.array(x), lib.from_numpy(x, copy=True), mlxr.array(x, device=device)
    add = lib.functions.mlxr_binary

    def upstream() -> None:
        c = theirs
        for _ in range(LENGTH):
            c = c + theirs
        mx.eval(c)

    def methods() -> None:
        c = ours
        for _ in range(LENGTH):
            c = lib.binary(abi.ADD, c, ours, stream=stream)
        lib.eval(c)

    def functions() -> None:
        c = ours
        for _ in range(LENGTH):
            c = add(abi.ADD, c, ours, stream)
            if not c:
                lib.fail()
        lib.eval(c)

    def make_program() -> shim.Program:
        made = shim.Program(1)
        value = 0
        for _ in range(LENGTH):
            value = made.step(abi.ADD, value, 0)
        made.result(value)
        return made

    kept = make_program()

    def program() -> None:
        lib.eval(*lib.run(kept, [ours], stream=stream))

    def fresh_program() -> None:
        lib.eval(*lib.run(make_program(), [ours], stream=stream))

    def tensors() -> None:
        c = tensor
        for _ in range(LENGTH):
            c = c + tensor
        mlxr.eval(c)

    return {
        "upstream's Python": upstream,
        "methods of Library": methods,
        "Library.functions": functions,
        "a program, kept": program,
        "a program, made each time": fresh_program,
        "mlxr's tensors": tensors,
    }


def products(device: str, n: int) -> Ways:
    """A bfloat16 matrix product, by upstream's Python and by mlxr. The operands are the same bits."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, n, n), np.float32)
    theirs = [mx.array(v).astype(mx.bfloat16) for v in (a, b)]
    ours = [mlxr.array(v, device=device).astype(mlxr.bfloat16) for v in (a, b)]
    mx.eval(theirs)
    mlxr.eval(ours)

    def upstream() -> None:
        mx.eval(theirs[0] @ theirs[1])

    def tensors() -> None:
        mlxr.eval(ours[0] @ ours[1])

    expected = np.array((theirs[0] @ theirs[1])[:64].astype(mx.float32))
    if not np.array_equal(np.array((ours[0] @ ours[1])[:64].astype(mlxr.float32)), expected):
        print("the two products differ")
    return {"upstream's Python": upstream, "mlxr's tensors": tensors}


def interleaved(ways: Ways, rounds: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of each way, one after the other in each round, `repeats` times in a row: caches and workers are warm."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            way()
            start = time.perf_counter()
            for _ in range(repeats):
                way()
            times[name].append((time.perf_counter() - start) / repeats)
    return times


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="mlx:cpu", choices=["mlx:cpu", "mlx:gpu"])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--matmul", type=int, metavar="N", help="time a bfloat16 product of N by N instead")
    options = parser.parse_args()
    mx.set_default_device(mx.gpu if options.device == "mlx:gpu" else mx.cpu)
    if options.matmul:
        n = options.matmul
        print(f"a product of two {n} x {n} bfloat16 matrices on {options.device}; TFLOP/s")
        times = interleaved(products(options.device, n), options.rounds, 1)
        figures = {name: 2 * n**3 / statistics.median(values) / 1e12 for name, values in times.items()}
    else:
        print(f"{LENGTH} lazy additions of 1024 float32 on {options.device}, evaluated once; microseconds for each")
        times = interleaved(chains(options.device), options.rounds, 8)
        figures = {name: statistics.median(values) / LENGTH * 1e6 for name, values in times.items()}
    base = times["upstream's Python"]
    for name, values in times.items():
        ratio = statistics.median(value / reference for value, reference in zip(values, base, strict=True))
        print(f"{name:28s} {figures[name]:8.2f}   {ratio:.3f} of the time of upstream's Python")


if __name__ == "__main__":
    main()
