# make train    sets up .venv and trains the default experiment (any arguments: make train ARGS="schedule=cosine seed=1")
# make test     sets up .venv and runs the tests
# make check    lint, formatting, types, architecture and tests: what CI runs

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: help install train test check lint types architecture clean

help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

install: $(VENV)/.installed  ## set up .venv, once

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "alphabar needs Python >= 3.11, $(PYTHON) is " + sys.version.split()[0] + "; give another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

train: install  ## train the default experiment; ARGS="schedule=cosine" changes it
	$(BIN)/python train.py $(ARGS)

test: install  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

check: lint types architecture test  ## everything that CI runs

lint: install  ## style and annotations
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install  ## static types of src/
	$(BIN)/pyright --pythonpath $(BIN)/python

architecture: install  ## who imports whom
	$(BIN)/lint-imports

clean:  ## remove .venv and caches, never outputs/
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache
