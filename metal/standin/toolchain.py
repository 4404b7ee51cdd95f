"""Compiles the executor, kernel files and Objective-C++ sources, and keeps what it compiled by the hash of its sources.

It knows clang's flags and the folder of products. It knows nothing of kernels' semantics or of running them.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import CompileError, Diagnostic, ToolchainError
from .rewriter import translate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HERE = Path(__file__).resolve().parent
MINIMUM_CLANG = 19
INSTALL_HINT = "on Debian and Ubuntu: apt-get install clang-19"

#: What `#include <metal_...>` finds while preprocessing: nothing, for the library is included as a whole afterwards.
METAL_HEADERS = (
    "atomic", "common", "compute", "geometric", "geometry", "integer", "limits", "logging", "math", "matrix", "numeric",
    "pack", "relational", "simdgroup", "simdgroup_matrix", "stdlib", "types", "type_traits", "array",
)  # fmt: skip

#: Warnings that are errors in kernels: each is a bug, or something that Apple's compiler refuses.
KERNEL_ERRORS = (
    "return-type", "uninitialized", "sometimes-uninitialized", "infinite-recursion", "array-bounds", "vla-extension",
    "vla-cxx-extension", "shift-count-overflow", "shift-count-negative", "division-by-zero",
    "undefined-internal", "c99-designator",
)  # fmt: skip


_MESSAGE = re.compile(r"(.*?):(\d+):(?:\d+:)? (error|fatal error|note): (.*)")


@cache
def clang() -> str:
    """Return the path of clang++ 19 or newer; raise `ToolchainError` where there is none."""
    named = os.environ.get("MLXR_STANDIN_CLANG")
    for name in [named] if named else ["clang++-19", "clang++-20", "clang++-21", "clang++"]:
        path = shutil.which(name)
        if path and int(run([path, "-dumpversion"]).split(".")[0]) >= MINIMUM_CLANG:
            return path
    raise ToolchainError(f"the stand-in for Metal needs clang {MINIMUM_CLANG} or newer ({INSTALL_HINT})")


def run(command: Sequence[str], text: str | None = None) -> str:
    """Run a command and return what it printed; raise `CompileError` with its messages if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, input=text, check=False)
    if done.returncode:
        raise CompileError(parse_messages(done.stderr), done.stderr.strip() or f"{command[0]} failed")
    return done.stdout


def parse_messages(text: str) -> list[Diagnostic]:
    """Return the errors in clang's output; those inside of the stand-in's library are moved to its caller."""
    found: list[Diagnostic] = []
    for line in text.splitlines():
        match = _MESSAGE.fullmatch(line)
        if not match:
            continue
        file, number, kind, message = match[1], int(match[2]), match[3], match[4]
        if kind != "note":
            found.append(Diagnostic(file, number, message))
        elif found and Path(found[-1].file).is_relative_to(HERE) and not Path(file).is_relative_to(HERE):
            found[-1] = Diagnostic(file, number, found[-1].message)
    return found


def products() -> Path:
    """Return the folder of products: MLXR_STANDIN_CACHE, the checkout's build folder, or the user's cache."""
    named = os.environ.get("MLXR_STANDIN_CACHE")
    if named:
        folder = Path(named)
    elif os.access(HERE.parents[1], os.W_OK) and (HERE.parents[1] / "setup.py").exists():
        folder = HERE.parents[1] / "build" / "metal-standin"
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlxr" / "metal-standin"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@cache
def source_hash(*patterns: str) -> str:
    """Return the hash of the stand-in's own sources, of the compiler and of the machine's architecture."""
    digest = hashlib.sha256(f"{clang()} {run([clang(), '--version'])} {architecture()} {HERE}".encode())
    for path in sorted(itertools.chain.from_iterable(HERE.glob(p) for p in patterns)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def architecture() -> list[str]:
    """Return the flags of the instruction set: half precision in software is slow, so AVX2 with F16C where it is."""
    if platform.machine() != "x86_64":
        return []
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return ["-march=x86-64-v3" if {"avx2", "fma", "f16c", "bmi2"} <= flags else "-march=x86-64-v2"]


def store(path: Path, make: object) -> Path:
    """Return `path`, made by ``make(temporary)`` if it is not there; several processes may try at once."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            make(temporary)  # type: ignore[operator]
            temporary.replace(path)
    return path


# ---------------------------------------------------------------- the executor


@cache
def executor() -> Path:
    """Return the executor's shared library."""
    key = source_hash("executor/*", "msl/interface.h")[:16]
    flags = ["-std=c++20", "-O2", "-g1", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
    sources = sorted(str(p) for p in HERE.glob("executor/*.cpp"))
    return store(
        products() / key / "libmlxr_standin.so",
        lambda out: run([clang(), *flags, *sources, "-o", str(out), "-ldl", "-lpthread"]) and None,
    )


# ---------------------------------------------------------------- kernel files


def swizzles(width: int) -> str:
    """Return the swizzle members of a vector: properties whose getters and setters move components."""
    lines = []
    for letters in ("xyzw"[:width], "rgba"[:width]):
        for length in (2, 3, 4):
            for index in itertools.product(range(width), repeat=length):
                name = "".join(letters[i] for i in index)
                put = f", put = put_{name}_" if len(set(index)) == length else ""
                order = ", ".join(map(str, index))
                kind = f"vec<T, {length}>"
                lines.append(f"__declspec(property(get = get_{name}_{put})) {kind} {name};")
                lines.append(f"{kind} get_{name}_() const {{ return get_<{order}>(); }}")
                if put:
                    lines.append(f"void put_{name}_(const {kind} &v) {{ set_<{order}>(v); }}")
    return "\n".join(lines) + "\n"


def kernel_flags(checked: bool) -> list[str]:
    """Return the flags that kernel files are compiled with."""
    flags = [
        "-std=c++17", "-fdeclspec", "-fsigned-char", "-fno-finite-loops", "-fno-exceptions", "-fno-rtti",
        "-ffp-contract=on",
        "-fno-math-errno", "-fPIC", "-fvisibility=hidden", "-gline-tables-only", "-gdwarf-4", *architecture(),
        "-Xclang", "-ffloat16-excess-precision=none", "-Xclang", "-fbfloat16-excess-precision=none",
        f"-DSTANDIN_CHECKED={'true' if checked else 'false'}",
    ]  # fmt: skip
    if checked:
        checks = "bounds,integer-divide-by-zero,shift-exponent"
        flags += ["-O1", "-fno-vectorize", "-fno-slp-vectorize", "-fsanitize=thread", f"-fsanitize={checks}"]
        flags += ["-Xclang", "-fsanitize-minimal-runtime", f"-fsanitize-recover={checks}"]
    else:
        flags += ["-O2"]
    return flags


@cache
def library_folder() -> Path:
    """Return the folder of the headers that are generated: the swizzles."""
    folder = products() / source_hash("msl/*.h", "toolchain.py")[:16]
    for width in (2, 3, 4):
        store(folder / f"swizzle{width}.inc", lambda out, width=width: out.write_text(swizzles(width)) and None)
    return folder


@cache
def library_header(checked: bool) -> Path:
    """Return the precompiled header of the Metal Shading Language's library."""
    folder = library_folder()
    header = HERE / "msl" / "msl.h"
    command = [
        clang(),
        "-x",
        "c++-header",
        "-Xclang",
        "-fno-pch-timestamp",  # the folder's name has the hash of the content
        *kernel_flags(checked),
        "-Wno-everything",
        "-I",
        str(folder),
        str(header),
        "-o",
    ]
    return store(
        folder / f"msl-{'checked' if checked else 'plain'}.pch", lambda out: run([*command, str(out)]) and None
    )


def preprocess(path: Path, include: Iterable[Path] = ()) -> str:
    """Return a kernel file with its macros and includes expanded, and with markers of file and line."""
    folder = products() / "metal-headers"
    for name in METAL_HEADERS:
        store(folder / f"metal_{name}", lambda out: out.write_text("#pragma once\n") and None)
    defines = ["-D__METAL__=1", "-D__METAL_VERSION__=310", "-D__METAL_MACOS__=1", "-D__HAVE_BFLOAT__=1", "-U__linux__",
               "-Ulinux", "-U__gnu_linux__", "-Uunix", "-U__unix__"]  # fmt: skip
    folders = [option for one in include for option in ("-I", str(one))]
    return run([clang(), "-E", "-x", "c++", "-std=c++17", "-nostdinc", "-nostdinc++", "-isystem", str(folder), *folders,
                *defines, str(path)])  # fmt: skip


def compile_kernels(path: Path, checked: bool = False, include: Iterable[Path] = ()) -> Path:
    """Return the shared library of a kernel file; raise `CompileError` with what is wrong with it."""
    source = preprocess(path, include)
    header = library_header(checked)
    # The library is linked against one executor, so another executor needs another library.
    own = f"{executor().parent.name} {source_hash('msl/*.h', '*.py')}"
    digest = hashlib.sha256(f"{checked} {own}\0{source}".encode())

    def make(out: Path) -> None:
        code = out.with_suffix(".cpp")
        code.write_text(translate(source).code)
        errors = [f"-Werror={w}" for w in KERNEL_ERRORS]
        flags = [*kernel_flags(checked), "-Wno-everything", *errors, "-include-pch", str(header)]
        # The executor has the callbacks that the sanitizers' run times would have.
        run([clang(), *flags, "-c", str(code), "-o", str(out.with_suffix(".o"))])
        link = [
            "-shared",
            str(out.with_suffix(".o")),
            "-o",
            str(out),
            str(executor()),
            f"-Wl,-rpath,{executor().parent}",
            "-lm",
        ]
        run([clang(), *link])

    return store(products() / "kernels" / f"{path.stem}-{digest.hexdigest()[:24]}.so", make)


# ---------------------------------------------------------------- Objective-C++


METALLIB_MAGIC = "mlxr stand-in metallib 1\n"


def objective_cxx_flags() -> list[str]:
    """Return the flags for Objective-C++ sources written for Apple's frameworks: with ARC, against the stand-in's."""
    return [
        "-std=c++20", "-fobjc-runtime=gnustep-2.0", "-fobjc-arc", "-fobjc-weak", "-fblocks", "-fexceptions", "-fPIC",
        "-fconstant-string-class=NSConstantString", "-isystem", str(HERE / "include"),
    ]  # fmt: skip


@cache
def frameworks() -> Path:
    """Return the shared library with the Objective-C runtime, Foundation and Metal; it needs the executor's."""
    key = source_hash("executor/*", "msl/interface.h", "objc/*", "include/**/*.h", "toolchain.py")[:16]
    common = ["-O2", "-g1", "-fPIC", "-Wall", "-Wextra", "-Wno-unused-parameter"]
    objc = [*objective_cxx_flags(), "-x", "objective-c++", *common, "-Wno-objc-root-class"]
    defines = [f'-DSTANDIN_PYTHON="{sys.executable}"', f'-DSTANDIN_COMPILER="{HERE / "compiler.py"}"',
               f'-DSTANDIN_EXECUTOR="{executor()}"']  # fmt: skip

    def make(out: Path) -> None:
        folder = out.parent
        run([clang(), "-std=c++20", *common, "-c", str(HERE / "objc/runtime.cpp"), "-o", str(folder / "runtime.o")])
        for name, flags in (("foundation", ["-fno-objc-arc"]), ("metal", defines)):
            run([clang(), *objc, *flags, "-c", str(HERE / f"objc/{name}.mm"), "-o", str(folder / f"{name}.o")])
        objects = [str(folder / f"{name}.o") for name in ("runtime", "foundation", "metal")]
        run([clang(), "-shared", *objects, "-o", str(out), str(executor()), f"-Wl,-rpath,{executor().parent}",
             "-Wl,-z,defs", "-ldl", "-lpthread"])  # fmt: skip

    return store(products() / key / "libmlxr_standin_metal.so", make)


def framework_link_flags() -> list[str]:
    """Return what a shared library that uses the stand-in's frameworks is linked with."""
    library = frameworks()
    return [str(library), f"-Wl,-rpath,{library.parent}", f"-Wl,-rpath,{executor().parent}"]


def compile_source(text: str, checked: bool = False) -> Path:
    """Return the shared library of kernels given as text, as Metal compiles it: messages name ``program_source``."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:24]
    path = store(products() / "sources" / f"source-{digest}.metal",
                 lambda out: out.write_text(f'#line 1 "program_source"\n{text}') and None)  # fmt: skip
    return compile_kernels(path, checked)


def write_metallib(source: str, path: Path) -> None:
    """Write the stand-in's counterpart of a ``.metallib``: its source, checked and with all includes in place."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / path.with_suffix(".metal").name
        whole.write_text(source)
        compile_kernels(whole)
    path.write_text(METALLIB_MAGIC + source)
