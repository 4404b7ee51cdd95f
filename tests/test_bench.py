"""``python -m mlxr bench``: figures that follow from shapes and times, and what it says of devices that are none."""

import json

import pytest

from mlxr import bench
from mlxr.__main__ import main
from mlxr.core.device import backend_of
from mlxr.errors import MlxrError, UnsupportedOpError

SMALL = ["--hidden", "64", "--tokens", "3", "--seconds", "0"]


def there(device):
    """Whether a device can be had."""
    try:
        backend_of(device)
    except MlxrError:
        return False
    return True


@pytest.mark.parametrize("device", ["cpu", "mlx:cpu", "mlx:gpu", "metal"])
def test_every_case_runs(device, tmp_path, capsys):
    if not there(device):
        pytest.skip(f"{device} is not available here")
    file = tmp_path / "figures.json"
    assert main(["bench", "--device", device, *SMALL, "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    names = {case.name for case in bench.cases("cpu", "float32", 64, 3)}
    assert {(r["name"], r["dtype"]) for r in figures["results"]} == {(n, d) for n in names for d in bench.DTYPES}
    assert (bench.STAND_IN_NOTE in capsys.readouterr().out) == figures["stand_in"]


def test_figures_follow_from_shapes_and_time():
    by_name = {case.name: case for case in bench.cases("cpu", "float16", 128, 5)}
    product = by_name["matmul prefill, up"]
    assert product.run().shape == (5, 512)
    assert product.flops == 2 * 5 * 128 * 512
    assert product.nbytes == 2 * (5 * 128 + 128 * 512 + 5 * 512)
    assert by_name["softmax"].nbytes == 2 * 2 * 5 * 128
    assert by_name["attention decode"].run().shape == (1, 2, 1, 64)
    result = bench.measure(product, "float16", 0.0)
    assert result.tflops == pytest.approx(product.flops / result.seconds / 1e12)
    assert result.microseconds_per_row == pytest.approx(result.seconds / 5 * 1e6)
    assert bench.measure(by_name["softmax"], "float16", 0.0).tflops is None


def test_operations_that_a_device_lacks_are_named(monkeypatch, capsys):
    def lacking(*arguments):
        def run():
            raise UnsupportedOpError("no such kernel", op="softmax")

        yield bench.Case("softmax", run, 0, 1, 1)

    monkeypatch.setattr(bench, "cases", lacking)
    assert main(["bench", "--dtype", "float32"]) == 0
    assert "not on this device: no such kernel" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--hidden", "65"], ["--tokens", "0"], ["--device", "nowhere"]])
def test_arguments_that_make_no_sense(arguments, capsys):
    assert main(["bench", *arguments]) == 2
    assert capsys.readouterr().err

