"""A run's counts, its verdict, and every form in which it is shown."""

import dataclasses
import json
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from made_cases import Side, X, case, error, values

from mlxr.conformance import report
from mlxr.conformance.cases import cases
from mlxr.conformance.compare import compare
from mlxr.conformance.engine import Worker
from mlxr.conformance.exceptions import Explained
from mlxr.conformance.program import program
from mlxr.conformance.suite import OURS, run
from mlxr.ops.declare import REGISTRY

DECLARED = Explained("off", ("cos",), ("value",), "because <it> is & so")
IN_VAIN = Explained("in-vain", ("tan",), ("value",), "never true")


def theirs(c):
    wrong = {"value": values(X + 1), "unsupported": error("UnsupportedOpError", "MlxrError", text="\x00 lacks <it>"),
             "crash": ("crash", "killed by SIGFPE")}
    return wrong.get(c.label, values(X))


@pytest.fixture
def result():
    run_of = [case("sin"), case("sin", label="value"), case("cos", label="value"), case("cos", label="unsupported"),
              case("exp", label="crash"), case("exp", "float16")]
    return run(run_of, Side(lambda c: values(X, dtype=c.dtype)), Side(theirs), facts={"suite": "core"},
               exceptions=(DECLARED, IN_VAIN), complete=True)


def test_counts_and_verdict(result):
    assert result.total == {"same": 1, "failed": 3, "explained": 1, "unsupported": 1}
    assert result.of_op("cos") == {"explained": 1, "unsupported": 1}
    assert result.ops == ["sin", "cos", "exp"]
    assert [d.case.key for d in result.failures] == [
        "sin/float32/sample/row-major/value", "exp/float32/sample/row-major/crash", "exp/float16/sample/row-major/0"]
    assert [e.name for e in result.unused] == ["in-vain"]
    assert not result.passed
    fine = run([case()], Side(values(X)), Side(values(X)), facts={})
    assert fine.passed
    assert not dataclasses.replace(fine, unused=[IN_VAIN]).passed
    assert not run([], Side(values(X)), Side(values(X)), facts={}).passed


def test_table_and_summary(result):
    lines = list(report.table(result))
    assert lines[1].split() == ["sin", "2", "1", "-", "-", "1"]
    assert lines[-1].split() == ["total", "6", "1", "1", "1", "3"]
    text = "\n".join(report.summary(result))
    assert "off (1): because <it> is & so" in text
    assert "covers nothing: in-vain" in text
    assert "Conformance FAILED" in text
    assert "sin/float32/sample/row-major/value" in text


def test_json(result):
    document = json.loads(report.to_json(result))
    assert document["passed"] is False
    assert document["total"]["failed"] == 3
    assert document["ops"]["exp"] == {"float32": {"failed": 1}, "float16": {"failed": 1}}
    assert document["explained"]["off"]["cases"] == ["cos/float32/sample/row-major/value"]
    failure = document["failures"][0]
    assert failure["kind"] == "value"
    assert failure["ulps"] > 1e6
    assert "import mlxr" in failure["program"]


def test_junit(result):
    root = ElementTree.fromstring(report.to_junit(result))
    suites = {s.get("name"): s for s in root}
    assert list(suites) == ["sin", "cos", "exp", "exceptions"]
    assert [suites[n].get("failures") for n in suites] == ["1", "0", "2", "1"]
    assert "killed by SIGFPE" in suites["exp"][0].find("failure").get("message")


class Page(HTMLParser):
    """Checks that elements are closed in order, and that nothing is fetched."""

    OPTIONAL = ("meta", "link", "input", "th", "dt", "dd")

    def __init__(self):
        super().__init__()
        self.open, self.text, self.rows = [], [], 0

    def handle_starttag(self, tag, attrs):
        assert not {"src", "href"} & {name for name, _ in attrs}
        self.rows += tag == "tr"
        if tag not in self.OPTIONAL:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.OPTIONAL:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_page(result):
    page = Page()
    page.feed(report.to_html(result))
    assert page.open == []
    assert page.rows == 1 + 3
    text = "".join(page.text)
    for part in ("failed", "because <it> is & so", "in-vain", "killed by SIGFPE", "sin/float32/sample/row-major/value"):
        assert part in text


def test_page_of_a_run_without_differences():
    page = Page()
    page.feed(report.to_html(run([case()], Side(values(X)), Side(values(X)), facts={})))
    assert "".join(page.text).count("None.") == 2


def runs(found):
    done = subprocess.run([sys.executable, "-c", program(found)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("key", [
    "add/float32/sample/row-major/3", "concatenate/bfloat16/sample/row-major/0", "fft.fft/float32/sample/row-major/0",
    "astype/int64/sample/row-major/0", "sum/float16/layout/permuted/4", "sum/bfloat16/long/row-major/0",
    "nn.gelu_tanh/float64/edge/row-major/0",
    "equal_nan/float32/layout/broadcast/3", "einsum/complex64/layout/reversed/0", "sort/uint64/layout/strided/0",
    "clip/float32/sample/row-major/0", "matmul/float32/refusal/row-major/0",
])
def test_programs_run_in_both_libraries_and_print_what_was_got(key):
    pytest.importorskip("mlx.core", reason="upstream MLX is not installed")
    op = key.split("/")[0]
    (one,) = [c for c in cases("full", [op]) if c.key == key]
    worker = Worker(OURS)
    (mine,) = worker.run([one])
    worker.close()
    other = ("crash", "planted")
    printed = runs(compare(one, mine, other))
    lines = [line for line in printed.splitlines() if line.startswith(("mlxr", "mlx.core"))]
    assert len(lines) == 2
    if mine[0] == "error":
        assert mine[1][0] in lines[0]
    else:
        assert "Error" not in printed


def test_every_kind_of_argument_can_be_written_down():
    for one in cases("core"):
        if one.op not in REGISTRY:
            raise AssertionError(one.op)
        text = program(compare(one, ("crash", "planted"), values(X)))
        compile(text, one.key, "exec")
    assert "float('-inf')" in program(compare(case(args=(-np.inf,)), ("crash", ""), values(X)))
