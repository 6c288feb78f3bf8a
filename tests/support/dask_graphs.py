"""Graphs for Dask workers, whose nodes write down in files that they ran, and may end their process."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from stargraph.graph import Graph, GraphBuilder

FOLDER = "STARGRAPH_TEST_FOLDER"


def _note(text: str) -> None:
    with (Path(os.environ[FOLDER]) / "ran.txt").open("a") as notes:
        notes.write(f"{text} {os.getpid()}\n")


def _fork() -> None:
    """Leave a process behind for two minutes."""
    folder = Path(os.environ[FOLDER])
    if pid := os.fork():
        (folder / "forked").write_text(str(pid))
        return
    time.sleep(120)
    (folder / "forked_ended").touch()
    os._exit(0)


def _wait_at_the_gate() -> None:
    """Let the first run pass; each other one waits while there is a file `gate`."""
    folder = Path(os.environ[FOLDER])
    try:
        (folder / "passed").touch(exist_ok=False)
    except FileExistsError:
        while (folder / "gate").exists():
            time.sleep(0.02)


builder = GraphBuilder("fleet")
builder.state(n=int, kill=(str, ""))


@builder.node
def first(state: Any) -> dict[str, Any]:
    _note(f"first {state.n}")
    return {"n": state.n + 1}


@builder.node
def second(state: Any) -> dict[str, Any]:
    _note(f"second {state.n}")
    if state.kill == "always":
        os._exit(9)
    if state.kill == "forks":
        _fork()
    elif state.kill == "gate":
        _wait_at_the_gate()
    elif state.kill and not (marker := Path(os.environ[FOLDER]) / state.kill).exists():
        marker.touch()
        os._exit(9)
    time.sleep(0.05)
    return {"n": state.n + 10}


graph = Graph(builder)
