"""What a program gives for a store, and for runs of it."""

from __future__ import annotations

import os
from collections.abc import Iterable

from stargraph.checkpoint.protocol import Checkpointer


def check_checkpointer(checkpointer: object, name: str = "checkpointer") -> None:
    """Refuse what is not a checkpointer; what it is may hold a password, and is not shown.

    Args:
        name: what the argument is called, for the error.

    Raises:
        TypeError: it lacks a method, or is a class.
    """
    if isinstance(checkpointer, type):
        raise TypeError(f"{name} is the class {checkpointer.__name__}: pass an instance of it")
    if isinstance(checkpointer, str | os.PathLike):
        raise TypeError(
            f"{name} is the address of a store: pass what open_checkpointer of stargraph.checkpoint.registry"
            " returns for it"
        )
    if not isinstance(checkpointer, Checkpointer):
        raise TypeError(
            f"{name} is of type {type(checkpointer).__qualname__}: pass an object with the methods of"
            " stargraph.checkpoint.protocol.Checkpointer"
        )


def as_run_ids(run_ids: Iterable[str]) -> list[str]:
    """Return the ids of some runs, each once.

    Raises:
        TypeError: they are a single text, whose letters would be taken for ids, or are not texts.
    """
    if isinstance(run_ids, (str, bytes)):
        raise TypeError(f"run_ids is {run_ids!r:.80}: give a list of ids, as in [{run_ids!r:.80}]")
    named = list(run_ids)
    for run_id in named:
        if not isinstance(run_id, str):
            raise TypeError(f"run_ids holds {run_id!r:.80}: give ids, which are texts")
    return list(dict.fromkeys(named))
