PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.synced
SOURCES := pyproject.toml $(wildcard packages/*/pyproject.toml conformance/pyproject.toml)

.PHONY: setup test demo lint types check clean

setup: $(STAMP)

$(STAMP): $(SOURCES)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.9"
	@VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv sync --quiet --all-packages --no-progress --inexact --active
	@touch $@
