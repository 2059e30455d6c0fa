# `make demo` and `make test` set themselves up: Python and make are all they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := runs/demo

.PHONY: help setup demo test slow lint type check bench clean
help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(STAMP) ## Make the virtual environment with seqtool and what its tests need

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "seqtool needs Python 3.11 or newer; set PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## Train two minutes on sample_data, then write with the model
	$(BIN)/seqtool train sample_data --budget 2m --force -o $(DEMO)
	$(BIN)/seqtool generate $(DEMO) --length 600

test: $(STAMP) ## Run the fast tests
	$(BIN)/python -m pytest -q -n auto

slow: $(STAMP) ## Run every test, also the slow ones
	$(BIN)/python -m pytest -q -n auto -m 'slow or not slow'

lint: $(STAMP) ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(STAMP) ## Check types
	$(BIN)/mypy
	$(BIN)/mypy --config-file= --ignore-missing-imports tests

check: lint type test ## All that must pass before a commit; what CI runs

bench: $(STAMP) ## Measure speed beside the peers
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m tests.bench
	$(BIN)/python -m tests.bench.plot

clean: ## Remove the environment, caches and demo output
	rm -rf $(VENV) $(DEMO) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
