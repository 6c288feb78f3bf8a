"""The conformance kit on the driver."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.conformance_targets import CACHED_GROUPS, CHANCE_CHECKS, CONTRACT_GROUPS, SEEDS
from support.postgres_target import SERVER_VARIABLE, TIMEOUT_VARIABLE
from support.relay import ROUND_TRIP_VARIABLE

from stargraph.checkpoint.conformance import run

THOROUGH = pytest.mark.thorough
SLOW = pytest.mark.slow
SERVERS = ["server", "debian_server", "pooler"]
APPENDS = ("steps", "batch", "fencing")
WITH_OUTAGES = ("access",)
PARTLY_EVALUATED = 2


def conformance(dsn: str, root: Path, *options: str, code: int = 0) -> str:
    program = Path(sys.executable).with_name("stargraph-conformance")
    done = subprocess.run(
        [program, "run", "support.postgres_target:target", *options],
        env=os.environ | {SERVER_VARIABLE: dsn, "PYTHONPATH": str(root / "tests")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def keeps_the_rules(group: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if group not in WITH_OUTAGES:  # a machine that stands still for a while is no fault
        monkeypatch.setenv(TIMEOUT_VARIABLE, "120")
    report = run(f"support.postgres_target:{target}", only=(group,), quick=True, seed=1)
    assert {result.verdict for result in report.results} == {"pass"}, report.to_json()


@pytest.mark.parametrize("group", APPENDS)
def test_appends_keep_the_rules(group: str, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVER_VARIABLE, dsn)
    keeps_the_rules(group, "target", monkeypatch)


@pytest.mark.parametrize("group", [group for group in CONTRACT_GROUPS if group not in APPENDS])
def test_reads_keep_the_rules(group: str, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVER_VARIABLE, server)
    keeps_the_rules(group, "target", monkeypatch)


@pytest.mark.parametrize("group", CONTRACT_GROUPS)
def test_a_statement_for_each_run_keeps_the_rules(group: str, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVER_VARIABLE, server)
    keeps_the_rules(group, "ungrouped", monkeypatch)


@THOROUGH
@pytest.mark.timeout(300)
def test_it_passes_the_quick_checks(server: str, pytestconfig: pytest.Config) -> None:
    output = conformance(server, pytestconfig.rootpath, "--quick", code=PARTLY_EVALUATED)
    assert " 0 violations" in output


@THOROUGH
@pytest.mark.timeout(300)
@pytest.mark.parametrize("group", ["timeline", "watch"])
def test_it_shows_what_runs_do(group: str, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVER_VARIABLE, dsn)
    report = run("support.postgres_target:target", only=(group,), seed=1)
    assert {result.verdict for result in report.results} == {"pass"}, report.to_json()


@THOROUGH
@pytest.mark.timeout(300)
def test_a_handle_that_keeps_the_latest_in_memory(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVER_VARIABLE, server)
    report = run("support.postgres_target:caching", only=CACHED_GROUPS, quick=True, seed=1)
    assert {result.verdict for result in report.results} == {"pass"}, report.to_json()


@SLOW
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("round_trip", ["0.02", "0.1"])
def test_a_server_may_be_far_away(
    round_trip: str, server: str, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ROUND_TRIP_VARIABLE, round_trip)
    output = conformance(server, pytestconfig.rootpath, "--quick", code=PARTLY_EVALUATED)
    assert " 0 violations" in output


@SLOW
@pytest.mark.timeout(1200)
def test_it_conforms(dsn: str, pytestconfig: pytest.Config) -> None:
    told = conformance(dsn, pytestconfig.rootpath, "--deadline=4")
    assert "level full" in told
    assert " 0 violations" in told


@SLOW
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_seed_accuses_it(seed: int, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVER_VARIABLE, server)
    report = run("support.postgres_target:target", only=CHANCE_CHECKS, quick=True, seed=seed, deadline=5)
    assert {result.verdict for result in report.results} == {"pass"}, report.to_json()
