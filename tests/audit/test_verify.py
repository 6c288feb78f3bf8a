"""What verify says of stores that are sound, pruned, damaged in several places, live, or served by a poor driver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.memory import MemoryCheckpointer
from support.places import Place, S3Place, SQLitePlace
from support.records import STARTED_AT, chain, endless, first, following, task
from support.tampering import kinds

from stargraph.audit import RunReport, VerifyReport, verify, verify_run
from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.driver import summary_json
from stargraph.checkpoint.protocol import (
    Checkpoint,
    FanOut,
    RunDeletion,
    RunHistory,
    StepRange,
)
from stargraph.errors import CheckpointCorruptedError, CheckpointNotFoundError, StoreUnavailableError

pytestmark = pytest.mark.thorough

OLD = b"the old secret, 16+"
NEW = b"the new secret, 16+"
LATER = datetime(2030, 1, 1, tzinfo=UTC)


async def fill(place: Place, *runs: list[Checkpoint]) -> None:
    await place.write(*(checkpoint for run in runs for checkpoint in run))


async def verified(place: Place, *run_ids: str, **options: Any) -> VerifyReport:
    async with place.open() as store:
        return await verify(store, run_ids or None, **options)


async def prune(place: Place, *, keep_last: int, statuses: tuple[str, ...] = ("done",)) -> None:
    async with place.open() as store:
        assert isinstance(store, RunDeletion)
        await store.prune(older_than=LATER, statuses=statuses, keep_last=keep_last)  # type: ignore[arg-type]


async def test_a_sound_store(place: Place) -> None:
    await fill(place, chain("a", 4, end="done"), chain("b", 70), [first("c")])
    shown: list[tuple[int, int]] = []
    reports: list[RunReport] = []
    report = await verified(place, progress=lambda *numbers: shown.append(numbers), on_run=reports.append)
    assert report == VerifyReport(runs=3, steps=75, seals={"": 75})
    assert report.sound
    assert shown[-1] == (3, 75)
    assert {run.run_id: (run.first_step, run.last_step, run.status) for run in reports} == {
        "a": (0, 3, "done"),
        "b": (0, 69, "running"),
        "c": (0, 0, "running"),
    }
    assert (await verified(place, "b")).steps == 70
    with pytest.raises(CheckpointNotFoundError, match="no run 'nowhere'"):
        await verified(place, "a", "nowhere")


async def test_the_list_of_runs_is_read_to_its_last_page(file: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stargraph.runtime._reading._PAGE", 2)
    await fill(file, *(chain(f"r{day}", 2, started_at=STARTED_AT + timedelta(days=day)) for day in range(5)))
    assert (await verified(file)).runs == 5
    assert (await verified(file, "r0")).sound
    monkeypatch.setattr("stargraph.runtime._reading._SOUGHT", 3)
    (note,) = (await verified(file, "r0")).notes
    assert note.kind == "summary-not-compared"


async def test_an_empty_store(file: Place) -> None:
    await fill(file)
    assert await verified(file) == VerifyReport(runs=0, steps=0, seals={})


async def test_seals_of_two_keys_are_counted_and_a_missing_key_is_found(file: Place) -> None:
    run = chain(length=6, end="done")
    before, after = Keyring({"old": OLD}), Keyring({"new": NEW, "old": OLD})
    await fill(file, [*map(before.seal, run[:3]), *map(after.seal, run[3:])])
    report = await verified(file, keyring=after)
    assert report.sound
    assert report.seals == {"old": 3, "new": 3}
    (finding,) = (await verified(file, keyring=Keyring({"new": NEW}))).findings
    assert (finding.kind, finding.step, finding.last_step) == ("unknown-key", 0, 2)
    (forged,) = (await verified(file, keyring=Keyring({"new": NEW, "old": NEW}))).findings
    assert (forged.kind, forged.step, forged.last_step) == ("wrong-seal", 0, 2)


async def test_unsealed_steps_are_found_unless_they_are_allowed(file: Place) -> None:
    keyring = Keyring({"new": NEW})
    run = chain(length=5)
    await fill(file, [*run[:2], *map(keyring.seal, run[2:])])
    (finding,) = (await verified(file, keyring=keyring)).findings
    assert (finding.kind, finding.step, finding.last_step) == ("unsealed", 0, 1)
    assert (await verified(file, keyring=Keyring({"new": NEW}, allow_unsealed=True))).sound


async def test_the_walk_goes_on_behind_damage(place: Place) -> None:
    run = chain("a", 90)
    await fill(place, run, chain("b", 3))
    await place.stand_alone(run)
    for step in (0, 70, 71, 85):
        await place.put("a", step, b"\x02\x00garbage")
    report = await verified(place)
    assert kinds(report) == ["unreadable"]
    assert [(finding.step, finding.last_step) for finding in report.findings] == [(0, 0), (70, 71), (85, 85)]
    assert (report.runs, report.steps) == (2, 89)


async def test_what_is_decoded_from_a_damaged_record_is_unreadable_and_what_is_not_is_verified(place: Place) -> None:
    await fill(place, chain("a", 60, end="done"))
    await place.put("a", 30, b"\x02\x00garbage")
    report = await verified(place)
    assert kinds(report) == ["unreadable"]
    found = [(finding.step or 0, finding.last_step or 0) for finding in report.findings]
    assert found[0][0] == 30
    assert report.steps == 60 - sum(last - step + 1 for step, last in found) >= 30


async def test_a_damaged_latest_step_is_found(place: Place) -> None:
    run = chain("a", 5)
    await fill(place, run)
    await place.put("a", 4, (await place.get("a", 4))[:-3])
    for report in (await verified(place), await verified(place, "a")):
        assert "unreadable" in kinds(report)
        assert {finding.step for finding in report.findings} == {4}


async def test_records_of_a_newer_form_are_found_and_not_called_sound(file: Place) -> None:
    await fill(file, chain("a", 3))
    await file.put("a", 1, b"\xff" + (await file.get("a", 1))[1:])
    (finding,) = (await verified(file)).findings
    assert (finding.kind, finding.step) == ("unreadable", 1)
    assert "version 63" in finding.message


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    ("shown", "kind", "message"),
    [
        (1, "summary-differs", "the list of runs shows step 1, and the latest step is 3"),
        (5, "truncated", "the list of runs shows it up to step 5, and its log ends at step 3"),
    ],
)
async def test_a_summary_of_another_step_is_found(
    file: SQLitePlace, named: bool, shown: int, kind: str, message: str
) -> None:
    run = chain("a", 6)
    await fill(file, run[:4])
    with file._database() as database:
        database.execute("UPDATE runs SET summary = ?", (summary_json(run[shown]),))
    (finding,) = (await verified(file, *(["a"] if named else []))).findings
    assert (finding.kind, finding.message) == (kind, message)


async def test_a_status_that_only_the_search_sees_is_compared_where_the_run_is_named(file: SQLitePlace) -> None:
    await fill(file, chain("a", 3), chain("b", 3))
    with file._database() as database:
        database.execute("UPDATE runs SET status = 'done' WHERE run_id = 'a'")
    (finding,) = (await verified(file, "a", "b")).findings
    assert (finding.kind, finding.run_id) == ("summary-differs", "a")
    assert "a search for runs that are running does not show it" in finding.message


async def left(place: Place, run_id: str, kept: int) -> int:
    """How many steps a prune leaves if it must keep so many: S3 keeps those that they are decoded from too."""
    if not isinstance(place, S3Place):
        return kept
    async with place.open() as store:
        assert isinstance(store, RunHistory)
        stored = [checkpoint.step async for checkpoint in store.history(run_id)]
    assert len(stored) >= kept
    return len(stored)


@pytest.mark.parametrize("keep_last", [1, 3])
async def test_a_pruned_run_verifies_from_what_remains_and_says_so(place: Place, keep_last: int) -> None:
    await fill(place, chain("a", 8, end="done"), chain("b", 2))
    await prune(place, keep_last=keep_last)
    report = await verified(place)
    assert report.sound
    assert (report.runs, report.steps) == (2, await left(place, "a", keep_last) + 2)
    (note,) = report.notes
    assert (note.kind, note.run_id) == ("pruned", "a")
    assert "were pruned" in note.message
    if not isinstance(place, S3Place):
        assert f"below {8 - keep_last} were pruned" in note.message
    last = await place.get("a", 7)
    await place.put("a", 7, last[:-1] + b"x")
    assert "unreadable" in kinds(await verified(place))


def branching(run_id: str = "a") -> list[Checkpoint]:
    """A run in the middle of a fork: it needs step 1, and steps 3 and 5 at which branches completed."""
    run = [first(run_id)]
    while len(run) < 8:
        fork = FanOut(
            mode="map",
            rule="r",
            task_id="t",
            join="j",
            since_step=1,
            width=9,
            next_index=4,
            completed_steps=tuple(StepRange(first=step, last=step) for step in (3, 5) if step <= len(run)),
        )
        run.append(following(run[-1], frontier=(fork, task(since_step=1))))
    return run


async def test_what_a_run_needs_to_go_on_remains_of_a_prune_and_its_gaps_are_no_damage(place: Place) -> None:
    await fill(place, branching())
    await prune(place, keep_last=1, statuses=("running",))
    report = await verified(place)
    assert report.sound, report.findings
    assert report.steps == await left(place, "a", 4)  # 1, 3, 5 and 7
    (note,) = report.notes
    assert note.kind == "pruned"
    assert note.message.startswith("the steps below 7 were pruned")
    async with place.open() as store:
        latest = await store.read_latest("a")
        assert latest is not None
        await store.write(following(latest, status="done", frontier=()))
    assert (await verified(place)).sound, "the prune of an earlier step explains what remains"


async def test_a_step_that_a_run_needs_and_has_not_is_damage(file: Place) -> None:
    run = branching()
    await fill(file, run)
    await prune(file, keep_last=1, statuses=("running",))
    await file.stand_alone([run[step] for step in (1, 3, 5, 7)])
    await file.remove("a", 3)
    report = await verified(file)
    assert [(finding.kind, finding.step) for finding in report.findings] == [("missing-steps", 3)]
    assert "needs it to be resumed" in report.findings[0].message


async def test_a_gap_that_no_prune_leaves_is_damage_in_a_pruned_run_too(file: Place) -> None:
    run = chain("a", 12, end="done")
    await fill(file, run)
    await prune(file, keep_last=6)
    await file.stand_alone(run[6:])
    await file.remove("a", 8)
    report = await verified(file)
    assert [(finding.kind, finding.step, finding.last_step) for finding in report.findings] == [("missing-steps", 8, 8)]
    assert [note.kind for note in report.notes] == ["pruned"]


async def test_the_same_with_consecutive_steps_is_one_finding_of_each_kind(file: Place) -> None:
    run = chain("a", 6)
    strangers = [chain("a", 6, started_at=STARTED_AT + timedelta(days=number)) for number in range(1, 5)]
    await fill(file, run)
    await file.stand_alone([run[0], *(strangers[step - 1][step] for step in (1, 2, 3, 4)), run[5]])
    report = await verified(file, keyring=Keyring({"k": NEW}))
    found = {finding.kind: (finding.step, finding.last_step) for finding in report.findings}
    assert len(found) == len(report.findings)
    assert found == {"unsealed": (0, 5), "broken-chain": (1, 5), "inconsistent-step": (1, 5)}


async def test_a_step_above_the_latest_is_found(file: Place) -> None:
    run = chain("a", 5)
    await fill(file, run[:4])
    await file.forge(run[4])
    (finding,) = (await verified(file)).findings
    assert (finding.kind, finding.step) == ("beyond-the-end", 4)


async def test_what_repeats_in_every_step_must_repeat(file: Place) -> None:
    run = chain("a", 3)
    stranger = chain("a", 3, started_at=STARTED_AT + timedelta(days=1), metadata={"team": "other"})
    forged = following(run[1]).model_dump(mode="json", exclude={"digest", "seal"})
    forged |= {"started_at": stranger[0].started_at.isoformat(), "metadata": {"team": "other"}}
    await fill(file, run[:2])
    await file.forge(_sealed_by_its_digest(forged))
    await file.set_tail(_sealed_by_its_digest(forged))
    report = await verified(file)
    (finding,) = [finding for finding in report.findings if finding.kind == "inconsistent-step"]
    assert finding.step == 2
    assert finding.message.startswith("started_at, metadata")


def _sealed_by_its_digest(fields: dict[str, Any]) -> Checkpoint:
    """The checkpoint with these fields, made by somebody who can compute a digest."""
    from stargraph.checkpoint.protocol._digest import digest_of
    from stargraph.checkpoint.protocol._draft import CheckpointDraft
    from stargraph.checkpoint.values._encoded import encode_members

    draft = CheckpointDraft.model_validate(fields).__dict__
    return Checkpoint.model_validate(
        fields | {"digest": digest_of(draft, encode_members(fields["state"], "state"), None)}
    )


async def test_a_summary_that_cannot_be_read_is_found_and_the_runs_before_it_are_verified(place: Place) -> None:
    tags = {"team": "payments"}
    older = chain("a", 3, metadata=tags)
    await fill(place, older, chain("b", 3, started_at=STARTED_AT + timedelta(hours=1), metadata=tags))
    await place.edit_summary("a", '"payments"', "payments")
    report = await verified(place)
    assert kinds(report) == ["listing-unreadable"]
    assert not (await verified(place, "a")).sound
    assert (await verified(place, "b")).sound


async def test_a_run_that_the_list_does_not_show_is_found_where_it_is_named(file: SQLitePlace) -> None:
    await fill(file, chain("a", 3, metadata={"team": "x"}), chain("b", 3))
    with file._database() as database:
        database.execute("UPDATE runs SET graph_id = 'other' WHERE run_id = 'a'")
    (finding,) = (await verified(file, "a")).findings
    assert finding.kind == "summary-differs"
    assert "does not show it" in finding.message


async def test_a_run_that_is_written_meanwhile_is_sound(place: Place) -> None:
    written = looks = 0

    async def write() -> None:
        nonlocal written
        async with place.open() as store:
            for checkpoint in endless("live"):
                await store.write(checkpoint)
                written += 1
                if written >= 20 and looks >= 5:
                    return
                while written > 20 * (looks + 1):  # whoever reads more slowly must not have more to read each time
                    await asyncio.sleep(0.001)

    async with place.open() as store:
        await store.write(first("other"))
        writer = asyncio.create_task(write())
        while not writer.done():
            report = await verify(store)
            assert report.sound, report.findings
            named = await verify_run(store, "live") if written else None
            assert named is None or not named.findings
            looks += 1
        await writer


async def test_a_run_that_is_pruned_meanwhile_is_sound(file: Place) -> None:
    run = chain("a", 300, end="done")
    await fill(file, run)
    async with file.open() as store, file.open() as other:
        assert isinstance(other, RunDeletion)
        for keep_last in range(280, 20, -20):
            report, _ = await asyncio.gather(verify(store), other.prune(older_than=LATER, keep_last=keep_last))
            assert report.sound, report.findings


async def test_a_run_that_is_deleted_meanwhile_is_no_finding(file: Place) -> None:
    await fill(file, *(chain(f"r{number}", 30) for number in range(30)))
    async with file.open() as store, file.open() as other:
        assert isinstance(other, RunDeletion)

        async def delete() -> None:
            for number in range(30):
                await other.delete_run(f"r{number}")

        report, _ = await asyncio.gather(verify(store), delete())
    assert report.sound, report.findings


async def test_a_store_that_can_only_what_the_contract_demands() -> None:
    store = MemoryCheckpointer()
    await store.bootstrap()
    for checkpoint in [*chain("a", 3), *chain("b", 2)]:
        await store.write(checkpoint)
    assert (await verify(store)).model_dump(include={"runs", "steps"}) == {"runs": 2, "steps": 5}
    store.damage("a", 1, b"\x02\x00{}")
    store.damage("b", 0, None)
    report = await verify(store)
    # A store that cannot prune has no gap that a prune has left.
    found = [(finding.kind, finding.run_id, finding.step) for finding in report.findings]
    assert found == [("unreadable", "a", 1), ("missing-steps", "b", 0)]
    assert report.notes == ()


class Liar(MemoryCheckpointer):
    """Returns another run's record."""

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        return await super().read_at_step("b" if (run_id, step) == ("a", 1) else run_id, step)


async def test_a_driver_that_returns_another_record_is_found_out() -> None:
    store = Liar()
    await store.bootstrap()
    for checkpoint in [*chain("a", 3), *chain("b", 3)]:
        await store.write(checkpoint)
    (finding,) = (await verify(store)).findings
    assert (finding.kind, finding.step) == ("unreadable", 1)
    assert "the store returned step 1 of run 'b'" in finding.message


class Careless(MemoryCheckpointer):
    """Returns what no digest covers."""

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        found = await super().read_at_step(run_id, step)
        return found.model_copy(update={"status": "done"}) if found is not None and step == 1 else found


async def test_a_driver_that_does_not_check_digests_is_found_out() -> None:
    store = Careless()
    await store.bootstrap()
    for checkpoint in chain("a", 3):
        await store.write(checkpoint)
    (finding,) = (await verify(store)).findings
    assert (finding.kind, finding.step) == ("unreadable", 1)
    assert "not what its digest covers" in finding.message


class Doubtful(MemoryCheckpointer):
    """Refuses to read its latest step, and gives it when it is asked for by its number."""

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        raise CheckpointCorruptedError("it is not what was written", run_id=run_id, step=2)


async def test_a_latest_step_that_only_the_read_of_it_refuses_is_found() -> None:
    store = Doubtful()
    await store.bootstrap()
    for checkpoint in chain("a", 3):
        await store.write(checkpoint)
    (finding,) = (await verify(store)).findings
    assert (finding.kind, finding.step, finding.message) == ("unreadable", 2, "it is not what was written")


class Gone(MemoryCheckpointer):
    """Fails in the middle."""

    async def history(self, run_id: str, **_: Any) -> AsyncIterator[Checkpoint]:
        yield self.runs[run_id][0]
        raise StoreUnavailableError("the store has gone", reason="unreachable")


async def test_a_store_that_fails_is_not_a_finding() -> None:
    store = Gone()
    await store.bootstrap()
    for checkpoint in chain("a", 3):
        await store.write(checkpoint)
    with pytest.raises(StoreUnavailableError):
        await verify(store)
