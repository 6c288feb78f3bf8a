"""Clocks that are wrong, and places with other times: no clock and no time zone decides anything in a store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from stargraph.checkpoint.conformance._clock import describe
from stargraph.checkpoint.conformance._compare import same, same_runs
from stargraph.checkpoint.conformance._expect import acknowledged, refused
from stargraph.checkpoint.conformance._handle import Handle, naming
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import begin, chain, follow, rival
from stargraph.checkpoint.conformance._views import Book, agree, lists_agree, pages
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointConflictError, CheckpointError

group: Final = Group("clocks", needs=("list_runs.newest_first", "list_runs.microseconds_order"))

_SHIFT: Final = timedelta(days=400)
_ZONES: Final = ("America/New_York", "Australia/Lord_Howe")
"""Zones whose clocks are put back in autumn, by an hour and by half an hour: local times come twice."""


_PLAIN_LOCALE: Final = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""What makes ASCII the encoding of text files, as other encodings are on some machines."""


FAR_AWAY: Final = _PLAIN_LOCALE | {"TZ": _ZONES[1]}
"""The environment of a process that has other local times, and another encoding."""


async def shifts_of(kit: Kit) -> tuple[timedelta, timedelta]:
    """Return how far clocks are off, ahead and behind: by the tolerance of the target only if the server insists."""
    tolerance = kit.target.clock_tolerance
    if tolerance is None or await _is_accepted(kit, _SHIFT):
        return _SHIFT, -_SHIFT
    kit.measured("off by at most, since the server refuses more", tolerance.total_seconds(), "s")
    return tolerance, -tolerance


async def _is_accepted(kit: Kit, shift: timedelta) -> bool:
    """Whether the server answers a process whose clock is off."""
    far = await kit.unready_elsewhere(clock=shift)
    return await acknowledged(_first_answer(far), f"the first calls of a process whose clock is {describe(shift)}")


async def _first_answer(handle: Handle) -> None:
    await handle.bootstrap()
    await handle.read_latest("nobody")


def _now() -> datetime:
    """The present, as the engine takes it: a clock that is off is off from here."""
    return datetime.now(UTC).replace(microsecond=123456)


async def _written(handle: Handle, book: Book, *runs: list[Checkpoint]) -> None:
    for steps in runs:
        for checkpoint in steps:
            await handle.write(checkpoint)
            book.wrote(checkpoint)


@group.check(
    "wrong_clock",
    "A process whose clock is more than a year ahead or behind, or as far as the server of the store accepts, reads "
    "and writes the same runs as everybody: nothing expires, and nobody wins or loses by the time.",
    contract="read.4, log.6",
    usual_cause="Rows have an expiry date, a lock or a lease goes by the wall clock, a cache is valid until a time of "
    "day, or a column says when the row was stored and something is chosen or ordered by it.",
    needs=("durability.other_process",),
    version=2,
    processes=True,
    deadline=60,
)
async def wrong_clock(kit: Kit) -> None:
    now, shifts = _now(), await shifts_of(kit)
    handle, book = await kit.open(), Book()
    await _written(handle, book, chain("done", 3, last_status="done", timestamp=now), chain("old", 3))
    await _written(handle, book, chain("running", 3, timestamp=now - timedelta(days=2)))
    for shift in shifts:
        where = f"by a process whose clock is {describe(shift)}"
        far = await kit.elsewhere(clock=shift)
        await agree(far, book, kit.declared, f"read {where}")
        other = rival(book.runs["running"][-1], book.runs["running"][-2])
        await refused(far.write(other), f"{naming(other)} {where}", CheckpointConflictError, "step-taken", other)
        await far.write(book.runs["running"][-1])
        # It stamps what it writes with its own clock, as an executor on that machine would.
        theirs = follow(book.runs["running"][-1], timestamp=now + shift)
        await far.write(theirs)
        book.wrote(theirs)
        same(theirs, await handle.read_latest("running"), f"read_latest('running') after a step {where}")
        late = rival(theirs, book.runs["running"][-2], 1)
        what = f"{naming(late)} by whoever wrote the steps before, after one {where}"
        await refused(handle.write(late), what, CheckpointConflictError, "step-taken", late)
        mine = follow(theirs, timestamp=now)
        await handle.write(mine)
        book.wrote(mine)
        same(mine, await far.read_latest("running"), f"read_latest('running') {where}, after a step by a right clock")
        late = rival(mine, theirs, 2)
        what = f"{naming(late)} {where}, after a step by a right clock"
        await refused(far.write(late), what, CheckpointConflictError, "step-taken", late)
        await _written(far, book, [begin(f"new{shift.days}", timestamp=now + shift)])
        for reader, who in ((far, where), (handle, "by a process whose clock is right")):
            await agree(reader, book, kit.declared, f"after steps {where}, read {who}")
    if kit.target.clock is not None:
        for shift in shifts:
            async with kit.target.clock(kit.location, shift):
                newcomer = await kit.open()
                for reader in (handle, newcomer):
                    await agree(reader, book, kit.declared, f"when the store's clock is {describe(shift)}")
                await newcomer.release()


@group.check(
    "wrong_clock_prunes",
    "prune goes by the times of the checkpoints and the instant that it is given, whatever its process's clock says; "
    "a deletion holds for good.",
    contract="prune.1, delete_run.1",
    usual_cause="older_than is turned into an age, or the time at which a row was stored is compared; a tombstone "
    "expires.",
    needs=("deletion.prune_matches", "deletion.stays_deleted", "durability.other_process"),
    processes=True,
    capability="deletion",
    deadline=60,
)
async def wrong_clock_prunes(kit: Kit) -> None:
    now, shifts = _now(), await shifts_of(kit)
    handle, book = await kit.open(), Book()
    for number, shift in enumerate(shifts):
        where = f"by a process whose clock is {describe(shift)}"
        far = await kit.elsewhere(clock=shift)
        for turn, pruner in enumerate((far, handle)):
            runs = {age: f"{number}-{turn}-{age}" for age in (3, 30)}
            for age, run_id in runs.items():
                started = now - timedelta(days=age)
                writer = (handle, far)[turn]
                await _written(writer, book, chain(run_id, 5, last_status="done", timestamp=started))
            await pruner.prune(older_than=now - timedelta(days=10), keep_last=0)
            book.deleted(runs[30])
            for reader, who in ((far, where), (handle, "by a process whose clock is right")):
                await agree(reader, book, kit.declared, f"after a prune {where if turn == 0 else ''}, read {who}")
        await _written(handle, book, chain(f"{number}-gone", 2))
        await far.delete_run(f"{number}-gone")
        book.deleted(f"{number}-gone")
        for other_shift in shifts:
            other = await kit.elsewhere(clock=other_shift)
            what = f"a write to a run that was deleted, by a process whose clock is {describe(other_shift)}"
            await refused(other.write(begin(f"{number}-gone")), what, CheckpointError, "run-deleted")


@group.check(
    "other_zones",
    "A process in a time zone whose clocks are put back, and in the locale C, lists, finds and reads the same runs, "
    "to the microsecond and to the letter.",
    contract="list.2, value.10, value.4",
    usual_cause="Times are stored or compared as local time, which comes twice an autumn; the zone of the process is "
    "taken for that of the store; or a file is opened as text without an encoding.",
    version=2,
    needs=("list_runs.since_across_offsets", "durability.other_process"),
    processes=True,
    deadline=60,
)
async def other_zones(kit: Kit) -> None:
    handle, book = await kit.open(), Book()
    # Both zones put their clocks back in the hours that follow these.
    starts = (datetime(2026, 11, 1, 4, 0, tzinfo=UTC), datetime(2026, 4, 4, 13, 0, tzinfo=UTC))
    for number, zone in enumerate(_ZONES):
        far = await kit.elsewhere(environment=_PLAIN_LOCALE | {"TZ": zone})
        for half_hours in range(8):
            moment = starts[number] + timedelta(minutes=30 * half_hours, microseconds=half_hours)
            status = "done" if half_hours % 2 else None
            told = {"text": "größer, 日本, \U0001f600", "clé": half_hours}
            tags: dict[str, Any] = {"metadata": {"città": "Zürich"}, "graph_id": "größe", "state": told}
            steps = chain(f"{number}-{9 - half_hours}", 2, last_status=status, timestamp=moment, **tags)
            await _written(far if half_hours % 3 else handle, book, steps)
        for reader in (far, handle):
            await agree(reader, book, kit.declared, f"after runs were written at a change of the clocks in {zone}")
        for half_hours in range(8):
            since = starts[number] + timedelta(minutes=30 * half_hours)
            wanted = [item.run_id for item in book.summaries() if item.started_at >= since]
            for reader in (far, handle):
                what = f"list_runs(since={since.isoformat()}) at a change of the clocks in {zone}"
                same_runs(wanted, await reader.list_runs(since=since), what)


@group.check(
    "microseconds_and_ids",
    "Runs whose starts differ by a microsecond are in the order of their starts in lists and in pages, even if their "
    "ids are in the other order.",
    contract="list.1, search.1",
    usual_cause="The start is kept in milliseconds, or the cursor is, and then the ids decide.",
)
async def microseconds_and_ids(kit: Kit) -> None:
    handle, book = await kit.open(), Book()
    whole = datetime(2026, 5, 6, 7, 8, 9, 999_990, tzinfo=UTC)
    for number in kit.random.sample(range(24), 24):
        # Later runs have later ids here, so that neither order nor its reverse is right by chance.
        run_id = f"run-{number:02d}" if number % 2 else f"r-{30 - number:02d}"
        status = "done" if number % 3 else None
        steps = chain(run_id, 2, last_status=status, timestamp=whole + timedelta(microseconds=number))
        await _written(handle, book, steps)
    wanted = [item.run_id for item in book.summaries()]
    for limit in (1, 5, 23, 24, 100):
        same_runs(wanted[:limit], await handle.list_runs(limit=limit), f"list_runs(limit={limit})")
    for number in range(24):
        since = whole + timedelta(microseconds=number)
        same_runs(wanted[: 24 - number], await handle.list_runs(since=since), f"list_runs(since={since.isoformat()})")
    if "search" in kit.declared:
        for limit in (1, 2, 5, 23):
            same_runs(wanted, await pages(handle, limit=limit), f"the pages of search(limit={limit})")
            done = [item.run_id for item in book.summaries() if item.status == "done"]
            what = f"the pages of search(status='done', limit={limit})"
            same_runs(done, await pages(handle, limit=limit, status="done"), what)
        for number in range(0, 24, 5):
            since = whole + timedelta(microseconds=number)
            what = f"search(since={since.isoformat()})"
            same_runs(wanted[: 24 - number], await pages(handle, limit=4, since=since), what)
    if "deletion" in kit.declared:
        last = {run_id: steps[-1] for run_id, steps in book.runs.items() if steps[-1].status == "done"}
        bound = sorted(checkpoint.timestamp for checkpoint in last.values())[len(last) // 2]
        await handle.prune(older_than=bound, keep_last=0)
        for run_id, checkpoint in last.items():
            if checkpoint.timestamp < bound:
                book.deleted(run_id)
        when = f"after prune(older_than={bound.isoformat()}, keep_last=0)"
        if kit.thorough:
            await agree(handle, book, kit.declared, when)
            return
        await lists_agree(handle, book.summaries(), when)
        for run_id, steps in book.runs.items():
            same(steps[-1], await handle.read_latest(run_id), f"read_latest({run_id!r}) {when}")
