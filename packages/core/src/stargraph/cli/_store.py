"""The store that a command works on: how it is opened, and how a command names it."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import unquote

from stargraph.cli._keys import KeyFile
from stargraph.cli._options import CHECKPOINT_VARIABLE, DEFAULT_CHECKPOINT
from stargraph.cli._secrets import hide_known
from stargraph.errors import CheckpointError, CheckpointNotFoundError, StargraphError, StoreUnavailableError

if TYPE_CHECKING:
    from stargraph.checkpoint.codec import Keyring
    from stargraph.checkpoint.protocol import Checkpoint, Checkpointer, ClosingCheckpointer

Access = Literal["read", "write", "create"]
"""What a command does with a store: only read it, write to one that is there, or make it if it is not."""

_SQLITE_URL: Final = re.compile(r"sqlite:///([^?]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class StoreRef:
    """The store that a command was given.

    Attributes:
        url: its path or URL.
        keys: the file with the keys of encryption, or None if there is none.
        named_by: the option or argument that names it, for the hints of errors.
    """

    url: str
    keys: KeyFile | None = None
    named_by: str = "--checkpoint"

    def __str__(self) -> str:
        from stargraph.checkpoint.registry import redact

        try:
            return hide_known(redact(self.url))
        except ValueError:
            return f"{self.url.partition('://')[0]}://…"

    @property
    def is_volatile(self) -> bool:
        """Whether nothing of it is left once the command has ended."""
        return self.url.lower().startswith("memory://")

    @asynccontextmanager
    async def opened(self, access: Access) -> AsyncIterator[Checkpointer]:
        """Open the store for the time of a command.

        Args:
            access: what the command does with it.

        Raises:
            CheckpointNotFoundError: there is no such store, and the command makes none.
            CheckpointError: it cannot be opened.
        """
        read_only = access == "read" and self._can_be_read_only()
        store = self._handle(read_only=read_only)  # no I/O; what is wrong with the URL is reported first
        try:
            if access != "create":
                await self._ensure_there(probe=access == "write")
            if access != "read":
                self._refuse_read_only(store)
            await store.bootstrap()
        except StoreUnavailableError as error:
            await store.close()
            raise self._missing() if error.reason == "no-store" else error from None
        except BaseException:
            await store.close()
            raise
        try:
            yield store
        finally:
            await store.close()

    def command(self, *words: str) -> str:
        """Return a command on this store that a user can paste into a shell.

        Args:
            words: the command and its arguments.
        """
        text = shlex.join(["stargraph", *words])
        if self.url != os.environ.get(CHECKPOINT_VARIABLE, DEFAULT_CHECKPOINT):
            text += f" --checkpoint {shlex.quote(str(self))}"
        return text if self.keys is None else f"{text} --encryption-keys {shlex.quote(self.keys.name)}"

    def _handle(self, *, read_only: bool) -> ClosingCheckpointer:
        from stargraph.checkpoint.registry import open_checkpointer

        try:
            if self.keys is None:
                return open_checkpointer(self.url, read_only=read_only)
            return open_checkpointer(
                self.url,
                read_only=read_only,
                encryption_keys=self.keys.text,
                encryption_keys_from=self.keys.option,
            )
        except ValueError as error:
            raise CheckpointError(
                f"{self}: {error}", reason="invalid-url", hint="Correct the URL of the store."
            ) from error

    def _refuse_read_only(self, store: Checkpointer) -> None:
        from stargraph.checkpoint.driver import ReadOnly

        if isinstance(store, ReadOnly) and store.read_only:
            raise CheckpointError(
                f"{self} is opened read-only, and this command writes to it",
                reason="read-only",
                hint=f"Leave read_only out of the URL in {self.named_by}.",
            )

    def _can_be_read_only(self) -> bool:
        from stargraph.checkpoint.registry import find_driver, parse_address

        return hasattr(find_driver(parse_address(self.url)), "read_only")

    async def _ensure_there(self, *, probe: bool) -> None:
        """Refuse a store that is not there: a driver that may write would make it."""
        path = self._sqlite_path()
        if path is not None:
            try:
                status = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                raise self._missing() from None
            except OSError as error:  # the name is too long, or a directory may not be looked into
                raise CheckpointError(
                    f"{self} cannot be opened: {error.strerror}", reason="invalid-url", hint="Check the path."
                ) from None
            # A file that was only touched holds no store either, and a driver that may write would make one of it.
            if stat.S_ISREG(status.st_mode) and status.st_size == 0:
                raise self._missing()
        elif probe and self._can_be_read_only():
            store = self._handle(read_only=True)
            try:
                await store.bootstrap()
            except StoreUnavailableError as error:
                raise self._missing() if error.reason == "no-store" else error from None
            except CheckpointError:
                pass  # Whatever else is wrong, the command meets it when it opens the store to write.
            finally:
                await store.close()

    def _sqlite_path(self) -> Path | None:
        from stargraph.checkpoint.registry import parse_address

        address = parse_address(self.url)
        if address.scheme != "sqlite":
            return None
        if "://" not in address.text:
            return Path(address.text)
        match = _SQLITE_URL.match(address.text)
        return None if match is None else Path(unquote(match.group(1)))  # the driver refuses what it cannot read

    def _missing(self) -> CheckpointNotFoundError:
        if self.is_volatile:
            return CheckpointNotFoundError(
                f"{self} holds no run: a store in memory ends with the command that made it",
                reason="store-not-found",
                hint=f"Name a store that lasts with {self.named_by}.",
            )
        return CheckpointNotFoundError(
            f"there is no store at {self}",
            reason="store-not-found",
            hint=f"`stargraph run GRAPH` and `stargraph migrate STORE` make one; {self.named_by} names another.",
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
        store: holds the run.
        run_id: the whole id.

    Raises:
        CheckpointNotFoundError: there is no such run.
    """
    from stargraph.runtime import dispatch

    return await dispatch.read_run(store, run_id, keyring=keyring())
