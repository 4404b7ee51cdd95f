"""A configuration of asv whose results are not kept: they go to .asv, and asv_bench/results stays as it is in git.

``python asv_bench/scratch.py NAME`` writes .asv/NAME.conf.json and prints its path. It must not know about any
benchmark.
"""

from __future__ import annotations

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent


def configuration(name: str) -> pathlib.Path:
    """Write a configuration that keeps its results in .asv/`name`, and return its path."""
    folder = HERE.parent / ".asv"
    folder.mkdir(exist_ok=True)
    settings = json.loads((HERE / "asv.conf.json").read_text())
    # Paths in a configuration are relative to it.
    settings |= {"repo": str(HERE.parent), "benchmark_dir": str(HERE / "benchmarks"), "env_dir": str(folder / "env"),
                 "results_dir": str(folder / name), "html_dir": str(folder / "html")}
    path = folder / f"{name}.conf.json"
    path.write_text(json.dumps(settings))
    return path


if __name__ == "__main__":
    print(configuration(sys.argv[1]))
