"""Threads for large records: a driver that lives on an event loop encodes and decodes those without holding it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from stargraph.checkpoint.codec._stored import decoded_size
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.protocol._pydantic import private_attributes
from stargraph.checkpoint.values import EncodedValue

T = TypeVar("T")

_LARGE_RECORDS: Final = 64 * 1024
"""Bytes of decompressed records that take longer to decode than to hand over to a thread."""

LARGE_TO_ENCODE: Final = 256 * 1024
"""Bytes that take longer to encode, likewise."""


class CodecThreads:
    """The threads in which one handle encodes and decodes what is large; they start when they are needed first.

    `Codec.is_large`, `large_to_encode` and `large_to_decode` tell what is large: it would hold the loop for about a
    millisecond or more.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    async def run(self, work: Callable[..., T], *arguments: Any, large: bool) -> T:
        """Return what `work` returns: at once, or from a thread if it has much to do."""
        if not large:
            return work(*arguments)
        if self._pool is None:
            # Never the loop's default executor, in which user code may wait for this very step.
            self._pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="stargraph-codec")
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    def close(self) -> None:
        """Let the threads end; the next use starts new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)


def large_to_decode(records: Iterable[bytes]) -> bool:
    """Return whether records are better decoded in a thread."""
    size = 0
    for record in records:
        size += decoded_size(record)
        if size >= _LARGE_RECORDS:  # a page may hold thousands more
            return True
    return False


def large_to_encode(checkpoints: Sequence[Checkpoint]) -> bool:
    """Return whether checkpoints, which may be invalid, are better encoded in a thread if each is stored whole."""
    return sum([state_size(checkpoint) + event_size(checkpoint) for checkpoint in checkpoints]) >= LARGE_TO_ENCODE


def event_size(checkpoint: Checkpoint) -> int:
    """Return the bytes of what a checkpoint records besides its state, such as the result of a call; 0 if unknown."""
    texts = private_attributes(checkpoint).get("_texts")
    return 0 if texts is None else sum(map(len, texts.step))


def state_size(checkpoint: Checkpoint) -> int:
    """Return the bytes of a checkpoint's state and update; fewer for an invalid one, which encoding refuses."""
    private = private_attributes(checkpoint)
    size = 0
    for members in (private.get("_encoded_state"), private.get("_encoded_update")):
        if members:
            for value in members.values():
                if type(value) is EncodedValue:
                    size += len(value.encoded)
    return size
