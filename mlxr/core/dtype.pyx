# cython: language_level=3, binding=True, embedsignature=True
"""Data types: the fourteen dtypes, their categories, promotion, ``finfo`` and ``iinfo``.

Equal to upstream MLX's in names, order, categories and promotion. Must not know about tensors.
"""
import enum

from mlxr.errors import ArgumentTypeError, DtypeError


class DtypeCategory(enum.Enum):
    """The tree of abstract dtypes that :func:`issubdtype` understands."""

    complexfloating = "complexfloating"
    floating = "floating"
    inexact = "inexact"
    signedinteger = "signedinteger"
    unsignedinteger = "unsignedinteger"
    integer = "integer"
    number = "number"
    generic = "generic"


complexfloating = DtypeCategory.complexfloating
floating = DtypeCategory.floating
inexact = DtypeCategory.inexact
signedinteger = DtypeCategory.signedinteger
unsignedinteger = DtypeCategory.unsignedinteger
integer = DtypeCategory.integer
number = DtypeCategory.number
generic = DtypeCategory.generic

_PARENT = {
    complexfloating: inexact,
    floating: inexact,
    inexact: number,
    signedinteger: integer,
    unsignedinteger: integer,
    integer: number,
    number: generic,
}

_KIND_CATEGORY = {"b": generic, "u": unsignedinteger, "i": signedinteger, "f": floating, "c": complexfloating}


cdef class Dtype:
    """A data type of tensor elements.

    There is exactly one object per dtype (``mlxr.float32``, ``mlxr.int8``, ...); the class cannot be called.

    Attributes
    ----------
    name : str
        ``"float32"``, ``"bool"``, ...
    size, itemsize : int
        Bytes per element.
    kind : str
        ``"b"`` bool, ``"u"`` unsigned, ``"i"`` signed, ``"f"`` floating or ``"c"`` complex.
    category : DtypeCategory
        The nearest abstract dtype.
    code : int
        Position in every table of the project, and upstream's numbering.
    """

    def __init__(self):
        raise ArgumentTypeError("Dtype objects are not made by hand: use mlxr.float32, mlxr.int32, ...")

    @property
    def size(self):
        """int: Bytes per element."""
        return self.itemsize

    def __repr__(self):
        return "mlxr.core." + self.name

    def __hash__(self):
        return self.code

    def __eq__(self, other):
        return self is other

    def __reduce__(self):
        return _dtype_by_name, (self.name,)


def _dtype_by_name(name):
    """Return the dtype called `name` (what unpickling calls)."""
    return _BY_NAME[name]


cdef Dtype _make(int code, str name, int itemsize, str kind):
    cdef Dtype d = Dtype.__new__(Dtype)
    d.code = code
    d.name = name
    d.itemsize = itemsize
    d.kind = kind
    d.category = _KIND_CATEGORY[kind]
    DTYPES[code] = <PyObject *>d
    ITEMSIZES[code] = itemsize
    return d


bool_ = _make(0, "bool", 1, "b")
uint8 = _make(1, "uint8", 1, "u")
uint16 = _make(2, "uint16", 2, "u")
uint32 = _make(3, "uint32", 4, "u")
uint64 = _make(4, "uint64", 8, "u")
int8 = _make(5, "int8", 1, "i")
int16 = _make(6, "int16", 2, "i")
int32 = _make(7, "int32", 4, "i")
int64 = _make(8, "int64", 8, "i")
float16 = _make(9, "float16", 2, "f")
float32 = _make(10, "float32", 4, "f")
float64 = _make(11, "float64", 8, "f")
bfloat16 = _make(12, "bfloat16", 2, "f")
complex64 = _make(13, "complex64", 8, "c")

ALL_DTYPES = (
    bool_, uint8, uint16, uint32, uint64, int8, int16, int32, int64, float16, float32, float64, bfloat16, complex64
)
_BY_NAME = {d.name: d for d in ALL_DTYPES}


def _promote(Dtype a, Dtype b):
    """The rule behind the promotion table (see docs/dtypes.md): used once, at import, to fill it."""
    if a is b:
        return a
    if a.kind == "b":
        return b
    if b.kind == "b":
        return a
    if a.kind == b.kind:
        if {a, b} == {float16, bfloat16}:
            return float32
        return a if (a.itemsize, a.code) >= (b.itemsize, b.code) else b
    if a.kind in "fc" or b.kind in "fc":
        rank = "buifc"
        return a if rank.index(a.kind) > rank.index(b.kind) else b
    unsigned, signed = (a, b) if a.kind == "u" else (b, a)
    if unsigned.itemsize < signed.itemsize:
        return signed
    return {1: int16, 2: int32, 4: int64, 8: float32}[unsigned.itemsize]


cdef Dtype _x, _y
for _x in ALL_DTYPES:
    for _y in ALL_DTYPES:
        PROMOTION[_x.code][_y.code] = _promote(_x, _y).code


def promote_types(Dtype a not None, Dtype b not None):
    """Return the dtype in which an operation on dtypes `a` and `b` is computed.

    Parameters
    ----------
    a, b : Dtype

    Returns
    -------
    Dtype
    """
    return dtype_of(PROMOTION[a.code][b.code])


cdef Dtype as_dtype(object value):
    """Return `value` as a Dtype, or raise ArgumentTypeError."""
    if type(value) is Dtype:
        return <Dtype>value
    raise ArgumentTypeError(f"expected a dtype such as mlxr.float32, got {value!r}", value=value)


def issubdtype(arg1, arg2):
    """Tell whether a dtype or category belongs to another.

    Parameters
    ----------
    arg1, arg2 : Dtype or DtypeCategory

    Returns
    -------
    bool
    """
    if isinstance(arg2, Dtype):
        return arg1 is arg2
    if not isinstance(arg2, DtypeCategory):
        raise ArgumentTypeError(f"expected a dtype or category, got {arg2!r}", value=arg2)
    if isinstance(arg1, Dtype):
        node = (<Dtype>arg1).category
    elif isinstance(arg1, DtypeCategory):
        node = arg1
    else:
        raise ArgumentTypeError(f"expected a dtype or category, got {arg1!r}", value=arg1)
    while node is not None:
        if node is arg2:
            return True
        node = _PARENT.get(node)
    return False


class finfo:
    """Limits of a floating or complex dtype.

    Parameters
    ----------
    dtype : Dtype

    Attributes
    ----------
    dtype : Dtype
    bits : int
        Bits per real element.
    min, max, eps, smallest_normal : float

    Raises
    ------
    DtypeError
        If `dtype` is neither floating nor complex.
    """

    __slots__ = ("bits", "dtype", "eps", "max", "min", "smallest_normal")

    # (bits, mantissa bits, largest exponent)
    _FORMATS = {"float16": (16, 10, 15), "bfloat16": (16, 7, 127), "float32": (32, 23, 127), "float64": (64, 52, 1023)}

    def __init__(self, dtype):
        cdef Dtype d = as_dtype(dtype)
        if d.kind not in "fc":
            raise DtypeError(f"[finfo] needs a floating or complex dtype, got {d.name}", op="finfo", dtypes=(d,))
        bits, mantissa, exponent = self._FORMATS["float32" if d.kind == "c" else d.name]
        self.dtype = d
        self.bits = bits
        self.eps = 2.0 ** -mantissa
        self.max = (2.0 - self.eps) * 2.0 ** exponent
        self.min = -self.max
        self.smallest_normal = 2.0 ** (1 - exponent)

    def __repr__(self):
        return f"finfo(min={self.min:g}, max={self.max:g}, dtype={self.dtype.name})"


class iinfo:
    """Limits of an integer dtype.

    Parameters
    ----------
    dtype : Dtype

    Attributes
    ----------
    dtype : Dtype
    min, max : int

    Raises
    ------
    DtypeError
        If `dtype` is not an integer dtype.
    """

    __slots__ = ("dtype", "max", "min")

    def __init__(self, dtype):
        cdef Dtype d = as_dtype(dtype)
        if d.kind not in "ui":
            raise DtypeError(f"[iinfo] needs an integer dtype, got {d.name}", op="iinfo", dtypes=(d,))
        bits = 8 * d.itemsize
        self.dtype = d
        self.min = 0 if d.kind == "u" else -(1 << (bits - 1))
        self.max = (1 << bits) - 1 if d.kind == "u" else (1 << (bits - 1)) - 1

    def __repr__(self):
        return f"iinfo(min={self.min}, max={self.max}, dtype={self.dtype.name})"
