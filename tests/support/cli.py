"""A folder with a graph in it, and the command line: in this process if that is enough, else in one of its own."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from stargraph.cli._app import app

COMMANDS = get_command(app)  # Typer needs longer to make it than most commands need to run.

GRAPH = """\
id: demo
state_schema:
  count: int
  name: {type: str, default: ""}
  ratio: {type: float, default: 0.5}
  level: {type: 'Literal["low", "high"]', default: low}
  maybe: {type: "str | None", default: null}
  notes: {type: "list[str]", default: [], reduce: append}
nodes:
  - {id: first, kind: "steps:increase"}
  - {id: second, kind: "steps:note"}
  - {id: third, kind: "steps:increase"}
"""

STEPS = """\
def increase(state):
    return {'count': state.count + 1}

def note(state):
    return {'notes': [f"count is {state.count}"]}
"""


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Folder:
    """A working directory with a graph file and the module of its nodes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write("graph.yaml", GRAPH)
        self.write("steps.py", STEPS)

    def write(self, name: str, text: str) -> Path:
        file = self.path / name
        file.write_text(text)
        return file

    def call(self, *words: str, env: dict[str, str] | None = None, stdin: str | None = None) -> Answer:
        """Run the command line in this process."""
        importlib.invalidate_caches()
        # --debug sets the variable, which must not outlive the call.
        env = {"STARGRAPH_DEBUG": "", **(env or {})}
        with CliRunner().isolation(input=stdin, env=env) as (out, err, _), own_log():
            with pytest.raises(SystemExit) as end:
                COMMANDS.main(list(words), prog_name="stargraph")
            sys.stdout.flush()
            sys.stderr.flush()
            told = [stream.getvalue().decode(errors="replace").replace("\r\n", "\n") for stream in (out, err)]
        return Answer(int(end.value.code or 0), *told)

    def spawn(self, *words: str, first: str = "", **options: Any) -> subprocess.Popen[str]:
        """Run the command line as a process of its own, which executes `first` before that."""
        given: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        return subprocess.Popen(command(*words, first=first), cwd=self.path, **given)


@contextlib.contextmanager
def own_log() -> Iterator[None]:
    """Take back what --log-level has set up, which lasts as long as a process."""
    logger = logging.getLogger("stargraph")
    handlers, level = list(logger.handlers), logger.level
    try:
        yield
    finally:
        logger.handlers[:] = handlers
        logger.setLevel(level)


@contextlib.contextmanager
def own_folder(path: Path) -> Iterator[Folder]:
    """Work in a folder; the modules that are imported from it are forgotten after, since another has the same names."""
    known, places, before = set(sys.modules), list(sys.path), Path.cwd()
    os.chdir(path)
    try:
        yield Folder(path)
    finally:
        os.chdir(before)
        sys.path[:] = places
        for name in set(sys.modules) - known:
            if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(path)):
                del sys.modules[name]


def command(*words: str, first: str = "") -> list[str]:
    return [sys.executable, "-c", f"{first}\nfrom stargraph.cli import main; main()", *words]
