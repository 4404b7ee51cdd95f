"""How many bytes a shape takes, checked against what an address space can hold.

Shared by every file format. Must not know about tensors or about any one format.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["MAX_BYTES", "MAX_NDIM", "brief", "byte_size"]

MAX_BYTES = 2**63 - 1  # sizes and strides are signed 64-bit everywhere below
MAX_NDIM = 32  # the tensor core's limit (MAX_NDIM of mlxr/core/abi.pxd)


def brief(value: object) -> str:
    """Return a repr that is short whatever a hostile file put into `value`."""
    if isinstance(value, str):
        value = value[:121]
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def byte_size(shape: Iterable[object], itemsize: int) -> int:
    """Return the bytes that a row-major array takes.

    Parameters
    ----------
    shape : iterable
        The extents, from a source that is not trusted.
    itemsize : int
        Bytes per element.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        With the reason as text, if `shape` is no shape that a tensor can have.
    """
    extents = tuple(shape)
    if len(extents) > MAX_NDIM:
        raise ValueError(f"the shape has {len(extents)} axes, more than {MAX_NDIM}")
    # Strides are products of extents, so they must fit even where another extent is zero.
    span = itemsize
    empty = False
    for extent in extents:
        if type(extent) is not int:  # a bool is an int, but no extent
            raise ValueError(f"the shape {brief(extents)} holds {brief(extent)}, which is not an integer")
        if extent < 0:
            raise ValueError(f"the shape {brief(extents)} holds a negative extent")
        if extent == 0:
            empty = True
        else:
            span *= extent
    if span > MAX_BYTES:
        raise ValueError(f"the shape {brief(extents)} takes more than 2**63 - 1 bytes")
    return 0 if empty else span
