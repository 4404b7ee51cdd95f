"""Which device is the default, and why.

It is the CPU, unless ``MLXR_DEFAULT_DEVICE`` names another one, or Metal has earned it: a record of
``python -m mlxr parity``, made on this very device, with this driver and these kernels, in which every required op
passed. A record that was made on the software stand-in, or is used on it, never counts. ``set_default_device`` and the
scope ``default_device(...)`` override all of this.

Knows records, and asks the Metal backend what it runs on; nothing of how a record comes about.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxr.core import device as devices
from mlxr.errors import BackendUnavailableError

__all__ = [
    "FORMAT", "REQUIRED_FAMILIES", "Choice", "Place", "checksum", "choice", "choose", "judge", "kernel_hashes",
    "metal_here", "record_path", "required_ops",
]

FORMAT = 1
# Linear algebra and Fourier transforms are host libraries' (LAPACK, pocketfft); no Metal kernel is asked of them.
REQUIRED_FAMILIES = (
    "elementwise", "layout", "indexing", "reduce", "scan", "sort", "matmul", "fused", "convolution", "random",
)
HOSTED = ("random.multivariate_normal",)  # takes a singular value decomposition


@dataclass(frozen=True)
class Place:
    """Where Metal kernels run.

    Attributes
    ----------
    device, driver : str
        The GPU's name, and the version of the system that its driver comes with.
    stand_in : bool
        It is no GPU, but the software stand-in.
    kernels : dict of str
        For each file of kernels, the SHA-256 of its text.
    """

    device: str
    driver: str
    stand_in: bool
    kernels: dict[str, str]


@dataclass(frozen=True)
class Choice:
    """The name of the default device, and the reason, for ``python -m mlxr info``."""

    device: str
    reason: str


def record_path() -> Path:
    """Return where this user's record is: ``MLXR_PARITY_RECORD``, or in the user's folder for caches."""
    named = os.environ.get("MLXR_PARITY_RECORD")
    if named:
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mlxr" / "parity.json"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlxr" / "parity.json"


def kernel_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of kernels in a folder."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir()) if path.suffix in (".metal", ".h")
    }


def checksum(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record, apart from the field that holds it."""
    rest = {name: value for name, value in record.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def required_ops() -> set[str]:
    """Return the names of the ops that must pass."""
    from mlxr.ops.declare import REGISTRY

    return {op.name for op in REGISTRY.values() if op.family in REQUIRED_FAMILIES and op.name not in HOSTED}


def judge(record: Any, here: Place, required: set[str]) -> str | None:
    """Return why a record does not make Metal the default on a device; None if it does.

    The verdict that a record states about itself is not believed: it follows from its ops.
    """
    try:
        if record["format"] != FORMAT:
            return f"the parity record is of format {record['format']!r}, not {FORMAT}"
        if record["checksum"] != checksum(record):
            return "the parity record was changed after it was made"
        if here.stand_in:
            return "Metal is the software stand-in here"
        if record["stand_in"] is not False:
            return "the parity record was made on the software stand-in"
        for name in ("device", "driver"):
            if record[name] != getattr(here, name):
                return f"the parity record was made with another {name}: {record[name]}, not {getattr(here, name)}"
        if record["kernels"] != here.kernels:
            changed = sorted(k for k in {*record["kernels"], *here.kernels}
                             if record["kernels"].get(k) != here.kernels.get(k))
            return f"kernels have changed since the parity record was made: {', '.join(changed)}"
        missing = sorted(required - set(record["ops"]))
        if missing:
            return f"the parity record lacks required ops: {', '.join(missing)}"
        failing = sorted(op for op in required if record["ops"][op]["metal"]["verdict"] != "passed")
        if failing:
            return f"ops did not pass in the parity record: {', '.join(failing)}"
    except (KeyError, TypeError, AttributeError) as error:
        return f"the parity record is malformed: {type(error).__name__} {error}"
    return None


def metal_here() -> Place:
    """Return where Metal kernels run here.

    Raises
    ------
    BackendUnavailableError
        If nowhere.
    """
    from mlxr.backends.metal import sources

    facts = devices.backend_of("metal").info()
    driver = platform.mac_ver()[0] or platform.release()
    return Place(facts["device"], f"{platform.system()} {driver}", "stand-in" in facts, kernel_hashes(sources.folder()))


def choose(
    environment: Mapping[str, str],
    path: Path,
    probe: Callable[[], Place],
    required: Callable[[], set[str]],
) -> Choice:
    """Return the default device.

    Parameters
    ----------
    environment : mapping
        ``MLXR_DEFAULT_DEVICE`` is read from it.
    path : Path
        Of the parity record. Without one, nothing else is asked.
    probe : callable
        Returns where Metal runs, or raises BackendUnavailableError.
    required : callable
        Returns the ops that must pass.
    """
    named = environment.get("MLXR_DEFAULT_DEVICE")
    if named:
        return Choice(named, "MLXR_DEFAULT_DEVICE")
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        return Choice("cpu", "no parity record")
    except (OSError, ValueError) as error:
        return Choice("cpu", f"the parity record cannot be read: {error}")
    try:
        refused = judge(record, probe(), required())
    except BackendUnavailableError as error:
        return Choice("cpu", f"Metal is not available: {error}")
    return Choice("cpu", refused) if refused else Choice("metal", f"the parity record {path}")


def choice() -> Choice:
    """Return the default device of this process as it started."""
    return choose(os.environ, record_path(), metal_here, required_ops)


def install() -> None:
    """Make the chosen device the default.

    Raises
    ------
    BackendUnavailableError, InvalidValueError
        If ``MLXR_DEFAULT_DEVICE`` names a device that does not exist here.
    """
    chosen = choice()
    if chosen.device != "cpu":
        devices.set_default_device(chosen.device)
