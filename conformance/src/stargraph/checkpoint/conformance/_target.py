"""How the kit opens a driver: the target that its author gives."""

from __future__ import annotations

import errno
import importlib
import inspect
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from stargraph.checkpoint.conformance._capabilities import Capability
from stargraph.checkpoint.conformance._expect import HarnessError, Violation
from stargraph.checkpoint.protocol import Checkpointer

if sys.platform != "win32":
    import fcntl

Opener: TypeAlias = Callable[[str], Checkpointer | AbstractAsyncContextManager[Checkpointer]]
"""Takes a location; returns a handle that is not bootstrapped, or an async context manager that yields one."""

REQUIRED_METHODS = ("bootstrap", "write", "read_latest", "read_at_step", "list_runs")


class StoredBytes(Protocol):
    """Reads and edits the stored bytes of one checkpoint, behind the driver's back."""

    async def get(self, location: str, run_id: str, step: int) -> bytes:
        """Return the stored bytes of a step.

        Args:
            location: the store.
        """

    async def put(self, location: str, run_id: str, step: int, data: bytes) -> None:
        """Replace the stored bytes of a step.

        Args:
            location: the store.
            data: the new bytes.
        """


_PREFIX: Final = "stargraph-conformance-store-"
_STORE: Final = "store"

_REMOVALS: Final = 50
_PAUSE: Final = 0.05
"""Seconds between two attempts to remove a directory that is not empty."""

_MEMORY: Final = Path("/dev/shm")  # noqa: S108  # the directory in it is made by mkdtemp
_ROOM: Final = 2 * 1024**3
"""Bytes that must be free in the memory of files; the largest store of a check has a fifth of that."""


def _folder_of_stores() -> str | None:
    """Return the folder that holds the stores of checks; None if it is the one of temporary files.

    Files in memory need no disk to be flushed to, and no check can tell: it kills processes, never the machine. A user
    who has chosen where temporary files are made keeps that place.
    """
    if any(map(os.environ.get, ("TMPDIR", "TEMP", "TMP"))) or not os.access(_MEMORY, os.W_OK):
        return None
    return str(_MEMORY) if shutil.disk_usage(_MEMORY).free > _ROOM else None


@asynccontextmanager
async def fresh_directory() -> AsyncIterator[str]:
    """Yield a path that does not exist yet, in a directory of its own that goes away afterwards.

    The directory is in /dev/shm if that has room and TMPDIR is not set, and otherwise where temporary files are. If
    this process is killed, the next run of the kit removes the directory.
    """
    async with directory_in(_folder_of_stores()) as location:
        yield location


@asynccontextmanager
async def directory_in(folder: str | None) -> AsyncIterator[str]:
    """Do as `fresh_directory` does, in a folder; where temporary files are if None."""
    with _new_directory(folder) as directory:
        location = str(directory / _STORE)
        try:
            yield location
        finally:
            remove_store(location)


@contextmanager
def _new_directory(folder: str | None) -> Iterator[Path]:
    """Make a directory for a store, and hold its lock, so that no other run takes it for one that was left behind."""
    made = Path(tempfile.mkdtemp(prefix=f"new-{_PREFIX}", dir=folder))
    with _locked(made):  # before it has the name by which other runs find it
        yield made.rename(made.with_name(made.name.removeprefix("new-")))


def remove_abandoned_stores() -> None:
    """Remove the directories that were made for stores in processes that were killed."""
    for folder in {_folder_of_stores(), None}:
        for directory in Path(folder or tempfile.gettempdir()).glob(f"{_PREFIX}*"):
            with suppress(OSError), _locked(directory) as is_abandoned:  # it may be gone meanwhile, or another user's
                if is_abandoned:
                    remove_store(str(directory / _STORE))


@contextmanager
def _locked(directory: Path) -> Iterator[bool]:
    """Lock a directory, and yield whether that was possible; the system ends the lock with this process."""
    if sys.platform == "win32":  # it locks files alone
        yield False
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process has it, or the file system knows no locks
        return False
    return True


def remove_store(location: str) -> None:
    """Remove the directory that `fresh_directory` made for a store; do nothing if the store is in no such directory.

    A thread of a driver that was cancelled may still make and remove files in it, so what changes meanwhile is tried
    again.
    """
    store = Path(location)
    if not store.is_absolute() or store.name != _STORE or not store.parent.name.startswith(_PREFIX):
        return
    for _ in range(_REMOVALS):
        try:
            shutil.rmtree(store.parent)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY) or not store.parent.exists():
                break
            time.sleep(_PAUSE)
        else:
            return
    shutil.rmtree(store.parent, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Target:
    """A driver as the kit is to open it. A function `location -> driver` alone is a target too.

    Attributes:
        open: takes a location; returns a handle that is not bootstrapped, or an async context manager that
            yields one and closes it.
        location: makes a fresh, empty place for a store, as an async context manager that removes it
            afterwards; a path that does not exist yet, unless given.
        capabilities: what the driver declares; what its methods say, unless given.
        stored_bytes: reads and edits stored bytes, for the corruption checks.
        lost_step: takes a location, a run and a step; removes the stored step behind the driver's back.
        newer_format: takes a location; while the async context manager is open, the store looks as if newer
            software had made it.
        older_format: the same for older software; a store that bootstrap has migrated meanwhile stays so.
        outage: takes a location; while the async context manager is open, the store cannot be reached, or not be
            written to.
        clock: takes a location and a timedelta; while the async context manager is open, the store's own clock is off
            by that much. A driver that asks its process for the time needs no such hook.
        clock_tolerance: how far the clock of a process may be off before the server of the store refuses its requests,
            as S3 does after 15 minutes; at least a minute, None if it refuses none. A check goes beyond it unless the
            driver raises StoreUnavailableError there.
        late_claims: whether a handle may hand out a run later than another handle would, by up to ten seconds: it keeps
            for so long what it has read of a run that could not go on. The model has no patience, and asks new handles.
        encryption: takes a location; returns a handle that is not bootstrapped and encrypts with the keys of
            `STARGRAPH_ENCRYPTION_KEY`.
        read_only: takes a location; returns a read-only handle that is not bootstrapped.
        url: takes a location; returns the URL that opens it with `from_url` of the driver's class.
        versions: returns the versions of what is tested, by name: the driver, the server. What it names is told in the
            report; nothing is guessed.
        preload: modules that child processes need not import again, such as a large SDK that the driver uses: they are
            forked from a process that has imported them. None of the driver's own, and none that starts a thread.
        processes: whether other processes can open the same location.
        expected_failures: known failures of optional checks: the id, and a link to where they are tracked.
    """

    open: Opener
    location: Callable[[], AbstractAsyncContextManager[str]] = fresh_directory
    capabilities: frozenset[Capability] | None = None
    stored_bytes: StoredBytes | None = None
    lost_step: Callable[[str, str, int], Awaitable[None]] | None = None
    newer_format: Callable[[str], AbstractAsyncContextManager[None]] | None = None
    older_format: Callable[[str], AbstractAsyncContextManager[None]] | None = None
    outage: Callable[[str], AbstractAsyncContextManager[None]] | None = None
    clock: Callable[[str, timedelta], AbstractAsyncContextManager[None]] | None = None
    clock_tolerance: timedelta | None = None
    late_claims: bool = False
    encryption: Opener | None = None
    read_only: Opener | None = None
    url: Callable[[str], str] | None = None
    versions: Callable[[], Mapping[str, str]] | None = None
    preload: Sequence[str] = ()
    processes: bool = True
    expected_failures: Mapping[str, str] = field(default_factory=dict)


def looks_like_driver(thing: object) -> bool:
    """Whether a thing has most of a driver's methods, so that it is meant to be one."""
    return sum(hasattr(thing, name) for name in REQUIRED_METHODS) >= 3


@asynccontextmanager
async def opened(target: Target, location: str, opener: Opener | None = None) -> AsyncIterator[Checkpointer]:
    """Open a handle as the target says, or as an opener does, and close it if that does not."""
    thing: Any = (opener or target.open)(location)
    if looks_like_driver(thing):
        try:
            yield thing
        finally:
            if callable(close := getattr(thing, "close", None)):
                await close()
        return
    if inspect.iscoroutine(thing):
        thing.close()
        raise HarnessError(f"{_named(target.open)} is a coroutine function: make it a plain function (`def`)")
    if thing is None:
        raise HarnessError(f"{_named(target.open)} returned None: it must return the driver for that location")
    if not hasattr(thing, "__aenter__"):
        raise Violation(
            f"{_named(target.open)} returned {type(thing).__name__}, which has none of the methods of a driver"
            f" ({', '.join(REQUIRED_METHODS)}), and is no async context manager that yields one"
        )
    async with thing as handle:
        yield handle


def _named(opener: Opener) -> str:
    return f"the target {getattr(opener, '__qualname__', type(opener).__name__)!r}"


def load_target(spec: str) -> Target:
    """Import what `package.module:name` names and return it as a target.

    Args:
        spec: the target, as `package.module:name`; the working directory is searched too.

    Raises:
        HarnessError: there is no such thing, or it is no target.
    """
    module_name, colon, name = spec.partition(":")
    if not colon or not module_name or not name:
        raise HarnessError(f"the target is {spec!r}: give it as package.module:name")
    here = str(Path.cwd())
    if here not in sys.path and os.curdir not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise HarnessError(f"the target {spec!r} cannot be imported: {type(error).__name__}: {error}") from error
    for part in name.split("."):
        found = getattr(found, part, None)
        if found is None:
            raise HarnessError(f"the target {spec!r}: {module_name} has no {name}")
    if isinstance(found, Target):
        return found
    if callable(found):
        return Target(open=found)
    raise HarnessError(f"the target {spec!r} is {type(found).__name__}: it must be a function or a Target")
