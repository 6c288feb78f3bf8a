"""The rules of write, in the contract's order, and what read_latest and read_at_step make of the steps."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from stargraph.checkpoint.conformance._compare import absent, same
from stargraph.checkpoint.conformance._expect import Violation, error_line, expect, refused
from stargraph.checkpoint.conformance._handle import Handle, naming
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import NOON, begin, chain, follow, rival, rivals
from stargraph.checkpoint.protocol import Checkpoint, Status
from stargraph.errors import CheckpointConflictError, CheckpointError

group: Final = Group("steps")

_NEEDS: Final = ("steps.append_and_read",)
_MOST: Final = 2**53  # no checkpoint has a higher step


async def _written(handle: Handle, steps: list[Checkpoint]) -> None:
    for checkpoint in steps:
        await handle.write(checkpoint)


async def _untouched(handle: Handle, steps: list[Checkpoint], after: str) -> None:
    """Expect that the run holds these steps and no more."""
    run_id = steps[0].run_id
    for checkpoint in steps:
        what = f"read_at_step({run_id!r}, {checkpoint.step}) after {after}"
        same(checkpoint, await handle.read_at_step(run_id, checkpoint.step), what)
    beyond = steps[-1].step + 1
    absent(await handle.read_at_step(run_id, beyond), f"read_at_step({run_id!r}, {beyond}) after {after}")
    same(steps[-1], await handle.read_latest(run_id), f"read_latest({run_id!r}) after {after}")


@group.check(
    "append_and_read",
    "read_latest and read_at_step return what write() stored.",
    contract="log.1, log.3, write.1, rule.10, read.1",
    usual_cause="The record is not stored, or cannot be found by its run and step.",
    needs=("bootstrap.creates",),
)
async def append_and_read(kit: Kit) -> None:
    handle = await kit.open()
    steps = chain(length=4)
    for checkpoint in steps:
        await handle.write(checkpoint)
        same(checkpoint, await handle.read_latest("run"), f"read_latest('run') after step {checkpoint.step}")
    for checkpoint in steps:
        found = await handle.read_at_step("run", checkpoint.step)
        same(checkpoint, found, f"read_at_step('run', {checkpoint.step})")


@group.check(
    "unknown_is_none",
    "A read of an unknown run, or of a step that does not exist, returns None.",
    contract="read.1",
    usual_cause="The nearest step is given instead, an index counts from the end, or a lookup raises, as of a number "
    "that the store's integers cannot hold.",
    needs=_NEEDS,
    version=2,
)
async def unknown_is_none(kit: Kit) -> None:
    handle = await kit.open()
    await _written(handle, chain())
    absent(await handle.read_latest("other"), "read_latest('other') of an unknown run")
    absent(await handle.read_at_step("other", 0), "read_at_step('other', 0) of an unknown run")
    absent(await handle.read_at_step("run", 3), "read_at_step('run', 3), one beyond the latest")
    for step in (10**6, 2**31, 2**32, 2**53, 2**63, 2**64, 10**30, -1, -(2**64)):
        what = f"read_at_step('run', {step})"
        try:
            found = await handle.read_at_step("run", step)
        except (ValueError, CheckpointError):
            expect(not 0 <= step <= _MOST, f"{what} was refused; the contract wants None")
        except Exception as error:
            raise Violation(f"{what} raised {error_line(error)}; the contract wants None") from error
        else:
            absent(found, what)


@group.check(
    "first_is_zero",
    'A run begins at step 0: a later step of an unknown run is refused with reason "step-gap".',
    contract="log.2, write.7, rule.5",
    usual_cause="Only the run's own latest step is compared, and an unknown run has none.",
    needs=_NEEDS,
)
async def first_is_zero(kit: Kit) -> None:
    handle = await kit.open()
    steps = chain()
    for late in (steps[2], steps[1]):
        await refused(handle.write(late), f"{naming(late)} of an unknown run", CheckpointError, "step-gap", late)
        absent(await handle.read_latest("run"), "read_latest('run') after a refused first step")
    await _written(handle, steps)
    await _untouched(handle, steps, "the whole run was written")


@group.check(
    "gap_refused",
    'A log has no holes: a step that is not the latest plus one is refused with reason "step-gap".',
    contract="log.2, rule.7, write.4",
    usual_cause="Any step that does not exist yet is accepted.",
    needs=_NEEDS,
)
async def gap_refused(kit: Kit) -> None:
    handle = await kit.open()
    steps = chain(length=6)
    await _written(handle, steps[:2])
    for late in (steps[3], steps[5]):
        await refused(handle.write(late), f"{naming(late)} after step 1", CheckpointError, "step-gap", late)
        await _untouched(handle, steps[:2], "a gap was refused")
    await handle.write(steps[2])
    await _untouched(handle, steps[:3], "a gap was refused and the right step was written")


@group.check(
    "rewrite_is_noop",
    "Writing a stored checkpoint again succeeds and changes nothing, so that a retry is always safe.",
    contract="rule.3, write.5",
    usual_cause="A uniqueness error of the store comes out, or only the latest step is recognised.",
    needs=_NEEDS,
)
async def rewrite_is_noop(kit: Kit) -> None:
    handle = await kit.open()
    steps = chain(length=4)
    await _written(handle, steps)
    for checkpoint in (steps[3], steps[3], steps[0], steps[2]):
        try:
            await handle.write(checkpoint)
        except CheckpointError as error:
            raise Violation(
                f"{naming(checkpoint)} of a checkpoint that is stored already raised {error_line(error)}"
            ) from error
        await _untouched(handle, steps, f"step {checkpoint.step} was written again")


@group.check(
    "rewrite_after_end",
    "The last step of an ended run can be written again: its first write may have had an unknown outcome.",
    contract="rule.3, rule.8",
    usual_cause="The status of the run is checked before the step is looked up.",
    needs=("steps.rewrite_is_noop",),
)
async def rewrite_after_end(kit: Kit) -> None:
    handle = await kit.open()
    for status in ("done", "cancelled", "moved"):
        steps = chain(status, last_status=status)
        await _written(handle, steps)
        for checkpoint in (steps[-1], steps[0]):
            try:
                await handle.write(checkpoint)
            except CheckpointError as error:
                raise Violation(
                    f"{naming(checkpoint)} again, of a run that is {status}, raised {error_line(error)}"
                ) from error
        await _untouched(handle, steps, "a stored step of an ended run was written again")


@group.check(
    "conflict_keeps_stored",
    'Another checkpoint at a stored step is refused with CheckpointConflictError (reason "step-taken"); what '
    "was stored stays.",
    contract="rule.4, log.5, write.4",
    usual_cause="INSERT OR REPLACE, an upsert, or a plain put overwrites history.",
    needs=_NEEDS,
)
async def conflict_keeps_stored(kit: Kit) -> None:
    handle = await kit.open()
    steps = chain(length=4)
    await _written(handle, steps)
    for step in (3, 1, 0):
        other = rival(steps[step], steps[step - 1] if step else None)
        what = f"{naming(other)} by another executor"
        await refused(handle.write(other), what, CheckpointConflictError, "step-taken", other)
        await _untouched(handle, steps, f"another checkpoint for step {step} was refused")


@group.check(
    "conflict_by_digest",
    "A retry is known by its digest alone: another checkpoint of the same executor, or with the same state, is refused "
    'at a stored step with CheckpointConflictError (reason "step-taken"); what was stored stays.',
    contract="log.4, rule.3, rule.4",
    usual_cause="A retry is known by its executor, its state or its time instead of its digest, so a second execution "
    "of a step is acknowledged and lost.",
    needs=("steps.conflict_keeps_stored",),
)
async def conflict_by_digest(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    ended = chain("ended", last_status="done")
    running = chain("running", length=4)
    for steps in (running, ended):
        await _written(handle, steps)
        for step in reversed(range(len(steps))):
            for taken, who in rivals(steps[step], steps[step - 1] if step else None):
                for writer in (handle, other):
                    what = f"{naming(taken)} by {who}"
                    await refused(writer.write(taken), what, CheckpointConflictError, "step-taken", taken)
        await _untouched(other, steps, "other checkpoints of the same executor were refused")


@group.check(
    "conflict_after_end",
    "Another checkpoint at a stored step of an ended run is a conflict: rule 4 comes before rule 8.",
    contract="rule.4, rule.8",
    usual_cause="The status of the run is checked first.",
    needs=("steps.conflict_keeps_stored",),
)
async def conflict_after_end(kit: Kit) -> None:
    handle = await kit.open()
    steps = chain(last_status="done")
    await _written(handle, steps)
    other = rival(steps[2], steps[1])
    what = f"{naming(other)} by another executor, of a run that is done"
    await refused(handle.write(other), what, CheckpointConflictError, "step-taken", other)
    await _untouched(handle, steps, "a conflict was refused")


@group.check(
    "wrong_predecessor",
    "A step that follows another step than the stored latest is refused with CheckpointConflictError (reason "
    '"wrong-predecessor").',
    contract="log.4, rule.9",
    usual_cause="The step number alone is compared; previous_digest is not.",
    needs=_NEEDS,
)
async def wrong_predecessor(kit: Kit) -> None:
    handle = await kit.open()
    steps = chain()
    await _written(handle, steps)
    astray = follow(rival(steps[2], steps[1]))
    what = f"{naming(astray)}, which follows another step 2 than the stored one"
    await refused(handle.write(astray), what, CheckpointConflictError, "wrong-predecessor", astray)
    await _untouched(handle, steps, "a wrong predecessor was refused")
    await handle.write(follow(steps[2]))


@group.check(
    "ended_refused",
    'A run that is done, cancelled or moved takes no further step: reason "run-ended".',
    contract="log.15, rule.8",
    usual_cause="The status of the latest checkpoint is not looked at, or a list of the statuses that end a run lacks "
    "one of them.",
    needs=_NEEDS,
    version=2,
)
async def ended_refused(kit: Kit) -> None:
    handle = await kit.open()
    for status in ("done", "cancelled", "moved"):
        steps = chain(status, last_status=status)
        await _written(handle, steps)
        late = follow(steps[-1], status="running")
        what = f"{naming(late)} of a run that is {status}"
        await refused(handle.write(late), what, CheckpointError, "run-ended", late)
        await _untouched(handle, steps, "a step of an ended run was refused")


@group.check(
    "gap_after_end",
    'A gap in an ended run is "step-gap": rule 7 comes before rule 8.',
    contract="rule.7, rule.8",
    usual_cause="The rules are not checked in the order of the contract.",
    needs=("steps.gap_refused", "steps.ended_refused"),
)
async def gap_after_end(kit: Kit) -> None:
    handle = await kit.open()
    steps = chain(last_status="done")
    await _written(handle, steps)
    late = follow(follow(steps[-1], status="running"))
    what = f"{naming(late)} of a run that is done since step 2"
    await refused(handle.write(late), what, CheckpointError, "step-gap", late)


@group.check(
    "ended_before_predecessor",
    'A wrong predecessor in an ended run is "run-ended": rule 8 comes before rule 9.',
    contract="rule.8, rule.9",
    usual_cause="The rules are not checked in the order of the contract.",
    needs=("steps.wrong_predecessor", "steps.ended_refused"),
)
async def ended_before_predecessor(kit: Kit) -> None:
    handle = await kit.open()
    steps = chain(last_status="cancelled")
    await _written(handle, steps)
    astray = follow(rival(steps[2], steps[1]), status="running")
    what = f"{naming(astray)} of a run that is cancelled, after another step 2"
    await refused(handle.write(astray), what, CheckpointError, "run-ended", astray)


@group.check(
    "others_go_on",
    "A run that failed, is paused or waits for input can still go on.",
    contract="log.16, rule.8",
    usual_cause="Every status but running counts as the end.",
    needs=_NEEDS,
)
async def others_go_on(kit: Kit) -> None:
    handle = await kit.open()
    statuses: tuple[Status, ...] = ("failed", "paused", "awaiting_input")
    for status in statuses:
        steps = chain(status, last_status=status)
        await _written(handle, steps)
        resumed = follow(steps[-1], event="resumed", status="running")
        try:
            await handle.write(resumed)
        except CheckpointError as error:
            raise Violation(f"{naming(resumed)} of a run that is {status} raised {error_line(error)}") from error
        await _untouched(handle, [*steps, resumed], f"a run that was {status} went on")


@group.check(
    "latest_ignores_clocks",
    "read_latest returns the highest step, whatever the clocks say; steps of the same instant are all kept.",
    contract="read.4",
    usual_cause="ORDER BY timestamp: the machine that resumed had a clock that was behind; or the time is part of "
    "a key.",
    needs=_NEEDS,
    version=2,
)
async def latest_ignores_clocks(kit: Kit) -> None:
    handle = await kit.open()
    first = begin(timestamp=NOON)
    second = follow(first, timestamp=NOON - timedelta(hours=3))
    third = follow(second, timestamp=NOON - timedelta(hours=1))
    steps = [first, second, third, follow(third, timestamp=NOON - timedelta(hours=2))]
    for _ in range(3):
        steps.append(follow(steps[-1], timestamp=steps[-1].timestamp))
    for checkpoint in steps:
        await handle.write(checkpoint)
        what = f"read_latest('run') after step {checkpoint.step}, written by a clock that is behind"
        same(checkpoint, await handle.read_latest("run"), what)
    for checkpoint in steps:
        what = f"read_at_step('run', {checkpoint.step}) of a run whose clock stood still and went back"
        same(checkpoint, await handle.read_at_step("run", checkpoint.step), what)


@group.check(
    "latest_is_numeric",
    "Steps are numbers: 10 comes after 9.",
    contract="read.1",
    usual_cause="Steps are compared as text, in a file name or a TEXT column.",
    needs=_NEEDS,
)
async def latest_is_numeric(kit: Kit) -> None:
    handle = await kit.open()
    for checkpoint in chain(length=12):
        await handle.write(checkpoint)
        if checkpoint.step >= 9:
            what = f"read_latest('run') after step {checkpoint.step}"
            same(checkpoint, await handle.read_latest("run"), what)


@group.check(
    "usable_after_refusal",
    "A refusal leaves the handle usable, for the same run and for others.",
    contract="write.4",
    usual_cause="The transaction of the refused write stays open, or a lock is not released on the way out.",
    needs=("steps.conflict_keeps_stored", "steps.gap_refused"),
)
async def usable_after_refusal(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    steps = chain(length=6)
    await _written(handle, steps[:2])
    for round_number in range(3):
        refusals = (rival(steps[1], steps[0]), steps[round_number + 3], follow(rival(steps[1], steps[0])))
        for checkpoint in refusals:
            try:
                await handle.write(checkpoint)
            except CheckpointError:
                continue
            raise Violation(f"{naming(checkpoint)} succeeded, and must be refused")
        await other.write(begin(f"other-{round_number}"))
        await handle.write(steps[round_number + 2])
        await _untouched(other, steps[: round_number + 3], "refusals and a write by this handle's neighbour")


@group.check(
    "invalid_before_stored",
    "A checkpoint that does not match its digest is refused as invalid, even if one with that digest is stored.",
    contract="log.8, rule.1, rule.3",
    usual_cause="The digest that the object carries is trusted; codec.encode, which checks it, is called later.",
    needs=("values.altered_refused",),
)
async def invalid_before_stored(kit: Kit) -> None:
    handle = await kit.open()
    steps = chain()
    await _written(handle, steps)
    forged = steps[2].model_copy(update={"state": {"count": 666}})
    what = f"{naming(forged)} with a changed state and the digest of the stored one"
    await refused(handle.write(forged), what, CheckpointError, "invalid-checkpoint")
    await _untouched(handle, steps, "a forged checkpoint was refused")
