"""The program behind ``newLibraryWithSource``: reads kernels from standard input and prints the path of the compiled library.

If they are not accepted it prints the messages instead and returns 1. It is run by objc/metal.mm and by nobody else.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from standin.errors import StandinError
    from standin.toolchain import compile_source

    try:
        print(compile_source(sys.stdin.read(), checked="--checked" in sys.argv))
    except StandinError as error:
        print(error)
        sys.exit(1)
