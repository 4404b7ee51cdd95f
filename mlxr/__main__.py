"""The command line: ``python -m mlxr info | smoke | conformance | parity | bench``.

Each command is a function of the parsed arguments that returns the exit status. Knows the public package and the
registry of backends; nothing imports it.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np

import mlxr
from mlxr import bench as benchmarks
from mlxr.backends import registry
from mlxr.backends.default import choice
from mlxr.conformance import command as conforming
from mlxr.conformance import parity as gate
from mlxr.core.device import backend_of
from mlxr.cpu import select
from mlxr.errors import MlxrError

# What the main job runs, in this order: each checks its own results and says so by its exit status.
EXAMPLES = ("digits.py", "minilm.py")
# A device other than the CPU first has to train as the CPU does: this many steps, whose losses agree to a tolerance.
LOSSES = 20
LOSS_TOLERANCE = 1e-3
PACKAGES = ("numpy", "safetensors", "mlx", "scikit-learn", "tokenizers")


def _size(nbytes: int) -> str:
    """Return a number of bytes as people read it."""
    value, units = float(nbytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> Iterator[tuple[str, str]]:
    yield "mlxr", mlxr.__version__
    yield "Python", platform.python_version()
    for package in PACKAGES:
        version = _version(package)
        if version is not None:
            yield package, version


def _backends() -> Iterator[tuple[str, str]]:
    for status in registry.statuses():
        verdict = f"unavailable: {status.reason}" if status.backend is None else "available"
        yield status.entry.device, f"{verdict} ({status.entry.summary})"


def _memory() -> Iterator[tuple[str, str]]:
    yield "active", _size(mlxr.get_active_memory())
    yield "peak", _size(mlxr.get_peak_memory())
    yield "cached", f"{_size(mlxr.get_cache_memory())} of at most {_size(mlxr.get_cache_limit())}"
    yield "limit", _size(mlxr.get_memory_limit())


def _print_section(title: str, rows: Iterator[tuple[str, str]]) -> None:
    print(title)
    for name, value in rows:
        print(f"  {name:<24}{value}")


def info(_: argparse.Namespace) -> int:
    """Print devices, backends with reasons, instruction set, threads, memory and versions."""
    _print_section("Versions", _versions())
    _print_section("Machine", iter([
        ("system", f"{platform.system()} {platform.machine()}"),
        ("processors", f"{select.default_threads()} of {os.cpu_count()} for this process"),
        ("instruction sets", ", ".join(select.supported())),
    ]))
    _print_section("Devices and backends", _backends())
    print(f"  {'default':<24}{mlxr.default_device()!r} ({choice().reason})")
    for status in registry.statuses():
        if status.backend is not None:
            _print_section(f"Backend {status.entry.device}", iter(status.backend.info().items()))
    _print_section("Memory", _memory())
    return 0


def _examples_folder() -> Path | None:
    """Return the examples of the checkout that this package is installed from, if there is one."""
    folder = Path(mlxr.__file__).parent.parent / "examples"
    return folder if all((folder / name).exists() for name in EXAMPLES) else None


def _losses(example: Path, device: str, hidden: int) -> np.ndarray:
    """Return the first losses of the training example on a device, computed by another Python."""
    command = [sys.executable, str(example), "--device", device, "--losses", str(LOSSES), "--hidden", str(hidden)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return np.array(printed.split(), np.float64)


def _compare_losses(example: Path, device: str, hidden: int) -> str:
    """Return the verdict on the first losses of a device, set against the CPU's."""
    try:
        ours, theirs = (_losses(example, name, hidden) for name in (device, "cpu"))
    except subprocess.CalledProcessError as error:
        return f"FAILED with status {error.returncode}"
    if len(ours) != LOSSES or len(theirs) != LOSSES:
        return f"FAILED: {len(ours)} losses, the CPU has {len(theirs)}"
    furthest = np.max(np.abs(ours - theirs) / np.abs(theirs))  # NaN if any is
    verdict = "ok" if furthest <= LOSS_TOLERANCE else "FAILED"
    return f"{verdict}, within {furthest:.1e} of the CPU's"


def smoke(arguments: argparse.Namespace) -> int:
    """Run the main job: the examples, each in a process of its own, which check and print their results."""
    folder, device = arguments.examples or _examples_folder(), arguments.device
    if folder is None:
        print("the examples are not here: run this in a checkout, or name their folder: --examples FOLDER",
              file=sys.stderr)
        return 2
    try:
        facts = backend_of(device).info()
    except MlxrError as error:
        print(error, file=sys.stderr)
        return 2
    # A stand-in of a GPU runs its kernels one thread after the other: what it can show, it shows at a reduced size.
    reduced = "stand-in" in facts
    jobs: list[tuple[str, Callable[[], str]]] = []
    if device != "cpu":
        title = f"first {LOSSES} losses" + (", small" if reduced else "")
        jobs.append((title, lambda: _compare_losses(folder / EXAMPLES[0], device, 32 if reduced else 256)))

    def run(name: str) -> str:
        status = subprocess.run([sys.executable, folder / name, "--device", device], check=False).returncode
        return "ok" if status == 0 else f"FAILED with status {status}"

    jobs += [(name, partial(run, name)) for name in EXAMPLES if not (reduced and name == EXAMPLES[0])]
    rows = []
    for name, job in jobs:
        print(name, flush=True)
        start = time.perf_counter()
        rows.append((name, job(), time.perf_counter() - start))
        print(flush=True)
    _print_section("Main job", iter((name, f"{verdict}, {seconds:.1f} s") for name, verdict, seconds in rows))
    return 0 if all(verdict.startswith("ok") for _, verdict, _ in rows) else 1


def conformance(arguments: argparse.Namespace) -> int:
    """Compare mlxr with upstream MLX, from the declarations of the ops."""
    return conforming.execute(arguments)


def bench(arguments: argparse.Namespace) -> int:
    """Measure a device on the shapes of a language model."""
    return benchmarks.execute(arguments)


def parity(arguments: argparse.Namespace) -> int:
    """Compare the CPU backend with upstream and with Metal, and write the record that decides about the default."""
    return gate.execute(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mlxr", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(function: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        summary = (function.__doc__ or "").splitlines()[0]
        added = commands.add_parser(function.__name__, help=summary, description=summary)
        added.set_defaults(run=function)
        return added

    command(info)
    runs = command(smoke)
    runs.add_argument("--device", default="cpu", help="device to compute on (default: cpu)")
    runs.add_argument("--examples", type=Path, help="folder with the examples (default: that of the checkout)")
    conforming.add_arguments(command(conformance))
    benchmarks.add_arguments(command(bench))
    gate.add_arguments(command(parity))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parsed = _parser().parse_args(arguments)
    return int(parsed.run(parsed))


if __name__ == "__main__":
    sys.exit(main())
