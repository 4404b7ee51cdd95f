"""A device whose primitives run as launch plans on the software stand-in, for the tests of kernels."""

import metal_plans
import pytest

from mlxr.core.device import backend_of


@pytest.fixture(scope="session")
def device():
    from standin import toolchain
    from standin.errors import ToolchainError

    try:
        toolchain.clang()
    except ToolchainError as error:
        pytest.skip(str(error))
    return metal_plans.device()


@pytest.fixture
def backend(device):
    """What runs the device's plans; back to plain runs in the forward order afterwards."""
    backend = backend_of(device)
    yield backend
    backend.order, backend.seed, backend.checked = "forward", 0, False
