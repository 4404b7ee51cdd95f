"""The worked example of CONTRIBUTING.md, a new op, applied to a checkout: the page is held to the code.

``python tests/helpers/worked_example.py FOLDER`` edits the sources there, for building and trying by hand. It knows
where the page says that code goes; the code itself is the page's. It must not know how the sources are compiled.
"""

from __future__ import annotations

import pathlib
import re
import sys
import textwrap

PAGE = pathlib.Path(__file__).parents[2] / "CONTRIBUTING.md"
NAME = "softsign"

# The page's pieces of code, in order: the file, and the text in front of which it goes (None: the end of the file).
PLACES = (
    ("mlxr/cpu/kernels/elementwise.pxd", "    LOGICAL_NOT "),
    ("mlxr/cpu/kernels/vecmath.pxd", None),
    ("mlxr/cpu/kernels/elementwise.pyx", "    else:\n        return predicate_real[float](op, x, out_, n)\n"),
    ("mlxr/cpu/kernels/elementwise.pyx", "    else:\n        return predicate_real[double](op, x, out_, n)\n"),
    ("mlxr/backends/cpu.pyx", '    "abs": kernels.ABS,'),
    ("mlxr/ops/elementwise.py", "\n# ------------------------------------------------------------------ rounding\n"),
    ("mlxr/nn/layers/activations.py", "    return x / (mx.abs(x) + 1)\n"),
    ("tests/numerics/functions.h", "#undef UNARY\n"),
    ("mlxr/backends/upstream.pyx", "\n\nCOMPOSED = {\n"),
    ("metal/kernels/elementwise.metal", "    case LOGICAL_NOT: return float(x == 0.0f);"),
)
REPLACED = "mlxr/nn/layers/activations.py"  # here the piece takes the place of the text
# The lists that the page's text names: the file, the text in front of which an entry goes, the entry.
LISTS = (
    ("tests/numerics/ulp.c", "DO(add) DO(subtract)", f"DO({NAME}) "),
    ("tests/numerics/measure.py", '"softplus",\n)', f'"{NAME}", '),
    ("mlxr/backends/upstream.pyx", '"softplus": _softplus,', f'"{NAME}": _{NAME}, '),
    ("mlxr/backends/metal/elementwise.py", '"logical_not", "isnan", "isinf", "isfinite",', f'"{NAME}", '),
    ("metal/kernels/elementwise.metal", "LOGICAL_NOT, ISNAN, ISINF, ISFINITE,\n", f"{NAME.upper()}, "),
)


def pieces() -> list[str]:
    """Return the pieces of code of the worked example, without the page's indentation."""
    section = PAGE.read_text().split("\n## Adding an elementwise op", 1)[1].split("\n## ", 1)[0]
    found = re.findall(r"^   ```\S+\n(.*?)^   ```$", section, re.DOTALL | re.MULTILINE)
    # Three columns are the list's; what is further in belongs to the code.
    return [re.sub(r"^   ", "", piece, flags=re.MULTILINE) for piece in found]


def edits() -> list[tuple[str, str | None, str]]:
    """Return every edit: the file, the text in front of which it goes (None: the end), and what goes there."""
    code = zip(PLACES, pieces(), strict=True)
    # Functions stand apart.
    return [*((*place, "\n\n" * ("def " in piece) + piece) for place, piece in code), *LISTS]


def edited(file: str, text: str, place: str | None, piece: str) -> str:
    """Return a file's text with a piece at its place, which must be there once."""
    if place is None:
        return text + piece
    if text.count(place) != 1:
        raise ValueError(f"{file}: {textwrap.shorten(place, 60)!r} is there {text.count(place)} times")
    return text.replace(place, piece if file == REPLACED else piece + place)


if __name__ == "__main__":
    for file, place, piece in edits():
        path = pathlib.Path(sys.argv[1], file)
        path.write_text(edited(file, path.read_text(), place, piece))
