"""The command line and the pytest plugin, as their users call them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from support.workspace import ROOT

from stargraph.checkpoint.conformance import catalogue

pytestmark = pytest.mark.thorough

REFERENCE = "stargraph.checkpoint.conformance.reference:target"

BROKEN = """
from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer, ReferenceStores


class Gaps(ReferenceCheckpointer):
    async def read_latest(self, run_id):
        found = await super().read_latest(run_id)
        return None if found is not None and found.step == 2 else found


target = ReferenceStores(Gaps).target()
"""

TESTS = """
import pytest


@pytest.mark.conformance("{target}")
def test_my_driver(conformance_check):
    conformance_check()
"""


def call(module: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "tests"),
        "COLUMNS": "200",
        # Two seconds of imports that nothing here needs.
        "PYTEST_ADDOPTS": "-p no:langsmith_plugin -p no:hypothesispytest",
    }
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def conformance(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return call("stargraph.checkpoint.conformance", *arguments, folder=folder)


def test_a_broken_driver_beside_the_user(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BROKEN)
    files = ("--json", "r.json", "--junit", "r.xml", "--markdown", "r.md")
    done = conformance("run", "mine:target", "--quick", "--seed", "5", *files, folder=tmp_path)
    assert done.returncode == 1
    assert "FAIL steps.append_and_read" in done.stdout
    assert "read_latest('run') after step 2 gave None; step 2 of run 'run' was written" in done.stdout
    assert "usual cause: " in done.stdout
    assert done.stdout.count("BLOCKED") == 1
    assert re.search(r"BLOCKED steps.append_and_read did not pass \(fail\): .*\bvalues\.text\b", done.stdout)
    assert "level none" in done.stdout
    assert json.loads((tmp_path / "r.json").read_text())["seed"] == 5
    assert int(ET.parse(tmp_path / "r.xml").getroot().attrib["failures"]) >= 1
    assert "Level **none**" in (tmp_path / "r.md").read_text()


def test_a_report_on_stdout_stands_alone(tmp_path: Path) -> None:
    done = conformance("run", REFERENCE, "--only", "steps", "--json", "-", folder=tmp_path)
    assert done.returncode == 2
    assert json.loads(done.stdout)["level"] == "partial"
    assert "level partial" in done.stderr


def test_nothing_is_left_beside_the_user(tmp_path: Path) -> None:
    done = conformance("run", REFERENCE, "--only", "stateful", folder=tmp_path)
    assert done.returncode == 2
    assert not list(tmp_path.iterdir())


def test_the_catalogue_and_one_check_of_it(tmp_path: Path) -> None:
    listed = conformance("run", "--list", folder=tmp_path)
    assert listed.returncode == 0
    lines = {line.split()[0]: line for line in listed.stdout.splitlines()}
    assert [check.id for check in catalogue() if check.reason not in lines[check.id]] == []
    shown = conformance("run", "--explain", "crash.kill9_acked_survive", folder=tmp_path)
    assert shown.returncode == 0
    assert "usual cause" in shown.stdout
    assert "several processes" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("run",), "name the driver under test"),
        (("run", "no_such:target"), "cannot be imported"),
        (("run", REFERENCE, "--only", "nonsense"), "no check fits 'nonsense'"),
        (("run", "--explain", "nonsense"), "no check has the id 'nonsense'"),
        (("run", "a:b:target"), "the target 'a:b:target' cannot be imported"),
        (("run", REFERENCE, "--json", "no/such/folder/r.json"), "cannot be written to no/such/folder/r.json"),
        (("run", REFERENCE, "--json", "r", "--badge", "./r"), "two reports would go to ./r"),
        (("run", REFERENCE, "--json", "-", "--junit", "-"), "two reports would go to stdout"),
        (("run", REFERENCE, "--keep", "file"), "no stores can be kept in file: "),
        (("run", REFERENCE, "--keep", "file/folder"), "no stores can be kept in file/folder: Not a directory"),
    ],
)
def test_a_call_that_makes_no_sense(arguments: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = conformance(*arguments, folder=tmp_path)
    assert done.returncode == 3
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_a_call_that_fails_leaves_no_report_behind(tmp_path: Path) -> None:
    options = ("--json", "report.json", "--certificate", "certificate.json", "--keep", "kept/stores")
    assert conformance("run", "no_such:target", *options, folder=tmp_path).returncode == 3
    assert list(tmp_path.iterdir()) == []


def test_the_version(tmp_path: Path) -> None:
    done = conformance("--version", folder=tmp_path)
    assert done.stdout.startswith("stargraph-conformance ")
    assert done.stdout.strip()[-1].isdigit()


def run_pytest(folder: Path, target: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_mine.py").write_text(TESTS.format(target=target))
    return call("pytest", "-q", "-p", "no:cacheprovider", *arguments, folder=folder)


def test_one_item_for_each_check(tmp_path: Path) -> None:
    listed = run_pytest(tmp_path, REFERENCE, "--collect-only")
    ids = [line.partition("[")[2].rstrip("]") for line in listed.stdout.splitlines() if "::" in line]
    assert sorted(ids) == sorted(check.id for check in catalogue())


def test_a_sound_driver_in_pytest(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, REFERENCE, "-k", "steps or crash", "-rs")
    assert done.returncode == 0, done.stdout
    assert "the target says that other processes cannot open its store" in done.stdout
    steps, crashes = (sum(word in check.id for check in catalogue()) for word in ("steps", "crash"))
    assert f"{steps} passed, {crashes} skipped" in done.stdout
    assert re.search(rf"stargraph-conformance {REFERENCE}: level partial, \d+ of \d+ checks passed", done.stdout)


def test_a_broken_driver_in_pytest(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BROKEN)
    (tmp_path / "conftest.py").write_text("")
    arguments = ("-k", "append_and_read or values.text", "-rs", "-p", "no:randomly", "--conformance-quick")
    done = run_pytest(tmp_path, "mine:target", *arguments)
    assert done.returncode == 1
    assert "steps.append_and_read: read_latest('run') after step 2 gave None" in done.stdout
    assert "blocked: steps.append_and_read did not pass (fail)" in done.stdout
    assert "1 failed, 1 skipped" in done.stdout


def _seeds(output: str) -> list[str]:
    return re.findall(r"repeat it with --seed (\d+)", output)


def test_pytest_draws_a_seed_and_repeats_one(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("")
    (drawn,) = _seeds(run_pytest(tmp_path, REFERENCE, "-k", "gap_refused").stdout)
    (another,) = _seeds(run_pytest(tmp_path, REFERENCE, "-k", "gap_refused").stdout)
    assert drawn != another
    assert _seeds(run_pytest(tmp_path, REFERENCE, "-k", "gap_refused", "--seed", drawn).stdout) == [drawn]


def test_a_project_may_have_a_seed_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("def pytest_addoption(parser):\n    parser.addoption('--seed')\n")
    done = run_pytest(tmp_path, REFERENCE, "-k", "gap_refused", "--seed", "77")
    assert _seeds(done.stdout) == ["77"], done.stdout + done.stderr


def test_a_test_without_a_target_is_reported(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text("def test_it(conformance_check):\n    conformance_check()\n")
    done = call("pytest", "-q", "-p", "no:cacheprovider", folder=tmp_path)
    assert done.returncode != 0
    assert "@pytest.mark.conformance('package.module:target')" in done.stdout
