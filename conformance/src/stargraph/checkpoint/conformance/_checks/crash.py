"""Processes that are killed while they write: what was acknowledged is there, and what is there is whole."""

from __future__ import annotations

import asyncio
from typing import Final

from stargraph.checkpoint.conformance._compare import same
from stargraph.checkpoint.conformance._findings import Finding, expect, together
from stargraph.checkpoint.conformance._handle import Handle
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._processes import Child
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import begin, follow

group: Final = Group("crash", needs=("durability.other_process",))


async def _acknowledged(child: Child, least: int) -> dict[int, str]:
    """Listen until so many writes were acknowledged, kill the process, and return all that it had told."""
    acked: dict[int, str] = {}
    async for event in child.events():
        acked[event["step"]] = event["digest"]
        if len(acked) == least:
            child.kill()
    code, stderr = await child.ended()
    if len(acked) < least:
        raise Finding(f"{child.name} ended by itself with exit code {code}: {stderr.strip()[-300:]}")
    return acked


async def _whole(handle: Handle, run_id: str) -> int:
    """Expect that a run is a chain without gaps; return its latest step, -1 where it is unknown."""
    latest = await handle.read_latest(run_id)
    if latest is None:
        return -1
    previous: str | None = None
    for step in range(latest.step + 1):
        found = await handle.read_at_step(run_id, step)
        if found is None:
            raise Finding(f"read_at_step({run_id!r}, {step}) gave None after a kill; the latest step is {latest.step}")
        found.ensure_valid()
        expect(found.previous_digest == previous, f"step {step} of {run_id!r} does not follow the step before it")
        previous = found.digest
    expect(previous == latest.digest, f"read_latest({run_id!r}) and read_at_step disagree after a kill")
    return latest.step


@group.check(
    "kill9_acked_survive",
    "Every step that was acknowledged before a process was killed (SIGKILL) is there, and whole.",
    contract="write: atomic and durable",
    usual_cause="write() returns before the record has left the process: a buffer, a queue, a background task.",
    processes=True,
    deadline=60,
)
async def kill9_acked_survive(kit: Kit) -> None:
    for turn in range(2):
        sizes = (10, 200_000)
        children = [await kit.child("burst", run_id=f"run-{turn}-{size}", size=size) for size in sizes]
        told = await together(*(_acknowledged(child, kit.random.randint(5, 25)) for child in children))
        handle = await kit.open()
        for size, acked in zip(sizes, told, strict=True):
            run_id = f"run-{turn}-{size}"
            for step, digest in acked.items():
                found = await handle.read_at_step(run_id, step)
                if found is None or found.digest != digest:
                    state = "is not there" if found is None else "is another one"
                    raise Finding(
                        f"step {step} of {run_id!r} was acknowledged before the process was killed, and {state};"
                        f" {len(acked)} steps were acknowledged"
                    )
            last = await _whole(handle, run_id)
            expect(last <= max(acked) + 1, f"{run_id!r} has step {last}; at most {max(acked) + 1} was written")
        await handle.leave()


@group.check(
    "kill9_leaves_no_half",
    "A process that is killed at any moment leaves no half record and no gap, and the run goes on from there.",
    contract="write: atomic",
    usual_cause="A record is written in place in several steps, and a reader finds the first ones.",
    processes=True,
    deadline=60,
)
async def kill9_leaves_no_half(kit: Kit) -> None:
    reached = -1
    for _ in range(4):
        child = await kit.child("burst", run_id="run", size=500_000)
        await child.expect("acked")
        await asyncio.sleep(kit.random.uniform(0.0, 0.06))
        child.kill()
        await child.ended()
        handle = await kit.open()
        last = await _whole(handle, "run")
        expect(last > reached, f"the run stands at step {last} after a kill, and stood at {reached} before")
        latest = await handle.read_latest("run")
        assert latest is not None
        following = follow(latest, changes={"payload": "from the parent"})
        await handle.write(following)
        same(following, await handle.read_latest("run"), "read_latest('run') after a kill and one more write")
        reached = following.step
        await handle.leave()


@group.check(
    "killed_neighbour",
    "A process that is killed with its handle open hinders nobody else: neither open handles nor new ones.",
    contract="write; bootstrap",
    usual_cause="A lock file, or a lock in the store, that outlives its owner.",
    processes=True,
    deadline=60,
)
async def killed_neighbour(kit: Kit) -> None:
    survivor = await kit.open()
    for turn in range(2):
        child = await kit.child("idle", run_id=f"theirs-{turn}")
        await child.expect("acked")
        child.kill()
        await child.ended()
        mine = begin(f"mine-{turn}")
        await survivor.write(mine)
        newcomer = await kit.open()
        same(mine, await newcomer.read_latest(mine.run_id), "read_latest of a new handle after a neighbour was killed")
        await newcomer.write(follow(mine))
        await newcomer.leave()
