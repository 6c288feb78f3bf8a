"""Help is quick because little is imported; it says what there is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import reduce
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import pytest
from support.cli import Folder

from stargraph.checkpoint.protocol import Status
from stargraph.cli._app import app
from stargraph.cli._exit_codes import ExitCode
from stargraph.cli._options import AcceptName, DurabilityName, StatusName
from stargraph.engine import Durability
from stargraph.graph._resume_checks import Accept

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]

HEAVY = {"pydantic", "asyncio", "rich", "orjson", "ruamel", "cel_expr_python", "sqlite3", "importlib.metadata"}
HEAVY_PARTS = {"stargraph.graph", "stargraph.engine", "stargraph.ir", "stargraph.checkpoint"}

PROBE = """
import sys, json
sys.argv = ["stargraph", *json.loads(sys.argv[1])]
from stargraph.cli import main
try:
    main()
except SystemExit as end:
    code = end.code
print(json.dumps({"code": code, "modules": sorted(sys.modules)}))
"""


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in ("run", "inspect"))], ids=" ".join)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", PROBE, json.dumps(words)], capture_output=True, text=True, check=True)
    shown = json.loads(done.stdout.splitlines()[-1])
    assert shown["code"] in (0, None)
    assert "Usage: stargraph" in done.stdout
    assert (HEAVY | HEAVY_PARTS) & set(shown["modules"]) == set()
    assert len(shown["modules"]) < 250


def test_every_command_is_in_the_help_and_has_its_own(folder: Folder) -> None:
    shown = folder.call("--help").out
    assert {"run", "resume", "runs", "inspect", "drivers", "doctor"} <= set(COMMANDS)
    for name in COMMANDS:
        assert f"\n  {name} " in shown
        own = folder.call(name, "--help")
        assert own.code == 0
        assert f"Usage: stargraph {name}" in own.out
        several = ("[RUN_ID]...", "{RUN_ID}...", "{GRAPH}...")
        assert "..." not in reduce(lambda text, each: text.replace(each, ""), several, own.out.partition("Options:")[0])


def test_the_help_names_every_exit_code(folder: Folder) -> None:
    shown = folder.call("--help").out.partition("Exit codes:")[2]
    documented = set(ExitCode) - {ExitCode.BROKEN_PIPE}
    assert all(str(int(code)) in shown for code in documented)
    assert "Exit codes:" in folder.call("run", "--help").out
    assert "Exit codes:" in folder.call("resume", "--help").out


def test_version(folder: Folder) -> None:
    assert folder.call("--version").out == f"stargraph {version('stargraph-core')}\n"


def test_options_take_what_the_engine_takes() -> None:
    assert {each.value for each in StatusName} == set(get_args(Status))
    assert {each.value for each in DurabilityName} == set(get_args(Durability))
    assert {each.value for each in AcceptName} == set(get_args(Accept))


def test_the_document_names_every_command_option_and_exit_code(folder: Folder) -> None:
    document = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    rows = set(re.findall(r"^\| (\d+) \|", document, re.MULTILINE))
    assert rows == {str(int(code)) for code in ExitCode}
    for name in COMMANDS:
        assert f"| `stargraph {name}" in document
        options = set(re.findall(r"(?<!\S)--[a-z][a-z-]+", folder.call(name, "--help").out))
        assert {option for option in options if option not in document} - {"--help"} == set()
    shown = [folder.call("--help").out, *(folder.call(name, "--help").out for name in COMMANDS)]
    shown += [folder.call("schedule", each, "--help").out for each in ("add", "list", "remove")]
    known = set(re.findall(r"--[a-z][a-z-]+", "".join(shown)))
    assert set(re.findall(r"--[a-z][a-z-]+", document)) - known == {"--install-completion"}


def test_the_shell_completes_commands_and_options(tmp_path: Path) -> None:
    def complete(words: str) -> str:
        environment = {
            **os.environ,
            "_STARGRAPH_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        }
        done = subprocess.run(
            [sys.executable, "-c", "from stargraph.cli import main; main()"],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout

    assert complete("stargraph ins").split() == ["inspect"]
    assert "--checkpoint" in complete("stargraph runs --check")
    shown = subprocess.run(
        [sys.executable, "-m", "stargraph", "--show-completion", "bash"],
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},  # the shell above may be any
        capture_output=True,
        text=True,
        check=False,
    )
    assert "_STARGRAPH_COMPLETE" in shown.stdout
    assert list(tmp_path.iterdir()) == []
