"""The shim and its C test under AddressSanitizer, compiled for this test alone (half a minute)."""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
REPOSITORY = HERE.parents[1]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="AddressSanitizer is set up for Linux here")
def test_c_program_under_address_sanitizer(build, library_file, tmp_path):
    compiler = shutil.which("cc") or pytest.skip("no C compiler")
    probe = subprocess.run(
        [compiler, "-fsanitize=address", "-x", "c", "-", "-o", str(tmp_path / "probe")],
        input="int main(void) { return 0; }", text=True, capture_output=True,
    )  # fmt: skip
    if probe.returncode:
        pytest.skip("the compiler has no AddressSanitizer")
    flags = ["-fsanitize=address", "-fno-omit-frame-pointer"]
    library = build.build(tmp_path / build.LIBRARY, extra=flags)
    upstream = build.find_upstream()
    program = tmp_path / "c_abi_test"
    search = [f"-Wl,-rpath-link,{folder}" for folder in upstream.link_folders]
    command = [compiler, "-std=c11", "-g", "-O1", *flags, f"-I{REPOSITORY / 'shim' / 'include'}", *search]
    command += [str(HERE / "c_abi_test.c"), str(library), f"-Wl,-rpath,{tmp_path}", "-lm", "-o", str(program)]
    subprocess.run(command, check=True)
    # Upstream keeps its threads and tables for the process; leaks of the shim show as live handles, which are checked.
    env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0"}
    result = subprocess.run([str(program)], capture_output=True, text=True, env=env, timeout=300)
    assert result.returncode == 0, shlex.join(command) + "\n" + result.stdout + result.stderr
    assert result.stdout == "passed\n"
