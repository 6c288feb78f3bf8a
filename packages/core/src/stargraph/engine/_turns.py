"""Long work on large values in short pieces, so that it does not hold the event loop."""

from __future__ import annotations

import asyncio
from typing import Final

from stargraph.checkpoint.values import EncodedValue

SLICE: Final = 256 * 1024
"""Bytes of JSON that take about a millisecond to parse or to encode."""


class Turns:
    """Gives other work of the event loop its turn after each slice of a long piece of work.

    A thread would not do: the parser keeps the interpreter's lock until it is through with a value.
    """

    def __init__(self) -> None:
        self._bytes = 0

    async def after(self, value: EncodedValue) -> None:
        """Count a value that was parsed or encoded; a slice of them ends the turn."""
        self._bytes += len(value.encoded)
        if self._bytes >= SLICE:
            self._bytes = 0
            await asyncio.sleep(0)
