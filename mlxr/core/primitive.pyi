from collections.abc import Callable
from typing import Any

from mlxr.core.dtype import Dtype

FAMILIES: tuple[str, ...]
registry: dict[str, Primitive]

class Primitive:
    infer: Callable[..., Any] | None
    vjp: Callable[..., Any] | None
    jvp: Callable[..., Any] | None
    vmap: Callable[..., Any] | None
    linear: bool
    @property
    def name(self) -> str: ...
    @property
    def family(self) -> str: ...
    @property
    def index(self) -> int: ...
    @property
    def registered(self) -> bool: ...
    @property
    def refusal(self) -> str | None: ...
    def __init__(
        self,
        name: str,
        family: str,
        infer: Callable[..., Any] | None = None,
        vjp: Callable[..., Any] | None = None,
        *,
        jvp: Callable[..., Any] | None = None,
        vmap: Callable[..., Any] | None = None,
        linear: bool = False,
        registered: bool = True,
    ) -> None: ...
    def set_dtype_rule(
        self,
        compute: Callable[..., Dtype | None],
        result: Callable[[Dtype], Dtype],
        refusal: str | None = None,
    ) -> None: ...
    def __reduce__(self) -> tuple[Callable[[str], Primitive], tuple[str]]: ...
