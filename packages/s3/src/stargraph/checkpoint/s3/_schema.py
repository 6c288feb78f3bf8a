"""The layout of a store, which docs/s3.md draws, its marker, and the proof that it keeps what a condition promises.

    <prefix>/stargraph.json                            the format of the store
    <prefix>/log/<run_id>/<inverted step>              one step of a run: its slot
    <prefix>/runs/<inverted start>-<run_id>            the index entry of a run
    <prefix>/runs/<inverted start>-<run_id>,<step>.sqlite    the file of a run that ended at that step
    <prefix>/open/<inverted start>-<run_id>            there if the run may not have ended
    <prefix>/children/<parent>/<inverted start>-<run_id>    there if the run came from the parent
    <prefix>/keys/<run_id>/<inverted key>/<inverted step>    there if the step may have the key
    <prefix>/processes/<process_id>                    a process that lives; empty if it has left
    <prefix>/reservations/<run_id>                     there if the run was handed out to a worker
    <prefix>/schedules/<id>                            a schedule
    <prefix>/cache-keys/<run_id>                       what copies of the run on local disks are encrypted with

A run id holds no `/` and no `,`, so the keys of two runs never mix, even if one id begins with the
other. Numbers are inverted and padded: the newest comes first in a listing, which is in key order.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import warnings
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

import orjson

from stargraph.checkpoint.driver import before_release_error, no_store_error
from stargraph.checkpoint.protocol import StepKey, is_run_id
from stargraph.checkpoint.s3._errors import newer_format_error
from stargraph.checkpoint.s3._objects import ObjectStore
from stargraph.errors import CheckpointCorruptedError, StoreVersionError

STORE_FORMAT: Final = 1
"""The number of the layout and of the objects in it; a store with a higher one is left alone."""

_STORE: Final = "stargraph"
_STORE_BEFORE_THE_RELEASE: Final = "stargraph-checkpoint-s3"
_RACERS: Final = 8
_ROUNDS: Final = 3

_TOP_STEP: Final = 10**16 - 1
_TOP_INSTANT: Final = 10**18 - 1
_EPOCH: Final = datetime(1, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_SLOT: Final = re.compile(r"[0-9]{16}")
_KEY: Final = re.compile(r"([0-9a-f]{2,510})z/([0-9]{16})")
_ENTRY: Final = re.compile(r"([0-9]{18})-([^,/]+)(?:,([0-9]{1,16})\.sqlite)?")


@dataclass(frozen=True, slots=True)
class RunKey:
    """What the name of an index entry or of a run's file says.

    Attributes:
        started_at: when the run started.
        run_id: the run.
        ended_at_step: the step that ended the run, in the name of its file; None in an index entry.
    """

    started_at: datetime
    run_id: str
    ended_at_step: int | None = None


class KeyLayout:
    """The keys of one store; nothing else builds or reads a key.

    Args:
        prefix: what every key of the store begins with, without slashes at its ends; may be empty.
    """

    def __init__(self, prefix: str) -> None:
        self._root = f"{prefix}/" if prefix else ""
        self.marker: Final = f"{self._root}stargraph.json"
        self.runs: Final = f"{self._root}runs/"
        self.open: Final = f"{self._root}open/"
        self.processes: Final = f"{self._root}processes/"
        self.reservations: Final = f"{self._root}reservations/"
        self.schedules: Final = f"{self._root}schedules/"
        self.probes: Final = f"{self._root}probe/"

    @property
    def logs(self) -> str:
        """The folder of all logs."""
        return f"{self._root}log/"

    def log(self, run_id: str) -> str:
        """Return what the keys of a run's slots begin with."""
        return f"{self.logs}{run_id}/"

    def run_of_log(self, folder: str) -> str:
        """Return the name of a folder of `logs`: a run, unless somebody else made it."""
        return folder.removeprefix(self.logs).removesuffix("/")

    def slot(self, run_id: str, step: int) -> str:
        """Return the key of one step."""
        return f"{self._root}log/{run_id}/{_TOP_STEP - step:016d}"

    def step_of(self, key: str) -> int | None:
        """Return the step that the key of a slot names, or None for any other object.

        Args:
            key: a key that begins as `log` says.
        """
        name = key.rpartition("/")[2]
        return _TOP_STEP - int(name) if _SLOT.fullmatch(name) else None

    def step_keys(self, run_id: str) -> str:
        """Return the folder with an entry for each step of a run that has a key."""
        return f"{self._root}keys/{run_id}/"

    def step_key_folder(self, run_id: str, key: str) -> str:
        """Return the folder with an entry for each step of a run that has one key.

        The bytes of a key are inverted, and what ends them comes after every digit: so the highest key comes first.
        """
        return f"{self.step_keys(run_id)}{_inverted_bytes(key.encode('utf-8', 'surrogatepass')).hex()}z/"

    def step_key(self, run_id: str, key: str, step: int) -> str:
        """Return the entry of a step that has a key."""
        return f"{self.step_key_folder(run_id, key)}{_TOP_STEP - step:016d}"

    def step_key_of(self, key: str) -> StepKey | None:
        """Return what the key of an entry says, or None for any other object.

        Args:
            key: a key that begins as `step_keys` says.
        """
        match = _KEY.fullmatch("/".join(key.rsplit("/", 2)[-2:]))
        try:
            return match and StepKey(_inverted_bytes(bytes.fromhex(match[1])).decode(), _TOP_STEP - int(match[2]))
        except ValueError:
            return None

    def process(self, process_id: str) -> str:
        """Return the key of the object by which a process says that it lives."""
        return f"{self.processes}{process_id}"

    def reservation(self, run_id: str) -> str:
        """Return the key of the object that reserves a run."""
        return f"{self.reservations}{run_id}"

    def schedule(self, schedule_id: str) -> str:
        """Return the key of a schedule."""
        return f"{self.schedules}{schedule_id}"

    def cache_key(self, run_id: str) -> str:
        """Return the key of the object that holds the key of a run's copies on local disks."""
        return f"{self._root}cache-keys/{run_id}"

    def children(self, run_id: str) -> str:
        """Return the folder with an entry for each run that came from a run."""
        return f"{self._root}children/{run_id}/"

    def entry(self, run_id: str, started_at: datetime, *, folder: str | None = None) -> str:
        """Return the key of a run's entry.

        Args:
            started_at: the time of its step 0.
            folder: `open` or `children(…)`; None for `runs`.
        """
        return f"{self.runs if folder is None else folder}{_inverted(started_at):018d}-{run_id}"

    def file(self, run_id: str, started_at: datetime, step: int) -> str:
        """Return the key of the file of a run that ended; it follows the index entry in a listing.

        Args:
            started_at: the time of its step 0.
            step: the step that ended it.
        """
        return f"{self.entry(run_id, started_at)},{step}.sqlite"

    def run_of(self, key: str) -> RunKey | None:
        """Return what the key of an entry or of a file says, or None for any other object."""
        match = _ENTRY.fullmatch(key.rpartition("/")[2])
        if match is None or not is_run_id(match[2]):
            return None
        micros = _TOP_INSTANT - int(match[1])
        try:
            started_at = _EPOCH + micros * _MICROSECOND
        except OverflowError:
            return None
        return RunKey(started_at, match[2], int(match[3]) if match[3] else None)


def _inverted_bytes(text: bytes) -> bytes:
    return bytes(255 - byte for byte in text)


def _inverted(moment: datetime) -> int:
    return _TOP_INSTANT - (moment.astimezone(UTC) - _EPOCH) // _MICROSECOND


Migration: TypeAlias = Callable[[ObjectStore, KeyLayout], Awaitable[None]]

MIGRATIONS: Final[dict[int, Migration]] = {}
"""What makes each format after the first from the one before it.

The marker is the last object that changes; until then the store has the format before. So a migration adds objects and
changes none that is there, it can be cut short and begun again, by many processes at once, and the format that it makes
holds objects of the formats before.
"""


def marker_of(number: int) -> bytes:
    """Return the marker of a store of a format."""
    return orjson.dumps({"format": number, "store": _STORE}) + b"\n"


class UnsafeStoreWarning(UserWarning):
    """The store does not fence: two executors of one run may overwrite each other."""


@dataclass(frozen=True, slots=True)
class RaceReport:
    """How concurrent conditional writes of one object ended.

    Attributes:
        winners: for each round, how many writers got the answer that they had won, or wrote what is stored.
        writers: how many wrote in each round.
    """

    winners: tuple[int, ...]
    writers: int

    @property
    def passed(self) -> bool:
        """Whether exactly one writer won each round."""
        return all(count == 1 for count in self.winners)


async def open_store(store: ObjectStore, keys: KeyLayout, *, where: str) -> bool:
    """Make the store, or recognise or migrate it, and find out whether it keeps conditions.

    Args:
        store: the objects.
        keys: where they are.
        where: the store, as messages name it.

    Returns:
        Whether a conditional create of what exists fails, as it must.

    Raises:
        StoreVersionError: the store has a newer format, or is from before the first release; nothing was touched.
        StoreUnavailableError: it cannot be reached.
    """
    newest = _newest()
    marker = await store.get(keys.marker)
    if marker is None:
        await store.create(keys.marker, marker_of(newest))
    if marker != marker_of(newest):
        # New, another one, or one that was damaged on its way here.
        for number in range(_format_of(await store.get(keys.marker), where), newest):
            await MIGRATIONS[number + 1](store, keys)
            await store.overwrite([keys.marker], marker_of(number + 1))
    # The same bytes: a store that ignores the condition changes nothing by it.
    return await store.create(keys.marker, marker_of(newest)) is None


async def recognise_store(store: ObjectStore, keys: KeyLayout, *, where: str) -> None:
    """Check that the store exists and has the format of this software; write nothing.

    Raises:
        StoreVersionError: it has another format.
        StoreUnavailableError: it cannot be reached, or there is none (`reason="no-store"`).
    """
    marker = await store.get(keys.marker)
    if marker is None:
        # What is no S3 at all answers 404 to a read too, but not a listing to this.
        await store.list(keys.runs, limit=1)
        raise no_store_error(where)
    if marker != marker_of(_newest()):
        number = _format_of(await store.get(keys.marker), where)
        if number < _newest():
            raise StoreVersionError(
                f"{where}: the store has format {number}, and this software reads format {_newest()}",
                reason="older-format",
                hint="Nothing was changed. Migrate it first: `stargraph migrate`, or open it once for writing.",
            )


def _newest() -> int:
    return max(MIGRATIONS, default=STORE_FORMAT)


def _format_of(marker: bytes | None, where: str) -> int:
    """Return the format that a marker names, if this software knows it."""
    try:
        line = orjson.loads(marker or b"")
        store, number = line["store"], line["format"]
        if store == _STORE_BEFORE_THE_RELEASE:
            raise before_release_error(where)
        if store != _STORE or type(number) is not int or number < 1:
            raise ValueError
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointCorruptedError(
            f"{where}: stargraph.json is not the marker of a store",
            reason="corrupted-marker",
            hint="Use another prefix, or restore the object: it holds " + marker_of(_newest()).decode().strip(),
        ) from error
    if number > _newest():
        raise newer_format_error(where, number, _newest())
    return number


def warn_unsafe(where: str) -> None:
    """Warn, each time, that a store is used that does not fence.

    Args:
        where: the store, as messages name it.
    """
    warnings.warn(
        f"{where}: unsafe_single_writer=True, and the store ignores conditional writes: nothing stops two executors"
        " of one run from overwriting each other",
        UnsafeStoreWarning,
        stacklevel=3,
    )


async def race(store: ObjectStore, keys: KeyLayout) -> RaceReport:
    """Let writers create the same object at once, a few times."""
    bodies = [b"%d\n" % writer for writer in range(_RACERS)]
    winners = []
    for _ in range(_ROUNDS):
        key = f"{keys.probes}{secrets.token_hex(16)}"
        answers: Sequence[str | None] = await asyncio.gather(*(store.create(key, body) for body in bodies))
        won = {body for body, answer in zip(bodies, answers, strict=True) if answer is not None}
        # Also the one whose answer was lost, and whose next attempt found an object.
        winners.append(len(won | {await store.get(key)}))
        await store.remove([key])
    return RaceReport(tuple(winners), _RACERS)
