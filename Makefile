# Everything a contributor types. `make` alone lists the targets.
.DEFAULT_GOAL := help
.NOTPARALLEL:
SHELL := /bin/sh

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup demo test slow gpu check lint types docs generated bench format clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## *' '{ printf "  make %-10s %s\n", $$1, $$2 }'

setup: $(STAMP)  ## create .venv with the pinned dependencies (once; again when the pins change)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "longspan needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 setup" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## the main job on embedded text: train, extend, measure, report (under 6 minutes on 2 cores)
	$(BIN)/longspan demo --out runs/demo

test: $(STAMP)  ## the whole default test suite, on two cores
	$(BIN)/python -m pytest -n 2 --dist worksteal

slow: $(STAMP)  ## the tests that take longer
	$(BIN)/python -m pytest -m slow --timeout 1200

gpu: $(STAMP)  ## the tests that need an accelerator
	$(BIN)/python -m pytest -m gpu --timeout 1200

check: lint types generated test  ## all of CI: lint, types, generated pages, tests (with every code block of the docs)

lint: $(STAMP)  ## style and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(STAMP)  ## static types
	$(BIN)/mypy

docs: $(STAMP)  ## write the generated pages anew and run every code block of the docs
	$(BIN)/python docs/generate.py
	$(BIN)/python -m pytest tests/test_docs.py

generated: $(STAMP)  ## fail if a generated page is not what the code would write
	$(BIN)/python docs/generate.py --check

bench: $(STAMP)  ## what things cost, as ratios against plain RoPE, peers and the physical limit (quiet machine)
	$(BIN)/python -m benchmarks

format: $(STAMP)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove build products and caches; runs and .venv stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
