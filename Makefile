# Every verb does its own set-up: a bare machine needs Python 3.10 or newer and make. Without a C++ compiler the slow
# reference kernels run, and say so.
# PYTHON=... picks the interpreter, INSTALLER=uv installs with uv, ARGS=... goes to pytest (make test ARGS="-k order").
# Where packages come from is left to pip's own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS).
PYTHON ?= python3
INSTALLER ?= pip
VENV := .venv
PY := $(VENV)/bin/python
APART := $(VENV)/sanitize
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2
.DEFAULT_GOAL := help
.PHONY: help demo test test-long check format sanitize bench bench-record accuracy notebooks systems docs site gallery coverage release-check clean

# Idle OpenMP workers sleep instead of spinning: on a small or busy machine spinning costs milliseconds per region.
export OMP_WAIT_POLICY := passive

ifeq ($(INSTALLER),uv)
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
MAKE_VENV := uv venv --quiet --python $(PYTHON) $(VENV)
INSTALL := uv pip install --python $(PY)
INSTALL_APART := uv pip install --python $(APART)/bin/python
else
MAKE_VENV := $(PYTHON) -m venv $(VENV)
INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check
INSTALL_APART := $(PY) -m pip --python $(APART)/bin/python install --quiet --disable-pip-version-check
endif

help:  ## list the verbs
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 21

demo: $(VENV)/.demo  ## sample, measure and plot; writes ./demo-output
	$(PY) -m odesolve.demo

test: $(VENV)/.test  ## run the tests
	$(PYTEST) $(ARGS)

test-long: $(VENV)/.test $(VENV)/.notebooks  ## run all tests: whole products of parameters and what takes over 20 seconds, too
	ODESOLVE_LONG=1 $(PYTEST) $(ARGS)

check: $(VENV)/.dev  ## lint, formatting and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	@mkdir -p $(VENV)/typing/odesolve && ln -sfn ../../../kernels $(VENV)/typing/odesolve/kernels
	$(VENV)/bin/pyright --pythonpath $(PY)

format: $(VENV)/.dev  ## sort imports, apply safe fixes, format
	$(VENV)/bin/ruff check --fix-only .
	$(VENV)/bin/ruff format .

# The sanitizers must be there before Python is, and the C++ runtime with them: its exceptions pass through both.
sanitize: $(APART)/.built  ## run the tests of the CPU kernels under the address and undefined-behaviour sanitizers
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so):$$($(CXX) -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=1 \
	  $(APART)/bin/python -m pytest -n 0 --capture=sys -m "not apart" -k "not triton" tests/kernels $(ARGS)

# Workers wait as torch lets them by default. Where its memory lies makes a process faster or slower for as long as it lives,
# so that rows that failed are timed again in a process of their own.
TIMED := env -u OMP_WAIT_POLICY ../$(PY) -m pytest
bench: $(VENV)/.test  ## time ops and samplers beside the peers; fails where a ratio is worse than the committed one
	cd benchmarks && { $(TIMED) $(ARGS) || $(TIMED) --last-failed --last-failed-no-failures none $(ARGS); }

bench-record: $(VENV)/.test  ## time all of them, or the files in ARGS, and store the figures in benchmarks/results
	cd benchmarks && $(TIMED) --record $(ARGS)

accuracy: $(VENV)/.test  ## work-precision figures against the peers
	$(PY) benchmarks/work_precision.py

notebooks: $(VENV)/.notebooks  ## execute the notebooks of docs/notebooks, or those in ARGS, and store them with what they show
	$(PY) -m tests.docs.notebooks $(ARGS)

systems: $(VENV)/.test  ## check every system of the field against what is known of it, and print the table
	$(PY) -m tests.systems

docs: $(VENV)/.test  ## run every code block of the README and every example
	ODESOLVE_LONG=1 $(PYTEST) tests/docs $(ARGS)

site: $(VENV)/.site  ## build the pages as a site with search into build/site; every warning is an error
	$(PY) website
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build -f build/mkdocs.yml

gallery: $(VENV)/.test  ## train the examples and draw the pictures of docs/gallery, some 20 minutes
	mkdir -p docs/gallery
	cd examples && for name in $$(grep -l -e '--out' *.py | sed 's/\.py$$//'); do \
	  echo "== $$name" && ../$(PY) $$name.py --out ../docs/gallery/$$name.png || exit 1; done

coverage: $(VENV)/.test  ## run the tests and require 95 % coverage
	$(PYTEST) --cov --cov-report=term-missing $(ARGS)

release-check: $(VENV)/.release  ## build the wheels, install each into a fresh environment and use it there; ARGS="python3.10 ..." with these
	$(PY) release check $(ARGS)

clean:  ## remove everything that make wrote, .venv included
	rm -rf $(VENV) build dist demo-output htmlcov .coverage .coverage.* .pytest_cache benchmarks/.pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment, filled as far as a verb needs: .venv/.demo, .venv/.site, .venv/.test, .venv/.notebooks and .venv/.dev are stamps
# named like the extras. A larger extra contains the smaller ones, so it sets their stamps too.
covers_test := demo site
covers_notebooks := demo
covers_dev := demo site test notebooks
SOURCES := pyproject.toml constraints.txt peers.txt $(wildcard CMakeLists.txt csrc/*)
# Set up without a C++ compiler, on the reference kernels: set up again as soon as there is one.
WITHOUT := $(VENV)/.without-cxx
ifneq ($(and $(wildcard $(WITHOUT)),$(shell command -v $(CXX) 2>/dev/null)),)
$(shell rm -f $(WITHOUT) $(VENV)/.demo $(VENV)/.site $(VENV)/.test $(VENV)/.dev $(VENV)/.release $(VENV)/.notebooks)
endif
$(VENV)/.demo $(VENV)/.site $(VENV)/.test $(VENV)/.dev $(VENV)/.release $(VENV)/.notebooks: $(VENV)/.%: $(SOURCES) | $(PY)
	@echo 'Setting up $(VENV) for "$*" (the first time takes a minute or more)'
	$(INSTALL) -c constraints.txt -e '.[$*]'
	$(if $(filter test dev,$*),$(INSTALL) --no-deps -r peers.txt)
	@command -v $(CXX) >/dev/null || touch $(WITHOUT)
	@touch $(addprefix $(VENV)/.,$* $(covers_$*))

$(PY):
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python 3.10 or newer is needed: make PYTHON=...")'
	@$(MAKE_VENV) || { rm -rf $(VENV); \
	  echo 'No virtual environment could be made. On Debian or Ubuntu: apt-get install python3-venv python3-dev' >&2; exit 1; }

# An environment inside the other, which sees its packages but has a module of its own, built with the sanitizers.
$(APART)/.built: $(SOURCES) | $(VENV)/.test
	@echo 'Building the kernels with sanitizers (a minute or two)'
	@$(PY) -m venv --without-pip --clear $(APART)
	@$(PY) -c 'import sys; print(*(p for p in sys.path if p.endswith("-packages")), sep="\n")' \
	  > "$$($(APART)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/outer.pth"
	$(INSTALL_APART) --no-deps -C build-dir=build/sanitize -C cmake.define.ODESOLVE_SANITIZE=ON \
	  -C cmake.define.CMAKE_CXX_COMPILER=$(CXX) -e .
	@touch $@
