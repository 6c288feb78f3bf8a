"""RunTimeline: what happened in the steps of a run, without their states."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from stargraph.checkpoint.conformance._checks.corruption import put_bytes
from stargraph.checkpoint.conformance._compare import rows_of, same_rows
from stargraph.checkpoint.conformance._expect import Violation, error_line, expect, refused, refused_argument
from stargraph.checkpoint.conformance._growing import grown_run
from stargraph.checkpoint.conformance._handle import Handle
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import LATER, NOON, begin, chain, follow
from stargraph.checkpoint.protocol import Checkpoint, ErrorInfo, Interrupt, RecordedCall, StepSummary
from stargraph.errors import CheckpointCorruptedError, StoreVersionError

group: Final = Group("timeline", needs=("steps.append_and_read",), capability="timeline")

_LARGE: Final = 6_000_000
_WORTH_MEASURING: Final = 0.02
"""Seconds of the processor: what takes less in this process is decoded in another one, or is too little to tell."""


def _eventful(kit: Kit, length: int, run_id: str = "run") -> list[Checkpoint]:
    """Return a run in which every field of a row is another one now and then."""
    steps = grown_run(kit.random, length // 2, run_id, metadata={"team": "kit"})
    wait: dict[str, Any] = {"id": "q", "task_id": "t", "node": "ask", "asked_at": NOON}
    while len(steps) < length:
        number, last = len(steps), steps[-1]
        called = RecordedCall(
            kind="call",
            task_id="t",
            name=f"call-{number}",
            key="k" if number % 2 else None,
            result={"value": number},
            started_at=last.timestamp - timedelta(milliseconds=number),
        )
        error = ErrorInfo(type="ValueError", message=f"no {number}", reason="broken", node="work", traceback="line 1")
        fields: list[dict[str, Any]] = [
            {"event": "called", "calls": (called, called.model_copy(update={"result": None, "error": error}))},
            {
                "event": "asked",
                "status": "awaiting_input",
                "interrupts": (
                    Interrupt(**wait, prompt="Well?", payload={"choices": [number]}),
                    Interrupt(**wait, prompt="wait", due_at=NOON + timedelta(days=number)),
                ),
            },
            {"event": "answered", "status": "running", "interrupts": (), "update": {"answer": number, "other": None}},
            {"event": "failed", "status": "failed", "error": error},
            {"event": "resumed", "status": "running", "removed": tuple(list(last.state)[:1])},
            {
                "event": "completed",
                "changes": {f"new-{number}": number},
                "update": {f"new-{number}": number},
                "key": "k",
            },
        ]
        steps.append(follow(last, last_node="work", task_id="t", **fields[number % len(fields)]))
    return steps


async def _written(handle: Handle, steps: Sequence[Checkpoint]) -> None:
    for checkpoint in steps:
        await handle.write(checkpoint)


@group.check(
    "rows",
    "timeline gives a row for each step, in order, and each field of it is that of the checkpoint, for every handle.",
    contract="timeline.1, timeline.2",
    usual_cause="A row is kept beside the record and lacks what came later, or is made from the latest step; the order "
    "is that of text.",
)
async def rows(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    steps, second = _eventful(kit, 64), chain("run2", 3)
    await _written(handle, [*second, *steps[:40]])
    same_rows(rows_of(steps[:40]), await other.timeline("run"), "timeline('run') of a run that goes on")
    await _written(other, steps[40:])
    for reader in (handle, other):
        same_rows(rows_of(steps), await reader.timeline("run"), "timeline('run')")
        same_rows(rows_of(second), await reader.timeline("run2"), "timeline('run2')")
        same_rows([], await reader.timeline("nobody"), "timeline('nobody')")


@group.check(
    "ranges",
    "from_step and to_step are both included, and limit is the highest number of rows.",
    contract="timeline.1",
    usual_cause="A half-open range, a limit that counts steps from 0, or a row that does not know the step before its "
    "page.",
)
async def ranges(kit: Kit) -> None:
    handle = await kit.open()
    steps = _eventful(kit, 30)
    await _written(handle, steps)
    whole = rows_of(steps)
    bounds = [
        (0, None),
        (0, 0),
        (1, 1),
        (7, 21),
        (22, 23),
        (28, None),
        (29, None),
        (29, 40),
        (30, None),
        (9, 8),
        (2**53, None),
        (3, 2**70),
    ]
    for first, last in bounds:
        for limit in (1000, 0, 1, 5, 30, 2**53):
            due = [row for row in whole if first <= row.step and (last is None or row.step <= last)][:limit]
            found = await handle.timeline("run", from_step=first, to_step=last, limit=limit)
            same_rows(due, found, f"timeline('run', from_step={first}, to_step={last}, limit={limit})")
    for arguments in ({"limit": -1}, {"limit": 1.5}, {"from_step": "1"}, {"to_step": 1.5}, {"limit": True}):
        await refused_argument(handle.timeline("run", **arguments), f"timeline('run', {arguments})")


@group.check(
    "long_run",
    "The pages of a run of 1,100 steps are complete, whatever their size.",
    contract="timeline.1, timeline.2",
    usual_cause="A page inside the driver ends, and the next one begins at the wrong step.",
    quick=False,
)
async def long_run(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    steps = [begin(state={"n": 0, "log": ["begun"]})]
    while len(steps) < 1100:
        number = len(steps)
        steps.append(follow(steps[-1], changes={"n": number}, update={"n": number}, removed=("log",) * (number == 600)))
    if "batch" in kit.declared:
        await handle.write_many(steps)
    else:
        await _written(handle, steps)
    whole = rows_of(steps)
    for reader in (handle, other):
        same_rows(whole, await reader.timeline("run", limit=5000), "timeline('run', limit=5000)")
        for limit in (50, 100, 500, 1000):
            found: list[StepSummary] = []
            while page := await reader.timeline("run", from_step=len(found), limit=limit):
                expect(len(page) == min(limit, 1100 - len(found)), f"a page of {limit} had {len(page)} rows")
                found += page
            same_rows(whole, found, f"the pages of {limit} rows")


@group.check(
    "removals",
    "After a prune the rows are those of the steps that are left, and a deleted run has none, for every handle.",
    contract="timeline.1, prune.1, delete_run.1",
    usual_cause="Rows outlive their steps, or a missing step ends the page.",
    capability="timeline",
)
async def removals(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    if "pruned-start" in kit.declared:
        late = _eventful(kit, 20, "late")
        await handle.start_pruned([late[3], late[9]])
        same_rows(rows_of([late[3], late[9]]), await other.timeline("late"), "timeline of a run begun by start_pruned")
        await _written(other, late[10:])
        left = [late[3], *late[9:]]
        same_rows(rows_of(left), await handle.timeline("late"), "timeline of that run, which went on")
        same_rows(rows_of(left)[1:3], await handle.timeline("late", from_step=4, limit=2), "a page of that timeline")
    if "deletion" not in kit.declared:
        return
    steps = _eventful(kit, 40)
    steps.append(follow(steps[-1], event="completed", status="done"))
    await _written(handle, steps)
    await other.timeline("run")
    await handle.prune(older_than=LATER, keep_last=4)
    kept = [step for step in steps if await handle.read_at_step("run", step.step) is not None]
    for reader in (handle, other):
        same_rows(rows_of(kept), await reader.timeline("run"), "timeline('run') after prune(keep_last=4)")
        due = [row for row in rows_of(kept) if row.step >= 38][:2]
        same_rows(due, await reader.timeline("run", from_step=38, limit=2), "a page of it after prune(keep_last=4)")
    await handle.delete_run("run")
    for reader in (handle, other):
        same_rows([], await reader.timeline("run"), "timeline('run') after delete_run('run')")


@group.check(
    "states_are_not_decoded",
    "timeline takes far less of the processor than the states of its steps: less than half of what history takes.",
    contract="timeline.3",
    usual_cause="Each checkpoint is decoded whole, and the row made from that.",
    quick=False,
)
async def states_are_not_decoded(kit: Kit) -> None:
    if "history" not in kit.declared:
        return
    handle = await kit.open()
    chance = random.Random(kit.seed)  # noqa: S311  # reproducible on purpose
    steps = [begin(state={"text": chance.randbytes(_LARGE // 2).hex(), "n": 0})]
    while len(steps) < 6:
        text = chance.randbytes(_LARGE // 2).hex()
        steps.append(follow(steps[-1], changes={"text": text, "n": len(steps)}, update={"n": len(steps)}))
    await _written(handle, steps)
    await handle.release()
    handle = await kit.open()
    taken: dict[str, list[float]] = {"history": [], "timeline": []}
    for _ in range(3):
        began = time.process_time()
        async for _ in handle.history("run"):
            pass
        taken["history"].append(time.process_time() - began)
        began = time.process_time()
        same_rows(rows_of(steps), await handle.timeline("run"), "timeline('run') of a run with states of 6 MB")
        taken["timeline"].append(time.process_time() - began)
    history, timeline = min(taken["history"]), min(taken["timeline"])
    expect(
        history < _WORTH_MEASURING or timeline < history / 2,
        f"of the processor, timeline took {timeline * 1000:.0f} ms for 6 states of 6 MB, and history"
        f" {history * 1000:.0f} ms",
    )


@group.check(
    "damage",
    "A row of a damaged record is what was recorded, or timeline raises CheckpointCorruptedError.",
    contract="timeline.2",
    usual_cause="The beginning of a record is parsed and believed: the digest proves the whole, and is not computed.",
    needs=("corruption.flipped_bytes",),
    capability="stored-bytes",
)
async def damage(kit: Kit) -> None:
    hook = kit.target.stored_bytes
    if "timeline" not in kit.declared or hook is None:
        return
    writer = await kit.open()
    steps = _eventful(kit, 16)
    await _written(writer, steps)
    await writer.release()
    whole = rows_of(steps)
    for step in kit.random.sample(range(16), 8 if kit.thorough else 3):
        original = await hook.get(kit.location, "run", step)
        for _ in range(5):
            place = kit.random.randrange(len(original))
            changed = bytearray(original)
            changed[place] ^= 1 << kit.random.randrange(8)
            what = f"timeline('run') after a bit of byte {place} of step {step} was flipped"
            await put_bytes(kit, "run", step, bytes(changed), what)
            handle = await kit.open()
            try:
                found = await handle.timeline("run")
            except (CheckpointCorruptedError, StoreVersionError):
                pass
            except Exception as error:
                raise Violation(
                    f"{what} raised {error_line(error)}; the contract wants CheckpointCorruptedError"
                ) from error
            else:
                same_rows(whole, found, what)
            await handle.release()
        await hook.put(kit.location, "run", step, original)


@group.check(
    "lost_step",
    "A timeline that a lost step belongs to raises missing-step, and others do not.",
    contract="timeline.1, read.3, history.2",
    usual_cause="The rows are those that are there, and nobody counts them.",
    capability="lost-step",
)
async def lost_step(kit: Kit) -> None:
    lose = kit.target.lost_step
    if "timeline" not in kit.declared or lose is None:
        return
    writer = await kit.open()
    steps = [begin(state={"n": 0})]
    while len(steps) < 9:
        steps.append(follow(steps[-1], changes={"n": len(steps)}))
    await _written(writer, steps)
    await writer.release()
    await lose(kit.location, "run", 5)
    handle = await kit.open()
    same_rows(rows_of(steps)[:3], await handle.timeline("run", limit=3), "timeline('run', limit=3) before a lost step")
    same_rows(rows_of(steps)[2:5], await handle.timeline("run", from_step=2, to_step=4), "timeline up to a lost step")
    for arguments in ({}, {"from_step": 5, "limit": 1}, {"from_step": 3, "to_step": 5}, {"to_step": 8}):
        what = f"timeline('run', {arguments}), whose step 5 is lost,"
        await refused(handle.timeline("run", **arguments), what, CheckpointCorruptedError, "missing-step")
