import sys
from typing import final

@final
class Mapping:
    length: int
    def __new__(cls, descriptor: int, length: int) -> Mapping: ...
    def __len__(self) -> int: ...
    if sys.version_info >= (3, 12):
        def __buffer__(self, flags: int, /) -> memoryview: ...
