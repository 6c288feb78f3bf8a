"""Large records are encoded and decoded in threads, and small ones at once."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import Any

import pytest
from support.checkpoints import following, genesis

from stargraph.checkpoint.codec import Codec, CodecThreads, large_to_decode, large_to_encode, state_size
from stargraph.checkpoint.protocol import Checkpoint, RecordedCall
from stargraph.checkpoint.values import EncodedValue, JsonValue


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


def appended(codec: Codec, checkpoint: Checkpoint) -> Checkpoint:
    codec.appended(codec.encode(checkpoint))
    return checkpoint


def grown(last: Checkpoint, item: JsonValue) -> Checkpoint:
    """Return the step after one, as the engine makes it of a field whose reducer appends."""
    update = {"items": EncodedValue.of([item], "items")}
    return following(last, changes={"items": last.encoded_state()["items"].extended(*update.values())}, update=update)


def test_a_small_step_of_a_large_state_is_no_large_work() -> None:
    codec = Codec()
    start = genesis(state={"n": 0, "items": [str(number) * 20 for number in range(50_000)]})
    assert codec.is_large(start)
    last = appended(codec, start)
    for number in range(50):
        for following_step in (following(last, changes={"n": number}), grown(last, f"item {number} " * 20)):
            assert state_size(following_step) > 2**20
            assert not codec.is_large(following_step)
        last = appended(codec, following_step)
    assert Codec().is_large(last)
    codec.forget(last.run_id)
    assert codec.is_large(following(last, changes={"n": -1}))


@pytest.mark.parametrize("change", [["other"], [*map(str, range(1000))], ["x" * 1_000_000]])
def test_a_step_that_changes_a_large_field_is_large_work(change: list[str]) -> None:
    codec = Codec()
    last = appended(codec, genesis(state={"items": ["item"] * 100_000}))
    assert codec.is_large(following(last, changes={"items": change}))
    assert codec.is_large(following(last, changes={"more": ["item"] * 100_000}))
    # What is not at the end of the state is searched for in all of it.
    assert codec.is_large(following(last, changes={"n": 1}, update={"items": ["elsewhere"]}))
    assert codec.is_large(grown(last, ["y" * 1_000_000]))


def test_steps_that_are_stored_together_and_keyframes_are_large_work() -> None:
    codec = Codec()
    last = appended(codec, genesis(state={"text": "x" * 300_000, "noise": ""}))
    small = {True: 0, False: 0}
    for number in range(400):
        last = following(last, changes={"noise": random.Random(number).randbytes(5_000).hex()})
        is_large = codec.is_large(last)
        record = codec.encode(last)
        assert is_large or record.base_steps, "a keyframe was encoded on the loop"
        assert is_large or len(record.data) < 256 * 1024
        small[is_large] += 1
        codec.appended(record)
    assert small[False] > small[True] > 0


def test_the_large_result_of_a_call_is_large_work() -> None:
    codec = Codec()
    last = appended(codec, genesis(state={"n": 0}))
    call = RecordedCall(kind="call", task_id="t", name="fetch", result=["word"] * 100_000, started_at=last.timestamp)
    step = following(last, event="called", calls=(call,))
    assert codec.is_large(step)
    assert large_to_encode([step])
    assert not codec.is_large(following(step))


def test_a_step_that_nothing_has_validated_is_judged_without_an_error() -> None:
    codec = Codec()
    last = appended(codec, genesis(state={"text": "x" * 300_000}))
    wrongs: tuple[dict[str, Any], ...] = ({"run_id": []}, {"previous_digest": None}, {"state": {}}, {"update": 7})
    for wrong in wrongs:
        codec.is_large(following(last).model_copy(update=wrong))
    bare = Checkpoint.__new__(Checkpoint)
    bare.__dict__.update(vars(following(last)))
    codec.is_large(bare)


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

    def until_the_loop_has_turned() -> bool:
        ends = time.monotonic() + 60
        while turns <= 10 and time.monotonic() < ends:
            time.sleep(0.001)
        return turns > 10

    ticking = asyncio.create_task(tick())
    assert await threads.run(until_the_loop_has_turned, large=True)
    ticking.cancel()
    threads.close()
