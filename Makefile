# What people and CI type. `make` alone lists it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help install serve test matrix bench conformance lint format docs lock tools clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

install: $(INSTALLED)  ## .venv with everything from the lock file

$(INSTALLED): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

serve: install  ## the server on its built-in defaults
	$(BIN)/pillarbox serve

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Three at a time on whatever the machine has, since those on live servers mostly wait.
test: install tools lint  ## all tests that fit in a quarter of an hour
	$(BIN)/pytest -m "not matrix and not alone" -n 3 --dist loadfile --ignore tests/live
	$(BIN)/pytest -m "not matrix and not alone" -n 3 --dist loadfile tests/live
	$(BIN)/pytest -m "not matrix and alone"

matrix: install tools  ## the long tests, and those against servers not written here
	$(BIN)/pytest -m matrix --timeout 1800

bench: install  ## our speed beside that of Postfix and aiosmtpd
	$(BIN)/python -m tests.bench

conformance: install  ## the table walked against four other servers, into docs/conformance.md
	$(BIN)/python -m tests.conformance --write

docs: install  ## renew the generated reference pages
	$(BIN)/python -m pillarbox.app.reference

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tools:  # programs of the system that tests call
	@tests/install-tools

lock:  ## renew the lock file
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --generate-hashes \
		--no-emit-index-url --no-header --no-annotate pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
