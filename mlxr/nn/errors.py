"""The errors that modules raise, beside the general ones of mlxr.errors."""

from __future__ import annotations

from mlxr.errors import MlxrError

__all__ = ["StructureError", "UnknownMemberError", "WeightsError"]


class StructureError(MlxrError, ValueError):
    """A tree does not fit the module that it is to update.

    Attributes
    ----------
    path
        The dotted name of the place, where there is one.
    """

    path: str | None = None


class UnknownMemberError(MlxrError, KeyError):
    """A name that should be a member of a module is not.

    Attributes
    ----------
    name
        The name.
    """

    name: str

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0])


class WeightsError(MlxrError, ValueError):
    """The weights of a file or list are not those of the module.

    Attributes
    ----------
    missing
        Names that the module has and the weights lack.
    unexpected
        Names that the weights have and the module lacks.
    mismatched
        By name, what is wrong with the value.
    """

    missing: list[str]
    unexpected: list[str]
    mismatched: dict[str, str]
