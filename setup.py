"""Build the Cython modules of mlxr.

Ordinary modules are built once. The kernels in ``mlxr/cpu/kernels`` are translated to C once and compiled once per
instruction set, into ``mlxr/cpu/<isa>/``; the CPU backend picks one set when it is imported.

Build options (environment variables):
    MLXR_BUILD_ISA       comma-separated instruction sets (v2,v3,v4 on x86-64; base elsewhere). ``native``: the best one
                         that this machine runs. ``none``: the Python part alone (``make`` installs that in place, and
                         compiles by itself). Default: all of the architecture.
    MLXR_BUILD_SANITIZE  ``address,undefined``: build with these sanitizers (see ``make sanitize``).
    MLXR_BUILD_JOBS      compilers to run at a time. Default: the number of processors.
"""

import os
import pathlib
import platform
import shutil
import sys

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = pathlib.Path(__file__).parent
KERNELS = pathlib.Path("mlxr/cpu/kernels")
TEAM = pathlib.Path("mlxr/cpu/team.pyx")  # the one module beside the kernels that starts threads
MACOS = sys.platform == "darwin"
JOBS = int(os.environ.get("MLXR_BUILD_JOBS", os.cpu_count() or 1))

ARCH_FLAGS = {
    "v2": ["-march=x86-64-v2"],
    "v3": ["-march=x86-64-v3"],
    "v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "base": [],
}
COMMON_FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fno-semantic-interposition"]
# Cython clears each new object with memset. For the size of a Tensor gcc makes that `rep stos`, which takes longer to
# start than the call to the C library that this asks for.
OBJECT_FLAGS = ["-fno-builtin-memset"]
# What Cython's own code trips over; everything else is an error in our sources.
WARNINGS = [
    "-Wno-unknown-warning-option",  # Clang lacks some of GCC's warnings; GCC keeps quiet about those that it lacks
    "-Wall", "-Wno-unused-function", "-Wno-unused-variable", "-Wno-maybe-uninitialized",
    "-Wno-tautological-compare",  # x != x of a fused type is the test for NaN, integers included
]
OPENMP_COMPILE = ["-Xpreprocessor", "-fopenmp"] if MACOS else ["-fopenmp"]
OPENMP_LINK = ["-lomp"] if MACOS else ["-fopenmp"]


def instruction_sets():
    """Return the instruction sets to build kernels for."""
    every = ["v2", "v3", "v4"] if platform.machine().lower() in ("x86_64", "amd64") else ["base"]
    wanted = os.environ.get("MLXR_BUILD_ISA", "all")
    if wanted == "all":
        return every
    if wanted == "native":
        return [best_instruction_set(every)]
    chosen = [isa for isa in wanted.split(",") if isa]
    unknown = set(chosen) - set(every)
    if unknown or not chosen:
        raise SystemExit(f"MLXR_BUILD_ISA={wanted}: this machine knows {', '.join(every)}, all, native, none")
    return chosen


def best_instruction_set(every):
    """Return the richest instruction set that this machine's processor runs."""
    if every == ["base"]:
        return "base"
    try:
        flags = set(pathlib.Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split())
    except (OSError, IndexError):
        return "v2"
    if {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"} <= flags:
        return "v4"
    return "v3" if {"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"} <= flags else "v2"


def sanitizer_flags():
    """Return the flags that MLXR_BUILD_SANITIZE asks for."""
    wanted = os.environ.get("MLXR_BUILD_SANITIZE")
    # -O1, which comes after -O3 and wins: the checks make optimized kernels slow to compile, and are the point here.
    return [f"-fsanitize={wanted}", "-fno-omit-frame-pointer", "-g1", "-O1"] if wanted else []


def module_name(path):
    """Return the dotted name of the module in `path`."""
    return ".".join(path.with_suffix("").parts)


def extension(name, source, isa_flags=None):
    """Return the Extension of one compiled module; with `isa_flags` (maybe empty), one that uses OpenMP."""
    threaded = isa_flags is not None
    return Extension(
        name,
        [str(source)],
        include_dirs=[str(KERNELS)],
        depends=[str(header) for header in sorted(KERNELS.glob("*.h"))],
        extra_compile_args=[
            *COMMON_FLAGS, *WARNINGS, *(isa_flags or ()), *(OPENMP_COMPILE if threaded else OBJECT_FLAGS),
            *sanitizer_flags(),
        ],
        extra_link_args=[*(OPENMP_LINK if threaded else ()), *sanitizer_flags()],
        define_macros=[("CYTHON_USE_SYS_MONITORING", "0")],
    )


def extensions():
    """Return every extension module; translates the kernels and lays out one copy of their C per instruction set."""
    os.chdir(ROOT)
    sources = sorted(pathlib.Path("mlxr").rglob("*.pyx"))
    ordinary = [p for p in sources if KERNELS not in p.parents]
    kernels = [p for p in sources if KERNELS in p.parents]
    translated = cythonize(
        [extension(module_name(p), p, () if p == TEAM else None) for p in [*ordinary, *kernels]],
        nthreads=JOBS if len(sources) > 1 and not MACOS else 0,
        compiler_directives={"language_level": 3},
        show_all_warnings=False,
    )
    result = translated[: len(ordinary)]
    for isa in instruction_sets():
        folder = pathlib.Path("build/kernels") / isa
        folder.mkdir(parents=True, exist_ok=True)
        for path in kernels:
            source = folder / path.with_suffix(".c").name
            generated = path.with_suffix(".c")
            if not source.exists() or source.read_bytes() != generated.read_bytes():
                shutil.copyfile(generated, source)
            pathlib.Path("mlxr/cpu", isa).mkdir(exist_ok=True)  # an in-place build puts the modules there
            name = f"mlxr.cpu.{isa}.{path.stem}"
            result.append(extension(name, source, ARCH_FLAGS[isa]))
    return result


class BuildExtensions(build_ext):
    """build_ext that runs several compilers at a time."""

    def finalize_options(self):
        """Take the number of jobs from MLXR_BUILD_JOBS."""
        super().finalize_options()
        self.parallel = self.parallel or JOBS


class BuildPython(build_py):
    """build_py that puts the Metal kernels, which lie outside of the package, into it."""

    def run(self):
        """Copy the modules, then the kernels; an editable install finds them where they are."""
        super().run()
        if not self.editable_mode:
            folder = pathlib.Path(self.build_lib, "mlxr", "backends", "metal", "kernels")
            folder.mkdir(parents=True, exist_ok=True)
            for source in sorted((ROOT / "metal" / "kernels").iterdir()):
                self.copy_file(str(source), str(folder / source.name))


setup(
    ext_modules=[] if os.environ.get("MLXR_BUILD_ISA") == "none" else extensions(),
    cmdclass={"build_ext": BuildExtensions, "build_py": BuildPython},
)
