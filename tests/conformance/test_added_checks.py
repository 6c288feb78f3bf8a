"""Checks that an installed distribution adds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.thorough

REFERENCE = "stargraph.checkpoint.conformance.reference:target"

CHECKS = """
from stargraph.checkpoint.conformance import Group, Kit

group = Group("{group}", needs=("{needs}",))


@group.check("{name}", "Our rule.", contract="write.1", usual_cause="We forgot.")
async def house_rule(kit: Kit) -> None:
    handle = await kit.open()
    assert await handle.read_latest("nobody") is None
"""
GIVEN = {"group": "mine", "needs": "steps.append_and_read", "name": "house_rule"}


def _kit(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "extra_checks.py").write_text(module)
    metadata = folder / "extra-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[stargraph.conformance_checks]\nmine = extra_checks:group\n")
    command = [sys.executable, "-m", "stargraph.checkpoint.conformance", "run", *arguments]
    environment = os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_they_run_beside_those_of_the_kit(jobs: str, tmp_path: Path) -> None:
    done = _kit(tmp_path, CHECKS.format(**GIVEN), REFERENCE, "--only", "mine", "--jobs", jobs)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "4 executed, 0 violations" in done.stdout


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("import nothing_of_the_kind", "cannot be loaded: ModuleNotFoundError"),
        ("group = 3", "names int: it must name a Group"),
        (
            CHECKS.format(**GIVEN | {"group": "steps", "name": "gap_refused"}),
            "two checks have the id 'steps.gap_refused'",
        ),
        (CHECKS.format(**GIVEN | {"needs": "steps.nothing"}), "needs 'steps.nothing', and there is no such check"),
    ],
)
def test_what_cannot_be_added_is_named(module: str, said: str, tmp_path: Path) -> None:
    done = _kit(tmp_path, module, "--list")
    assert done.returncode == 3
    assert said in done.stderr
    assert "Traceback" not in done.stderr


MEASURED = """
from stargraph.checkpoint.conformance import Group, Kit

group = Group("mine", needs=("steps.append_and_read",))


@group.check("fast", "It is fast.", contract="write.1", usual_cause="It is slow.", advisory=True)
async def fast(kit: Kit) -> None:
    await kit.open()


@group.check("after", "It works.", contract="write.1", usual_cause="We forgot.", needs=("mine.fast",))
async def after(kit: Kit) -> None:
    await kit.open()
"""


def test_a_check_may_need_one_that_measures(tmp_path: Path) -> None:
    done = _kit(tmp_path, MEASURED, REFERENCE, "--only", "mine", "--jobs", "2")
    assert "4 executed, 0 violations" in done.stdout, done.stdout + done.stderr
