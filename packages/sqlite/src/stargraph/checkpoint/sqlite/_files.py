"""The files of a store: making them privately and durably, and noticing when they are no longer ours."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import sys
import time
from functools import cached_property
from pathlib import Path
from typing import Final

from stargraph.checkpoint.driver import check_type
from stargraph.checkpoint.sqlite._errors import not_a_store_error, read_only_file_error
from stargraph.checkpoint.sqlite._mounts import network_filesystem
from stargraph.errors import CheckpointError, StoreUnavailableError

_NO_HARD_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""How a URL begins; one letter alone is a drive of Windows."""

_SETTLED_NS: Final = 50_000_000
"""After this time a directory that changes again shows another time: file systems step it by 10 ms at most, …"""
_SETTLED_COARSE_NS: Final = 2_000_000_000
"""… but for some, which keep whole seconds or even ones."""


class StoreFiles:
    """The database file and the two that SQLite keeps beside it.

    The database file is never opened here: POSIX drops the locks of a whole process on a file when any
    descriptor of that file is closed, and with them those of SQLite.

    Args:
        path: the database file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(_checked_name(path)))  # noqa: PTH100  # Path.resolve would follow links
        self._names: tuple[str, str, str] | None = None
        self._identity: list[tuple[int, int]] = []
        self._directory = ""
        self._unchanged: tuple[int, int, int] | None = None
        self._has_durable_name = False

    @cached_property
    def real_path(self) -> Path:
        """The file that links lead to, from the first look on; SQLite names its companions after it."""
        return Path(os.path.realpath(self.path))

    def prepare(self, *, allow_network_filesystem: bool) -> None:
        """Make sure that there is a file to open, made durably and for this user alone if it is new.

        Args:
            allow_network_filesystem: accept the risk of a filesystem that other machines share.

        Raises:
            StoreUnavailableError: the path cannot hold a store.
            OSError: the system refused.
        """
        path = self.real_path
        self.refuse_what_is_no_file()
        if not allow_network_filesystem:
            self.refuse_network_filesystem()
        try:
            status = os.stat(path)  # noqa: PTH116
        except FileNotFoundError:
            _make_directories(path.parent)
            _create_private_file(path)
            status = os.stat(path)  # noqa: PTH116
        if status.st_size == 1:
            raise not_a_store_error(
                self.path, "it is not a SQLite database"
            )  # which takes such a file for an empty one
        if not os.access(path, os.W_OK):
            raise read_only_file_error(self.path)
        if status.st_size == 0:
            # Also when another process made the file: it may not have got this far yet.
            self.make_name_durable()
        self._identity = [_identity(status)]

    def make_name_durable(self) -> None:
        """Make the directory remember the file, once: before it is made a store, or before the first commit to one.

        Who only reads a store that is there needs no more than what its writers have done; a file that was copied to
        its place has had none.

        Raises:
            OSError: the system refused.
        """
        if not self._has_durable_name:
            _sync_directory(self.real_path.parent)
            self._has_durable_name = True

    def refuse_what_is_no_file(self) -> None:
        """Refuse a path that names a directory, or what can hold no database.

        Raises:
            StoreUnavailableError: `reason` is `is-directory` or `not-a-store`.
        """
        mode = self._mode()
        if mode is None:
            return
        if stat.S_ISDIR(mode):
            raise StoreUnavailableError(
                f"{self.path}: this is a directory",
                reason="is-directory",
                hint=f"Name a file in it, such as {self.path / 'run.sqlite'}.",
            )
        if not stat.S_ISREG(mode):
            raise not_a_store_error(self.path, "it is a pipe, a socket or a device, and not a file")

    def refuse_network_filesystem(self) -> None:
        """Refuse a file that other machines may open too.

        Raises:
            StoreUnavailableError: `reason="network-filesystem"`.
        """
        kind = network_filesystem(self.real_path)
        if kind is not None:
            raise StoreUnavailableError(
                f"{self.path}: this is on a network filesystem ({kind}), where SQLite's locks and shared memory do"
                " not hold between machines, and checkpoints can be lost",
                reason="network-filesystem",
                hint="Use a local disk, or PostgreSQL or S3 for many machines. If only one machine ever opens the"
                " file, allow_network_filesystem=True accepts the risk.",
            )

    def remember(self) -> None:
        """Note which files SQLite has open now, after `prepare` and after it opened them.

        Raises:
            StoreUnavailableError: the file was replaced in between.
        """
        real = os.fspath(self.real_path)
        self._names = (os.fspath(self.path), f"{real}-wal", f"{real}-shm")
        # A link, which another directory holds, would have to be looked at too; Windows keeps no such time.
        self._directory = os.path.dirname(real) if real == self._names[0] and os.name == "posix" else ""  # noqa: PTH120
        prepared, self._identity = self._identity, self._look()
        if prepared != self._identity[:1]:
            raise self._replaced()

    def check(self) -> None:
        """Refuse to go on with files that were unlinked or replaced: what is written there is lost.

        Raises:
            StoreUnavailableError: `reason="store-replaced"`.
        """
        try:
            directory = self._look_at_directory()
            if directory is not None and directory == self._unchanged:
                return
            same = self._look() == self._identity
        except OSError:
            same = False
        if not same:
            raise self._replaced()
        # The clock of a file system moves in steps: a directory that has just changed may change again unseen.
        self._unchanged = directory if directory is not None and _has_settled(directory[2]) else None

    @property
    def wal_path(self) -> Path:
        """The file of the write-ahead log, which is there while anybody has the store open."""
        return Path(f"{self.real_path}-wal")

    @property
    def shm_path(self) -> Path:
        """The index of the log in shared memory, which is there while anybody has the store open."""
        return Path(f"{self.real_path}-shm")

    @property
    def journal_path(self) -> Path:
        """The rollback journal, which is there while a transaction is under way in a file without write-ahead log."""
        return Path(f"{self.real_path}-journal")

    def _mode(self) -> int | None:
        """Return the type of the file, as `stat` tells it; None if there is none."""
        try:
            return os.stat(self.real_path).st_mode  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _look_at_directory(self) -> tuple[int, int, int] | None:
        """Return what changes when a file in the directory is made, removed or renamed, or the directory itself is.

        Nobody can set this time, unlike that of the last modification.
        """
        if not self._directory:
            return None
        status = os.stat(self._directory)  # noqa: PTH116
        return status.st_dev, status.st_ino, status.st_ctime_ns

    def _look(self) -> list[tuple[int, int]]:
        assert self._names is not None
        # Path.stat costs several times as much, and this follows every commit.
        return [_identity(os.stat(name)) for name in self._names]  # noqa: PTH116

    def _replaced(self) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"{self.path}: the database file, or its -wal or -shm file, was removed or replaced while it was open",
            reason="store-replaced",
            hint="What is written to the old files is lost. Put the right files back, then close() and bootstrap() this"
            " checkpointer and write again.",
        )


def _has_settled(changed_ns: int) -> bool:
    is_coarse = changed_ns % 1_000_000_000 == 0
    return time.time_ns() - changed_ns > (_SETTLED_COARSE_NS if is_coarse else _SETTLED_NS)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _checked_name(path: str | os.PathLike[str]) -> str:
    check_type(path, "path", (str, os.PathLike), "the path of a file")
    name = os.fspath(path)
    if not isinstance(name, str) or not name or "\0" in name:
        raise CheckpointError(f"{name!r} is not a path", reason="invalid-path", hint="Give the path of a file.")
    if name == ":memory:" or name.startswith("file:"):
        raise CheckpointError(
            f"{name!r} is not a path, and a store in memory does not outlive its process",
            reason="invalid-path",
            hint="Give the path of a file; in a test, one in a temporary directory.",
        )
    scheme = _URL.match(name)
    if scheme is not None:  # the rest may hold a password
        raise CheckpointError(
            f"a path is wanted, not a URL that begins with {scheme.group()!r}",
            reason="invalid-path",
            hint="open_checkpointer of stargraph.checkpoint.registry opens the store of a URL. If a file has such a"
            " name, write ./ before it.",
        )
    if name.startswith(("~/", "~\\")):
        raise CheckpointError(
            f"{name!r}: '~' stands for a home directory in a shell alone",
            reason="invalid-path",
            hint="Give Path(...).expanduser(). If a directory has that name, write ./ before it.",
        )
    return name


def _make_directories(directory: Path) -> None:
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for path in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process was quicker
            path.mkdir()
        _sync_directory(path.parent)


def _create_private_file(path: Path) -> None:
    """Create an empty file with mode 0600 under its name in one step, and never a name that exists.

    It gets its final name after the descriptor was closed, so that closing cannot drop the locks of a
    handle in this process that opened the file in between.
    """
    draft = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}")
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        with contextlib.suppress(FileExistsError):  # another process was quicker
            os.link(draft, path)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    finally:
        draft.unlink()


def _sync_directory(directory: Path) -> None:
    if sys.platform == "win32":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
