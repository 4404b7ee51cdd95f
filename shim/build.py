"""Build the libraries behind the C ABI of `include/mlxr_shim.h`.

    python shim/build.py                    libmlxr_shim, against the installed `mlx` wheel
    MLX_SRC=~/mlx python shim/build.py      ... against an upstream checkout (built first, with CMake, if it is not)
    python shim/build.py --half metal       libmlxr_shim_metal: on a Mac against Apple's frameworks, elsewhere against
                                            the software stand-in (metal/standin), which is built first

`make shim` and `make metal-standin` run this. It must not import `mlx.core`: the wheel may be there without a device
that it can start on.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import importlib.util
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent
LIBRARY = "libmlxr_shim.dylib" if sys.platform == "darwin" else "libmlxr_shim.so"
METAL_LIBRARY = "libmlxr_shim_metal.dylib" if sys.platform == "darwin" else "libmlxr_shim_metal.so"
DEFAULT_FOLDER = REPOSITORY / "mlxr" / "shim"
# The sources of the Metal half; those of the other half are the rest.
METAL_SOURCES = ("abi.cpp", "metal_runtime.mm")
BLAS_FORWARDER = "libmlxr_blas.so"


class BuildError(SystemExit):
    """Something that the user has to provide is missing."""


@dataclasses.dataclass(frozen=True)
class Upstream:
    """Where an MLX library and its headers are.

    Attributes
    ----------
    include : pathlib.Path
        The folder that holds `mlx/mlx.h`.
    library : pathlib.Path
        `libmlx` itself.
    link_folders : tuple of pathlib.Path
        Where the linker finds the libraries that `libmlx` needs in turn.
    version : str
        What `mlx::core::version()` returns, exactly.
    """

    include: pathlib.Path
    library: pathlib.Path
    link_folders: tuple[pathlib.Path, ...]
    version: str


def loaded_version(library: pathlib.Path) -> str:
    """Ask the library for its version, in a process of its own.

    Development builds carry a suffix that the headers do not have, so the library is asked and not the header.
    """
    code = (
        "import ctypes, sys; f = ctypes.CDLL(sys.argv[1])._ZN3mlx4core7versionEv; "
        "f.restype = ctypes.c_char_p; print(f().decode())"
    )
    result = subprocess.run([sys.executable, "-c", code, str(library)], capture_output=True, text=True)
    if result.returncode:
        raise BuildError(f"{library} cannot be loaded:\n{result.stderr.strip()}")
    return result.stdout.strip()


def find_library(folder: pathlib.Path) -> pathlib.Path | None:
    """The MLX library in a folder, if there is one."""
    return next((path for name in ("libmlx.so", "libmlx.dylib") if (path := folder / name).exists()), None)


def find_wheel() -> Upstream:
    """The installed `mlx` package, found without importing it."""
    spec = importlib.util.find_spec("mlx")
    for folder in map(pathlib.Path, (spec and spec.submodule_search_locations) or ()):
        library = find_library(folder / "lib")
        if library and (folder / "include" / "mlx" / "mlx.h").exists():
            bundled = tuple(sorted(folder.parent.glob("mlx*.libs")))
            return Upstream(folder / "include", library, (library.parent, *bundled), loaded_version(library))
    raise BuildError("no MLX found: pip install 'mlx[cpu]' (Linux) or mlx (macOS), or set MLX_SRC to a checkout")


def build_checkout(source: pathlib.Path) -> Upstream:
    """Build an upstream checkout as a shared library, or use the library that an earlier call built."""
    if not (source / "mlx" / "mlx.h").exists():
        raise BuildError(f"MLX_SRC={source} is no checkout of MLX: it has no mlx/mlx.h")
    # One for each checkout: CMake refuses a folder that was configured for another one.
    folder = REPOSITORY / "build" / f"upstream-{source.name}-{zlib.crc32(os.fsencode(source)):08x}"
    off = [f"-DMLX_BUILD_{part}=OFF" for part in ("TESTS", "EXAMPLES", "BENCHMARKS", "GGUF", "PYTHON_BINDINGS")]
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", "-DUSE_SYSTEM_FMT=ON", *off]
    json = os.environ.get("MLX_JSON_SRC")  # a folder with single_include/nlohmann, to build without a network
    if json:
        options += ["-DFETCHCONTENT_FULLY_DISCONNECTED=ON", f"-DFETCHCONTENT_SOURCE_DIR_JSON={json}"]
    run(["cmake", "-S", str(source), "-B", str(folder), *options])
    run(["cmake", "--build", str(folder), "--parallel", str(os.cpu_count() or 1)])
    library = find_library(folder)
    if library is None:
        raise BuildError(f"building {source} left no libmlx in {folder}")
    return Upstream(source, library, (folder,), loaded_version(library))


def find_upstream() -> Upstream:
    """The MLX to build against: `MLX_SRC` if it is set, else the installed wheel."""
    source = os.environ.get("MLX_SRC")
    return build_checkout(pathlib.Path(source).expanduser().resolve()) if source else find_wheel()


def run(command: list[str]) -> None:
    """Run a command, showing it."""
    print(shlex.join(command), flush=True)
    status = subprocess.run(command).returncode
    if status:
        raise BuildError(status)


# Flags that every source is compiled with, by the build, the linters and the tests.
COMMON_FLAGS = ("-std=c++20", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden", "-Wall", "-Wextra")


def compile_flags(upstream: Upstream) -> list[str]:
    """Flags that the sources of the upstream half are compiled with."""
    version = f'-DMLXR_UPSTREAM_VERSION="{upstream.version}"'
    return [*COMMON_FLAGS, version, f"-I{HERE / 'include'}", f"-isystem{upstream.include}"]


def export_flags(library: str) -> list[str]:
    """Flags of the linker that export the C ABI alone; `library` is the file's name."""
    if sys.platform == "darwin":
        return ["-Wl,-exported_symbol,_mlxr_*"]
    script = HERE / f"{library.removeprefix('lib').removesuffix('.so')}.map"
    return [f"-Wl,--version-script={script}", f"-Wl,-soname,{library}", "-Wl,-z,now", "-Wl,-z,defs"]


def link_flags(upstream: Upstream) -> list[str]:
    """Flags that make the library of the upstream half of its objects."""
    flags = ["-shared", str(upstream.library), f"-Wl,-rpath,{upstream.library.parent}", *export_flags(LIBRARY)]
    if sys.platform == "darwin":
        return flags
    flags += [f"-Wl,-rpath-link,{folder}" for folder in upstream.link_folders]
    return [*flags, "-Wl,--no-allow-shlib-undefined"]


def compiler() -> list[str]:
    """The C++ compiler: `CXX`, else g++ (clang++ on macOS), through ccache where that is installed."""
    if "CXX" in os.environ:
        return shlex.split(os.environ["CXX"])
    name = "clang++" if sys.platform == "darwin" else "g++"
    return ["ccache", name] if shutil.which("ccache") else [name]


def compile_and_link(
    output: pathlib.Path,
    sources: Sequence[pathlib.Path],
    command: list[str],
    flags: Callable[[pathlib.Path], list[str]],
    link: list[str],
    jobs: int | None,
) -> None:
    """Compile sources with `command` and the flags of each, and link them into `output`."""
    objects = REPOSITORY / "build" / "shim" / output.stem
    objects.mkdir(parents=True, exist_ok=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    targets = [objects / (source.stem + ".o") for source in sources]

    def compile_one(source: pathlib.Path, target: pathlib.Path) -> None:
        run([*command, "-O2", "-g1", *flags(source), "-c", str(source), "-o", str(target)])

    with concurrent.futures.ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        list(pool.map(compile_one, sources, targets))
    # Linked beside the target and moved over it: a process that has the old library mapped keeps it.
    fresh = output.with_suffix(".new" + output.suffix)
    run([*command, "-g1", *map(str, targets), *link, "-o", str(fresh)])
    fresh.replace(output)


def build(output: pathlib.Path, *, extra: list[str] | None = None, jobs: int | None = None) -> pathlib.Path:
    """Compile the upstream half and link it.

    Parameters
    ----------
    output : pathlib.Path
        The library to write.
    extra : list of str, optional
        Further flags for compiling and linking, e.g. ``-fsanitize=address``.
    jobs : int, optional
        Compilers to run at once; all processors by default.
    """
    upstream = find_upstream()
    extra = extra or []
    sources = sorted((HERE / "src").glob("*.cpp"))
    flags = [*compile_flags(upstream), *extra]
    compile_and_link(output, sources, compiler(), lambda _: flags, [*extra, *link_flags(upstream)], jobs)
    print(f"built {output} against MLX {upstream.version} ({upstream.library})")
    return output


def build_metal(output: pathlib.Path, *, extra: list[str] | None = None, jobs: int | None = None) -> pathlib.Path:
    """Compile the Metal half and link it: parameters as for :func:`build`.

    On a Mac this has not been run yet: see docs/metal.md.
    """
    extra = extra or []
    common = [*COMMON_FLAGS, f"-I{HERE / 'include'}", *extra]
    if sys.platform == "darwin":
        # Metal 3.1, the first one with bfloat, came with macOS 14. Without CoreGraphics there is no default device.
        what, command, objective = "Apple's frameworks", compiler(), ["-fobjc-arc"]
        common += ["-mmacosx-version-min=14.0"]
        frameworks = ["-mmacosx-version-min=14.0"]
        for name in ("Foundation", "Metal", "CoreGraphics"):
            frameworks += ["-framework", name]
    else:
        sys.path.insert(0, str(REPOSITORY))
        from metal.standin import toolchain

        try:
            command = [toolchain.clang()]
        except toolchain.ToolchainError as error:
            raise SystemExit(str(error)) from None
        what, objective = "the software stand-in", toolchain.objective_cxx_flags()
        frameworks = toolchain.framework_link_flags()

    def flags(source: pathlib.Path) -> list[str]:
        return [*common, "-x", "objective-c++", *objective] if source.suffix == ".mm" else common

    sources = [HERE / "src" / name for name in METAL_SOURCES]
    link = ["-shared", *extra, *frameworks, *export_flags(METAL_LIBRARY)]
    compile_and_link(output, sources, command, flags, link, jobs)
    print(f"built {output} against {what}")
    return output


def build_blas_forwarder(folder: pathlib.Path) -> pathlib.Path:
    """Compile the forwarder from the BLAS names that `libmlx` asks for to NumPy's OpenBLAS (Linux only)."""
    output = folder / BLAS_FORWARDER
    compiler = shlex.split(os.environ.get("CC", "cc"))
    flags = ["-std=c11", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", f"-Wl,-soname,{BLAS_FORWARDER}"]
    run([*compiler, *flags, str(HERE / "src" / "blas_forwarder.c"), "-o", str(output), "-ldl"])
    return output


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--half", choices=("upstream", "metal"), default="upstream")
    parser.add_argument("--output", type=pathlib.Path, help="the library to write (default: in the package)")
    parser.add_argument("--extra", action="append", default=[], help="a further compiler flag; may be repeated")
    parser.add_argument("--jobs", type=int)
    options = parser.parse_args(arguments)
    if options.half == "metal":
        build_metal(options.output or DEFAULT_FOLDER / METAL_LIBRARY, extra=options.extra, jobs=options.jobs)
        return
    output = build(options.output or DEFAULT_FOLDER / LIBRARY, extra=options.extra, jobs=options.jobs)
    if sys.platform == "linux":
        build_blas_forwarder(output.parent)


if __name__ == "__main__":
    main()
