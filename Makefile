PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.synced
SOURCES := pyproject.toml $(wildcard packages/*/pyproject.toml conformance/pyproject.toml)

.PHONY: setup test torture zoo demo lint types check clean

# Runs the tests; PYTEST_ARGS picks some, as in: make test PYTEST_ARGS="tests/core -k digest"
test: setup
	@$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

# The tests that take minutes, and long random schedules of the S3 protocol.
torture: setup
	@$(BIN)/python -m pytest -m slow --timeout 1800 $(PYTEST_ARGS)
	@cd tests && ../$(BIN)/python -m support.s3.torture --schedules 200000

# Prints which broken driver fails which check of the conformance kit; ZOO_ARGS=--csv makes a table of it.
zoo: setup
	@cd tests && ../$(BIN)/python -m support.zoo.matrix $(ZOO_ARGS)

# Reviews this repository's documents, kills the run, resumes it and proves what ran; or a folder: make demo FOLDER=~/notes
demo: setup
	@$(BIN)/python examples/docs_review/demo.py $(FOLDER)

setup: $(STAMP)

$(STAMP): $(SOURCES)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.9"
	@VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv sync --quiet --all-packages --no-progress --inexact --active
	@touch $@

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: setup
	@$(BIN)/mypy

check: lint types test

clean:
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist build .demo
