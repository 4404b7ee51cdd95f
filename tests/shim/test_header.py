"""The header as a contract: the languages it compiles in, the binding made from it, and what may never change."""

import ctypes
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from mlxr.shim import abi

REPOSITORY = pathlib.Path(__file__).parents[2]
HEADER = REPOSITORY / "shim" / "include" / "mlxr_shim.h"
GOLDEN = REPOSITORY / "tests" / "golden" / "shim" / "abi.json"

C = shutil.which("cc")
CXX = shutil.which("c++")
needs_c = pytest.mark.skipif(C is None, reason="no C compiler")


@pytest.fixture(scope="module")
def generator():
    """The script that makes the binding, as a module."""
    pytest.importorskip("pycparser", reason="pycparser is not installed")
    spec = importlib.util.spec_from_file_location("generate_binding", REPOSITORY / "shim" / "generate_binding.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@needs_c
@pytest.mark.parametrize("standard", ["c99", "c11", "c++17", "c++20"])
def test_header_compiles_without_a_warning(standard, tmp_path):
    is_cxx = standard.startswith("c++")
    compiler = CXX if is_cxx else C
    if compiler is None:
        pytest.skip("no C++ compiler")
    source = tmp_path / ("user.cpp" if is_cxx else "user.c")
    source.write_text(
        '#include "mlxr_shim.h"\n#include "mlxr_shim.h"\nint use(void) { return (int)mlxr_abi_version(); }\n'
    )
    flags = [f"-std={standard}", "-pedantic-errors", "-Wall", "-Wextra", "-Werror", f"-I{HEADER.parent}"]
    subprocess.run([compiler, *flags, "-c", str(source), "-o", str(tmp_path / "user.o")], check=True)


@needs_c
def test_binding_is_what_the_header_says(generator):
    assert generator.render(generator.parse()) == pathlib.Path(abi.__file__).read_text()


@needs_c
def test_prototypes_agree_with_the_header(generator):
    # Independent of the generator's rendering: counts and kinds, from the parsed header itself.
    parsed = generator.parse()
    assert set(abi.PROTOTYPES) == set(parsed.functions)
    for name, (result, arguments) in abi.PROTOTYPES.items():
        wanted_result, wanted_arguments = parsed.functions[name]
        kinds = {"ctypes": ctypes, "None": None}
        assert result is eval(wanted_result, kinds), name
        assert [*arguments] == [eval(a, kinds) for a in wanted_arguments], name


@needs_c
def test_struct_layouts_agree_with_the_compiler(tmp_path):
    structs = {
        "mlxr_array_info": abi.ArrayInfo,
        "mlxr_conv_params": abi.ConvParams,
        "mlxr_instr": abi.Instr,
        "mlxr_program": abi.Program,
        "mlxr_metal_device_info": abi.MetalDeviceInfo,
        "mlxr_metal_pipeline_info": abi.MetalPipelineInfo,
        "mlxr_metal_buffer_info": abi.MetalBufferInfo,
        "mlxr_metal_constant": abi.MetalConstant,
        "mlxr_metal_argument": abi.MetalArgument,
        "mlxr_metal_launch": abi.MetalLaunch,
        "mlxr_metal_batch": abi.MetalBatch,
        "mlxr_metal_counters": abi.MetalCounters,
    }
    lines = ['#include <stdio.h>\n#include "mlxr_shim.h"\nint main(void) {']
    expected = {}
    for c_name, struct in structs.items():
        lines.append(f'printf("{c_name} %zu\\n", sizeof({c_name}));')
        expected[c_name] = ctypes.sizeof(struct)
        for field, _ in struct._fields_:
            lines.append(f'printf("{c_name}.{field} %zu\\n", offsetof({c_name}, {field}));')
            expected[f"{c_name}.{field}"] = getattr(struct, field).offset
    source = tmp_path / "layout.c"
    source.write_text("\n".join([*lines, "return 0; }"]))
    program = tmp_path / "layout"
    subprocess.run([C, f"-I{HEADER.parent}", str(source), "-o", str(program)], check=True)
    output = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    assert {name: int(size) for name, size in map(str.split, output.splitlines())} == expected


@needs_c
def test_every_struct_begins_with_its_size(generator):
    for name, fields in generator.parse().structs.items():
        assert fields[0] == ("size", "ctypes.c_uint32"), name


@needs_c
def test_numbers_are_never_reused(generator):
    """Enumerators and fields are only ever appended. To record an addition: MLXR_UPDATE_GOLDEN=1 pytest ..."""
    parsed = generator.parse()
    now = {
        "enums": parsed.enums,
        "structs": {name: [list(f) for f in fields] for name, fields in parsed.structs.items()},
    }
    if os.environ.get("MLXR_UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(json.dumps(now, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    for name, members in golden["enums"].items():
        assert {k: now["enums"][name].get(k) for k in members} == members, name
    for name, fields in golden["structs"].items():
        assert now["structs"][name][: len(fields)] == fields, name
    assert now == golden, "the header has additions that the golden file does not: record them"
    numbers = [value for members in golden["enums"].values() for value in members.values() if value >= 0x100]
    assert len(numbers) == len(set(numbers)), "two operations share a number"
