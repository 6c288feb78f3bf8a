"""Runs as one portable file: writing it, and reading it into a store."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from datetime import datetime
from typing import BinaryIO

from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.protocol import Checkpoint, Checkpointer, PrunedStart
from stargraph.errors import CheckpointConflictError
from stargraph.runtime._given import (
    as_run_ids,
    check_callable,
    check_checkpointer,
    check_flags,
    check_keyring,
    check_moment,
    check_type,
)
from stargraph.runtime._reading import Progress, Tally
from stargraph.transfer._lines import LineReader, LineWriter, RunLine
from stargraph.transfer._reports import Refusal, TransferReport
from stargraph.transfer._transfer import (
    BatchWriter,
    Refused,
    chosen_runs,
    confirm,
    diverged,
    head_of,
    latest_of,
    not_joined,
    not_startable,
    present_in,
    refuse_moved,
    refuse_seal,
    survey,
)


async def export_runs(
    store: Checkpointer,
    stream: BinaryIO,
    run_ids: Iterable[str] | None = None,
    *,
    since: datetime | None = None,
    children: bool = True,
    keyring: Keyring | None = None,
    progress: Progress | None = None,
) -> TransferReport:
    """Write runs as JSON Lines. States are plain text in it, even if the store encrypts them.

    Args:
        store: where the runs are; it may be written meanwhile.
        stream: where the lines go, in binary mode.
        run_ids: the runs; None for all.
        since: if all are meant, only runs that started then or later.
        children: export the child runs of named runs too.
        keyring: checks the seals; they are exported as they are.
        progress: called from time to time with the numbers of runs and steps done.

    Returns:
        What was written, and the runs that were refused because they are damaged.

    Raises:
        CheckpointNotFoundError: a run that was asked for is not in the store.
        CheckpointConflictError: a run changed while it was read (`reason="run-changed"`); the file is not complete.
        StoreUnavailableError: the store cannot be read.
    """
    check_flags(children=children)
    if since is not None:
        check_moment(since, "since")
    check_checkpointer(store, "store")
    check_keyring(keyring)
    check_callable(progress, "progress", "a function of the numbers of runs and steps, or None")
    _check_stream(stream, ("write", "flush"), "open(path, 'wb')")
    named = None if run_ids is None else as_run_ids(run_ids)
    tally = Tally(progress)
    lines = LineWriter(stream)
    lines.header()
    refusals: list[Refusal] = []
    async with aclosing(_each_run(chosen_runs(store, named, since, children=children))) as chosen:
        async for run_id in chosen:
            try:
                latest = await latest_of(store, run_id, must_exist=named is not None)
                if latest is None:
                    continue
                refuse_moved(latest)
                extent = await survey(store, run_id, keyring=keyring, head=latest, first=0)
            except Refused as error:
                refusals.append(error.refusal)
                continue
            lines.run(RunLine(head=head_of(latest), first_step=extent.first_step, steps=extent.steps))
            try:
                async with aclosing(extent.read(store)) as checkpoints:
                    async for checkpoint in checkpoints:
                        lines.checkpoint(checkpoint)
                        tally.step()
            except Refused as error:
                refusal = error.refusal  # too late to leave the run out: the file says that it is there
                raise CheckpointConflictError(
                    f"run {run_id!r}: {refusal.message}", reason=refusal.reason, hint=refusal.hint, run_id=run_id
                ) from None
            tally.run()
    lines.end()
    return TransferReport(runs=lines.runs, steps=lines.checkpoints, refused=tuple(refusals))


def _check_stream(stream: object, methods: tuple[str, ...], example: str) -> None:
    """Refuse a path, and a file in text mode."""
    # A temporary file of tempfile is of a class of its own, but it has an encoding too.
    is_text = isinstance(stream, io.TextIOBase) or isinstance(getattr(stream, "encoding", None), str)
    if is_text or not all(callable(getattr(stream, method, None)) for method in methods):
        check_type(stream, "stream", (), f"a file in binary mode, as in {example}")


async def _each_run(units: AsyncGenerator[tuple[str, ...]]) -> AsyncGenerator[str]:
    async with aclosing(units):
        async for unit in units:
            for run_id in unit:
                yield run_id


async def import_runs(
    store: Checkpointer,
    stream: BinaryIO,
    *,
    keyring: Keyring | None = None,
    progress: Progress | None = None,
) -> TransferReport:
    """Read runs from JSON Lines into a store, each with the same digests, read back and compared at its end.

    Input that can be read twice is checked to its end before anything is stored. Other input is checked line by line as
    it comes: if it was cut or edited, the first steps of runs may be stored by then, and importing the whole file
    finishes them. Runs that are there already are not changed.

    Args:
        store: where they go.
        stream: where the lines come from, in binary mode.
        keyring: checks the seals; they are stored as they are.
        progress: called from time to time with the numbers of runs and steps done.

    Returns:
        What was stored, and the runs that were refused because another run has that id. A pruned run is stored
        with what is left of it.

    Raises:
        StargraphError: the input is not an export, or was cut or edited (`reason="invalid-export"`); the
            message names the line.
        StoreUnavailableError: the store fails; import again to complete it.
    """
    check_checkpointer(store, "store")
    check_keyring(keyring)
    check_callable(progress, "progress", "a function of the numbers of runs and steps, or None")
    _check_stream(stream, ("readline", "seekable"), "open(path, 'rb')")
    floors: Iterator[int] | None = None
    if stream.seekable():
        start = stream.tell()
        floors = iter(_floors(LineReader(stream)))
        stream.seek(start)
    tally = Tally(progress)
    written = present = verified = 0
    refusals: list[Refusal] = []
    incoming: _Incoming | None = None
    for line in LineReader(stream):
        if isinstance(line, RunLine):
            incoming = _Incoming(store, line, keyring, floor=None if floors is None else next(floors))
        else:
            tally.step()
        assert incoming is not None  # a reader yields a run before its checkpoints
        await incoming.take(line)
        if incoming.left:
            continue
        if incoming.refusal is not None:
            refusals.append(incoming.refusal)
            continue
        written += incoming.writer.written
        present += incoming.present
        verified += incoming.writer.written > 0
        tally.run()
    return TransferReport(runs=tally.runs, steps=written, present=present, verified=verified, refused=tuple(refusals))


class _Incoming:
    """A run on its way from a file into a store.

    Args:
        store: where it goes.
        run: what the file says of it.
        keyring: checks the seals.
        floor: the step up to which steps were pruned; None if the file can be read only once, and does not say so yet.

    Attributes:
        left: how many of its checkpoints are still to come.
        present: how many of its steps were there before.
        writer: writes them.
        refusal: why it is not taken, if it is not.
    """

    def __init__(self, store: Checkpointer, run: RunLine, keyring: Keyring | None, *, floor: int | None) -> None:
        self.left = run.steps
        self.present = 0
        self.writer = BatchWriter(store)
        self.refusal: Refusal | None = None
        self._store = store
        self._run = run
        self._keyring = keyring
        self._there: Checkpoint | None = None
        self._following = 0
        self._floor = floor
        self._held: list[Checkpoint] | None = None

    async def take(self, line: RunLine | Checkpoint) -> None:
        """Take the next line; once the run is refused, its lines are passed over.

        Args:
            line: what the file says of the run, then each of its checkpoints.
        """
        self.left -= isinstance(line, Checkpoint)
        if self.refusal is not None:
            return
        try:
            if isinstance(line, Checkpoint):
                await self._append(line)
            else:
                self._there = await present_in(self._store, self._run.head)
                if self._there is not None:
                    self._following = self._there.step + 1
                elif self._run.steps <= self._run.head.step:
                    self._begin_pruned()
        except Refused as error:
            self.refusal = error.refusal

    def _begin_pruned(self) -> None:
        if not isinstance(self._store, PrunedStart):
            raise not_startable(self._run.head.run_id)
        if self._floor is None:
            self._held = []
        else:
            self.writer.floor = self._floor

    async def _append(self, checkpoint: Checkpoint) -> None:
        refuse_seal(checkpoint, self._keyring)
        if self._there is not None and checkpoint.step == self._there.step and checkpoint.digest != self._there.digest:
            raise diverged(checkpoint.run_id, checkpoint.step)
        if self._held is None:
            await self._add(checkpoint)
        else:
            self._held.append(checkpoint)
        if self.left:
            return
        if self._held is not None:
            self.writer.floor = _floor(self._held)
            for held in self._held:
                await self._add(held)
        await self.writer.flush()
        if self.writer.written:
            await confirm(self._store, self._run.head, keyring=self._keyring)

    async def _add(self, checkpoint: Checkpoint) -> None:
        if checkpoint.step < self._following:
            self.present += 1
            return
        if checkpoint.step > max(self._following, self.writer.floor):
            raise not_joined(checkpoint.run_id, self._following, checkpoint.step)
        await self.writer.add(checkpoint)
        self._following = checkpoint.step + 1


def _floors(lines: Iterable[RunLine | Checkpoint]) -> list[int]:
    """Return the floor of each run in a file, in order."""
    floors: list[int] = []
    following = 0
    for line in lines:
        if isinstance(line, RunLine):
            floors.append(0)
            following = -1
            continue
        if line.step != following:
            floors[-1] = line.step
        following = line.step + 1
    return floors


def _floor(checkpoints: list[Checkpoint]) -> int:
    """Return the first of those steps from which on none is missing."""
    floor = checkpoints[-1].step
    for checkpoint in reversed(checkpoints):
        if checkpoint.step < floor - 1:
            break
        floor = checkpoint.step
    return floor
