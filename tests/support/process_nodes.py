"""Nodes that leave a line in the file `LEDGER` names, and wait if the files in `GATES` say so."""

from __future__ import annotations

import builtins
import os
import time
from pathlib import Path
from typing import Any

from stargraph.graph import Context


def step(state: Any, context: Context) -> dict[str, Any]:
    """Tells that it runs, and waits while a file of its name is in the folder of gates."""
    folder = Path(os.environ["GATES"])
    with Path(os.environ["LEDGER"]).open("a") as ledger:
        ledger.write(f"{context.node} {os.getpid()}\n")
    while (folder / context.node).exists():
        time.sleep(0.005)
    return {"path": [context.node]}


def where(state: Any, context: Context) -> dict[str, Any]:
    """Tells its item and its process."""
    return {"path": [f"{context.item} {os.getpid()}"]}


def asks(state: Any, context: Context) -> None:
    """Asks, which a node in another process cannot."""
    context.interrupt("?")


def calls(state: Any, context: Context) -> dict[str, Any]:
    """Makes three calls, each of which leaves a line."""
    return {"path": [context.call_sync("line", _line, f"call {number}") for number in range(3)]}


def _line(text: str) -> str:
    with Path(os.environ["LEDGER"]).open("a") as ledger:
        ledger.write(f"{text} {os.getpid()}\n")
    return text


class UnpicklableError(Exception):
    """Cannot be pickled."""

    def __init__(self) -> None:
        super().__init__(lambda: None)


class UnloadableError(Exception):
    """Can be pickled, and not be made again from that."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def hangs(state: Any) -> None:
    """Does not end."""
    time.sleep(3600)


def dies(state: Any) -> None:
    """Ends its process."""
    os._exit(7)


def exits(state: Any) -> None:
    """Wants to end its process."""
    raise SystemExit(7)


def unpicklable(state: Any) -> None:
    """Raises what cannot be pickled."""
    raise UnpicklableError


def unloadable(state: Any) -> None:
    """Raises what breaks whoever unpickles it."""
    raise UnloadableError("a", "b")


def fails_once(state: Any, context: Context) -> dict[str, Any]:
    """Fails in the first attempt, then tells its process."""
    if context.attempt == 1:
        raise KeyError("once")
    return {"pid": os.getpid()}


def fails_in_a_group_once(state: Any, context: Context) -> None:
    """Raises in the first attempt a group of the exceptions that the state names, each in a group of its own."""
    if context.attempt == 1:
        named = [getattr(builtins, name)(name) for name in state.names]
        raise ExceptionGroup("many", [ExceptionGroup("one", [error]) for error in named])


def goes_on(state: Any) -> None:
    """Says in which process it began, and goes on for good."""
    path = Path(state.path)
    path.with_suffix(".began").write_text(str(os.getpid()))
    path.with_suffix(".began").rename(path)
    time.sleep(3600)
