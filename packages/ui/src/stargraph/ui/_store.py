"""The store that the pages show: opened at its first use, read-only unless writing was asked for."""

from __future__ import annotations

import asyncio
import os
import shlex

from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.protocol import Checkpoint, Checkpointer, Closing, JsonValue
from stargraph.checkpoint.registry import open_checkpointer, redact, redact_text
from stargraph.errors import CheckpointError, CheckpointNotFoundError
from stargraph.graph import recorded_definition
from stargraph.runtime import dispatch


class Store:
    """A handle on a store, and its name without its secrets.

    Args:
        store: a path, a URL, or a handle that is bootstrapped already.
        write: whether the handle may write.
        keyring: checks the seals of what is read, and seals what is written; that of the environment if None.

    Attributes:
        name: the path or URL without its secrets; the class of a handle.
        keyring: as given.
    """

    def __init__(
        self, store: Checkpointer | str | os.PathLike[str], *, write: bool, keyring: Keyring | None = None
    ) -> None:
        self._write = write
        self._lock = asyncio.Lock()
        self._opened: Checkpointer | None = None
        self._url: str | None = None
        self.keyring = keyring or Keyring.from_environment()
        if isinstance(store, (str, os.PathLike)):
            self._url = os.fspath(store)
            self.name = redact(self._url)
        else:
            self._opened = store
            self.name = type(store).__name__

    @property
    def handle(self) -> Checkpointer | None:
        """The handle if it was opened already."""
        return self._opened

    async def opened(self) -> Checkpointer:
        """Return the handle; the first call opens it.

        Raises:
            CheckpointError: it cannot be opened.
        """
        async with self._lock:
            if self._opened is None:
                self._opened = await self._bootstrapped()
            return self._opened

    async def _bootstrapped(self) -> Checkpointer:
        assert self._url is not None
        store = open_checkpointer(self._url, read_only=not self._write)
        try:
            await store.bootstrap()
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """Release the handle if it was opened here."""
        async with self._lock:  # after a request that is opening it
            opened: object = self._opened
            if self._url is not None and isinstance(opened, Closing):
                self._opened = None
                await opened.close()

    async def latest(self, run_id: str) -> Checkpoint:
        """Return the latest checkpoint of a run, checked.

        Raises:
            CheckpointNotFoundError: there is no such run.
        """
        return await dispatch.read_run(await self.opened(), run_id, keyring=self.keyring)

    async def at_step(self, run_id: str, step: int) -> Checkpoint:
        """Return one step of a run, checked.

        Raises:
            CheckpointNotFoundError: there is no such step, or it was pruned.
        """
        found = await dispatch.read_at_step(await self.opened(), run_id, step, keyring=self.keyring)
        if found is None:
            raise CheckpointNotFoundError(
                f"run {run_id!r} has no step {step}",
                reason="step-not-found",
                hint="It was pruned, or has not been written yet.",
                run_id=run_id,
                step=step,
            )
        return found

    async def definition(self, latest: Checkpoint) -> dict[str, JsonValue] | None:
        """Return the graph of a run as its log holds it, or None if the steps that held it were pruned.

        Args:
            latest: the latest checkpoint of the run.
        """
        return await read_definition(await self.opened(), latest, self.keyring)

    def command(self, *words: str) -> str:
        """Return a command on this store that a person can paste into a shell.

        Args:
            words: the command and its arguments.
        """
        place = shlex.quote(self.name) if self._url else "STORE"
        return f"{shlex.join(['stargraph', *words])} --checkpoint {place}"

    def hide_secrets(self, text: str) -> str:
        """Return a message without the secrets of any URL in it, and without those of this store."""
        return redact_text(text, () if self._url is None else [self._url])


async def read_definition(
    store: Checkpointer, latest: Checkpoint, keyring: Keyring | None
) -> dict[str, JsonValue] | None:
    """Return the graph of a run as `Store.definition` does.

    Args:
        store: holds the run.
        latest: the latest checkpoint of the run.
        keyring: checks the seals.
    """

    async def read(number: int) -> Checkpoint | None:
        return await dispatch.read_at_step(store, latest.run_id, number, keyring=keyring)

    return await recorded_definition(latest, read, "graph")


def missing_capability(store: Checkpointer, capability: str) -> CheckpointError:
    """Return the error of a page that needs what the driver cannot do.

    Args:
        store: the handle.
        capability: the name of the protocol.
    """
    return CheckpointError(
        f"{type(store).__name__} lacks the capability {capability}",
        reason="not-supported",
        hint="Another driver has it; `stargraph drivers` lists those that are installed.",
    )
