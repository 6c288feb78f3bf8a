"""RunQueue: claims of several handles and processes, whose clocks may differ and which may die."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from stargraph.checkpoint.conformance._checks import queues
from stargraph.checkpoint.conformance._checks.clocks import FAR_AWAY
from stargraph.checkpoint.conformance._checks.queues import (
    LONG,
    offered,
    offers,
    offers_at_last,
    queued,
    taken_by,
    write_all,
)
from stargraph.checkpoint.conformance._compare import show
from stargraph.checkpoint.conformance._expect import NotEvaluated, Violation, attempt, error_line, expect, together
from stargraph.checkpoint.conformance._handle import Handle
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._runs import begin, follow, process_info
from stargraph.checkpoint.protocol import QueueLimits
from stargraph.errors import CheckpointError

group: Final = queues.group
"""The same group: what these checks prove belongs to the capability, and their ids stay."""


@group.check(
    "side_by_side",
    "Claims that overlap get different runs, and together all of them.",
    contract="claimable.5",
    usual_cause="Runs are read and then reserved in two statements, and two claims read the same ones.",
)
async def side_by_side(kit: Kit) -> None:
    handles = [await kit.open() for _ in range(4)]
    runs = [f"r{number:02}" for number in range(24)]
    await write_all(handles[0], *map(queued, runs))
    found: list[str] = []
    deadline = time.monotonic() + kit.patience
    while len(found) < len(runs) and time.monotonic() < deadline:
        for some in await together(*(offered(handle, limit=3, reserve=LONG) for handle in handles)):
            found += some
    expect(
        sorted(found) == runs,
        f"claims side by side gave {show(sorted(found))}; the contract wants each of {len(runs)} runs once",
    )


@group.check(
    "others_keep_theirs",
    "A reservation ends with a step of its own run or with its own process: no other step, beat or leave lifts it.",
    contract="claimable.5, presence.3",
    usual_cause="A statement that lifts reservations lacks its condition, or a beat makes the presence again.",
)
async def others_keep_theirs(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    runs = {name: queued(name) for name in "abcd"}
    await write_all(handle, *runs.values())
    asking = [process_info(number) for number in range(1, 5)]
    for process, wanted in zip(asking, runs, strict=True):
        given: dict[str, Any] = {"limit": 1, "silent_after": LONG, "reserve": LONG}
        found = [run.run_id for run in await handle.claimable(process.id or "", ["default"], **given)]
        expect(
            found == [wanted], f"claimable of the process {process.id!r} gave {found}; the contract wants {wanted!r}"
        )
    for process in asking:
        await handle.beat(process)
    await offers(other, [], "after the processes that reserved them have beaten")
    taken = taken_by(runs["d"], asking[3])
    await write_all(other, begin("elsewhere"), queued("more", name="more"), taken)
    await offers(handle, [], "after steps of other runs")
    await handle.write(follow(taken, event="completed", status="done"))
    if "batch" in kit.declared:
        await handle.write_many([begin("batched"), follow(begin("batched"))])
    if "deletion" in kit.declared:
        await handle.delete_run("elsewhere")
    await other.leave("0" * 16)
    await other.leave(asking[3].id or "")
    await offers(handle, [], "after another run has ended, and others have left")
    await other.leave(asking[1].id or "")
    await offers(handle, ["b"], "after the process that had reserved it left")


@group.check(
    "outlive_handles",
    "Reservations and limits hold in other processes, and no handle that is opened or closed lifts them.",
    contract="claimable.5, set_limits.1, close.1, bootstrap.2",
    usual_cause="They are kept in the process, bootstrap makes the tables again, close releases what others hold, or "
    "the time at which a reservation ends is one of the time zone of a process.",
)
async def outlive_handles(kit: Kit) -> None:
    handle = await kit.open()
    await write_all(handle, queued("reserved"), queued("free"), queued("stopped", name="mail"))
    await offers(handle, ["free"], "with limit=1", limit=1, reserve=LONG)
    limited = await attempt(handle.set_limits("mail", QueueLimits(concurrency=0))) is None
    readers = [await kit.elsewhere(environment=FAR_AWAY), await kit.open()]
    closing = await kit.open()
    await offers(closing, ["reserved"], "of the run that is left", reserve=LONG)
    await closing.release()
    await handle.bootstrap()
    for reader in readers:
        await offers(reader, [], "after handles came and went")
        if limited:
            await offers(reader, [], "of a queue that was stopped, after handles came and went", "mail")


@group.check(
    "living",
    "The run of a process that lives is handed out to nobody, however old its last step and however wrong the clocks"
    " are; once the process is silent for long enough by the store's clock, it is.",
    contract="claimable.6, claimable.7, presence.2",
    usual_cause="The time of the last step or the clock of the asking process decides who is gone.",
)
async def living(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    shifts = {"slow": timedelta(minutes=-10), "fast": timedelta(minutes=10), "old": timedelta(days=-400)}
    firsts = {name: queued(name, timestamp=datetime.now(UTC) + shift) for name, shift in shifts.items()}
    await handle.beat(process_info(1))
    for name, shift in shifts.items():
        stamp = datetime.now(UTC) + shift
        await write_all(handle, firsts[name], taken_by(firsts[name], process_info(1), timestamp=stamp))
    await offers(other, [], "of runs whose process lives")
    await offers(other, [], "of runs whose process lives, within 600 seconds", silent_after=600.0)
    wanted = sorted(shifts, key=lambda name: firsts[name].started_at)
    await offers_at_last(kit, other, wanted, "of runs whose process is silent for 0.1 seconds", silent_after=0.1)
    # How long a process may be silent is for each claim to say: what one takes for gone lives for another one.
    await offers(other, [], "of a queue that holds nothing", "empty", silent_after=0.1, reserve=LONG)
    await offers(other, [], "within 600 seconds, after a claim within 0.1", silent_after=600.0)
    listed = [each.process.id for each in await other.processes()]
    expect(listed == [process_info(1).id], f"processes() after a claim with silent_after=0.1 gave {listed}")
    await handle.beat(process_info(1))
    await offers(other, [], "of runs whose process has said that it lives again", silent_after=600.0)


@group.check(
    "wrong_clocks",
    "Processes whose clocks are ten minutes off hand out the same runs as everybody.",
    contract="claimable.6",
    usual_cause="The process that asks, or the one that beats, takes its own clock for the store's.",
    processes=True,
    deadline=60,
)
async def wrong_clocks(kit: Kit) -> None:
    handle = await kit.open()
    now = datetime.now(UTC)
    await write_all(
        handle,
        queued("due", not_before=now - timedelta(minutes=5)),
        queued("later", not_before=now + timedelta(minutes=5)),
        (theirs := queued("theirs")),
        taken_by(theirs, process_info(1)),
        (mine := queued("mine")),
        taken_by(mine, process_info(2)),
    )
    await handle.beat(process_info(2))
    for minutes in (-10, 10):
        far = await kit.elsewhere(clock=timedelta(minutes=minutes))
        where = f"in a process whose clock is {minutes:+} minutes off"
        await far.beat(process_info(1))
        for reader, at in ((far, where), (handle, "beside it")):
            await offers(reader, ["due"], at, silent_after=120.0)
            silent = {each.process.id: each.silent_seconds for each in await reader.processes()}
            worst = max(silent.values())
            expect(worst < 120, f"processes() {at} says that a process is silent for {worst:g} seconds; it is not")


@group.check(
    "beside_damage",
    "A run whose record was damaged is left out or handed out exactly, and holds up no other run of its queue.",
    contract="claimable.10",
    usual_cause="All candidates are decoded together, and one that cannot be read fails the claim, or takes the place"
    " of another run each time.",
    needs=("corruption.flipped_bytes",),
)
async def beside_damage(kit: Kit) -> None:
    hook = kit.target.stored_bytes
    if hook is None:
        raise NotEvaluated("stored-bytes: not declared")
    handle = await kit.open()
    await write_all(handle, queued("damaged", priority=1), queued("a"), queued("b"))
    original = await hook.get(kit.location, "damaged", 0)
    for what, data in (("cut off", original[: len(original) // 2]), ("zeroed", bytes(64))):
        await hook.put(kit.location, "damaged", 0, data)
        newcomer = await kit.open()
        for reader in (handle, newcomer):
            for limit in (2, 1):  # one that takes a place is the first of two
                await _holds_nobody_up(reader, limit, f"with limit={limit}, after a record was {what},")
        await newcomer.release()
        await hook.put(kit.location, "damaged", 0, original)
    await offers_at_last(kit, handle, ["damaged", "a", "b"], "after the damage was undone")


async def _holds_nobody_up(handle: Handle, limit: int, when: str) -> None:
    try:
        found = await offered(handle, limit=limit)
    except CheckpointError as error:
        raise Violation(
            f"claimable {when} raised {error_line(error)}; the contract wants the runs that can be read"
        ) from error
    others = ["a", "b"][:limit]
    exact = ["damaged", *others][:limit]
    expect(found in (others, exact), f"claimable {when} gave {show(found)}; the contract wants {show(others)}")
