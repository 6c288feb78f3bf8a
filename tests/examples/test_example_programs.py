"""The examples as `make examples` runs them, and what they have in common."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.postgres_server import LocalServer, embedded_binaries
from support.workspace import ROOT

LINES = 150
"""What a reader takes in at one sitting, blank lines and comments aside."""

SHORT = ("agent", "dask_fleet", "folder_driver", "langgraph_move", "nightly")


def _run(program: str, *words: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | variables
    command = [sys.executable, str(ROOT / "examples" / program), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", SHORT)
def test_an_example_is_short(name: str) -> None:
    files = [file for file in (ROOT / "examples" / name).glob("*.py") if not file.name.startswith("test_")]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    assert len([line for line in lines if line.strip() and not line.lstrip().startswith("#")]) <= LINES


@pytest.mark.parametrize("folder", sorted(path.name for path in (ROOT / "examples").iterdir() if path.is_dir()))
def test_an_example_has_a_page(folder: str) -> None:
    assert (ROOT / "examples" / folder / "README.md").exists()
    assert f"examples/{folder}.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def test_make_examples_runs_each_of_them() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (named,) = re.findall(r"^EXAMPLES := (.+)$", makefile, flags=re.MULTILINE)
    recipes = dict(re.findall(r"^example-([a-z]+): setup\n((?:\t.*\n)+)", makefile, flags=re.MULTILINE))
    assert set(named.split()) == set(recipes)
    assert sorted(re.findall(r"examples/(\w+)", "".join(recipes.values()))) == sorted(SHORT)


@pytest.mark.thorough
def test_the_night_survives_a_killed_worker() -> None:
    output = _run("nightly/rehearsal.py")
    assert "6 of 6 files are new\n" in output
    assert "0 of 6 files are new\n" in output
    assert re.search(r"^killed worker \d+ while it worked$", output, flags=re.MULTILINE)
    assert output.endswith("north          120.00\nsouth          120.00\n6 of 6 files\n")


@pytest.fixture
def database() -> Iterator[str]:
    binaries = embedded_binaries()
    assert binaries is not None
    with LocalServer(binaries) as server:
        yield server.dsn


@pytest.mark.thorough
def test_the_sweep_survives_a_killed_dask_worker(database: str) -> None:
    output = _run("dask_fleet/fleet.py", STARGRAPH_CHECKPOINT=database, SWEEP_PACE="0.1")
    assert re.search(r"^killed the worker \d+; its runs go on elsewhere$", output, flags=re.MULTILINE)
    assert output.count(": done\n") == 12
    assert "\n72 windows of 72 are stored, each once; " in output
    assert "\nlevel 0.1, trend 0.1: off by 37.2 visits a day\n" in output


@pytest.mark.thorough
def test_the_langgraph_app_moves_while_a_thread_waits(tmp_path: Path) -> None:
    output = _run("langgraph_move/move.py", "--work", str(tmp_path))
    story = [
        "Booked 14.50, 14.50 so far.",
        "Book 420.00?",
        "5 checkpoints copied and verified",
        "Booked 420.00, 434.50",
    ]
    assert [line for line in story if line not in output] == []
    assert output.endswith("verified 1 run, 12 steps: sound\n")
    changed = re.search(r"\$ diff before.py after.py\n((?:[-+].*\n)*)", output)
    assert changed is not None
    assert len(changed[1].splitlines()) == 4, "two lines of the app change, and no more"
