"""Upstream MLX through a C ABI: the ctypes binding of `libmlxr_shim` (see docs/upstream.md).

The library is optional: ``make shim`` builds it. :func:`available` tells whether it is there, :func:`load` loads it
once for the process. Importing this package loads nothing.
"""

from mlxr.shim.binding import Array, Description, Library, Program, available, library_path, load

__all__ = ["Array", "Description", "Library", "Program", "available", "library_path", "load"]
