"""Measure what a call through the binding costs, against upstream's own Python in the same process.

    python shim/measure.py [rounds]

Prints medians, and ratios of measurements that lie next to each other in time: other load on the machine hits both.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import mlx.core as mx
import numpy as np

from mlxr import shim
from mlxr.shim import abi

LENGTH = 64


def chains() -> dict[str, Callable[[], None]]:
    """Ways to build a lazy chain of additions and evaluate it once."""
    lib = shim.load()
    x = np.ones(1024, np.float32)
    theirs, ours = mx.array(x), lib.from_numpy(x, copy=True)
    add = lib.functions.mlxr_binary

    def upstream() -> None:
        c = theirs
        for _ in range(LENGTH):
            c = c + theirs
        mx.eval(c)

    def methods() -> None:
        c = ours
        for _ in range(LENGTH):
            c = lib.binary(abi.ADD, c, ours)
        lib.eval(c)

    def functions() -> None:
        c = ours
        for _ in range(LENGTH):
            c = add(abi.ADD, c, ours, 0)
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
        lib.eval(*lib.run(kept, [ours]))

    def fresh_program() -> None:
        lib.eval(*lib.run(make_program(), [ours]))

    return {
        "upstream's Python": upstream,
        "methods of Library": methods,
        "Library.functions": functions,
        "a program, kept": program,
        "a program, made each time": fresh_program,
    }


def main(rounds: int) -> None:
    """Print the table."""
    ways = chains()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append((time.perf_counter() - start) / LENGTH * 1e6)
    base = times["upstream's Python"]
    print(f"a chain of {LENGTH} additions of 1024 float32, built and evaluated once; microseconds for each addition")
    for name, values in times.items():
        ratio = statistics.median(value / reference for value, reference in zip(values, base, strict=True))
        print(f"{name:28s} {statistics.median(values):6.2f}   {ratio:.2f} of upstream's")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
