"""Documents are held to the code. ``python tests/test_docs.py`` rewrites the generated parts."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import worked_example

from mlxr.core.dtype import ALL_DTYPES, promote_types
from mlxr.ops import declare

ROOT = Path(__file__).parent.parent
DTYPES = ROOT / "docs" / "dtypes.md"
GENERATED = re.compile(r"(<!-- generated -->\n).*?(<!-- end -->\n)", re.DOTALL)
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def promotion_table() -> str:
    """The table of docs/dtypes.md: the dtype in which operands of two dtypes are computed."""
    short = {d: re.sub(r"[a-z]+", lambda m: {"bool": "bool", "bfloat": "bf"}.get(m[0], m[0][0]), d.name)
             for d in ALL_DTYPES}
    header = "| | " + " | ".join(short[d] for d in ALL_DTYPES) + " |\n|---" + "|---" * len(ALL_DTYPES) + "|\n"
    rows = (
        f"| **{a.name}** | " + " | ".join(short[promote_types(a, b)] for b in ALL_DTYPES) + " |\n" for a in ALL_DTYPES
    )
    return header + "".join(rows)


def with_generated(text: str) -> str:
    return GENERATED.sub(lambda m: m[1] + promotion_table() + m[2], text)


def test_promotion_table_is_what_the_code_does():
    text = DTYPES.read_text()
    assert GENERATED.search(text)
    assert with_generated(text) == text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_readme_program_prints_what_it_says():
    program = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    expected = re.search(r"print\(.*\)  # (.*)", program)[1]
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == expected


def test_every_make_target_that_documents_name_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"`(?:MLX_SRC=\S+ )?make ([a-z-]+)", page.read_text()):
            assert target in targets, f"{page.name}: make {target}"


def test_worked_example_fits_the_sources():
    page = worked_example.PAGE.read_text()
    texts = {}
    for file, place, piece in worked_example.edits():
        assert Path(file).name in page, file
        texts[file] = worked_example.edited(file, texts.get(file) or (ROOT / file).read_text(), place, piece)
    declared = next(node.value for node in ast.parse(texts["mlxr/ops/elementwise.py"]).body
                    if isinstance(node, ast.AnnAssign) and node.target.id == worked_example.NAME)
    inspect.signature(declare.unary).bind(*declared.args, **{k.arg: k.value for k in declared.keywords})


if __name__ == "__main__":
    DTYPES.write_text(with_generated(DTYPES.read_text()))
