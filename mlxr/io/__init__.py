"""Loading and saving: ``mlxr.load``, ``save``, ``savez``, ``savez_compressed`` and ``save_safetensors``.

See ``docs/io.md`` for what is validated, what is shared and what is atomic.
"""

from mlxr.io.api import load, save, save_safetensors, savez, savez_compressed

__all__ = ["load", "save", "save_safetensors", "savez", "savez_compressed"]
