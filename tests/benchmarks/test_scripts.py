"""The scripts of docs/where-time-goes.md run, and refuse what they would measure wrongly; no time is asserted."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.workspace import ROOT

pytestmark = pytest.mark.thorough


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(str(ROOT / "benchmarks" / name), *arguments)


def test_a_pair_of_trees_is_measured() -> None:
    done = script("pairs.py", str(ROOT), "engine-small", "--repeats", "2")
    assert done.returncode == 0, done.stderr
    gain = r"\d+ \| \d+ \| \d+\.\d\d \(-?\d+\.\d\d to \d+\.\d\d\)"
    assert re.search(rf"^\| sqlite, engine-small \| {gain} \| {gain} \|$", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{elsewhere}"], "is no copy of this tree"),
        (["{root}", "smal"], "unknown workloads ['smal']"),
        (["{root}", "--repeats", "1"], "--repeats is 2 or more"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_pair_that_would_say_nothing_is_refused(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = script("pairs.py", *(each.format(root=ROOT, elsewhere=tmp_path) for each in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_an_unknown_workload_of_the_record_path_is_refused() -> None:
    done = script("record_path.py", "smal")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown workloads ['smal']" in done.stderr


def test_the_layers_of_a_step_are_counted() -> None:
    done = script("step_layers.py", "memory")
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[2:]]
    counted = {layer: int(bytecodes.replace(",", "")) for layer, bytecodes, _ in rows}
    assert counted["all"] == sum(counted.values()) - counted["all"]
    assert counted["stargraph.engine"] > counted["stargraph.runtime"] > 0


def test_a_step_is_counted_once() -> None:
    """Python 3.12 and 3.13 count nothing or too little in the first trace of a process."""
    source = """
import asyncio, dis, json, step_layers
step = asyncio.run(step_layers._step_of("memory://"))
node = [count for code, count in step.items() if code is step_layers.work.__code__]
print(json.dumps([*node, len(list(dis.get_instructions(step_layers.work)))]))
"""
    done = python("-c", source, PYTHONPATH=str(ROOT / "benchmarks"))
    assert done.returncode == 0, done.stderr
    counted, instructions = json.loads(done.stdout)
    assert counted == int(counted)
    assert 0 < counted <= instructions
