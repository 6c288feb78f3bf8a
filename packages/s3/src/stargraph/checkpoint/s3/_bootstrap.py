"""Opens a store: its marker, and the proof that it keeps what a conditional write promises."""

from __future__ import annotations

import asyncio
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from stargraph.checkpoint.s3._keys import KeyLayout
from stargraph.checkpoint.s3._objects import ObjectStore
from stargraph.errors import CheckpointCorruptedError, StoreUnavailableError, StoreVersionError

STORE_FORMAT: Final = 1
"""The number of the layout; a store with a higher one is left alone."""

_MARKER: Final = orjson.dumps({"format": STORE_FORMAT, "store": "stargraph-checkpoint-s3"}) + b"\n"
_RACERS: Final = 8
_ROUNDS: Final = 3


class UnsafeStoreWarning(UserWarning):
    """The store does not fence: two executors of one run may overwrite each other."""


@dataclass(frozen=True, slots=True)
class RaceReport:
    """How concurrent conditional writes of one object ended.

    Attributes:
        winners: for each round, how many writers were told that they had won, or wrote what is stored.
        writers: how many wrote in each round.
    """

    winners: tuple[int, ...]
    writers: int

    @property
    def passed(self) -> bool:
        """Whether exactly one writer won each round."""
        return all(count == 1 for count in self.winners)


async def open_store(store: ObjectStore, keys: KeyLayout, *, where: str) -> bool:
    """Make the store, or recognise it, and find out whether it keeps conditions.

    Args:
        store: the objects.
        keys: where they are.
        where: the store, as messages name it.

    Returns:
        Whether a conditional create of what exists fails, as it must.

    Raises:
        StoreVersionError: the store's format is newer; nothing was touched.
        StoreUnavailableError: it cannot be reached.
    """
    marker = await store.get(keys.marker)
    if marker is None:
        await store.create(keys.marker, _MARKER)
        marker = await store.get(keys.marker)
    if marker != _MARKER:
        # Another one, or one that was damaged on its way here.
        _check_marker(await store.get(keys.marker), where)
    # The same bytes: a store that ignores the condition changes nothing by it.
    return await store.create(keys.marker, _MARKER) is None


def _check_marker(marker: bytes | None, where: str) -> None:
    try:
        found = orjson.loads(marker or b"")["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointCorruptedError(
            f"{where}: stargraph.json is not the marker of a store",
            reason="corrupted-marker",
            hint="Use another prefix, or restore the object: it holds " + _MARKER.decode().strip(),
        ) from error
    if found != STORE_FORMAT:
        raise StoreVersionError(
            f"{where}: the store has format {found}, and this software knows {STORE_FORMAT}",
            reason="newer-format",
            hint="Upgrade stargraph-checkpoint-s3 here; nothing was touched.",
        )


def refuse(where: str) -> StoreUnavailableError:
    """Return the error of a store that ignores conditions.

    Args:
        where: the store, as messages name it.
    """
    return StoreUnavailableError(
        f"{where}: the store ignores `If-None-Match: *`: it overwrote an object all the same",
        reason="conditional-writes-unsupported",
        hint="Without conditional writes two executors of one run would overwrite each other. AWS S3 and Cloudflare R2"
        " have them, and newer versions of MinIO and Ceph: upgrade the server. Where one process alone ever writes,"
        " unsafe_single_writer=True accepts this store.",
    )


def refuse_race(where: str, report: RaceReport) -> StoreUnavailableError:
    """Return the error of a store on which more than one writer won.

    Args:
        where: the store, as messages name it.
        report: how the race ended.
    """
    rounds = ", ".join(str(count) for count in report.winners)
    return StoreUnavailableError(
        f"{where}: of {report.writers} writers that created one object at once, more than one won"
        f" (in {len(report.winners)} rounds: {rounds})",
        reason="conditional-writes-unsafe",
        hint="Two executors of one run could both be told that their step is stored. Use another store, or upgrade it.",
    )


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
    """Let writers create the same object at once, a few times.

    Args:
        store: the objects.
        keys: where they are.
    """
    bodies = [b"%d\n" % writer for writer in range(_RACERS)]
    winners = []
    for _ in range(_ROUNDS):
        key = f"{keys.probes}{uuid.uuid4().hex}"
        answers: Sequence[str | None] = await asyncio.gather(*(store.create(key, body) for body in bodies))
        won = {body for body, answer in zip(bodies, answers, strict=True) if answer is not None}
        # Also the one whose answer was lost, and that was told at its next attempt that there is an object already.
        winners.append(len(won | {await store.get(key)}))
        await store.remove([key])
    return RaceReport(tuple(winners), _RACERS)
