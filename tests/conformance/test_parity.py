"""The parity record and its page, from runs made by hand and from a real one on a few ops."""

import json
from pathlib import Path

from made_cases import Side, X, case, error, values

from mlxr.__main__ import main
from mlxr.backends import default
from mlxr.backends.default import Place
from mlxr.conformance import parity
from mlxr.conformance.suite import run

GPU = Place("Apple M9", "Darwin 99.1", False, {"rows.metal": "a" * 64})


def answered(**wrong):
    def answer(c):
        return wrong.get(f"{c.op}_{c.label}", values(X))

    chosen = [case(op, label=label) for op in ("add", "floor", "exp") for label in "01"]
    return run(chosen, Side(values(X)), Side(answer), facts={}, exceptions=())


def record_of(upstream=None, metal=None, place=GPU):
    return parity.make_record(place, upstream, metal, {"machine": "m", "upstream": "mlx 1"})


def test_verdicts():
    lacking = error("UnsupportedOpError", "MlxrError", text="[exp] no kernel for float32")
    wide = error("UnsupportedOpError", "MlxrError", text="[floor] no kernel for complex64")
    table = parity.verdicts(answered(add_1=values(X + 1), exp_0=lacking, floor_0=wide))
    assert [table[op]["verdict"] for op in ("add", "floor", "exp")] == ["failed", "passed", "failed"]
    assert table["add"] == {"verdict": "failed", "same": 1, "failed": 1}
    nothing = parity.verdicts(answered(floor_0=wide, floor_1=wide))
    assert nothing["floor"]["verdict"] == "failed"
    assert parity.verdicts(None) == {}


def test_a_record_is_what_the_default_is_decided_by():
    record = record_of(answered(), answered())
    assert default.judge(record, GPU, {"add", "exp"}) is None
    assert default.judge(json.loads(json.dumps(record)), GPU, {"add", "exp"}) is None
    assert "exp" in default.judge(record_of(answered(), answered(exp_0=values(X + 1))), GPU, {"add", "exp"})
    assert default.judge(record_of(answered(), None), GPU, {"add"}) is not None
    assert default.judge(record_of(answered(), answered(), None), GPU, {"add"}) is not None


def test_page():
    record = record_of(answered(), answered(exp_0=values(X + 1)))
    text = parity.page(record, {("cpu", "unit"): {"add"}, ("cpu", "golden"): {"add", "exp"}})
    rows = {line.split(" | ")[0].strip("|` "): line for line in text.splitlines() if line.startswith("| `")}
    assert list(rows) == ["add", "exp", "floor"]
    assert rows["add"] == "| `add` | yes | - | yes | - | - | yes | - | - | yes | yes | - |"
    assert rows["exp"].endswith("| - | **no** | - |")
    assert "stand-in, not a GPU" not in text
    stand_in = parity.page(record_of(answered(), answered(), Place("s", "d", True, {})), {("cpu", "golden"): set()})
    assert "stand-in, not a GPU" in stand_in
    absent = parity.page(record_of(answered(), None, None), {("cpu", "golden"): set()})
    assert "3 not run" in absent
    assert "| absent |" in absent


def test_command_on_a_few_ops(tmp_path, capsys):
    record, page = tmp_path / "parity.json", tmp_path / "parity.md"
    assert main(["parity", "--ops", "floor", "matmul", "--record", str(record), "--page", str(page)]) == 0
    written = json.loads(record.read_text())
    assert written["checksum"] == default.checksum(written)
    assert list(written["ops"]) == ["floor", "matmul"]
    assert written["ops"]["floor"]["upstream"]["verdict"] == "passed"
    assert written["ops"]["floor"]["metal"]["verdict"] in ("passed", "absent")
    assert "| `matmul` |" in page.read_text()
    assert "upstream  2 ops agree" in capsys.readouterr().out
    assert main(["parity", "--ops", "linalg.svd", "--record", str(record)]) == 2


def test_required_ops_are_declared_and_asked_in_dtypes_that_metal_has():
    asked = parity.parity_cases()
    assert {c.op for c in asked} == default.required_ops()
    assert {c.dtype for c in asked} == set(parity.DTYPES)


def test_coverage_of_this_checkout():
    covered = parity.coverage(Path(__file__).parents[2])
    for backend, kinds in (("cpu", ("unit", "property")), ("upstream", ("unit",)), ("metal", ("unit",))):
        for kind in kinds:
            assert default.required_ops() <= covered[backend, kind], (backend, kind)
    assert {"add", "matmul", "softmax"} <= covered["cpu", "benchmark"]
