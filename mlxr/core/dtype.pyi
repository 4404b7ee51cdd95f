import enum
from collections.abc import Callable

class DtypeCategory(enum.Enum):
    complexfloating = "complexfloating"
    floating = "floating"
    inexact = "inexact"
    signedinteger = "signedinteger"
    unsignedinteger = "unsignedinteger"
    integer = "integer"
    number = "number"
    generic = "generic"

complexfloating: DtypeCategory
floating: DtypeCategory
inexact: DtypeCategory
signedinteger: DtypeCategory
unsignedinteger: DtypeCategory
integer: DtypeCategory
number: DtypeCategory
generic: DtypeCategory

class Dtype:
    @property
    def name(self) -> str: ...
    @property
    def code(self) -> int: ...
    @property
    def itemsize(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def category(self) -> DtypeCategory: ...
    def __init__(self, *args: object) -> None: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Callable[[str], Dtype], tuple[str]]: ...

bool_: Dtype
uint8: Dtype
uint16: Dtype
uint32: Dtype
uint64: Dtype
int8: Dtype
int16: Dtype
int32: Dtype
int64: Dtype
float16: Dtype
float32: Dtype
float64: Dtype
bfloat16: Dtype
complex64: Dtype

ALL_DTYPES: tuple[Dtype, ...]

def promote_types(a: Dtype, b: Dtype) -> Dtype: ...
def issubdtype(arg1: Dtype | DtypeCategory, arg2: Dtype | DtypeCategory) -> bool: ...

class finfo:
    bits: int
    dtype: Dtype
    eps: float
    max: float
    min: float
    smallest_normal: float
    def __init__(self, dtype: Dtype) -> None: ...

class iinfo:
    dtype: Dtype
    max: int
    min: int
    def __init__(self, dtype: Dtype) -> None: ...
