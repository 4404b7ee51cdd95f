"""Which device becomes the default: records that are valid, forged and stale, and the explicit overrides."""

import copy
import dataclasses
import json
import os
import subprocess
import sys

import pytest

import mlxr as mx
from mlxr.backends import default
from mlxr.backends.default import Place
from mlxr.errors import BackendUnavailableError

HERE = Place("Apple M9", "Darwin 99.1", False, {"rows.metal": "a" * 64, "operands.h": "b" * 64})
STAND_IN = dataclasses.replace(HERE, device="mlxr software stand-in (not a GPU)", stand_in=True)
REQUIRED = {"add", "matmul"}


def sealed(record):
    return {**record, "checksum": default.checksum(record)}


def made(place=HERE, **changes):
    """A record as it is made on a place, with changes, and the checksum that belongs to it."""
    ops = {op: {"upstream": {"verdict": "passed"}, "metal": {"verdict": "passed", "same": 9}} for op in REQUIRED}
    record = {"format": default.FORMAT, "mlxr": "1", "date": "2026-01-01", **dataclasses.asdict(place), "ops": ops}
    return sealed({**record, **changes})


def refused(record, here=HERE):
    return default.judge(record, here, REQUIRED)


def test_a_valid_record_makes_metal_the_default():
    assert refused(made()) is None
    assert refused(json.loads(json.dumps(made()))) is None
    more = made()
    more["ops"]["sin"] = {"metal": {"verdict": "failed"}}  # not required
    assert refused(sealed(more)) is None


def test_a_record_of_the_stand_in_never_does():
    assert "on the software stand-in" in refused(made(STAND_IN))
    assert "stand-in here" in refused(made(STAND_IN), STAND_IN)
    assert "stand-in here" in refused(made(), STAND_IN)
    # With another name, as if it were a GPU's, and a checksum to match:
    assert "on the software stand-in" in refused(made(dataclasses.replace(STAND_IN, device=HERE.device)))
    assert refused(made(stand_in=None)) is not None
    assert refused(made(stand_in=0)) is not None


@pytest.mark.parametrize("change", [
    lambda r: r.update(device="Apple M8"),
    lambda r: r.update(stand_in=True),
    lambda r: r["ops"]["add"]["metal"].update(verdict="failed"),
    lambda r: r["ops"].pop("add"),
    lambda r: r["kernels"].update({"rows.metal": "c" * 64}),
    lambda r: r.update(date="2027-01-01"),
    lambda r: r.pop("checksum") and r.update(checksum=""),
])
def test_a_record_that_was_changed_is_forged(change):
    record = made()
    change(record)
    assert refused(record) == "the parity record was changed after it was made"


def test_a_verdict_of_its_own_is_not_believed():
    record = made()
    record["ops"]["add"]["metal"]["verdict"] = "failed"
    assert refused(sealed({**record, "passed": True})) == "ops did not pass in the parity record: add"


@pytest.mark.parametrize(("change", "reason"), [
    ({"kernels": {"rows.metal": "c" * 64, "operands.h": "b" * 64}}, "rows.metal"),
    ({"kernels": {"rows.metal": "a" * 64}}, "operands.h"),
    ({"kernels": {}}, "operands.h, rows.metal"),
    ({"device": "Apple M8"}, "another device: Apple M8, not Apple M9"),
    ({"driver": "Darwin 99.0"}, "another driver"),
    ({"format": 0}, "format 0"),
    ({"ops": {"add": {"metal": {"verdict": "passed"}}}}, "lacks required ops: matmul"),
    ({"ops": {op: {"metal": {"verdict": "absent"}} for op in REQUIRED}}, "did not pass"),
])
def test_a_stale_record_says_what_has_changed(change, reason):
    assert reason in refused(made(**change))


@pytest.mark.parametrize("record", [{}, [], None, 3, "x", sealed({"format": 1}), made(ops=None), made(kernels=None),
                                    made(ops={op: {} for op in REQUIRED})])
def test_malformed_records(record):
    assert refused(record) is not None


def chosen(tmp_path, record=None, environment=None, probe=lambda: HERE):
    path = tmp_path / "parity.json"
    if record is not None:
        path.write_text(record if isinstance(record, str) else json.dumps(record))
    return default.choose(environment or {}, path, probe, lambda: REQUIRED)


def unasked():
    raise AssertionError("the device must not be asked")


def test_choice(tmp_path):
    def absent():
        raise BackendUnavailableError("no Metal", reason="no Metal")

    assert chosen(tmp_path, probe=unasked) == default.Choice("cpu", "no parity record")
    assert chosen(tmp_path, made()).device == "metal"
    assert chosen(tmp_path, made(), probe=lambda: STAND_IN).device == "cpu"
    assert chosen(tmp_path, made(), probe=absent).device == "cpu"
    assert chosen(tmp_path, "{", probe=unasked).device == "cpu"
    assert chosen(tmp_path, made(), {"MLXR_DEFAULT_DEVICE": "cpu"}, unasked).device == "cpu"
    assert chosen(tmp_path, None, {"MLXR_DEFAULT_DEVICE": "mlx:cpu"}, unasked).device == "mlx:cpu"
    assert chosen(tmp_path, "{", {"MLXR_DEFAULT_DEVICE": ""}, unasked).device == "cpu"


def test_hashes_follow_every_byte_of_every_file(tmp_path):
    (tmp_path / "a.metal").write_text("kernel")
    (tmp_path / "b.h").write_text("header")
    (tmp_path / "notes.txt").write_text("not a kernel")
    before = default.kernel_hashes(tmp_path)
    assert list(before) == ["a.metal", "b.h"]
    (tmp_path / "b.h").write_text("header ")
    after = default.kernel_hashes(tmp_path)
    assert after["a.metal"] == before["a.metal"]
    assert after["b.h"] != before["b.h"]


def started(code="", **environment):
    """Run Python in a process of its own, and return what it says of its default device."""
    program = f"import mlxr as mx\n{code}\nprint(mx.default_device())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300,
                          env={**os.environ, **environment})
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_the_environment_and_the_scope_override(tmp_path):
    none = {"MLXR_PARITY_RECORD": str(tmp_path / "none.json")}
    assert started(**none) == "Device(cpu, 0)"
    assert started(**none, MLXR_DEFAULT_DEVICE="cpu") == "Device(cpu, 0)"
    assert "no device is called 'gpux'" in started(**none, MLXR_DEFAULT_DEVICE="gpux")
    assert "BackendUnavailableError" in started(**none, MLXR_DEFAULT_DEVICE="metal", MLXR_METAL="none",
                                                MLXR_SHIM_METAL=str(tmp_path / "none.so"))


def test_records_do_nothing_where_metal_is_the_stand_in_or_absent(tmp_path):
    try:
        place = default.metal_here()
    except BackendUnavailableError:
        place = HERE
    if not place.stand_in and sys.platform == "darwin":
        pytest.skip("needs the software stand-in, and this device is a real GPU")
    ops = {op: {"metal": {"verdict": "passed"}} for op in default.required_ops()}
    for stand_in in (True, False):
        record = sealed({**made(dataclasses.replace(place, stand_in=stand_in)), "ops": ops})
        file = tmp_path / "forged.json"
        file.write_text(json.dumps(record))
        assert started(MLXR_PARITY_RECORD=str(file)) == "Device(cpu, 0)"


def test_an_override_in_the_program_wins(tmp_path, monkeypatch):
    if not mx.is_available("mlx:cpu"):
        pytest.skip("device mlx:cpu is not available: the shim is not built")
    assert started(MLXR_DEFAULT_DEVICE="mlx:cpu") == "Device(mlx:cpu, 0)"
    assert started("mx.set_default_device('cpu')", MLXR_DEFAULT_DEVICE="mlx:cpu") == "Device(cpu, 0)"


def test_judging_changes_nothing():
    record = made()
    before = copy.deepcopy(record)
    refused(record)
    assert record == before
