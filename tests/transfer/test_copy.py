"""Copies: equal digests between any two drivers, finished after an interruption, and honest about what cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import HARD_STATE
from support.memory import MemoryCheckpointer
from support.places import Place, Servers, SQLitePlace
from support.records import STARTED_AT, chain, first, following

from stargraph.audit import verify
from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.protocol import Checkpoint, Checkpointer, RunDeletion, RunHistory
from stargraph.errors import CheckpointNotFoundError, StoreUnavailableError
from stargraph.transfer import TransferReport, copy_runs

KEYRING = Keyring({"k1": b"a secret of 16 bytes or more"})
LATER = datetime(2030, 1, 1, tzinfo=UTC)


async def log(store: Checkpointer, run_id: str) -> list[Checkpoint]:
    assert isinstance(store, RunHistory)
    return [checkpoint async for checkpoint in store.history(run_id)]


async def copied(
    source: Place, destination: Place, run_ids: Sequence[str] | None = None, **options: Any
) -> TransferReport:
    async with source.open() as read, destination.open() as written:
        return await copy_runs(read, written, run_ids, **options)


def some_runs() -> list[list[Checkpoint]]:
    return [
        chain("plain", 20, end="done"),
        chain("sealed", 3, state={"count": 0, **HARD_STATE}, metadata={"team": "α"}),
        [first("alone")],
    ]


async def test_round_all_drivers_and_back_every_digest_and_seal_is_equal(hosts: Servers, file: SQLitePlace) -> None:
    runs = some_runs()
    runs[1] = [KEYRING.seal(checkpoint) for checkpoint in runs[1]]
    await file.write(*(checkpoint for run in runs for checkpoint in run))
    places: list[Place] = [file]
    async with hosts.place("postgres") as postgres, hosts.place("s3") as s3, hosts.place("sqlite") as back:
        for place in (postgres, s3, back):
            report = await copied(places[-1], place)
            assert report == TransferReport(runs=3, steps=24, verified=3)
            places.append(place)
            async with place.open() as store:
                for run in runs:
                    stored = await log(store, run[0].run_id)
                    assert [(step.digest, step.seal) for step in stored] == [(step.digest, step.seal) for step in run]
                    assert [list(step.state.items()) for step in stored] == [list(step.state.items()) for step in run]
                assert (await verify(store)).sound
        assert await copied(file, back) == TransferReport(runs=3, steps=0, present=24)


class Failing:
    """A destination that fails after so many writes; what it took before is stored."""

    def __init__(self, store: Checkpointer, writes: int) -> None:
        self._store = store
        self._left = writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def write(self, checkpoint: Checkpoint) -> None:
        self._left -= 1
        if self._left < 0:
            raise StoreUnavailableError("the line is cut", reason="unreachable")
        await self._store.write(checkpoint)

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        for checkpoint in checkpoints:
            await self.write(checkpoint)


async def test_an_interrupted_copy_is_finished_by_another_one(file: Place, place: Place) -> None:
    runs = [chain(f"r{number}", 12, end="done") for number in range(3)]
    await file.write(*(checkpoint for run in runs for checkpoint in run))
    written = 0
    for allowed in (5, 9, 14):
        async with file.open() as source, place.open() as store:
            with pytest.raises(StoreUnavailableError):
                await copy_runs(source, Failing(store, allowed))
            written = sum([len(await log(store, run[0].run_id)) for run in runs])
    assert 14 < written < 36
    report = await copied(file, place)
    assert (report.runs, report.steps, report.present) == (3, 36 - written, written)
    async with place.open() as store:
        for run in runs:
            assert await log(store, run[0].run_id) == run


async def test_only_what_was_asked_for(file: Place, tmp_path: Path) -> None:
    for day, run_id in enumerate("abc"):
        await file.write(*chain(run_id, 2, started_at=STARTED_AT + timedelta(days=day)))
    named, recent = SQLitePlace(tmp_path / "named.sqlite"), SQLitePlace(tmp_path / "recent.sqlite")
    assert (await copied(file, named, ["b", "a", "b"])).runs == 2
    assert (await copied(file, recent, since=STARTED_AT + timedelta(days=1))).runs == 2
    for place, expected in ((named, {"a", "b"}), (recent, {"b", "c"})):
        async with place.open() as store:
            assert {summary.run_id for summary in await store.list_runs()} == expected
    with pytest.raises(CheckpointNotFoundError, match="'z'"):
        await copied(file, named, ["z"])


async def test_a_run_that_moved_on_is_brought_up_to_date_and_one_that_is_ahead_is_left_alone(
    file: Place, place: Place
) -> None:
    run = chain("a", 6)
    await file.write(*run[:3])
    assert (await copied(file, place)).steps == 3
    await file.write(*run[3:])
    assert await copied(file, place) == TransferReport(runs=1, steps=3, present=3, verified=1)
    await place.write(following(run[-1]))
    assert await copied(file, place) == TransferReport(runs=1, steps=0, present=6)


@pytest.mark.parametrize("length", [3, 4, 6])
async def test_another_run_of_the_same_id_is_refused_and_left_as_it_is(
    file: Place, tmp_path: Path, length: int
) -> None:
    place = SQLitePlace(tmp_path / "there.sqlite")
    mine, theirs = chain("a", 4), chain("a", length)
    await file.write(*mine, *chain("b", 2))
    await place.write(*theirs)
    report = await copied(file, place)
    assert (report.runs, report.steps) == (1, 2)
    assert [(refusal.run_id, refusal.reason) for refusal in report.refused] == [("a", "diverged")]
    async with place.open() as store:
        assert await log(store, "a") == theirs


async def test_a_run_that_was_deleted_in_the_destination_is_refused(file: Place, place: Place) -> None:
    run = chain("a", 4)
    await file.write(*run)
    await place.write(*run)
    async with place.open() as store:
        assert isinstance(store, RunDeletion)
        await store.delete_run("a")
    report = await copied(file, place)
    assert [(refusal.run_id, refusal.reason) for refusal in report.refused] == [("a", "run-deleted")]


async def test_a_driver_that_cannot_begin_a_pruned_run_is_told_so_before_anything_is_stored(file: Place) -> None:
    await file.write(*chain("a", 6, end="done"), *chain("b", 2))
    async with file.open() as store:
        assert isinstance(store, RunDeletion)
        await store.prune(older_than=LATER, keep_last=2)
    destination = MemoryCheckpointer()
    await destination.bootstrap()
    async with file.open() as source:
        report = await copy_runs(source, destination)
    (refusal,) = report.refused
    assert (report.runs, refusal.run_id, refusal.reason) == (1, "a", "pruned")
    assert "from step 0 on" in refusal.message
    assert "export" in (refusal.hint or "")
    assert list(destination.runs) == ["b"]


async def test_a_run_with_a_gap_that_no_prune_leaves_is_refused_before_anything_of_it_is_stored(
    file: Place, place: Place
) -> None:
    run = chain("a", 6)
    await file.write(*run)
    await file.stand_alone(run)
    await file.remove("a", 3)
    report = await copied(file, place)
    assert [refusal.reason for refusal in report.refused] == ["missing-steps"]
    assert "step 3" in report.refused[0].message
    async with place.open() as store:
        assert await store.read_latest("a") is None


async def test_a_run_that_was_pruned_after_it_was_copied_is_still_brought_up_to_date(file: Place, place: Place) -> None:
    run = chain("a", 9)
    await file.write(*run[:6])
    await copied(file, place)
    await file.write(*run[6:])
    async with file.open() as store:
        assert isinstance(store, RunDeletion)
        await store.prune(older_than=LATER, statuses=("running",), keep_last=3)
    assert (await copied(file, place)).steps == 3
    async with place.open() as store:
        assert await log(store, "a") == run


@pytest.mark.parametrize("large", [False, True])
async def test_a_damaged_run_is_refused_before_anything_of_it_is_stored(file: Place, place: Place, large: bool) -> None:
    run = chain("a", 12, state={"count": 0, "text": "x" * (2_000_000 if large else 10)})
    await file.write(*run, *chain("b", 2))
    await file.put("a", 11, b"\x02\x00{}")
    await file.set_tail(run[10])
    await file.remove("a", 11)
    await file.put("a", 9, b"\x02\x00{}")
    report = await copied(file, place)
    assert [(refusal.run_id, refusal.reason) for refusal in report.refused] == [("a", "corrupted-record")]
    assert report.runs == 1
    async with place.open() as store:
        assert await store.read_latest("a") is None


async def test_a_damaged_step_at_which_the_two_are_compared_is_refused(file: Place, tmp_path: Path) -> None:
    run, there = chain("a", 6), SQLitePlace(tmp_path / "there.sqlite")
    await file.write(*run, *chain("b", 2))
    await there.write(*run[:3])
    await file.put("a", 2, b"\x02\x00{}")
    report = await copied(file, there)
    assert [(refusal.run_id, refusal.reason) for refusal in report.refused] == [("a", "corrupted-record")]
    assert report.runs == 1


async def test_a_run_that_is_ahead_in_the_destination_and_pruned_there_cannot_be_compared(
    file: Place, tmp_path: Path
) -> None:
    run, there = chain("a", 6), SQLitePlace(tmp_path / "there.sqlite")
    await file.write(*run[:3])
    await there.write(*run)
    async with there.open() as store:
        assert isinstance(store, RunDeletion)
        await store.prune(older_than=LATER, statuses=("running",), keep_last=1)
    report = await copied(file, there)
    assert [refusal.reason for refusal in report.refused] == ["pruned"]
    assert "cannot be compared" in report.refused[0].message


async def test_large_runs_are_copied(file: Place, place: Place) -> None:
    run = chain("a", 12, state={"count": 0, "text": "x" * 2_000_000}, end="done")
    await file.write(*run)
    assert await copied(file, place) == TransferReport(runs=1, steps=12, verified=1)
    async with place.open() as store:
        assert await log(store, "a") == run


async def test_unsealed_steps_are_not_copied_where_there_is_a_key(file: Place, place: Place) -> None:
    await file.write(*map(KEYRING.seal, chain("a", 3)), *chain("b", 3))
    report = await copied(file, place, keyring=KEYRING)
    assert [(refusal.run_id, refusal.reason) for refusal in report.refused] == [("b", "unsealed")]
    assert report.runs == 1


class TwoTongued(MemoryCheckpointer):
    """Names another latest step than its log has."""

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        return following(self.runs[run_id][1], changes={"count": 99})


async def test_a_log_that_does_not_end_in_the_latest_step_is_refused(file: Place) -> None:
    source = TwoTongued()
    await source.bootstrap()
    for checkpoint in chain("a", 3):
        await source.write(checkpoint)
    async with file.open() as destination:
        report = await copy_runs(source, destination)
        assert [refusal.reason for refusal in report.refused] == ["missing-steps"]
        assert await destination.read_latest("a") is None


class Forgetful(MemoryCheckpointer):
    """Acknowledges the third step and stores another one."""

    async def write(self, checkpoint: Checkpoint) -> None:
        if checkpoint.step == 2:
            checkpoint = following(self.runs[checkpoint.run_id][-1], changes={"count": 99})
        await super().write(checkpoint)


async def test_a_destination_that_stores_something_else_is_found_out(file: Place) -> None:
    await file.write(*chain("a", 3))
    destination = Forgetful()
    await destination.bootstrap()
    async with file.open() as source:
        report = await copy_runs(source, destination)
    assert [(refusal.run_id, refusal.reason) for refusal in report.refused] == [("a", "not-verified")]
