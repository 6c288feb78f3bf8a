"""Long work on large values in short pieces, so that it does not hold the event loop."""

from __future__ import annotations

import asyncio
from typing import Final

SLICE: Final = 256 * 1024
"""Bytes of JSON that take about a millisecond to parse or to encode."""


class Turns:
    """Gives other work of the event loop its turn after each slice of a long piece of work.

    A thread would not do: the parser keeps the interpreter's lock until it is through with a value.
    """

    def __init__(self) -> None:
        self._bytes = 0

    async def after(self, size: int) -> None:
        """Count so many bytes that were parsed or encoded; a slice of them ends the turn."""
        self._bytes += size
        if self._bytes >= SLICE:
            self._bytes = 0
            await asyncio.sleep(0)
