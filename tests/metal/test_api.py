"""Selectors and values of the stand-in's headers against Apple's, as the metal-cpp headers in upstream's wheel have it.

What the Metal runtime uses it finds in the stand-in's headers, or it would not compile; so these headers are what has
to agree. `make build/metal-cpp` fetches Apple's (they are part of the wheel mlx-metal for macOS).
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INCLUDE = ROOT / "metal" / "standin" / "include"

#: What metal-cpp has no need of, because C++ or its language has something of its own: the oldest part of Foundation.
LANGUAGE = {
    "new", "class", "isKindOfClass:", "respondsToSelector:", "conformsToProtocol:", "isEqual:", "superclass",
    "countByEnumeratingWithState:objects:count:", "objectAtIndexedSubscript:",
    "objectForKeyedSubscript:", "arrayWithObjects:count:", "dictionaryWithObjects:forKeys:count:", "stringWithFormat:",
    "stringWithUTF8String:", "initWithUTF8String:", "initWithBytes:length:encoding:", "stringByAppendingString:",
    "stringWithContentsOfFile:encoding:error:", "containsObject:", "addObject:", "removeAllObjects",
    "errorWithDomain:code:userInfo:", "path",
}  # fmt: skip


def apples_headers() -> str:
    """Return the text of metal-cpp, or skip."""
    folders = [ROOT / "build" / "metal-cpp"]
    spec = importlib.util.find_spec("mlx")
    folders += [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    for folder in folders:
        files = sorted(folder.glob("**/metal_cpp/**/*.hpp"))
        if files:
            return "".join(f.read_text(errors="replace") for f in files)
    pytest.skip("Apple's metal-cpp headers (wheel mlx-metal) are not here: make build/metal-cpp")


def without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.S)


def headers(name: str) -> str:
    return without_comments((INCLUDE / name / f"{name}.h").read_text())


def selectors(text: str) -> set[str]:
    """Return the selectors that Objective-C declarations make, those of properties too."""
    found = set()
    nested = r"\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"
    for match in re.finditer(rf"^\s*[-+]\s*{nested}\s*([^;{{]+);", text, re.M):
        declaration = re.sub(r"__attribute__\s*\(\(.*?\)\)\)?", "", match[1])
        parts = re.findall(rf"(\w+):\s*{nested}", declaration)
        found.add("".join(f"{p}:" for p in parts) if parts else declaration.split()[0].rstrip(","))
    for match in re.finditer(r"@property\s*(?:\(([^)]*)\))?\s*[^;]*?(\w+)\s*;", text):
        found.add(match[2])
        if "readonly" not in (match[1] or ""):
            found.add(f"set{match[2][0].upper()}{match[2][1:]}:")
    return found


def values(text: str, enumerator: str) -> dict[str, str]:
    """Return the expressions of enumerators that match."""
    return {m[1]: m[2].strip() for m in re.finditer(rf"\b({enumerator})\s*=\s*([^,}}]+)", text)}


def number(expression: str, known: dict[str, str]) -> int:
    text = re.sub(r"\b[A-Z]\w*::", "", expression)
    text = re.sub(r"(?<=\d)[uUlL]+\b", "", text)
    text = re.sub(r"\b[A-Z]\w+\b", lambda m: f"({number(known[m[0]], known)})", text)
    assert re.fullmatch(r"[\d\s()<|x a-fA-F+-]+", text), expression
    return int(eval(text))


@pytest.mark.parametrize("name", ["Metal", "Foundation"])
def test_selectors_are_apples(name: str) -> None:
    apple = apples_headers()
    known = set(re.findall(r'_(?:MTL|NS|CA)_PRIVATE_DEF_SEL\(\s*\w+,\s*"([^"]+)"\s*\)', apple))
    assert len(known) > 1000
    mine = selectors(headers(name))
    assert len(mine) > 30
    getters = {s for s in mine if s not in known and f"is{s[:1].upper()}{s[1:]}" in known}
    # Setters of properties that metal-cpp leaves out do not exist there under any name.
    assert sorted(mine - known - getters - LANGUAGE) == []


def test_values_of_enumerators_are_apples() -> None:
    apple = without_comments(apples_headers())
    known = {}
    for match in re.finditer(r"_MTL_(?:ENUM|OPTIONS)\([^,]+,\s*(\w+)\)\s*\{([^}]*)\}", apple):
        known.update(values(match[2], r"\w+"))
    mine = values(headers("Metal"), r"MTL\w+")
    assert len(mine) > 70
    unknown = [name for name in mine if name.removeprefix("MTL") not in known]
    assert unknown == []
    for name, expression in mine.items():
        assert number(expression, {}) == number(known[name.removeprefix("MTL")], known), name


def test_runtime_includes_nothing_else() -> None:
    text = without_comments((ROOT / "shim" / "src" / "metal_runtime.mm").read_text())
    assert set(re.findall(r"#import <([^>]+)>", text)) == {"Foundation/Foundation.h", "Metal/Metal.h"}
    for word in ("@try", "@throw", "@catch", "dispatch_async", "objc/runtime.h", "valueForKey"):
        assert word not in text
