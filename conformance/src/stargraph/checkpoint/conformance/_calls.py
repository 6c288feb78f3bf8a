"""A call of each optional method that a driver has, and many writes side by side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from stargraph.checkpoint.conformance._expect import together
from stargraph.checkpoint.conformance._handle import Handle
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._runs import NOON, follow
from stargraph.checkpoint.protocol import Checkpoint, ProcessInfo, Schedule

Call = Callable[[], Awaitable[object]]

_PROCESS: Final = ProcessInfo(host="conformance", pid=1, version="1", id="c" * 16)
_SCHEDULE: Final = Schedule(id="nightly", cron="0 3 * * *", graph_id="g", since=NOON)


def optional_calls(kit: Kit, handle: Handle, steps: Sequence[Checkpoint]) -> dict[str, Call]:
    """A call of each optional method that the driver has; each changes nothing, or what may be changed again."""
    run_id = steps[0].run_id
    calls: dict[str, Call] = {}
    if "history" in kit.declared:
        calls["history"] = lambda: anext(handle.history(run_id))
        calls["history(newest_first=True)"] = lambda: anext(handle.history(run_id, newest_first=True))
    if "search" in kit.declared:
        calls["search"] = handle.search
        calls["count_runs"] = handle.count_runs
    if "trees" in kit.declared:
        calls["children"] = lambda: handle.children(run_id)
    if "timeline" in kit.declared:
        calls["timeline"] = lambda: handle.timeline(run_id)
    if "watch" in kit.declared:
        calls["watch"] = lambda: anext(handle.watch(run_id))
    if "keys" in kit.declared:
        calls["read_at_key"] = lambda: handle.read_at_key(run_id, "a")
        calls["step_keys"] = lambda: handle.step_keys(run_id)
    if "batch" in kit.declared:
        calls["write_many"] = lambda: handle.write_many([follow(steps[-1])])
        calls["write_many of nothing"] = lambda: handle.write_many([])
    if "pruned-start" in kit.declared:
        calls["start_pruned again"] = lambda: handle.start_pruned([steps[0], steps[-1]])
    if "deletion" in kit.declared:
        calls["delete_run of an unknown run"] = lambda: handle.delete_run("nobody")
        calls["prune"] = lambda: handle.prune(older_than=NOON, dry_run=True)
    if "queues" in kit.declared:
        calls["claimable"] = lambda: handle.claimable("f" * 16, ["default"], reserve=0.0)
        calls["queue_counts"] = handle.queue_counts
        calls["set_limits"] = lambda: handle.set_limits("default", None)
    if "presence" in kit.declared:
        calls["beat"] = lambda: handle.beat(_PROCESS)
        calls["processes"] = handle.processes
        calls["leave"] = lambda: handle.leave("f" * 16)
    if "schedules" in kit.declared:
        calls["put_schedule"] = lambda: handle.put_schedule(_SCHEDULE)
        calls["schedules"] = handle.schedules
        calls["remove_schedule"] = lambda: handle.remove_schedule("nobody")
    return calls


async def write_spread(handle: Handle, checkpoints: Sequence[Checkpoint]) -> None:
    """Write checkpoints of different runs, up to 24 of them at a time."""

    async def write(part: Sequence[Checkpoint]) -> None:
        for checkpoint in part:
            await handle.write(checkpoint)

    await together(*(write(checkpoints[first::24]) for first in range(24)))
