"""Pruned runs go from store to store with what is left of them, and are as safe there as where they come from."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from support.places import Place
from support.records import chain, first, following

from stargraph.audit import anchor, verify
from stargraph.checkpoint.protocol import (
    Checkpoint,
    Checkpointer,
    PrunedStart,
    RunDeletion,
    RunHistory,
    StepRange,
    Task,
)
from stargraph.errors import CheckpointError, StoreUnavailableError
from stargraph.transfer import copy_runs, export_runs, import_runs, move_runs

LATER = datetime(2030, 1, 1, tzinfo=UTC)
OPEN = "open"
NEEDED = [3, 4, 6]
"""The steps that the open run needs below its floor."""


def open_run(run_id: str = OPEN) -> list[Checkpoint]:
    """A run whose latest step names earlier ones, as an unfinished node with recorded calls does."""
    run = chain(run_id, 12)
    calls = (StepRange(first=4, last=4), StepRange(first=6, last=6))
    run.append(following(run[-1], frontier=(Task(id="t", node="slow", since_step=3, calls=calls),)))
    return run


async def prune(place: Place, keep_last: int) -> None:
    async with place.open() as store:
        assert isinstance(store, RunDeletion)
        await store.prune(older_than=LATER, statuses=("running", "done"), keep_last=keep_last)


async def log(store: Checkpointer, run_id: str) -> list[int]:
    assert isinstance(store, RunHistory)
    return [checkpoint.step async for checkpoint in store.history(run_id)]


async def left(file: Place, *, keep_last: int = 2) -> dict[str, list[Checkpoint]]:
    """Fill a store with two runs and prune it."""
    runs = {OPEN: open_run(), "done": chain("done", 9, end="done")}
    for run in runs.values():
        await file.write(*run)
    await prune(file, keep_last)
    return runs


async def test_a_copy_holds_what_was_left_and_goes_on_there(file: Place, place: Place) -> None:
    runs = await left(file)
    async with file.open() as source, place.open() as store:
        heads = await anchor(source)
        report = await copy_runs(source, store)
        assert (report.runs, report.steps, report.refused) == (2, 7, ())
        assert await log(store, OPEN) == [*NEEDED, 11, 12]
        assert await log(store, "done") == [7, 8]
        audit = await verify(store, anchor=heads)
        assert (audit.sound, {note.kind for note in audit.notes}) == (True, {"pruned"})
        assert await store.read_latest(OPEN) == runs[OPEN][-1]
        for run_id in runs:
            with pytest.raises(CheckpointError) as refusal:
                await store.write(runs[run_id][0])
            assert refusal.value.reason == "pruned"
        await store.write(following(runs[OPEN][-1]))
        again = await copy_runs(source, store)
        assert (again.steps, again.refused) == (0, ())


async def test_a_pruned_run_of_every_store_is_copied_from_there(place: Place, file: Place) -> None:
    """S3 also keeps the steps that others are decoded from: they are left behind."""
    runs = await left(place, keep_last=1)
    async with place.open() as source, file.open() as store:
        assert (await copy_runs(source, store)).refused == ()
        assert (await verify(store)).sound
        steps = await log(store, OPEN)
        assert {*NEEDED, 12} <= set(steps)
        assert await store.read_latest("done") == runs["done"][-1]


class Cut:
    """A destination that fails after the start of a run."""

    def __init__(self, store: Checkpointer, *, starts: bool) -> None:
        self._store = store
        self._starts = starts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def start_pruned(self, checkpoints: Sequence[Checkpoint]) -> None:
        assert isinstance(self._store, PrunedStart)
        if self._starts:
            await self._store.start_pruned(checkpoints)
        raise StoreUnavailableError("the line is cut", reason="unreachable")


@pytest.mark.parametrize("starts", [False, True])
async def test_a_copy_that_was_cut_is_finished_by_another_one(file: Place, place: Place, starts: bool) -> None:
    await left(file)
    async with file.open() as source, place.open() as store:
        with pytest.raises(StoreUnavailableError):
            await copy_runs(source, Cut(store, starts=starts), [OPEN])
        assert (await copy_runs(source, store)).refused == ()
        assert (await verify(store)).sound
        assert await log(store, OPEN) == [*NEEDED, 11, 12]


@pytest.mark.parametrize("seekable", [False, True])
async def test_a_file_holds_a_pruned_run_and_gives_it_back(file: Place, place: Place, seekable: bool) -> None:
    runs = await left(file)
    await file.write(*chain("whole", 3))
    stream = io.BytesIO()
    async with file.open() as source:
        assert (await export_runs(source, stream)).steps == 10
    stream.seek(0)
    stream.seekable = lambda: seekable  # type: ignore[method-assign]
    async with place.open() as store:
        report = await import_runs(store, stream)
        assert (report.runs, report.steps, report.refused) == (3, 10, ())
        assert await log(store, OPEN) == [*NEEDED, 11, 12]
        assert (await verify(store)).sound
        await store.write(following(runs[OPEN][-1]))
        stream.seek(0)
        again = await import_runs(store, stream)
        assert (again.steps, again.present, again.refused) == (0, 10, ())


async def test_a_pruned_run_is_moved(file: Place, place: Place) -> None:
    runs = await left(file)
    async with file.open() as source, place.open() as store:
        report = await move_runs(source, store, [OPEN])
        assert (report.runs, report.refused) == (1, ())
        latest = await source.read_latest(OPEN)
        assert latest is not None
        assert latest.status == "moved"
        assert await store.read_latest(OPEN) == runs[OPEN][-1]
        with pytest.raises(CheckpointError):
            await source.write(following(runs[OPEN][-1]))
        await store.write(following(runs[OPEN][-1]))


async def test_a_destination_that_is_behind_the_floor_is_refused_and_left_alone(file: Place, place: Place) -> None:
    run = chain("a", 9)
    await file.write(*run[:3])
    async with file.open() as source, place.open() as store:
        await copy_runs(source, store)
    await file.write(*run[3:])
    await prune(file, 2)
    async with file.open() as source, place.open() as store:
        (refusal,) = (await copy_runs(source, store)).refused
        assert refusal.reason == "pruned"
        assert "holds it up to step 2" in refusal.message
        assert await log(store, "a") == [0, 1, 2]


async def test_a_run_that_starts_there_meanwhile_is_refused(file: Place, place: Place) -> None:
    """Two runs of one id: whichever is there first stays as it is."""
    await file.write(*chain("a", 6))
    await prune(file, 2)
    async with file.open() as source, place.open() as store:
        await store.write(first("a"))
        (refusal,) = (await copy_runs(source, store)).refused
        assert refusal.reason in ("pruned", "diverged")
        assert await log(store, "a") == [0]
