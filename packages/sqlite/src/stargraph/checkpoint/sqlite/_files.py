"""The files of a store: making them privately and durably, and noticing when they are no longer ours."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sys
from pathlib import Path
from typing import Final

from stargraph.checkpoint.sqlite._errors import not_a_store, read_only
from stargraph.checkpoint.sqlite._mounts import network_filesystem
from stargraph.errors import CheckpointError, StoreUnavailableError

_NO_HARD_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)

_WAL_AHEAD: Final = 128 * 1024
"""By how many bytes the write-ahead log's file is made longer at a time."""


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
        self._wal_length = 0

    @property
    def real_path(self) -> Path:
        """The file that links lead to; SQLite names its companions after it."""
        return Path(os.path.realpath(self.path))

    def prepare(self, *, allow_network_filesystem: bool) -> None:
        """Make sure that there is a file to open, made durably and for this user alone if it is new.

        Args:
            allow_network_filesystem: take the risk of a filesystem that other machines share.

        Raises:
            StoreUnavailableError: the path cannot hold a store.
            OSError: the system refused.
        """
        path = self.real_path
        if path.is_dir():
            raise StoreUnavailableError(
                f"{self.path}: this is a directory",
                reason="is-directory",
                hint=f"Name a file in it, such as {self.path / 'run.sqlite'}.",
            )
        kind = None if allow_network_filesystem else network_filesystem(path)
        if kind is not None:
            raise StoreUnavailableError(
                f"{self.path}: this is on a network filesystem ({kind}), where SQLite's locks and shared memory do"
                " not hold between machines, and checkpoints can be lost",
                reason="network-filesystem",
                hint="Use a local disk, or PostgreSQL or S3 for many machines. If only one machine ever opens the"
                " file, allow_network_filesystem=True takes the risk.",
            )
        _make_directories(path.parent)
        if not path.exists():
            _create_private_file(path)
        if path.stat().st_size == 1:
            raise not_a_store(self.path, "it is not a SQLite database")  # which takes such a file for an empty one
        if not os.access(path, os.W_OK):
            raise read_only(self.path)
        # Also when another process made the file: it may not have got this far yet.
        _sync_directory(path.parent)
        self._identity = [_identity(path.stat())]

    def remember(self) -> None:
        """Note which files SQLite has open now, after `prepare` and after it opened them.

        Raises:
            StoreUnavailableError: the file was replaced in between.
        """
        real = os.fspath(self.real_path)
        self._names = (os.fspath(self.path), f"{real}-wal", f"{real}-shm")
        prepared, self._identity = self._identity, self._look()
        if prepared != self._identity[:1]:
            raise self._replaced()

    def check(self) -> None:
        """Refuse to go on with files that were unlinked or replaced: what is written there is lost.

        Raises:
            StoreUnavailableError: `reason="store-replaced"`.
        """
        try:
            same = self._look() == self._identity
        except OSError:
            same = False
        if not same:
            raise self._replaced()

    def has_wal(self) -> bool:
        """Tell whether there is a write-ahead log, as there is while anybody has the store open."""
        return os.path.exists(f"{self.real_path}-wal")  # noqa: PTH110

    def wal_size(self) -> int:
        """Return the size of the write-ahead log in bytes."""
        try:
            return os.stat(f"{self.real_path}-wal").st_size  # noqa: PTH116
        except FileNotFoundError:
            return 0

    def lengthen_wal(self, used: int) -> None:
        """Keep the file of the write-ahead log longer than the log.

        A commit that makes its file longer waits for the file system's journal as well, which can double what it
        costs. The zeros read as the end of the log. They are appended, so they never overwrite what another process
        writes meanwhile.

        Args:
            used: how long the log may be, in bytes.
        """
        if self._names is None or used + _WAL_AHEAD // 2 < self._wal_length:
            return
        with contextlib.suppress(OSError):  # a commit that finds no room says so itself
            descriptor = os.open(self._names[1], os.O_WRONLY | os.O_APPEND)
            try:
                if _identity(os.fstat(descriptor)) == self._identity[1]:
                    os.write(descriptor, bytes(_WAL_AHEAD))
            finally:
                os.close(descriptor)

    def _look(self) -> list[tuple[int, int]]:
        assert self._names is not None
        # Path.stat costs several times as much, and this follows every commit.
        main, wal, shm = map(os.stat, self._names)
        self._wal_length = wal.st_size
        return [_identity(main), _identity(wal), _identity(shm)]

    def _replaced(self) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"{self.path}: the database file, or its -wal or -shm file, was removed or replaced while it was open",
            reason="store-replaced",
            hint="What is written there is lost. Put the right files back, then close() and bootstrap() this"
            " checkpointer and write again.",
        )


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _checked_name(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    if not isinstance(name, str) or not name or "\0" in name:
        raise CheckpointError(f"{name!r} is not a path", reason="invalid-path", hint="Give the path of a file.")
    if name == ":memory:" or name.startswith("file:"):
        raise CheckpointError(
            f"{name!r} is not a path, and a store in memory does not outlive its process",
            reason="invalid-path",
            hint="Give the path of a file; in a test, one in a temporary directory.",
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
