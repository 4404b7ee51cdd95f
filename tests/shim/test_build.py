"""Building against an upstream checkout (``MLX_SRC``): what the build script does around upstream's own CMake files.

No checkout is at hand here. A folder stands in for one: the wheel's headers where a checkout has them, and CMake files
that take the same options and put the wheel's library where upstream's would put theirs. Whether upstream itself
configures and compiles with these options is not tested.
"""

import os
import pathlib
import shutil
import subprocess

import pytest

CMAKE = """
cmake_minimum_required(VERSION 3.16)
project(mlx LANGUAGES NONE)
foreach(part TESTS EXAMPLES BENCHMARKS GGUF PYTHON_BINDINGS)
  if(NOT DEFINED MLX_BUILD_${part} OR MLX_BUILD_${part})
    message(FATAL_ERROR "MLX_BUILD_${part} is not switched off")
  endif()
endforeach()
if(NOT BUILD_SHARED_LIBS OR NOT CMAKE_BUILD_TYPE STREQUAL Release)
  message(FATAL_ERROR "not a shared library in release mode")
endif()
if(FETCHCONTENT_FULLY_DISCONNECTED AND NOT EXISTS ${FETCHCONTENT_SOURCE_DIR_JSON}/single_include/nlohmann)
  message(FATAL_ERROR "no JSON library")
endif()
set(name LIBRARY_NAME)
add_custom_target(mlx ALL COMMAND ${CMAKE_COMMAND} -E create_symlink LIBRARY_PATH ${CMAKE_BINARY_DIR}/${name})
"""


@pytest.fixture
def wheel(build):
    """Upstream's wheel."""
    try:
        return build.find_wheel()
    except SystemExit as error:
        pytest.skip(str(error))


@pytest.fixture
def checkout(build, wheel, tmp_path, monkeypatch):
    """A folder like a checkout; its library finds the ones beside the wheel's."""
    shutil.which("cmake") or pytest.skip("cmake is not installed")
    source = tmp_path / "checkout"
    source.mkdir()
    (source / "mlx").symlink_to(wheel.include / "mlx")
    text = CMAKE.replace("LIBRARY_NAME", wheel.library.name).replace("LIBRARY_PATH", str(wheel.library))
    (source / "CMakeLists.txt").write_text(text)
    monkeypatch.setattr(build, "REPOSITORY", tmp_path)
    monkeypatch.setenv("LD_LIBRARY_PATH", os.pathsep.join(map(str, wheel.link_folders)))
    monkeypatch.setenv("MLX_SRC", str(source))
    monkeypatch.delenv("MLX_JSON_SRC", raising=False)
    return source


def test_a_checkout_is_built_and_found(build, wheel, checkout, tmp_path):
    found = build.find_upstream()
    assert found.include == checkout
    assert found.version == wheel.version
    assert found.library.resolve() == wheel.library.resolve()
    assert found.library.is_relative_to(tmp_path / "build")
    assert found.link_folders == (found.library.parent,)
    assert build.find_upstream() == found  # built once, found again
    source = pathlib.Path(build.HERE) / "src" / "upstream.cpp"
    subprocess.run([*build.compiler(), *build.compile_flags(found), "-fsyntax-only", str(source)], check=True)


def test_two_checkouts_have_two_folders(build, checkout, tmp_path, monkeypatch):
    found = build.find_upstream()
    second = tmp_path / "other" / "checkout"
    shutil.copytree(checkout, second, symlinks=True)
    monkeypatch.setenv("MLX_SRC", str(second))
    assert build.find_upstream().library.parent != found.library.parent


def test_a_json_library_at_hand_goes_to_cmake(build, checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_JSON_SRC", str(tmp_path / "json"))
    with pytest.raises(SystemExit):
        build.find_upstream()
    (tmp_path / "json" / "single_include" / "nlohmann").mkdir(parents=True)
    assert build.find_upstream().include == checkout


def test_what_is_no_checkout_is_refused(build, tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_SRC", str(tmp_path))
    with pytest.raises(SystemExit, match="no checkout of MLX"):
        build.find_upstream()


def test_a_build_without_a_library_is_refused(build, checkout):
    files = checkout / "CMakeLists.txt"
    files.write_text(files.read_text().split("add_custom_target")[0])
    with pytest.raises(SystemExit, match="left no libmlx"):
        build.find_upstream()
