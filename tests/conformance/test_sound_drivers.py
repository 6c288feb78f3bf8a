"""Sound drivers pass: the reference in memory, SQLite as an outsider runs it, and the driver of the documentation."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.broken_drivers.deltas import Deltas
from support.broken_drivers.encrypting import Encrypting
from support.conformance_targets import CHANCE_CHECKS, SEEDS
from support.documents import blocks_of
from support.levels import FULL_CAPABILITIES
from support.workspace import ROOT

from stargraph.checkpoint.conformance import Check, Report, catalogue, run
from stargraph.checkpoint.conformance.reference import ReferenceStores
from stargraph.errors import CheckpointCorruptedError

pytestmark = pytest.mark.thorough

COMMAND = Path(sys.executable).with_name("stargraph-conformance")
REFERENCE = "stargraph.checkpoint.conformance.reference:target"


def conformance(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "COLUMNS": "200"}
    command = [str(COMMAND), "run", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_reference_in_memory() -> None:
    report = run(REFERENCE, quick=True)
    assert report.count("pass") == sum(check.quick for check in _for(report)), report.to_json()


def _for(report: Report) -> list[Check]:
    """The checks that count for what a driver declares."""
    declared = (None, *report.capabilities)
    return [check for check in catalogue() if not check.advisory and check.capability in declared]


@pytest.mark.parametrize("seed", range(20))
def test_no_seed_accuses_the_reference(seed: int) -> None:
    report = run(REFERENCE, only=("corruption", "search.by_update"), quick=True, seed=seed)
    assert {result.verdict for result in report.results} == {"pass"}, report.to_json()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("target", [REFERENCE, "support.conformance_targets:sqlite"], ids=["reference", "sqlite"])
@pytest.mark.parametrize("seed", SEEDS)
def test_no_seed_accuses_a_sound_driver(seed: int, target: str) -> None:
    report = run(target, only=CHANCE_CHECKS, quick=True, seed=seed)
    assert {result.verdict for result in report.results} == {"pass"}, report.to_json()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(20))
def test_the_reference_in_memory_with_other_seeds(seed: int) -> None:
    report = run(REFERENCE, seed=seed)
    assert report.count("pass") == sum(not check.processes for check in _for(report)), report.to_json()
    assert not report.count("fail", "error", "blocked", "too-slow")


def test_the_reference_lives_in_one_process(tmp_path: Path) -> None:
    report = run(REFERENCE, only=["crash", "bootstrap", "values.sixty_four_mebibytes", "list_runs.thousands"])
    assert (report.level, report.exit_code) == ("partial", 2)
    assert not report.count("fail", "error", "blocked")
    skipped = {result.check.id for result in report.results if result.verdict == "skip"}
    assert {"crash.kill9_acked_survive", "bootstrap.four_processes"} <= skipped


@pytest.mark.timeout(600)
def test_sqlite_is_fully_conformant_as_an_outsider_sees_it(tmp_path: Path) -> None:
    done = conformance("support.conformance_targets:sqlite", "--json", "report.json", folder=tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    assert report["level"] == "full"
    verdicts = [result["verdict"] for result in report["results"] if not result["check"]["advisory"]]
    assert verdicts == ["pass"] * report["catalogue"]
    assert "stargraph-checkpoint-sqlite" in report["versions"]
    assert "level full" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(20))
def test_sqlite_with_other_seeds(seed: int, tmp_path: Path) -> None:
    done = conformance("support.conformance_targets:sqlite", "--seed", str(seed), folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def _write_documented_driver(folder: Path) -> None:
    """Write the files of the guide, and the metadata that an installation of its package would leave."""
    for block in blocks_of((ROOT / "docs/write-a-driver.md").read_text()):
        if block.name:
            (folder / block.name).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.name).write_text(block.text)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    metadata = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in found.items()) for group, found in groups
    ]
    (metadata / "entry_points.txt").write_text("".join(lines))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_documented_driver_survives_processes(tmp_path: Path) -> None:
    _write_documented_driver(tmp_path)
    # It has no queues, so their checks would be skipped.
    asked = [check for check in catalogue() if check.capability is None or check.capability in FULL_CAPABILITIES]
    picked = [check.id for check in asked if check.processes] + ["corruption", "bootstrap"]
    only = [argument for check_id in picked for argument in ("--only", check_id)]
    done = conformance("full_target:target", *only, "--json", "-", folder=tmp_path)
    report = json.loads(done.stdout)
    assert {result["verdict"] for result in report["results"]} == {"pass"}, done.stdout
    assert done.returncode == 2  # only a part was run


@pytest.mark.timeout(300)
def test_the_documented_capabilities_are_conformant(tmp_path: Path) -> None:
    _write_documented_driver(tmp_path)
    groups = ["history", "timeline", "watch", "search", "trees", "keys", "deletion", "batch", "pruned", "closing"]
    groups += ["access"]
    only = [argument for group in groups for argument in ("--only", group)]
    done = conformance("full_target:target", "--quick", *only, "--json", "-", folder=tmp_path)
    report = json.loads(done.stdout)
    assert {result["verdict"] for result in report["results"]} == {"pass"}, done.stdout
    assert set(report["capabilities"]) >= FULL_CAPABILITIES


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("target", "level"), [("folder_target", "core"), ("full_target", "full")])
def test_the_documented_driver_is_conformant(target: str, level: str, tmp_path: Path) -> None:
    _write_documented_driver(tmp_path)
    done = conformance(f"{target}:target", "--deadline", "4", folder=tmp_path)
    assert done.returncode == 0, done.stdout
    assert f"level {level}" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["database:Database", "documents:Documents", "logs:AppendLog"])
def test_what_the_broken_drivers_are_made_of_is_sound(name: str, tmp_path: Path) -> None:
    done = conformance(f"support.broken_drivers.{name}", "--deadline", "4", folder=tmp_path)
    assert done.returncode == 0, done.stdout


def test_a_sound_driver_may_give_up_a_write_that_the_system_cut_short(tmp_path: Path) -> None:
    target = "support.broken_drivers.logs:GivesUpShortWrites"
    done = conformance(target, "--only", "crash.torn_write", "--deadline", "4", folder=tmp_path)
    assert " 0 violations" in done.stdout, done.stdout


WHAT_IS_STORED = ("steps", "batch", "history", "deletion", "pruned", "corruption", "growth", "stateful")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("only", [WHAT_IS_STORED, pytest.param((), marks=pytest.mark.slow)], ids=["quick", "all"])
def test_a_sound_driver_may_store_differences(only: tuple[str, ...]) -> None:
    report = run(ReferenceStores(Deltas).target(), only=only, quick=True, seed=1)
    quick = [check for check in _for(report) if check.quick and (not only or check.group in only)]
    assert {check.id for check in quick} <= {result.check.id for result in report.results if result.verdict == "pass"}
    assert {result.verdict for result in report.results} <= {"pass", "skip"}, report.to_json()


class RefusesPlainStores(Encrypting):
    """Looks into a store when it opens it, and refuses one that was written without keys."""

    async def bootstrap(self) -> None:
        await super().bootstrap()
        try:
            for run in await self.list_runs():
                await self.read_latest(run.run_id)
        except CheckpointCorruptedError as error:
            if error.reason == "not-encrypted":
                raise


@pytest.mark.parametrize("kind", [Encrypting, RefusesPlainStores])
def test_a_sound_driver_may_refuse_a_plain_store_when_it_opens_it(kind: type[Encrypting]) -> None:
    report = run(kind.target(), only=("access.encrypted", "access.encryption_keys"), seed=1)
    assert {result.verdict for result in report.results} == {"pass"}, report.to_json()


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_driver_in_javascript_keeps_the_rules(tmp_path: Path) -> None:
    folder = ROOT / "examples/javascript_driver"
    groups = ("steps", "values", "isolation", "list_runs", "durability.other_handle")
    only = [argument for group in groups for argument in ("--only", group)]
    done = conformance("target:target", "--quick", *only, "--json", str(tmp_path / "report.json"), folder=folder)
    report = json.loads((tmp_path / "report.json").read_text())
    assert {result["verdict"] for result in report["results"]} == {"pass"}, done.stdout
    assert report["versions"]["driver"].startswith("stargraph-js-example")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_driver_in_javascript_is_conformant() -> None:
    done = conformance("target:target", folder=ROOT / "examples/javascript_driver")
    assert "level core" in done.stdout, done.stdout
