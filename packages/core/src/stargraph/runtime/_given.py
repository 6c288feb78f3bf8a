"""What a program gives for a store, for runs of it, and for flags, seconds and counts."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from types import NoneType
from typing import Final

from stargraph.checkpoint.codec import Keyring
from stargraph.errors._arguments import check_callable, check_count, check_flags, check_type

__all__ = [
    "as_folders",
    "as_run_ids",
    "check_callable",
    "check_checkpointer",
    "check_count",
    "check_flags",
    "check_keyring",
    "check_moment",
    "check_seconds",
    "check_type",
]

_METHODS: Final = ("bootstrap", "write", "read_latest", "read_at_step", "list_runs")


def check_checkpointer(
    checkpointer: object,
    name: str = "checkpointer",
    give: str = "pass an object with the methods of stargraph.checkpoint.protocol.Checkpointer",
) -> None:
    """Refuse what is not a checkpointer; what it is may hold a password, and is not shown.

    Args:
        name: what the argument is called, for the error.
        give: what to pass instead of an object of another type, for the error.

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
    # Not by isinstance: from Python 3.12 on, that does not see what a wrapper passes on by __getattr__.
    if not all(callable(getattr(checkpointer, method, None)) for method in _METHODS):
        raise TypeError(f"{name} is of type {type(checkpointer).__qualname__}: {give}")


def check_keyring(keyring: object) -> None:
    """Refuse what is neither a keyring nor None.

    Raises:
        TypeError: it is something else, such as the text of a key.
    """
    check_type(keyring, "keyring", (Keyring, NoneType), "a Keyring, as Keyring.parse(…) makes of the text of keys")


def as_run_ids(run_ids: Iterable[str]) -> list[str]:
    """Return the ids of some runs, each once.

    Raises:
        TypeError: they are a single text, whose letters would be taken for ids, or are not texts.
    """
    if isinstance(run_ids, (str, bytes)):
        raise TypeError(f"run_ids is {run_ids!r:.80}: give a list of ids, as in [{run_ids!r:.80}]")
    check_type(run_ids, "run_ids", Iterable, "a list of ids")
    named = list(run_ids)
    for run_id in named:
        if not isinstance(run_id, str):
            raise TypeError(f"run_ids holds {run_id!r:.80}: give ids, which are texts")
    return list(dict.fromkeys(named))


def as_folders(code: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return folders of modules.

    Raises:
        TypeError: they are a single path, whose letters would be taken for folders, or are no paths.
    """
    if isinstance(code, (str, bytes, os.PathLike)) or not isinstance(code, Iterable):
        raise TypeError(f"code is {code!r:.80}: give a list of folders, as in ['src']")
    return [Path(folder).resolve() for folder in code]


def check_seconds(seconds: object, name: str, *, above_zero: bool = False) -> None:
    """Refuse what is no number of seconds, before anything is compared or added up with it.

    Args:
        name: what the argument is called, for the error.
        above_zero: 0 and infinity are refused, too; otherwise 0 does not wait, and infinity waits for ever.

    Raises:
        ValueError: it is not a number, is NaN, or is out of bounds.
    """
    number = math.nan if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) else seconds
    if not ((0 < number < math.inf) if above_zero else number >= 0):
        # NumPy's numbers have the text of a number that would be taken, and a store could not write them.
        kind = "" if type(seconds) in (int, float, str) else ", as an int or a float"
        raise ValueError(
            f"{name} is {seconds!r:.80}: give seconds, {'more than 0' if above_zero else '0 or more'}{kind}"
        )


def check_moment(moment: object, name: str) -> None:
    """Refuse what is no time with an offset.

    Args:
        name: what the argument is called, for the error.

    Raises:
        ValueError: it is not a datetime, or a naive one.
    """
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise ValueError(f"{name} is {moment!r:.80}: give a datetime with its offset, as in datetime.now(timezone.utc)")
