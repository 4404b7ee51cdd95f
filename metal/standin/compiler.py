"""The program behind ``newLibraryWithSource``: reads kernels from standard input, prints the path of their library.

If they are not accepted it prints the messages instead and returns 1. It is run by objc/metal.mm and by nobody else.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from standin.errors import StandinError
    from standin.toolchain import compile_source, executor

    if f"--executor={executor()}" not in sys.argv:
        print("the stand-in's sources are newer than the library that runs it: make metal-standin")
        sys.exit(1)
    try:
        print(compile_source(sys.stdin.read(), checked="--checked" in sys.argv))
    except StandinError as error:
        print(error)
        sys.exit(1)
