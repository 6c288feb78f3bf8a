"""How many bytes of a large state the thread of an event loop works on: a count is the same on any machine."""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from stargraph.checkpoint.codec import _cipher, _stored
from stargraph.checkpoint.protocol import Checkpoint, Checkpointer, RunHistory

MEGABYTE = 2**20


class LoopWork:
    """How many bytes this thread has parsed, serialised, hashed, compressed or encrypted, and how many others have."""

    def __init__(self) -> None:
        self._own = threading.get_ident()
        self._lock = threading.Lock()
        self.here: Counter[str] = Counter()
        self.elsewhere: Counter[str] = Counter()

    def take(self) -> tuple[int, int]:
        """Return the largest of the counts of this thread, and of the others, and begin again."""
        largest = max(self.here.values(), default=0), max(self.elsewhere.values(), default=0)
        self.here.clear()
        self.elsewhere.clear()
        return largest

    def counted(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function with its longest argument or result counted."""

        def call(*arguments: Any, **options: Any) -> Any:
            result = work(*arguments, **options)
            sizes = [_size(each) for each in (*arguments, result)]
            with self._lock:  # several threads may work at once
                (self.here if threading.get_ident() == self._own else self.elsewhere)[name] += max(sizes)
            return result

        return call


def _size(value: object) -> int:
    return len(value) if isinstance(value, (bytes, str)) else value.nbytes if isinstance(value, memoryview) else 0


@contextlib.contextmanager
def counted_work(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopWork]:
    """Count what takes time in proportion to the bytes of a record."""
    work = LoopWork()
    functions: list[tuple[Any, str]] = [(orjson, "loads"), (orjson, "dumps"), (hashlib, "sha256")]
    functions += [(_stored, "compress"), (_stored, "inflate")]
    for module, name in functions:
        monkeypatch.setattr(module, name, work.counted(name, getattr(module, name)))
    aesgcm = _cipher._aesgcm()

    class CountedAESGCM:
        def __init__(self, key: bytes) -> None:
            cipher = aesgcm(key)
            self.encrypt = work.counted("encrypt", cipher.encrypt)
            self.decrypt = work.counted("decrypt", cipher.decrypt)

    monkeypatch.setattr(_cipher, "_aesgcm", lambda: CountedAESGCM)
    yield work


async def check_large_run(work: LoopWork, writer: Checkpointer, reader: Checkpointer, run: list[Checkpoint]) -> None:
    """Write a run of two steps and read it in each way; expect other threads to work on its state of 20 MB.

    Args:
        run: the second step changes next to nothing.
    """
    assert isinstance(reader, RunHistory)
    run_id, seen = run[0].run_id, {}
    work.take()
    for checkpoint in run:
        await writer.write(checkpoint)
        seen[f"write step {checkpoint.step}"] = work.take()
    latest = await reader.read_latest(run_id)
    seen["read_latest"] = work.take()
    first = await reader.read_at_step(run_id, 0)
    seen["read_at_step"] = work.take()
    steps = [checkpoint async for checkpoint in reader.history(run_id)]
    seen["history"] = work.take()
    assert [first, latest] == steps == run
    assert all(here < MEGABYTE // 4 for here, _ in seen.values()), seen
    assert {what for what, (_, elsewhere) in seen.items() if elsewhere > 16 * MEGABYTE} == set(seen) - {"write step 1"}


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
