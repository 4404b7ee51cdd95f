"""Is a commit slower than another? `make bench-compare BASE=rev` runs this: it fails on a regression seen twice.

asv measures both commits in turn and marks what is slower by more than the factor and more than the scatter of its
samples. What it marks is measured again, and counts if it is marked again: a busy moment seldom comes back. Results go
to .asv/compare and leave asv_bench/results alone. It must not know about any benchmark.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import subprocess
import sys

import scratch

HERE = pathlib.Path(__file__).parent
SLOWER = re.compile(r"^\|\s*\+\s*\|(?P<base>[^|]*)\|(?P<head>[^|]*)\|(?P<ratio>[^|]*)\|\s*(?P<name>.*?)\s*\|\s*$", re.M)


def asv(config: pathlib.Path, *arguments: str, output: bool = False) -> str:
    """Run asv; its output goes to the terminal, or comes back."""
    command = [sys.executable, "-m", "asv", *arguments, "--config", str(config)]
    ran = subprocess.run(command, cwd=HERE, stdout=subprocess.PIPE if output else None, text=True)
    # `continuous` exits with 1 for a regression, which is read from `compare`
    if ran.returncode and not (arguments[0] == "continuous" and ran.returncode == 1):
        raise SystemExit(ran.returncode)
    return ran.stdout or ""


def slower(config: pathlib.Path, base: str, head: str, factor: float, machine: str, bench: str) -> dict[str, str]:
    """Measure both commits, and return a line about each benchmark that is slower in `head`."""
    asv(config, "continuous", "--factor", str(factor), "--interleave-rounds", "--show-stderr", "--machine", machine,
        "--bench", bench, base, head)
    table = asv(config, "compare", "--factor", str(factor), "--only-changed", "--machine", machine, base, head,
                output=True)
    return {
        m["name"]: f"{m['name']}: {m['base'].strip()} -> {m['head'].strip()}, {m['ratio'].strip()} times"
        for m in SLOWER.finditer(table) if re.search(bench, re.sub(r" \[.*\]$", "", m["name"]))
    }


def main() -> int:
    """Compare two commits; the exit status says whether the second one is slower."""
    parser = argparse.ArgumentParser(description="Fail if HEAD is slower than BASE, in two measurements.")
    parser.add_argument("base")
    parser.add_argument("head", nargs="?", default="HEAD")
    parser.add_argument("--bench", default=".", help="regular expression: which benchmarks")
    parser.add_argument("--factor", type=float, default=1.1, help="how much slower is a regression")
    parser.add_argument("--machine", required=True, help="the machine's name, as asv knows it")
    options = parser.parse_args()

    config = scratch.configuration("compare")
    base, head = (
        subprocess.run(["git", "rev-parse", "--verify", f"{rev}^{{commit}}"], cwd=HERE, check=True, text=True,
                       stdout=subprocess.PIPE).stdout.strip()
        for rev in (options.base, options.head)
    )
    measure = [base, head, options.factor, options.machine]
    first = slower(config, *measure, options.bench)
    if first:
        print(f"\n{len(first)} slower; once more:", flush=True)
        # asv puts the environment behind the name, which its own expressions do not know
        names = {re.sub(r" \[.*\]$", "", name) for name in first}
        second = slower(config, *measure, f"^(?:{'|'.join(map(re.escape, sorted(names)))})$")
    confirmed = [second[name] for name in first if name in second] if first else []
    print(f"\n{len(confirmed)} benchmarks of {head[:8]} are more than {options.factor} times as slow as in {base[:8]}, "
          "in both measurements")
    print("\n".join(confirmed))
    return 1 if confirmed else 0


if __name__ == "__main__":
    sys.exit(main())
