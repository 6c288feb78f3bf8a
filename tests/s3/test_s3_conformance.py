"""The whole conformance kit against this driver, on each server that is here."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from support.conformance_targets import CHANCE_CHECKS, SEEDS

from stargraph.checkpoint.conformance import run

pytestmark = pytest.mark.thorough

TESTS = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("server", ["moto", "seaweedfs"])
async def test_it_conforms_in_full(
    server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", request.getfixturevalue(server))
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "stargraph-conformance"),
        "run",
        "support.s3.conformance_target:target",
        "--deadline=5",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=TESTS,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert "level full" in output.decode()
    assert " 0 violations" in output.decode()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_seed_accuses_it(seed: int, seaweedfs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", seaweedfs)
    report = run("support.s3.conformance_target:target", only=CHANCE_CHECKS, quick=True, seed=seed, deadline=5)
    assert {result.verdict for result in report.results} == {"pass"}, report.to_json()


@pytest.mark.timeout(300)
def test_it_shows_what_runs_do(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto)
    only = ("timeline.rows", "timeline.ranges", "timeline.removals", "timeline.lost_step", "watch.steps")
    report = run("support.s3.conformance_target:target", only=only, seed=1, deadline=5)
    assert {result.verdict for result in report.results} == {"pass"}, report.to_json()
