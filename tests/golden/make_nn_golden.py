"""Write nn.npz and optimizers.npz: what upstream MLX computes for the cases of layers, losses and optimizers.

Run it where upstream is installed: ``python tests/golden/make_nn_golden.py``. The tests compare mlxr with these files.
"""

from __future__ import annotations

from pathlib import Path

import cases_nn
import cases_optimizers
import mlx.core as mx
import packed
from mlx import nn, optimizers

HERE = Path(__file__).parent


def main() -> None:
    """Run all cases."""
    packed.save(HERE / "nn.npz", {name: case.run(mx, nn) for name, case in cases_nn.CASES.items()})
    packed.save(HERE / "optimizers.npz", {name: c.run(mx, optimizers) for name, c in cases_optimizers.CASES.items()})


if __name__ == "__main__":
    main()
