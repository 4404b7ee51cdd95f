"""The command line, and devices whose backend does not exist here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mlxr as mx
from mlxr import __main__ as command_line
from mlxr.backends import registry
from mlxr.errors import BackendUnavailableError, InvalidValueError


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mlxr", *arguments], capture_output=True, text=True, check=False)


def test_info_names_every_backend_and_why_one_is_unavailable(capsys):
    assert command_line.main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for status in registry.statuses():
        line = next(line for line in lines if line.split()[:1] == [status.entry.device])
        assert (status.reason or "available") in line
    text = "\n".join(lines)
    assert mx.__version__ in text
    backend = next(status.backend for status in registry.statuses() if status.entry.device == "cpu")
    assert f"threads                 {backend.get_threads()}" in text
    assert backend.isa in text
    for fact in ("active", "peak", "cached", "limit"):
        assert f"  {fact} " in text


def test_info_runs_as_a_program():
    result = run("info")
    assert result.returncode == 0, result.stderr
    assert "Devices and backends" in result.stdout


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("smoke", "--nonsense")])
def test_usage_errors(arguments):
    with pytest.raises(SystemExit) as stopped:
        command_line.main(arguments)
    assert stopped.value.code == 2


@pytest.mark.parametrize(("digits", "minilm", "expected"), [(0, 0, 0), (1, 0, 1), (0, 3, 1)])
def test_smoke_fails_if_an_example_does(tmp_path, capfd, digits, minilm, expected):
    for name, status in [("digits.py", digits), ("minilm.py", minilm)]:
        (tmp_path / name).write_text(f"import sys\nprint(sys.argv[1:])\nsys.exit({status})\n")
    assert command_line.main(["smoke", "--examples", str(tmp_path), "--device", "cpu"]) == expected
    out = capfd.readouterr().out
    assert out.count("['--device', 'cpu']") == 2
    assert out.count("FAILED") == expected


LOSSES = """
import sys
device = sys.argv[sys.argv.index("--device") + 1]
if device == "broken":
    sys.exit(3)
for step in range(20 if device != "short" else 19):
    print(1 + step + (0.1 if device == "off" and step == 7 else 1e-5))
if device == "nan":
    print("nan")
"""


@pytest.mark.parametrize(
    ("device", "verdict"),
    [("same", "ok, within 0.0e+00"), ("off", "FAILED, within 1.2e-02"), ("broken", "FAILED with status 3"),
     ("short", "FAILED: 19 losses"), ("nan", "FAILED: 21 losses")],
)
def test_losses_are_compared_with_the_cpus(tmp_path, device, verdict):
    (tmp_path / "digits.py").write_text(LOSSES)
    assert command_line._compare_losses(tmp_path / "digits.py", device, 32).startswith(verdict)


def test_a_loss_that_is_no_number_fails(tmp_path):
    (tmp_path / "digits.py").write_text(LOSSES.replace('0.1 if device == "off"', 'float("nan") if device == "off"'))
    assert command_line._compare_losses(tmp_path / "digits.py", "off", 32).startswith("FAILED, within nan")


@pytest.mark.parametrize("device", ["tpu", *[s.entry.device for s in registry.statuses() if s.backend is None][:1]])
def test_smoke_on_a_device_that_is_not_here(device, capsys):
    assert command_line.main(["smoke", "--device", device]) == 2
    assert device in capsys.readouterr().err


def test_smoke_without_a_checkout(monkeypatch, capsys):
    monkeypatch.setattr(mx, "__file__", str(Path(mx.__file__).parent / "somewhere" / "else" / "__init__.py"))
    assert command_line.main(["smoke"]) == 2
    assert "--examples" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("nbytes", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 30, "3.0 GiB"), (5 << 50, "5120.0 TiB")]
)
def test_sizes(nbytes, text):
    assert command_line._size(nbytes) == text


UNAVAILABLE = [status for status in registry.statuses() if status.backend is None]


@pytest.mark.parametrize("status", UNAVAILABLE, ids=lambda status: status.entry.device)
def test_a_device_without_a_backend_is_a_typed_error(status):
    device = status.entry.device
    default = mx.default_device()
    with pytest.raises(BackendUnavailableError) as caught:
        mx.zeros((2,), device=device)
    assert caught.value.device == device
    assert caught.value.reason == status.reason
    assert caught.value.reason in str(caught.value)
    assert isinstance(caught.value, RuntimeError)
    with pytest.raises(BackendUnavailableError), mx.default_device(device):
        pass
    with pytest.raises(BackendUnavailableError):
        mx.set_default_device(device)
    assert mx.default_device() == default


def test_an_unknown_device_is_an_error_that_lists_the_known_ones():
    with pytest.raises(InvalidValueError, match="mlx:cpu"):
        mx.zeros((2,), device="tpu")
