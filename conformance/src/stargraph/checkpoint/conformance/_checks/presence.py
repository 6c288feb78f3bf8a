"""Presence: which processes live, by the clock of the store."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Final

from stargraph.checkpoint.conformance._checks.clocks import FAR_AWAY
from stargraph.checkpoint.conformance._compare import show
from stargraph.checkpoint.conformance._expect import expect, together
from stargraph.checkpoint.conformance._handle import Handle
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import process_info
from stargraph.checkpoint.protocol import GraphVersion, ProcessPresence, RefusedVersion, WorkerInfo

group: Final = Group("presence", needs=("steps.append_and_read",), capability="presence")


@group.check(
    "beats",
    "A process that beats is listed by every handle, with what it said last, until it leaves.",
    contract="presence.1, presence.3",
    usual_cause="Presence is kept in the handle, each beat makes a new entry, a part of the process is left out, or a "
    "process is known by its host and pid, which in containers are those of many.",
    version=2,
)
async def beats(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    for number in (1, 2, 3):
        await handle.beat(process_info(number))
    renamed = process_info(1).model_copy(update={"worker": "blue"})
    version = GraphVersion("g", "a" * 64, "b" * 64)
    refused = RefusedVersion(version._replace(graph_hash="c" * 64), "node 'a' is gone: \u00e9\U0001f98a")
    worker = WorkerInfo(**dict(process_info(3)), queues=("default", "mail"), serves=(version,), refuses=(refused,))
    twin = process_info(2).model_copy(update={"id": "2" * 16})
    for process in (renamed, worker, twin):
        await other.beat(process)
    for reader in (handle, other):
        found = {each.process.id: each.process for each in await reader.processes()}
        wanted = {each.id: each for each in (renamed, process_info(2), worker, twin)}
        expect(found == wanted, f"processes() gave {show(found)}; the contract wants {show(wanted)}")
    await other.leave(process_info(1).id or "")
    await other.leave(worker.id or "")
    await other.leave(twin.id or "")
    await other.leave("0" * 16)
    left = [each.process.id for each in await handle.processes()]
    expect(left == [process_info(2).id], f"processes() after leave gave {show(left)}; the contract wants the other one")


async def _only(handle: Handle) -> ProcessPresence:
    found = await handle.processes()
    expect(len(found) == 1, f"processes() gave {show(found)}; one process has beaten")
    return found[0]


@group.check(
    "silence",
    "silent_seconds is the time since the last beat, and first_seen stays what it was.",
    contract="presence.1, presence.2",
    usual_cause="The time of the first beat is taken, or a beat begins the presence again.",
)
async def silence(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    await handle.beat(process_info(1))
    first = await _only(other)
    deadline = time.monotonic() + kit.patience
    silent = 1.2 if kit.thorough else 0.3
    while (seen := await _only(other)).silent_seconds < silent:
        expect(
            time.monotonic() < deadline, f"silent_seconds is {seen.silent_seconds:g} {kit.patience:g} s after a beat"
        )
        await asyncio.sleep(0.05)
    await handle.beat(process_info(1))
    again = await _only(other)
    expect(
        again.silent_seconds < seen.silent_seconds,
        f"silent_seconds is {again.silent_seconds:g} just after a beat; it was {seen.silent_seconds:g} before it",
    )
    moved = abs(again.first_seen - first.first_seen)
    expect(moved < timedelta(seconds=silent - 0.1), f"first_seen has moved by {moved} with the second beat")


@group.check(
    "outlives_handles",
    "What processes said is there in other processes, and no handle that is opened or closed changes it.",
    contract="presence.1, close.1, bootstrap.2",
    usual_cause="It is kept in the process, bootstrap makes the table again, close removes what other handles said, or "
    "times are those of the time zone of a process.",
)
async def outlives_handles(kit: Kit) -> None:
    handle = await kit.open()
    for number in (1, 2):
        await handle.beat(process_info(number))
    wanted = [process_info(number).id for number in (1, 2)]
    newcomer = await kit.elsewhere(environment=FAR_AWAY)
    readers = [newcomer, await kit.open()]
    closing = await kit.open()
    await closing.beat(process_info(3))
    await closing.leave(process_info(3).id or "")
    await closing.release()
    await handle.bootstrap()
    for reader in readers:
        there = await reader.processes()
        found = sorted(str(each.process.id) for each in there)
        expect(found == wanted, f"processes() after handles came and went gave {found}; the contract wants {wanted}")
        silent = max(each.silent_seconds for each in there)
        expect(silent < 1800, f"processes() in another time zone says that one is silent for {silent:g} seconds")


@group.check(
    "many",
    "130 processes that beat side by side are all listed, and one that says more than 64 KiB is listed with all of it.",
    contract="presence.1, capability.6",
    usual_cause="All of them are in one document that two calls read and write, a page of a hundred is given, or a "
    "column is as long as somebody expected.",
    quick=False,
    deadline=60,
)
async def many(kit: Kit) -> None:
    handles = [await kit.open() for _ in range(4)]
    processes = [process_info(number) for number in range(1, 130)]
    served = tuple(GraphVersion(f"graph-{number}", "a" * 64, f"{number:064x}") for number in range(500))
    processes.append(WorkerInfo(**dict(process_info(130)), queues=("default",), serves=served, refuses=()))

    async def beat(first: int) -> None:
        for process in processes[first::24]:
            await handles[first % 4].beat(process)

    await together(*(beat(first) for first in range(24)))
    for reader in handles[:2]:
        found = {each.process.id: each.process for each in await reader.processes()}
        lacking = sorted(str(each.id) for each in processes if found.get(each.id) != each)
        expect(not lacking, f"processes() of {len(processes)} lacks, or changed, {show(lacking)}")
        expect(len(found) == len(processes), f"processes() gave {len(found)} processes; {len(processes)} have beaten")
