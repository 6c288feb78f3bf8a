"""Large records are encoded and decoded in threads, and small ones at once."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from support.checkpoints import following, genesis

from stargraph.checkpoint.codec import Codec, CodecThreads, large_to_decode, large_to_encode, state_size
from stargraph.checkpoint.protocol import Checkpoint


def of_size(size: int) -> Checkpoint:
    return genesis(state={str(number): "x" * 1000 for number in range(size // 1000)})


def test_the_size_of_a_state_is_that_of_its_texts() -> None:
    first = genesis(state={"a": "é", "b": [1]})
    assert state_size(first) == len('"é"'.encode()) + len("[1]")
    assert state_size(following(first, update={"c": 12})) == state_size(first) + 2
    unchecked: dict[str, Any] = {"state": {"a": "x" * 99}}
    assert state_size(Checkpoint.model_construct(**unchecked)) == 0


def test_what_is_large_takes_long() -> None:
    small, large = of_size(50_000), of_size(2_000_000)
    assert not large_to_encode([small])
    assert large_to_encode([small] * 10)
    assert large_to_encode([large])
    codec = Codec()
    assert not large_to_decode([codec.encode(small).data])
    # It compresses to a few kilobytes, and still has to be parsed.
    assert len(codec.encode(large).data) < 64 * 1024
    assert large_to_decode([codec.encode(large).data])


async def test_only_large_work_leaves_the_thread() -> None:
    threads = CodecThreads()
    here = threading.get_ident()
    assert await threads.run(threading.get_ident, large=False) == here
    assert await threads.run(threading.get_ident, large=True) != here
    threads.close()
    threads.close()
    assert await threads.run(threading.get_ident, large=True) != here
    threads.close()


async def test_the_loop_goes_on_meanwhile() -> None:
    threads = CodecThreads()
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)
    await threads.run(time.sleep, 0.2, large=True)
    assert turns > 10
    ticking.cancel()
    threads.close()
