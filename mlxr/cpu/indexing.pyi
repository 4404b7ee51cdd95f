from mlxr.backends.cpu import CpuBackend

MODES: dict[str, int]

def register(backend: CpuBackend) -> None: ...
