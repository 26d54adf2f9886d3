# Each target sets up what it needs: a virtual environment in .venv, the packages, the compiled
# extensions. Stamp files remember what is done, so the second time costs seconds.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTENSION_SOURCES := $(wildcard ext/*.pyx ext/*.pxd)
TO_INSTALL := install what is missing (Debian: apt-get install python3-venv python3-dev gcc libc6-dev make), then run make again

.PHONY: demo test build lint bench lock protos clean

demo: build
	@$(BIN)/python -m examples.demo

test: lint
	@echo "== pytest"
	@$(BIN)/python -m pytest -n 2 --dist loadfile || { echo "FAILED: pytest"; exit 1; }

lint: build
	@echo "== ruff"
	@$(BIN)/ruff check --quiet . || { echo "FAILED: ruff"; exit 1; }
	@echo "== mypy"
	@$(BIN)/mypy --no-error-summary || { echo "FAILED: mypy"; exit 1; }
	@echo "== import-linter"
	@$(BIN)/lint-imports > $(VENV)/imports.log || { cat $(VENV)/imports.log; echo "FAILED: import-linter"; exit 1; }

bench: build
	@$(BIN)/python -m bench journal --json
	@$(BIN)/python -m bench replay --json
	@$(BIN)/python -m bench recovery --json

build: $(VENV)/.extensions

# The newest releases that pyproject.toml allows, with their hashes, for every platform.
lock:
	@$(PYTHON) -m venv $(VENV)/lock
	@$(VENV)/lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	@for extra in build dev; do $(VENV)/lock/bin/uv pip compile --quiet --upgrade --universal \
		--python-version 3.11 --generate-hashes --no-annotate --extra $$extra \
		--custom-compile-command "make lock" pyproject.toml --output-file requirements/$$extra.txt \
		|| exit 1; done

protos: build
	@$(BIN)/python tools/generate_protos.py

clean:
	rm -rf $(VENV) build dist *.egg-info ext/*.so ext/*.c
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "make: $(PYTHON) is missing or older than 3.11: name another with PYTHON=..., or $(TO_INSTALL)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null \
		|| { echo "make: $(PYTHON) cannot make a virtual environment: $(TO_INSTALL)"; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
		|| { echo "make: the headers of $(PYTHON) are missing: $(TO_INSTALL)"; exit 1; }
	@command -v gcc > /dev/null || { echo "make: gcc is missing: $(TO_INSTALL)"; exit 1; }
	@echo "== virtual environment in $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

$(VENV)/.packages: $(VENV)/.made pyproject.toml requirements/dev.txt
	@echo "== packages (a minute or two, once)"
	@$(PIP_INSTALL) --require-hashes --requirement requirements/dev.txt
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

# The compiler's flags and Cython's directives are in setup.py, which neither of them watches.
$(VENV)/.extensions: $(VENV)/.packages setup.py $(EXTENSION_SOURCES)
	@echo "== extensions"
	@$(if $(filter setup.py,$?),rm -rf build/release ext/*.so)
	@$(BIN)/python setup.py --quiet build_ext --inplace --parallel 2
	@touch $@
