"""Shows the result of a run: as a table, as JSON, as JUnit's XML, and as a page of HTML that needs nothing else.

Knows results; nothing of how they came about.
"""

from __future__ import annotations

import html
import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

from mlxr.conformance.compare import KINDS, Difference
from mlxr.conformance.measure import NAMES
from mlxr.conformance.program import program, shown
from mlxr.conformance.suite import OMITTED, Result

__all__ = ["summary", "table", "to_html", "to_json", "to_junit"]

# Of alike failures (op and kind), so many are shown in full; all are counted.
SHOWN = 3


def _columns(counter: Counter[str]) -> list[int]:
    omitted = sum(counter[word] for word in OMITTED)
    return [sum(counter.values()), counter["same"], counter["explained"], omitted, counter["failed"]]


def table(result: Result) -> Iterator[str]:
    """Yield the lines of a table with a row for each op, and the total."""
    width = max([len(op) for op in result.ops] + [5])
    head = ("cases", "same", "explained", "omitted", "failed")
    yield "op".ljust(width) + "".join(name.rjust(11) for name in head)
    for op in [*result.ops, "total"]:
        counter = result.total if op == "total" else result.of_op(op)
        if op == "total":
            yield "-" * (width + 55)
        yield op.ljust(width) + "".join(f"{n:,}".rjust(11) if n else "-".rjust(11) for n in _columns(counter))


def summary(result: Result) -> Iterator[str]:
    """Yield what was found beyond the table: explained differences, failures, exceptions in vain, the verdict."""
    if result.explained:
        yield "Explained differences"
        for exception, found in sorted(result.explained.items(), key=lambda item: item[0].name):
            yield f"  {exception.name} ({len(found):,}): {exception.reason}"
    for word in OMITTED:
        count = result.total[word]
        if count:
            yield f"Omitted, because {KINDS[word]}: {count:,}"
    for exception in result.unused:
        yield f"Exception that covers nothing: {exception.name} ({exception.reason})"
    for failure in _chosen(result.failures):
        yield ""
        yield program(failure)
    total = result.total
    verdict = "passed" if result.passed else "FAILED"
    yield (
        f"Conformance {verdict}: {total['same']:,} of {sum(total.values()):,} cases agree, {total['explained']:,} "
        f"differ as declared, {total['failed']:,} differ without explanation ({result.facts['ours']} against "
        f"{result.facts['theirs']}; {result.facts['seconds']} s)"
    )


def _chosen(failures: list[Difference]) -> Iterator[Difference]:
    """Yield the first few failures of each op and kind."""
    seen: Counter[tuple[str, str]] = Counter()
    for found in failures:
        seen[found.case.op, found.kind] += 1
        if seen[found.case.op, found.kind] <= SHOWN:
            yield found


def _number(value: float | None) -> float | str | None:
    """Return what JSON can hold."""
    return value if value is None or math.isfinite(value) else str(value)


def to_json(result: Result) -> str:
    """Return the whole result as JSON."""
    document: dict[str, Any] = {
        "format": 1,
        "facts": result.facts,
        "passed": result.passed,
        "total": dict(result.total),
        "ops": {
            op: {dtype: dict(counter) for (name, dtype), counter in result.counts.items() if name == op}
            for op in result.ops
        },
        "explained": {
            e.name: {"reason": e.reason, "cases": [d.case.key for d in found]} for e, found in result.explained.items()
        },
        "unused": [e.name for e in result.unused],
        "omitted": {d.case.key: d.text for d in result.omitted},
        "failures": [
            {
                "case": d.case.key, "kind": d.kind, "text": d.text, "ulps": _number(d.ulps),
                "expected": shown(d.theirs, d.result), "got": shown(d.ours, d.result), "program": program(d),
            }
            for d in result.failures
        ],
    }
    return json.dumps(document, indent=1) + "\n"


# What XML cannot hold, not even escaped.
CONTROL = {k: "?" for k in range(32) if chr(k) not in "\n\r\t"}


def to_junit(result: Result) -> str:
    """Return the result as JUnit's XML: a suite for each op, a test for each dtype."""
    failures: dict[tuple[str, str], list[Difference]] = {}
    for found in result.failures:
        failures.setdefault((found.case.op, found.case.dtype), []).append(found)
    root = ElementTree.Element("testsuites", name="conformance", time=result.facts["seconds"])
    for op in result.ops:
        dtypes = [dtype for name, dtype in result.counts if name == op]
        suite = ElementTree.SubElement(
            root, "testsuite", name=op, tests=str(len(dtypes)),
            failures=str(sum((op, dtype) in failures for dtype in dtypes)),
        )
        for dtype in dtypes:
            test = ElementTree.SubElement(suite, "testcase", classname=f"conformance.{op}", name=dtype)
            counter = result.counts[op, dtype]
            ElementTree.SubElement(test, "system-out").text = ", ".join(f"{k}: {n}" for k, n in sorted(counter.items()))
            failed = failures.get((op, dtype), [])
            if failed:
                message = f"{len(failed)} cases: {failed[0].text}"[:500].translate(CONTROL)
                node = ElementTree.SubElement(test, "failure", message=message)
                node.text = "\n\n".join(program(d) for d in failed[:SHOWN]).translate(CONTROL)
    if result.unused:
        suite = ElementTree.SubElement(
            root, "testsuite", name="exceptions", tests=str(len(result.unused)), failures=str(len(result.unused))
        )
        for e in result.unused:
            test = ElementTree.SubElement(suite, "testcase", classname="conformance.exceptions", name=e.name)
            ElementTree.SubElement(test, "failure", message="covers nothing").text = e.reason
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


# ------------------------------------------------------------------ the page

STYLE = """
:root { --line: #d8dee4; --soft: #57606a; --good: #2da44e; --warn: #bf8700; --bad: #cf222e; --none: #eaeef2; }
* { box-sizing: border-box; }
body { font: 14px/1.5 system-ui, sans-serif; color: #1f2328; margin: 0 auto; max-width: 1180px; padding: 24px; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 32px 0 8px; }
.soft { color: var(--soft); }
.badge { color: #fff; border-radius: 12px; padding: 2px 12px; font-size: 14px; vertical-align: 3px; margin-left: 8px; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 16px 0; }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: 10px 18px; min-width: 130px; }
.tile b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 8px 0; }
dt { color: var(--soft); } dd { margin: 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: 3px 8px; text-align: right; white-space: nowrap; }
th { position: sticky; top: 0; background: #fff; color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; font-family: ui-monospace, monospace; font-size: 13px; }
td.grid, th.grid { text-align: left; } .grid i { display: inline-block; width: 13px; height: 13px; border-radius: 3px;
  margin-right: 3px; vertical-align: -2px; }
.good { background: var(--good); } .warn { background: var(--warn); } .bad { background: var(--bad); }
.none { background: var(--none); }
details { border: 1px solid var(--line); border-radius: 8px; margin: 8px 0; padding: 6px 12px; }
summary { cursor: pointer; } code { font-size: 13px; }
pre { background: #f6f8fa; border-radius: 6px; padding: 12px; overflow-x: auto; font-size: 12.5px; margin: 8px 0; }
input { font: inherit; padding: 4px 10px; border: 1px solid var(--line); border-radius: 6px; width: 260px; }
label { margin-left: 12px; }
"""

SCRIPT = """
const find = document.getElementById("find"), only = document.getElementById("only");
function filter() {
  for (const row of document.querySelectorAll("#ops tbody tr"))
    row.hidden = !row.dataset.op.includes(find.value.trim()) || (only.checked && row.dataset.plain === "1");
}
find.addEventListener("input", filter); only.addEventListener("change", filter);
"""


def _cell(dtype: str, counter: Counter[str] | None) -> str:
    """Return the square of one dtype in an op's row."""
    if not counter:
        return f'<i class="none" title="{dtype}: not declared"></i>'
    colour = "bad" if counter["failed"] else "warn" if counter["explained"] or counter["unsupported"] else "good"
    words = ", ".join(f"{n:,} {word}" for word, n in sorted(counter.items()))
    return f'<i class="{colour}" title="{dtype}: {words}"></i>'


def _rows(result: Result) -> Iterator[str]:
    for op in result.ops:
        counter = result.of_op(op)
        numbers = "".join(f"<td>{n:,}</td>" if n else '<td class="soft">-</td>' for n in _columns(counter))
        cells = "".join(_cell(name, result.counts.get((op, name))) for name in NAMES)
        plain = int(counter["same"] == sum(counter.values()))
        name = html.escape(op)
        yield f'<tr data-op="{name}" data-plain="{plain}"><td>{name}</td>{numbers}<td class="grid">{cells}</td></tr>'


def _failures(result: Result) -> Iterator[str]:
    if not result.failures:
        yield '<p class="soft">None.</p>'
        return
    counts = Counter((d.case.op, d.kind) for d in result.failures)
    last = None
    for found in _chosen(sorted(result.failures, key=lambda d: (d.case.op, d.kind))):
        group = (found.case.op, found.kind)
        if group != last:
            yield f"<h3><code>{html.escape(group[0])}</code>: {KINDS[group[1]]} ({counts[group]:,})</h3>"
            last = group
        yield (
            f"<details><summary><code>{html.escape(found.case.key)}</code> {html.escape(found.text[:300])}</summary>"
            f"<pre>{html.escape(program(found))}</pre></details>"
        )


def _explained(result: Result) -> Iterator[str]:
    for exception, found in sorted(result.explained.items(), key=lambda item: -len(item[1])):
        ops = ", ".join(dict.fromkeys(d.case.op for d in found))
        largest = max((d.ulps for d in found if d.ulps is not None and math.isfinite(d.ulps)), default=None)
        extent = f"; largest finite difference {largest:.4g} ULP" if largest else ""
        yield (
            f"<details><summary><b>{html.escape(exception.name)}</b> ({len(found):,}): {html.escape(exception.reason)}"
            f'</summary><p class="soft">{html.escape(ops)}{extent}</p><p>For example:</p>'
            f"<pre>{html.escape(program(found[0]))}</pre></details>"
        )
    for exception in result.unused:
        yield (
            f'<details open><summary><span class="badge bad">covers nothing</span> '
            f"<b>{html.escape(exception.name)}</b>: {html.escape(exception.reason)}</summary></details>"
        )
    if not result.explained and not result.unused:
        yield '<p class="soft">None.</p>'


def _omitted(result: Result) -> Iterator[str]:
    for word in OMITTED:
        found = [d for d in result.omitted if d.kind == word]
        if found:
            ops = Counter(d.case.op for d in found)
            names = html.escape(", ".join(f"{op} ({n})" for op, n in ops.most_common()))
            yield f'<p>{KINDS[word].capitalize()}: {len(found):,} cases. <span class="soft">{names}</span></p>'


def to_html(result: Result) -> str:
    """Return the result as one page, with its style and script inside."""
    total = result.total
    tiles = zip(("cases", "agree", "differ as declared", "omitted", "unexplained"), _columns(total), strict=True)
    facts = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in result.facts.items())
    verdict = ("good", "passed") if result.passed else ("bad", "failed")
    omitted = "".join(_omitted(result))
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>mlxr conformance: {verdict[1]}</title>
<style>{STYLE}</style>
<h1>Conformance <span class="badge {verdict[0]}">{verdict[1]}</span></h1>
<div class="soft">{html.escape(result.facts["ours"])} against {html.escape(result.facts["theirs"])}</div>
<div class="tiles">{"".join(f'<div class="tile"><b>{n:,}</b>{name}</div>' for name, n in tiles)}</div>
<dl>{facts}</dl>
<h2>Unexplained differences</h2>
{"".join(_failures(result))}
<h2>Explained differences</h2>
<p class="soft">Declared in <code>mlxr/conformance/exceptions.py</code>, each with its bounds and its reason.</p>
{"".join(_explained(result))}
{f"<h2>Omitted</h2>{omitted}" if omitted else ""}
<h2>Operations</h2>
<p><input id="find" type="search" placeholder="find an op" aria-label="find an op">
<label><input id="only" type="checkbox" style="width:auto"> only those with differences</label></p>
<p class="soft">The squares are {", ".join(NAMES)}:
<span class="grid"><i class="good"></i>all agree <i class="warn"></i>some differ as declared
<i class="bad"></i>unexplained <i class="none"></i>not declared</span></p>
<table id="ops">
<thead><tr><th>op<th>cases<th>agree<th>declared<th>omitted<th>failed<th class="grid">dtypes</tr></thead>
<tbody>{"".join(_rows(result))}</tbody>
</table>
<script>{SCRIPT}</script>
</html>
"""
