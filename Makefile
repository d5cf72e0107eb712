# Everything a checkout needs: `make` lists the targets. Needs only Python >= 3.10, make and git.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OURS := -e ".[all,dev]" -e "integrations/qdrant[ray]" -e integrations/llama-index

# What follows the command of a target: make demo ARGS="--seed 3", make test ARGS="-k video"
ARGS ?=

# The bundled model is small: threads cost more in hand-over than they save. Raise it for a real model.
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS

# Tests at a time; each takes up to two gigabytes.
JOBS ?= 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow test-all lint type fix install tiny clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP)  ## draw sample media, index it, search it (ARGS="--seed 3")
	$(BIN)/tte-retriever demo $(ARGS)

test: $(STAMP)  ## the fast tests (ARGS="-k video", JOBS=4 for more at a time)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-slow: $(STAMP)  ## those that take minutes, one after the other: they start processes of their own
	$(BIN)/python -m pytest -m slow $(ARGS)

test-all: test test-slow  ## every test

lint: $(STAMP)  ## style and formatting, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(STAMP)  ## static types
	$(BIN)/mypy

fix: $(STAMP)  ## repair what lint can repair
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(STAMP)  ## make .venv with this checkout in it, editable

tiny: $(STAMP)  ## retrain the bundled model (70 minutes on a CPU; goes on where it was stopped)
	$(BIN)/python -m models.tte_flash_tiny.build models/tte_flash_tiny/config.yaml $(ARGS) --set output_dir=runs/bundled-model
	$(BIN)/python -m models.tte_flash_tiny.score runs/bundled-model/model
	cp -r runs/bundled-model/model/. tte_retriever/models/tte-flash-tiny

clean:  ## remove .venv, caches and build leftovers
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name '*.egg-info' -type d -prune -exec rm -rf {} +

# A .venv that already works is kept; one that was interrupted, or whose Python is gone, is made again.
# Editable installs by pyproject.toml alone need pip >= 21.3, which Python 3.10's venv may not bring; setuptools warns
# about each of them, at length, and there is nothing to do about it.
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
