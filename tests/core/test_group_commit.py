"""Group commit: writers that share a batch, its bounds, and each outcome to its own caller."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from support.loop_clock import LoopClock

from stargraph.checkpoint.driver import (
    GroupCommit,
)


class Disk:
    """Commits batches when it is told to; an item that begins with "bad" cannot be stored."""

    def __init__(self, **options: Any) -> None:
        self.batches: list[list[str]] = []
        self.stored: list[str] = []
        self.withdrawn: list[str] = []
        self.may_go = asyncio.Event()
        self.group: GroupCommit[str, str] = GroupCommit(
            self.commit, **{"size": len, "withdraw": self.withdrawn.append, **options}
        )

    async def commit(self, batch: Sequence[str]) -> list[str | BaseException]:
        self.batches.append(list(batch))
        await self.may_go.wait()
        if any(item.startswith("bad") for item in batch):
            raise ValueError(f"cannot store {batch[0] if len(batch) == 1 else 'them'}")
        self.stored += batch
        return [KeyError(item) if item.startswith("refused") else item.upper() for item in batch]

    async def submit(self, items: Sequence[str]) -> list[str | BaseException]:
        tasks = [asyncio.create_task(self.group.submit(item)) for item in items]
        for _ in range(5):
            await asyncio.sleep(0)
        self.may_go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_lone_writer_does_not_wait_for_others() -> None:
    disk = Disk()
    disk.may_go.set()
    assert await disk.group.submit("a") == "A"
    assert disk.batches == [["a"]]


async def test_writers_of_one_turn_share_a_batch() -> None:
    disk = Disk()
    assert await disk.submit(list("abcdefgh")) == list("ABCDEFGH")
    assert disk.batches[:2] == [["a"], ["b"]]
    assert sorted(map(len, disk.batches)) == [1, 1, 6]
    assert disk.stored == list("abcdefgh")


async def test_many_writers_make_two_batches_that_are_under_way_together() -> None:
    under_way: list[int] = []
    together: list[list[int]] = []

    async def commit(batch: Sequence[str]) -> list[str]:
        under_way.append(len(batch))
        together.append(list(under_way))
        await asyncio.sleep(0.005)
        under_way.remove(len(batch))
        return list(batch)

    group: GroupCommit[str, str] = GroupCommit(commit, size=len)

    async def write(writer: int) -> None:
        for number in range(5):
            await group.submit(f"{writer}-{number}")

    await asyncio.gather(*map(write, range(40)))
    assert max(map(len, together)) == 2
    assert max(map(min, filter(lambda sizes: len(sizes) == 2, together))) >= 16


@pytest.mark.parametrize(
    ("options", "largest"), [({"most_items": 3}, 3), ({"most_bytes": 4}, 2), ({"most_bytes": 1}, 1)]
)
async def test_a_batch_has_its_bounds(options: dict[str, int], largest: int) -> None:
    disk = Disk(**options)
    items = [f"{number:02}" for number in range(14)]
    assert await disk.submit(items) == items
    assert max(map(len, disk.batches)) == largest


async def test_a_batch_is_in_the_order_of_its_keys() -> None:
    disk = Disk(key=lambda item: item[::-1])
    await disk.submit(["x", "y", "a3", "b2", "c1"])
    assert disk.batches[-1] == ["c1", "b2", "a3"]


async def test_one_at_a_time_if_so_asked() -> None:
    disk = Disk(batches=1)
    assert await disk.submit(list("abcd")) == list("ABCD")
    assert disk.batches == [["a"], ["b", "c", "d"]]


async def test_an_outcome_that_is_an_exception_is_raised_to_its_caller_alone() -> None:
    disk = Disk()
    outcomes = await disk.submit(["refused-0", "a", "b", "refused-1", "c"])
    assert [type(outcome) for outcome in outcomes] == [KeyError, str, str, KeyError, str]


async def test_what_cannot_be_stored_fails_alone() -> None:
    disk = Disk()
    outcomes = await disk.submit(["a", "b", "c", "bad", "d"])
    assert [str(outcome) for outcome in outcomes] == ["A", "B", "C", "cannot store bad", "D"]
    assert sorted(disk.stored) == list("abcd")


async def test_a_failure_of_the_store_is_everybodys() -> None:
    disk = Disk(together=lambda error: isinstance(error, ValueError))
    outcomes = await disk.submit(["a", "b", "c", "bad", "d"])
    assert [str(outcome) for outcome in outcomes] == ["A", "B", *["cannot store them"] * 3]
    assert disk.stored == ["a", "b"]


async def test_a_writer_that_is_cancelled_while_it_waits_is_not_committed() -> None:
    disk = Disk()
    tasks = [asyncio.create_task(disk.group.submit(item)) for item in "abcd"]
    for _ in range(3):
        await asyncio.sleep(0)
    tasks[3].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[3]
    disk.may_go.set()
    assert await asyncio.gather(*tasks[:3]) == ["A", "B", "C"]
    assert disk.stored == ["a", "b", "c"]
    assert disk.withdrawn == []


async def test_a_writer_that_is_cancelled_while_it_is_committed_waits_for_the_end() -> None:
    disk = Disk(batches=2)
    tasks = [asyncio.create_task(disk.group.submit(item)) for item in "01bc"]
    for _ in range(3):
        await asyncio.sleep(0)
    tasks[0].cancel()  # its batch ends, and makes room for the next one
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    tasks = tasks[1:]
    while len(disk.batches) < 3:
        await asyncio.sleep(0)
    assert disk.batches[-1] == ["b", "c"]
    tasks[1].cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not tasks[1].done()
    assert disk.withdrawn == ["b"]
    disk.may_go.set()
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]
    assert await tasks[2] == "C"
    assert disk.stored == ["1", "b", "c"]


async def test_an_item_that_waits_too_long_is_given_up() -> None:
    disk = Disk(batches=1, timeout=60)
    tasks = [asyncio.create_task(disk.group.submit(item)) for item in "ab"]
    clock = LoopClock()
    for _ in range(3):
        await asyncio.sleep(0)
    clock.pass_(61)
    disk.may_go.set()
    assert await tasks[0] == "A"
    with pytest.raises(TimeoutError):
        await tasks[1]
    assert disk.stored == ["a"]


async def test_drain_waits_for_what_was_submitted() -> None:
    disk = Disk(batches=1)
    tasks = [asyncio.create_task(disk.group.submit(item)) for item in "abc"]
    await asyncio.sleep(0)
    disk.may_go.set()
    await tasks[0]
    await disk.group.drain()
    assert disk.stored == ["a", "b", "c"]
    assert await asyncio.gather(*tasks) == ["A", "B", "C"]


async def test_a_drain_that_is_cancelled_cancels_no_other() -> None:
    disk = Disk(batches=1)
    task = asyncio.create_task(disk.group.submit("a"))
    await asyncio.sleep(0)
    first, second = asyncio.create_task(disk.group.drain()), asyncio.create_task(disk.group.drain())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    third = asyncio.create_task(disk.group.drain())
    await asyncio.sleep(0)
    disk.may_go.set()
    await asyncio.gather(task, second, third)
    assert first.cancelled()


@pytest.mark.parametrize("seed", range(5))
async def test_every_writer_gets_its_own_outcome(seed: int) -> None:
    import random

    chance = random.Random(seed)
    stored: list[str] = []

    async def commit(batch: Sequence[str]) -> list[str | BaseException]:
        await asyncio.sleep(chance.random() / 1000)
        stored.extend(batch)
        return list(batch)

    group: GroupCommit[str, str] = GroupCommit(commit, size=len, most_items=7)

    async def write(writer: int) -> None:
        for number in range(20):
            item = f"{writer}-{number}"
            task = asyncio.create_task(group.submit(item))
            if chance.random() < 0.2:
                await asyncio.sleep(chance.random() / 1000)
                task.cancel()
                await asyncio.wait([task])
            else:
                assert await task == item
                assert item in stored

    await asyncio.gather(*map(write, range(12)))
    assert len(stored) == len(set(stored))
