# `make` lists the targets. They need Python >= 3.10, make and git.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OURS := -e ".[all,dev]" -e "integrations/qdrant[ray]" -e integrations/llama-index

# Arguments of the command that a target runs: make demo ARGS="--seed 3", make test ARGS="-k video"
ARGS ?=

# The bundled model is too small to gain from threads. Raise this for a larger model.
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS

# Test processes; each takes up to 2 GB of memory.
JOBS ?= 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow test-all test-lowest test-newest lint type fix install tiny clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP)  ## draw sample media, index it, search it (ARGS="--seed 3")
	$(BIN)/tte-retriever demo $(ARGS)

test: $(STAMP)  ## run the fast tests (ARGS="-k video", JOBS=4)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-slow: $(STAMP)  ## run the slow tests one after another: they start processes of their own
	$(BIN)/python -m pytest -m slow $(ARGS)

test-all: test test-slow  ## run every test

test-lowest:  ## run the fast tests with the lowest declared versions, in .venv-lowest
	$(call test_in,.venv-lowest,lowest-direct)

test-newest:  ## run the fast tests with the newest versions, without constraints, in .venv-newest
	$(call test_in,.venv-newest,highest)

lint: $(STAMP)  ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(STAMP)  ## check static types
	$(BIN)/mypy

fix: $(STAMP)  ## fix style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(STAMP)  ## make .venv with this checkout installed in it, editable

tiny: $(STAMP)  ## retrain the bundled model (70 minutes on a CPU; a stopped run resumes)
	$(BIN)/python -m models.tte_flash_tiny.build models/tte_flash_tiny/config.yaml $(ARGS) --set output_dir=runs/bundled-model
	$(BIN)/python -m models.tte_flash_tiny.score runs/bundled-model/model
	cp -r runs/bundled-model/model/. tte_retriever/models/tte-flash-tiny

clean:  ## remove environments, caches and build output
	rm -rf $(VENV) .venv-lowest .venv-newest build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name '*.egg-info' -type d -prune -exec rm -rf {} +

# Run the fast tests in a fresh environment (first argument) whose versions uv resolves (second argument). pip has no
# lowest resolution. Only direct dependencies are lowered: theirs are the newest that fit.
define test_in
"$(PYTHON)" -m venv --clear $(1)
$(1)/bin/python -m pip install --quiet --disable-pip-version-check uv
$(1)/bin/uv pip install --quiet --python $(1) --resolution $(2) $(OURS)
$(1)/bin/uv pip list --python $(1)
$(1)/bin/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)
endef

# A working .venv is kept. One that is incomplete, or whose Python is gone, is made again.
# Editable installs from pyproject.toml need pip >= 21.3, and the venv of Python 3.10 may bring an older one.
# PYTHONWARNINGS silences a long warning of setuptools about every editable install.
$(STAMP): pyproject.toml $(wildcard integrations/*/pyproject.toml) constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  command -v "$(PYTHON)" >/dev/null 2>&1 || { \
	    echo "make: no '$(PYTHON)' on the PATH; Python 3.10 or newer is needed: install one or name it, as in make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }; \
	  "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "make: '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1); Python 3.10 or newer is needed: name one, as in make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }; \
	  "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "make: '$(PYTHON)' cannot make virtual environments (no venv or ensurepip); install them, on Debian and Ubuntu with: apt install python3-venv" >&2; exit 2; }; \
	  echo "Making $(VENV) with $$("$(PYTHON)" -V 2>&1)"; \
	  "$(PYTHON)" -m venv --clear $(VENV); }
	@echo "Installing into $(VENV); the first time this fetches PyTorch and takes minutes"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25"
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check $(OURS) -c constraints.txt
	@touch $@
