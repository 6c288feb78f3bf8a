"""How long callbacks hold an event loop, in CPU time, which neighbours on the machine change least."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import threading
import time
from asyncio import events
from collections.abc import Iterator
from typing import Any

import pytest

MEGABYTE = 2**20


class LoopClock:
    """The longest that one callback of a loop of this thread has kept it busy, in seconds of CPU."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def take(self) -> float:
        """Return it, and begin again."""
        await asyncio.sleep(0)  # this callback counts too
        longest, self.longest = self.longest, 0.0
        return longest


@contextlib.contextmanager
def clocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopClock]:
    """Time what runs on loops of this thread meanwhile."""
    clock = LoopClock()
    run = events.Handle._run
    own = threading.get_ident()

    def timed(handle: Any) -> None:
        began = time.thread_time()
        run(handle)
        if threading.get_ident() == own:
            clock.longest = max(clock.longest, time.thread_time() - began)

    monkeypatch.setattr(events.Handle, "_run", timed)
    # A collection is counted to whoever happens to allocate next.
    gc.collect()
    gc.disable()
    try:
        yield clock
    finally:
        gc.enable()


def words(chance: random.Random, size: int) -> str:
    """Return about so many bytes of text that compresses as prose does."""
    vocabulary = ["".join(chance.choices("abcdefghijklmnop", k=chance.randrange(3, 9))) for _ in range(5_000)]
    return " ".join(chance.choices(vocabulary, k=size // 7))


def large_states(shape: str) -> dict[str, Any]:
    """Return a state of 20 MB."""
    chance = random.Random(3)
    match shape:
        case "one text":
            return {"n": 0, "text": words(chance, 20 * MEGABYTE)}
        case "many members":
            text = words(chance, 10_000)
            return {"n": 0} | {f"k{n}": [str(n), text] for n in range(2_000)}
        case _:
            return {"n": 0, "text": "spam " * (4 * MEGABYTE)}


LARGE_SHAPES = ("one text", "one text that shrinks to nothing", "many members")
