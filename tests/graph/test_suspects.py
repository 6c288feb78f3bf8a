"""Runs that may be what kills their process take turns."""

from __future__ import annotations

import asyncio

from stargraph.graph._suspects import Suspect


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_one_suspect_at_a_time() -> None:
    first, second = Suspect(), Suspect()
    await asyncio.create_task(first.wait())
    waiting = asyncio.create_task(second.wait())
    await turns()
    assert not waiting.done()
    first.cleared()
    await waiting
    second.cleared()


async def test_a_run_that_a_suspect_starts_does_not_wait_for_it() -> None:
    outer, inner = Suspect(), Suspect()
    await outer.wait()
    await asyncio.wait_for(inner.wait(), 60)
    outer.cleared()


async def test_whoever_was_cleared_waits_with_its_next_suspect() -> None:
    cleared = Suspect()
    await cleared.wait()
    cleared.cleared()
    other = Suspect()
    await asyncio.create_task(other.wait())
    following = asyncio.create_task(Suspect().wait())  # in a copy of the context of this task
    await turns()
    assert not following.done()
    other.cleared()
    await following
