"""What every test runs under: a derandomized hypothesis profile, so that a run is the same every time and quick.

``HYPOTHESIS_PROFILE=explore`` searches with fresh seeds and many more examples.
"""

from __future__ import annotations

import os
import tempfile

from hypothesis import HealthCheck, settings

# Where the Metal runtime is built on its software stand-in, tests may use it; programs have to ask for it.
os.environ.setdefault("MLXR_METAL", "stand-in")

# What earlier runs left in the user's folders must not decide about a test: records of parity, compiled pipelines.
_FOLDER = tempfile.TemporaryDirectory(prefix="mlxr-tests-")
os.environ["MLXR_PARITY_RECORD"] = f"{_FOLDER.name}/parity.json"
os.environ["MLXR_METAL_CACHE"] = f"{_FOLDER.name}/metal"

settings.register_profile("ci", derandomize=True, max_examples=60, deadline=None, database=None,
                          suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
