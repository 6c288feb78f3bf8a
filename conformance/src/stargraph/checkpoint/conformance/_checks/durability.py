"""What was acknowledged is seen by every other handle and process, and is still there when all are closed."""

from __future__ import annotations

from typing import Final

from stargraph.checkpoint.conformance._compare import absent, same, same_runs, same_summary
from stargraph.checkpoint.conformance._expect import expect
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import chain

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
