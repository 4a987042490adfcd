# The developer's commands: `make` lists them, CONTRIBUTING.md says more. They use the Python environment that is
# active. pytest takes its options from ARGS: make test ARGS="-k layout".

SHELL := /bin/bash
SANITIZERS := address,undefined
C_FILES = $(shell find csrc tests bench -name '*.[ch]')

.PHONY: help
help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

.PHONY: build
build:  ## install in place, with what developing needs; again after a change in what is compiled
	pip install -e ".[test,bench,dev]"

.PHONY: test
test:  ## the tests
	pytest $(ARGS)

.PHONY: bench
bench:  ## the comparison with other libraries
	python -m bench $(ARGS)

# ---- checks: the one definition of each; .pre-commit-config.yaml and .ci/run call these

CHECKS := ruff ruff-format cython-lint clang-format mypy shellcheck workflows codespell layout

.PHONY: check $(CHECKS:%=check-%)
check: $(CHECKS:%=check-%)  ## every linter and format check; changes nothing (make -k check: go on after a failure)

check-ruff:
	ruff check .

check-ruff-format:
	ruff format --check .

check-cython-lint:
	cython-lint fastsoftmax

check-clang-format:
	clang-format --dry-run -Werror $(C_FILES)

check-mypy:
	mypy
	python -m mypy.stubtest fastsoftmax

check-shellcheck:
	shellcheck .ci/run

# Structure by GitHub's schema; zizmor looks for what an attacker would: wide permissions, injection, moving tags.
check-workflows:
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	zizmor --offline --quiet .github/workflows
	pre-commit validate-config .pre-commit-config.yaml

check-codespell:
	codespell

# The rules of the house, and of .editorconfig: end of file, trailing blanks, tabs, width.
check-layout:
	pytest -q -n0 tests/test_layout.py

.PHONY: format
format:  ## what the checks can mend, mended
	ruff check --fix .
	ruff format .
	clang-format -i $(C_FILES)

# ---- sanitizers (Linux, GCC)

# The sanitized package lies in build/asan, beside the normal build; PYTHONSAFEPATH keeps the source tree from being
# imported in its place, and tests/conftest.py refuses a module that is not sanitized.
#   detect_leaks=0    the interpreter frees little at its end, and every such block would be reported
#   abort_on_error=1  a report is also a signal, which some tests expect of a process that touches a guard page
# --capture=sys leaves file descriptor 2 alone, where a report goes before the process ends.
ASAN = PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/asan LD_PRELOAD=$$(gcc -print-file-name=libasan.so) \
    ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1

# A sample (of combinations, as `pytest` takes it): what there is to find depends on shapes, strides, dtypes and extreme
# numbers, and every one of these is met. Left out are tests of which no C of ours is a part (constants, layout, and
# reference, the oracles), and bench, which draws with a C++ library that libasan alone cannot load. The programs of
# tests/native/ have no interpreter around them: they are sanitized themselves, in a second run, as both compilers
# build them. Not where QEMU runs them: it does not have the address space.
NOT_UNDER_ASAN := bench constants layout native reference

.PHONY: asan
asan:  ## a sample of the tests under AddressSanitizer and UndefinedBehaviorSanitizer
	rm -rf build/asan
	CC=gcc FSM_SANITIZE=$(SANITIZERS) pip install --quiet --no-deps --target build/asan .
	$(ASAN) pytest -q tests --capture=sys $(NOT_UNDER_ASAN:%=--ignore tests/test_%.py) $(ARGS)
	FSM_SANITIZE=$(SANITIZERS) pytest -q tests/test_native.py -m "" -k "debug or clang and not aarch64" $(ARGS)

.PHONY: tsan
tsan:  ## the thread pool under ThreadSanitizer
	FSM_REQUIRE_TOOLCHAINS=gcc pytest -q -n0 -m sanitizers $(ARGS)

# ---- the rest

# A debug build in build/coverage, beside the normal one.
.PHONY: coverage
coverage:  ## which lines of csrc/ the tests run, as build/coverage/index.html
	rm -rf build/coverage build/temp.*
	FSM_COVERAGE=1 pip install --quiet --no-deps --target build/coverage .
	PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/coverage \
	    pytest tests --ignore tests/test_native.py -m "not compilers and not sanitizers" $(ARGS)
	gcovr --filter csrc/ --html-details build/coverage/index.html --print-summary build/temp.*/csrc

.PHONY: ci
ci:  ## everything that guards main, in fresh environments
	.ci/run

.PHONY: clean
clean:  ## what builds and tools left
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find fastsoftmax tests bench tools examples -name __pycache__ -prune -exec rm -rf {} +
	rm -f fastsoftmax/*.so fastsoftmax/*.pyd
