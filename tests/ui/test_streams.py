"""What a stream of events leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

from stargraph.ui._sse import _lines


async def test_a_stream_that_is_left_closes_what_it_reads() -> None:
    closed: list[str] = []

    async def changes() -> AsyncGenerator[str]:
        try:
            yield "1"
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            closed.append("changes")

    console: Any = SimpleNamespace(streams=0)
    lines: Any = _lines(console, changes())
    assert await anext(lines) == "retry: 2000\n\n"
    assert await anext(lines) == "event: change\ndata: 1\n\n"
    assert console.streams == 1
    await lines.aclose()
    assert (closed, console.streams) == (["changes"], 0)
