"""How long calls take here and now: advisory, never a verdict."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import chain

group: Final = Group("performance", needs=("steps.append_and_read",))


async def _timed(kit: Kit, name: str, calls: Sequence[Callable[[], Awaitable[object]]]) -> None:
    """Measure the median and the 99th percentile of calls, one after the other, in milliseconds."""
    seconds = []
    for call in calls:
        started = time.perf_counter()
        await call()
        seconds.append(time.perf_counter() - started)
    seconds.sort()
    kit.measured(f"{name}, median", seconds[len(seconds) // 2] * 1000, "ms")
    kit.measured(f"{name}, p99", seconds[int(len(seconds) * 0.99)] * 1000, "ms")


@group.check(
    "appends",
    "How long one append takes, with a state of 100 bytes and of 100 kilobytes.",
    contract="advisory",
    usual_cause="Advisory: nothing to fix.",
    quick=False,
    advisory=True,
    deadline=120,
)
async def appends(kit: Kit) -> None:
    handle = await kit.open()
    for size in (100, 100_000):
        steps = chain(f"run-{size}", 150, state={"payload": "x" * size})
        await _timed(kit, f"append, state of {size} bytes", [lambda cp=cp: handle.write(cp) for cp in steps])  # type: ignore[misc]


@group.check(
    "reads",
    "How long read_latest, read_at_step and list_runs take beside 100 runs.",
    contract="advisory",
    usual_cause="Advisory: nothing to fix.",
    quick=False,
    advisory=True,
    deadline=120,
)
async def reads(kit: Kit) -> None:
    handle = await kit.open()
    for number in range(100):
        for checkpoint in chain(f"run-{number}", 2):
            await handle.write(checkpoint)
    await _timed(kit, "read_latest", [lambda n=n: handle.read_latest(f"run-{n}") for n in range(100)])  # type: ignore[misc]
    await _timed(kit, "read_at_step", [lambda n=n: handle.read_at_step(f"run-{n}", 0) for n in range(100)])  # type: ignore[misc]
    await _timed(kit, "list_runs(limit=100)", [handle.list_runs for _ in range(20)])
