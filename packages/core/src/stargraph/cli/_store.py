"""Opening the store that `--checkpoint` names, and saying its name without its secrets."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from stargraph.cli._options import CHECKPOINT_VARIABLE, DEFAULT_CHECKPOINT
from stargraph.errors import CheckpointError, CheckpointNotFoundError, StargraphError

if TYPE_CHECKING:
    from stargraph.checkpoint.codec import Keyring
    from stargraph.checkpoint.protocol import Checkpoint, Checkpointer

_SQLITE_URL: Final = re.compile(r"sqlite:///([^?]+)", re.IGNORECASE)


@asynccontextmanager
async def opened(url: str, *, must_exist: bool = False) -> AsyncIterator[Checkpointer]:
    """Open a store for the time of a command.

    Args:
        url: its path or URL.
        must_exist: refuse a path at which there is nothing, where a new store would be made.

    Raises:
        CheckpointError: it cannot be opened.
    """
    from stargraph.checkpoint.protocol import Closing
    from stargraph.checkpoint.registry import open_checkpointer

    if must_exist:
        _refuse_missing(url)
    try:
        store = open_checkpointer(url)
    except ValueError as error:
        raise CheckpointError(
            f"{shown(url)}: {error}", reason="invalid-url", hint="Give a path or the URL of a store."
        ) from error
    if isinstance(store, Closing):
        async with store:
            yield store
    else:
        await store.bootstrap()
        yield store


def _refuse_missing(url: str) -> None:
    match = _SQLITE_URL.match(url)
    if "://" in url and match is None:
        return
    path = Path(unquote(match.group(1)) if match else url)
    if not path.exists():
        raise CheckpointNotFoundError(
            f"there is no store at {url}",
            reason="store-not-found",
            hint="`stargraph run GRAPH` makes one; --checkpoint names another.",
        )


def keyring() -> Keyring | None:
    """Return the keys of the environment that seal and check records, or None.

    Raises:
        StargraphError: they cannot be used.
    """
    from stargraph.checkpoint.codec import KEY_VARIABLE, Keyring

    try:
        return Keyring.from_environment()
    except ValueError as error:
        raise StargraphError(
            f"{KEY_VARIABLE}: {error}",
            reason="invalid-key",
            hint="Write key_id:secret, the secret of 16 bytes or more.",
        ) from None


async def read_latest(store: Checkpointer, run_id: str) -> Checkpoint:
    """Return the latest checkpoint of a run, checked.

    Args:
        store: the store.
        run_id: the run.

    Raises:
        CheckpointNotFoundError: there is no such run.
    """
    from stargraph.runtime import dispatch

    return await dispatch.read_run(store, run_id, keyring=keyring())


def shown(url: str) -> str:
    """Return a store's name as it may be printed: without secrets.

    Args:
        url: its path or URL.
    """
    from stargraph.checkpoint.registry import redact

    try:
        return redact(url)
    except ValueError:
        return f"{url.partition('://')[0]}://…"


def command(*words: str, checkpoint: str) -> str:
    """Return a command that a user can paste into a shell.

    Args:
        words: the command and its arguments.
        checkpoint: the store; left out where it is the one that is used anyway.
    """
    text = shlex.join(["stargraph", *words])
    if checkpoint == os.environ.get(CHECKPOINT_VARIABLE, DEFAULT_CHECKPOINT):
        return text
    return f"{text} --checkpoint {shlex.quote(shown(checkpoint))}"
