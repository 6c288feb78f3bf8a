"""Child processes: a check that fails while one of them is read is torn down in order, and nothing of them stays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

from stargraph.checkpoint.conformance import Check, Result, Session
from stargraph.checkpoint.conformance._expect import Violation, together
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._staging import Stage

pytestmark = pytest.mark.thorough

SOUND = "support.broken_drivers.database:Database"


def result_of(body: Any) -> Result:
    check = Check("test.body", "A reason.", "a contract", "A cause.", body)
    return Session(SOUND)._execute(check)


async def _fail(children: list[Any]) -> None:
    for child in children:
        await child.expect("acked")
    raise Violation("found")


async def _listen(child: Any) -> None:
    async for _ in child.events():
        pass


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def living(location: str) -> list[int]:
    """The processes that were started for a store and are not mere entries of the process table."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and location.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


async def _two(kit: Kit) -> list[Any]:
    return [await kit.child("idle", run_id=f"run-{number}") for number in range(2)]


def test_a_violation_while_a_sibling_reads_a_child_is_reported() -> None:
    pids: list[int] = []

    async def body(kit: Kit) -> None:
        first, second = await _two(kit)
        pids.extend(child._process.pid for child in (first, second))
        await together(_fail([first]), _listen(second))

    result = result_of(body)
    assert (result.verdict, result.message) == ("fail", "found")
    assert all(map(gone, pids))


def test_a_check_may_leave_a_reader_behind() -> None:
    readers = []

    async def body(kit: Kit) -> None:
        first, second = await _two(kit)
        readers.append(asyncio.ensure_future(_listen(second)))
        await asyncio.sleep(0)
        await _fail([first])

    result = result_of(body)
    assert (result.verdict, result.message) == ("fail", "found")
    assert readers[0].done()


def test_a_process_that_was_frozen_in_a_call_does_not_outlive_the_check() -> None:
    locations: list[str] = []

    async def body(kit: Kit) -> None:
        await kit.open()
        stage = await Stage.open(kit)
        locations.append(kit.location)
        moments = await stage.moments("write", run_id="recorded")
        assert await stage.freeze_at(moments[0], "write", run_id="run") is None
        assert len(living(kit.location)) == 2
        raise Violation("found")

    result = result_of(body)
    assert (result.verdict, result.message) == ("fail", "found")
    deadline = time.monotonic() + 20
    while living(locations[0]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not living(locations[0])


def test_a_process_is_killed_where_the_store_has_changed_and_the_call_has_not_returned() -> None:
    left: list[str] = []

    async def body(kit: Kit) -> None:
        stage = await Stage.open(kit)
        moments = await stage.moments("bootstrap")
        for moment in moments:
            stage.elsewhere(location := await kit.fresh_location())
            played = await stage.kill_at(moment, "bootstrap")
            assert (played.killed, played.acked) == (True, False), (moment, played)
            left.append(Path(moment.file).name)
            left.append("made" if Path(location).exists() else "not made")

    result = result_of(body)
    assert result.verdict == "pass", result.message
    assert {"database.py", "made"} <= set(left)


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
async def test_together_leaves_nothing_behind(how: str) -> None:
    ended: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("waited")

    async def fail() -> None:
        await asyncio.sleep(0)
        if how == "fails":
            raise Violation("found")
        await asyncio.Event().wait()

    task = asyncio.ensure_future(together(wait(), fail(), wait()))
    await asyncio.sleep(0.01)
    if how == "is cancelled":
        task.cancel()
    with pytest.raises(Violation if how == "fails" else asyncio.CancelledError):
        await task
    assert ended == ["waited", "waited"]


async def test_together_returns_results_in_order() -> None:
    async def give(number: int) -> int:
        await asyncio.sleep(0.001 * (3 - number))
        return number

    assert await together(*map(give, range(3))) == [0, 1, 2]
