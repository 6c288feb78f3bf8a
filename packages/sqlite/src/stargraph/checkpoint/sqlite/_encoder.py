"""Encoding the checkpoints of one handle, in the order in which they are written, without holding the loop for long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from stargraph.checkpoint.codec import Codec, CodecThreads, Record, large_to_encode
from stargraph.checkpoint.protocol import Checkpoint


@dataclass(slots=True)
class _Turn:
    """Lets one step of a run be encoded at a time.

    Attributes:
        lock: held while a step is encoded.
        wanted: how many steps wait for it or hold it.
    """

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    wanted: int = 0


class Encoder:
    """Encodes what is large in a thread, and each step of a run after those before it.

    Args:
        codec: encodes.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._threads = CodecThreads()
        # Runs of which a large step is being encoded; any loop may use a handle.
        self._turns: dict[tuple[asyncio.AbstractEventLoop, object], _Turn] = {}

    async def encode(self, checkpoint: Checkpoint, *, after: Record | None = None) -> Record:
        """Return the record of a checkpoint; see `Codec.encode`."""
        large = self._codec.is_large(checkpoint, after=after)
        if not large and not self._turns:
            return self._codec.encode(checkpoint, after=after)
        # Not validated yet: whatever is no run id is refused when it is encoded.
        key = asyncio.get_running_loop(), vars(checkpoint).get("run_id")
        turn = self._turns.setdefault(key, _Turn())
        turn.wanted += 1
        try:
            async with turn.lock:
                return await self._threads.run(lambda: self._codec.encode(checkpoint, after=after), large=large)
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._turns[key]

    async def encode_alone(self, checkpoints: Sequence[Checkpoint]) -> list[Record]:
        """Return the records of checkpoints, each decoded from nothing but itself."""
        return await self._threads.run(
            lambda: [self._codec.encode_alone(checkpoint) for checkpoint in checkpoints],
            large=large_to_encode(checkpoints),
        )

    def close(self) -> None:
        """Let the threads end; the next use starts new ones."""
        self._threads.close()
