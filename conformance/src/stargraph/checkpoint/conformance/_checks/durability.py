"""What was acknowledged is seen by every other handle and process, and is still there when all are closed."""

from __future__ import annotations

from typing import Final

from stargraph.checkpoint.conformance._compare import absent, same, same_runs, same_summary
from stargraph.checkpoint.conformance._expect import expect, refused
from stargraph.checkpoint.conformance._files import StandingFileTimes
from stargraph.checkpoint.conformance._handle import naming
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import chain, executor_id, follow
from stargraph.errors import CheckpointConflictError

group: Final = Group("durability", needs=("steps.append_and_read",))


@group.check(
    "other_handle",
    "Another open handle sees every write that returned before its read began.",
    contract="read.5",
    usual_cause="A cache of the handle, also of what it did not find, or a transaction that stays open and with it an "
    "old snapshot.",
    version=2,
)
async def other_handle(kit: Kit) -> None:
    writer, reader = await kit.open(), await kit.open()
    absent(await reader.read_latest("run"), "read_latest('run') of another handle before the run was written")
    for checkpoint in chain(length=5):
        step = checkpoint.step
        absent(await reader.read_at_step("run", step), f"read_at_step('run', {step}) before that step was written")
        await writer.write(checkpoint)
        same(checkpoint, await reader.read_latest("run"), f"read_latest('run') of another handle after step {step}")
        same(checkpoint, await reader.read_at_step("run", step), f"read_at_step('run', {step}) of another handle")
        (summary,) = listed = await reader.list_runs()
        same_runs(["run"], listed, "list_runs() of another handle")
        same_summary(checkpoint, summary, f"list_runs() of another handle after step {step}")


@group.check(
    "within_one_tick",
    "Another open handle sees every write, and its own are judged by it, also if the times of the store's files stand "
    "still, as they do within one tick of a file system's clock.",
    contract="read.5, rule.4, rule.9",
    usual_cause="A file whose time has not changed counts as unchanged: its content is served from memory, or replaced "
    "without another look. Compare what it holds, or a number that each change raises.",
    needs=("durability.other_handle", "steps.conflict_keeps_stored", "steps.wrong_predecessor"),
)
async def within_one_tick(kit: Kit) -> None:
    times = StandingFileTimes(kit.location)
    writer, reader = await kit.open(), await kit.open()
    times.put_back()
    steps = chain(length=6)
    for checkpoint in steps:
        await writer.write(checkpoint)
        times.put_back()
        when = f"after step {checkpoint.step}, within one tick"
        same(checkpoint, await reader.read_latest("run"), f"read_latest('run') of another handle {when}")
        same(checkpoint, await reader.read_at_step("run", checkpoint.step), f"read_at_step of another handle {when}")
        (summary,) = await reader.list_runs()
        same_summary(checkpoint, summary, f"list_runs() of another handle {when}")
    taken, mine = (follow(steps[-1], executor_id=executor_id(number)) for number in (2, 3))
    await writer.write(taken)
    times.put_back()
    # A handle that remembers what it tried to write would take the file for its own: it is as long, and as old.
    for lost, reason in ((mine, "step-taken"), (follow(mine), "wrong-predecessor")):
        what = f"{naming(lost)} of another handle, after step {taken.step} was taken within one tick"
        await refused(reader.write(lost), what, CheckpointConflictError, reason, lost)
        times.put_back()
    for each in (reader, writer):
        same(taken, await each.read_latest("run"), "read_latest('run') after the later writes were refused")


@group.check(
    "reopen",
    "What was acknowledged is there after every handle was closed.",
    contract="write.2",
    usual_cause="The store lives in the handle, or is written when it is closed.",
)
async def reopen(kit: Kit) -> None:
    first = await kit.open()
    steps = chain(length=4, last_status="done")
    for checkpoint in steps:
        await first.write(checkpoint)
    await first.release()
    for _ in range(2):
        again = await kit.open()
        for checkpoint in steps:
            what = f"read_at_step('run', {checkpoint.step}) after the store was closed and opened again"
            same(checkpoint, await again.read_at_step("run", checkpoint.step), what)
        same(steps[-1], await again.read_latest("run"), "read_latest('run') after the store was opened again")
        same_runs(["run"], await again.list_runs(), "list_runs() after the store was opened again")
        await again.release()


@group.check(
    "other_process",
    "Another process sees every write that returned, while the first one's handle is open; and the other way round.",
    contract="read.5",
    usual_cause="What is stored lives in the process, or is held back until the handle is closed.",
    needs=("durability.reopen",),
    processes=True,
)
async def other_process(kit: Kit) -> None:
    handle = await kit.open()
    steps = chain(length=4)
    for checkpoint in steps:
        await handle.write(checkpoint)
    child = await kit.child("read", run_id="run")
    seen = await child.expect("read")
    wanted = [checkpoint.digest for checkpoint in steps]
    expect(seen["digests"] == wanted, f"another process read the digests {seen['digests']}; written were {wanted}")
    expect(seen["runs"] == ["run"], f"list_runs() of another process gave {seen['runs']}")
    theirs = await child.expect("acked")
    latest = await handle.read_latest("run")
    expect(
        latest is not None and latest.digest == theirs["digest"],
        f"read_latest('run') gave step {latest.step if latest else None}, and another process wrote {theirs['step']}",
    )
