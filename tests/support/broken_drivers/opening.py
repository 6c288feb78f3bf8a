"""Drivers that go wrong where a store is opened in another way, or cannot be reached."""

from __future__ import annotations

import atexit
import contextlib
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from typing import Any, ClassVar
from urllib.parse import unquote_plus

from stargraph.checkpoint.conformance import Target
from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer
from stargraph.checkpoint.protocol import Checkpoint, PruneReport, RunSummary
from stargraph.errors import CheckpointError, StoreUnavailableError
from support.broken_drivers.broken_driver import broken
from support.broken_drivers.indexed import Indexed


@broken("access.outage")
class AnOutageIsEmptiness(ReferenceCheckpointer):
    """A read that cannot reach the store finds nothing there."""

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        try:
            return await super().read_at_step(run_id, step)
        except StoreUnavailableError:
            return None


@broken("access.outage")
class ListsAreEmptyInAnOutage(ReferenceCheckpointer):
    """A list is empty while the store cannot be reached: the page must not break."""

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        with contextlib.suppress(StoreUnavailableError):
            return await super().list_runs(since=since, limit=limit)
        return []


@broken("access.outage")
class WritesAreQueuedInAnOutage(ReferenceCheckpointer):
    """A write that cannot reach the store is kept for later, and acknowledged; nothing ever comes back to it."""

    async def write(self, checkpoint: Checkpoint) -> None:
        try:
            await super().write(checkpoint)
        except StoreUnavailableError:
            self.__dict__.setdefault("_later", []).append(checkpoint)


@broken("access.older_format")
class MakesOldStoresAnew(ReferenceCheckpointer):
    """A store of an older format is emptied, since its tables would not fit."""

    async def bootstrap(self) -> None:
        if self._store.format == 0:
            self._store.runs.clear()
            self._store.format = 1
        await super().bootstrap()


@broken("bootstrap.newer_format_refused")
class ReadOnlyTakesNewerFormats(ReferenceCheckpointer):
    """Only who writes can harm a store of a newer format: a read-only handle opens it."""

    async def bootstrap(self) -> None:
        found = self._store.format
        if not (self.read_only and found is not None and found > 1):
            await super().bootstrap()
            return
        self._store.format = 1
        try:
            await super().bootstrap()
        finally:
            self._store.format = found


@broken("access.older_format")
class ReadOnlyUpgrades(ReferenceCheckpointer):
    """A read-only handle brings a store of an older format up to date, to be able to read it."""

    async def bootstrap(self) -> None:
        if self.read_only and self._store.format == 0:
            self._store.format = 1
        await super().bootstrap()


@broken("access.read_only")
class ReadOnlyPrunes(ReferenceCheckpointer):
    """prune was forgotten when the handle learned to be read-only."""

    def _ensure_writable(self, what: str) -> None:
        self._ensure_ready()
        if what != "prune":
            super()._ensure_writable(what)


@broken("access.read_only")
class RefusesToCountReadOnly(ReferenceCheckpointer):
    """A read-only handle refuses every prune, also one that removes nothing."""

    async def prune(self, **arguments: Any) -> PruneReport:
        self._ensure_writable("prune")
        return await super().prune(**arguments)


@broken("access.read_only")
class ReadOnlyMakesTheStore(ReferenceCheckpointer):
    """A read-only handle makes the store that is not there."""

    async def bootstrap(self) -> None:
        read_only, self.read_only = self.read_only, False
        try:
            await super().bootstrap()
        finally:
            self.read_only = read_only


@broken("access.damaged_files", importable=True)
class MakesDamagedStoresAnew(Indexed):
    """A file that is no database is moved away, and a new store is made in its place."""

    async def bootstrap(self) -> None:
        try:
            with contextlib.closing(sqlite3.connect(self._path)) as database:
                database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.DatabaseError as error:
            if "not a database" in str(error):
                with open(self._path, "wb"):
                    pass
        await super().bootstrap()


class RecordsInSql:
    """Reads and edits the records of such a store."""

    async def get(self, location: str, run_id: str, step: int) -> bytes:
        with contextlib.closing(sqlite3.connect(location)) as database:
            sql = "SELECT record FROM checkpoints WHERE run_id = ? AND step = ?"
            (record,) = database.execute(sql, (run_id, step)).fetchone()
        return bytes(record)

    async def put(self, location: str, run_id: str, step: int, data: bytes) -> None:
        with contextlib.closing(sqlite3.connect(location)) as database, database:
            sql = "UPDATE checkpoints SET record = ? WHERE run_id = ? AND step = ?"
            database.execute(sql, (data, run_id, step))


def _url(location: str) -> str:
    return f"indexed://{location}"


class Addressed(Indexed):
    """A base: opened by a URL."""

    @classmethod
    def from_url(cls, url: str) -> Addressed:
        path, _, options = url.removeprefix("indexed://").partition("?")
        if options:
            raise ValueError(f"{url}: there are no options")
        return cls(path)

    @classmethod
    def target(cls) -> Target:
        return Target(open=cls, url=_url)


@broken("access.by_url")
class IgnoresMistypedOptions(Addressed):
    """What comes after the question mark of a URL is looked for by name, and else ignored."""

    @classmethod
    def from_url(cls, url: str) -> Addressed:
        return super().from_url(url.partition("?")[0])


@broken("access.by_url")
class ConnectsInFromUrl(Addressed):
    """from_url makes the file, to say at once if it cannot be made."""

    @classmethod
    def from_url(cls, url: str) -> Addressed:
        handle = super().from_url(url)
        with handle._connected() as database:
            database.execute(cls.CREATE)
        return handle


@broken("access.by_url")
class NotRegistered(Addressed):
    """The entry point of the driver was forgotten, or names another scheme."""


@broken("access.by_url")
class CannotBeClosed(Addressed):
    """Its connections end with the process, so it has no close(): who opens a store by its URL does not know that."""

    close = None  # type: ignore[assignment]


@broken("access.by_url", "access.handles_by_url")
class GivesOutOneHandle(Addressed):
    """Handles are kept by their URL, so that a store is opened once."""

    HANDLES: ClassVar[dict[str, Addressed]] = {}

    @classmethod
    def from_url(cls, url: str) -> Addressed:
        if url not in cls.HANDLES:
            cls.HANDLES[url] = super().from_url(url)
        return cls.HANDLES[url]


@broken("access.by_url", "access.handles_by_url")
class LosesCapitals(Addressed):
    """The path is what urlsplit takes for a host, which has no capitals."""

    @classmethod
    def from_url(cls, url: str) -> Addressed:
        return super().from_url(url.lower())


@broken("access.by_url", "access.handles_by_url")
class TakesPlusForASpace(Addressed):
    """The path is decoded as the values of a query are."""

    @classmethod
    def from_url(cls, url: str) -> Addressed:
        return super().from_url(unquote_plus(url))


class ReadOnlyAddressed(Addressed):
    """A base: it has a way to be opened read-only."""

    def __init__(self, location: str, *, read_only: bool = False) -> None:
        super().__init__(location)
        self.read_only = read_only

    async def write(self, checkpoint: Checkpoint) -> None:
        if self.read_only:
            raise CheckpointError("it is read-only", reason="read-only", hint="Open it without read_only.")
        await super().write(checkpoint)

    @classmethod
    def target(cls) -> Target:
        return Target(open=cls, read_only=lambda location: cls(location, read_only=True), url=_url)


@broken("access.by_url", "access.handles_by_url", "access.read_only")
class ForgetsThatItIsReadOnly(ReadOnlyAddressed):
    """from_url takes read_only=true, and the handle writes."""

    @classmethod
    def from_url(cls, url: str) -> Addressed:
        return super().from_url(url.removesuffix("?read_only=true"))


@broken("access.encrypted")
class SaysThatItEncrypts(Indexed):
    """The keys are read, and the records are written as they always were."""

    @property
    def encrypted(self) -> bool:
        return True

    @classmethod
    def target(cls) -> Target:
        return Target(open=cls, encryption=cls, stored_bytes=RecordsInSql())


@broken("closing.restored", importable=True)
class OneConnectionForEachPath(Indexed):
    """The connection to a file is kept as long as the process lives, for whoever opens that path again."""

    _kept: ClassVar[dict[str, sqlite3.Connection]] = {}

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        if self._path not in self._kept:
            kept = sqlite3.connect(self._path, timeout=20, isolation_level=None, check_same_thread=False)
            self._kept[self._path] = kept
            atexit.register(kept.close)
        yield self._kept[self._path]
