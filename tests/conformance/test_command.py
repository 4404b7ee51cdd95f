"""The command, from its arguments to its exit status, with recorded answers and with upstream."""

import dataclasses
import json

import pytest

from mlxr.__main__ import main
from mlxr.conformance import golden
from mlxr.conformance.cases import cases
from mlxr.errors import BackendUnavailableError

RECORD = "python -m mlxr conformance --record tests/golden/conformance.xz (with upstream MLX installed)"


def conformance(*arguments) -> int:
    return main(["conformance", *map(str, arguments)])


def test_core_suite_agrees_with_what_upstream_answered(capsys):
    assert conformance("--against", "golden") == 0, capsys.readouterr().out
    assert "Conformance passed" in capsys.readouterr().out


def test_the_record_knows_the_core_suite():
    every = list(cases("core"))
    unknown = [c.key for c, a in zip(every, golden.Golden().run(every), strict=True) if a[0] == "unrecorded"]
    # A few, so that an op can be declared where upstream is not installed.
    assert len(unknown) < len(every) / 20, f"{unknown[:10]} and more: {RECORD}"
    assert golden.DEFAULT.stat().st_size < 2**20


def test_a_wrong_answer_fails_and_is_shown_in_every_form(tmp_path, capsys):
    some = list(cases("core", ["floor"]))
    good = golden.Golden().run(some)
    wrong = [("values", [(*a[1][0][:3], bytes(len(a[1][0][3])), "row-major")]) if c.label == "4" else a
             for c, a in zip(some, good, strict=True)]
    file = tmp_path / "wrong.xz"
    golden.write(file, {"library": "mlx", "version": "0", "device": "cpu"}, zip(some, wrong, strict=True))
    outputs = [tmp_path / "reports" / name for name in ("r.json", "r.xml", "r.html")]
    assert conformance("--ops", "floor", "--against", "golden", "--golden", file, "--json", outputs[0], "--junit",
                       outputs[1], "--html", outputs[2]) == 1
    printed = capsys.readouterr().out
    assert "# floor/float32/sample/row-major/4" in printed
    assert "Conformance FAILED" in printed
    assert json.loads(outputs[0].read_text())["total"]["failed"] >= 1
    assert all("floor/float32/sample/row-major/4" in path.read_text() for path in outputs)


def test_shards_run_parts(capsys):
    counted = []
    for k in (1, 2, 3):
        assert conformance("--ops", "add", "sub*", "--against", "golden", "--shard", f"{k}/3") == 0
        line = next(row for row in capsys.readouterr().out.splitlines() if row.startswith("total"))
        counted.append(int(line.split()[1]))
    assert sum(counted) == len(list(cases("core", ["add", "subtract"])))


def test_what_cannot_be_run_says_so(tmp_path, capsys):
    assert conformance("--ops", "no_such_op") == 2
    assert conformance("--against", "golden", "--golden", tmp_path / "none.xz") == 2
    (tmp_path / "broken.xz").write_bytes(b"broken")
    assert conformance("--against", "golden", "--golden", tmp_path / "broken.xz") == 2
    said = capsys.readouterr().err
    for part in ("no_such_op", "none.xz", "broken.xz"):
        assert part in said
    with pytest.raises(SystemExit):
        conformance("--shard", "4/3")


def test_changed_cases_are_not_compared_with_old_answers(tmp_path):
    some = list(cases("core", ["floor"]))
    file = tmp_path / "old.xz"
    facts = {"library": "mlx", "version": "0", "device": "cpu"}
    golden.write(file, facts, ((c, ("values", [])) for c in some[1:]))
    side = golden.Golden(file)
    assert side.run(some[:2]) == [("unrecorded", "no answer was recorded"), ("values", [])]
    changed = dataclasses.replace(some[1], kwargs={"more": ("v", 1)})
    assert side.run([changed])[0][0] == "unrecorded"


def test_upstream_is_asked_where_it_is(capsys):
    pytest.importorskip("mlx.core", reason="upstream MLX is not installed")
    assert conformance("--ops", "floor_divide", "random.bits") == 0
    printed = capsys.readouterr().out
    assert "integer-division-by-zero" in printed
    assert "no-public-bits" in printed


def test_without_upstream_golden_is_used_and_named(monkeypatch, capsys):
    from mlxr.conformance import command

    real = command.Worker

    def without_upstream(target):
        if target.name == "upstream MLX":
            raise BackendUnavailableError("upstream MLX: not installed", device="mlx", reason="not installed")
        return real(target)

    monkeypatch.setattr(command, "Worker", without_upstream)
    assert conformance("--ops", "floor") == 0
    seen = capsys.readouterr()
    assert "not installed" in seen.err
    assert "recorded in conformance.xz" in seen.out
