"""A store that counts the histories that are being read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.protocol import Checkpoint


class CursorStore(MemoryCheckpointer):
    """Holds something as long as a history is read, and lets go of it only after a turn of the event loop."""

    def __init__(self) -> None:
        super().__init__()
        self.open = 0

    async def history(self, run_id: str, **options: Any) -> AsyncIterator[Checkpoint]:
        self.open += 1
        try:
            async for record in super().history(run_id, **options):
                yield record
        finally:
            await asyncio.sleep(0)
            self.open -= 1
