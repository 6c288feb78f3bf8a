"""The workloads: each stores runs in a fresh store, reads back what it wrote, and returns its measures."""

from __future__ import annotations

import gc
import random
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, TypeAlias

from stargraph_bench._contender import Contender, WrongAnswerError
from stargraph_bench._fresh import open_and_read
from stargraph_bench._runs import Maker, big_edit, chat, huge_edit, make_run, same_runs, small, talk

Measures: TypeAlias = dict[str, float]

Scale: TypeAlias = Literal["tiny", "quick", "default", "full"]
"""How much is measured: tiny only shows that everything runs, full takes what needs more than minutes."""

DRIVERS: Final = ("stargraph", "langgraph", "dbos", "burr", "raw")
ENGINES: Final = ("stargraph-engine", "langgraph-engine")
DELTA_ENGINES: Final = (*ENGINES, "langgraph-delta-engine")
RUN_STEPS: Final = 20
"""How many steps the runs of a store with many runs have."""


class Workload(ABC):
    """One workload.

    Attributes:
        name: how it is picked and addressed.
        title: what it does, for the report.
        contenders: who takes part, if installed.
        repeats: how often it is measured by default.
    """

    name: str
    title: str
    contenders: tuple[str, ...]
    repeats: int = 5
    stores: tuple[str, ...] = ("sqlite", "postgres")

    async def begin(self, contender: Contender, scale: Scale) -> None:  # noqa: B027
        """Warm up, and make what all repeats share; not timed."""

    @abstractmethod
    async def measure(self, contender: Contender, scale: Scale, seed: int) -> Measures:
        """Do it once and return what was measured."""

    async def end(self, contender: Contender) -> None:  # noqa: B027
        """Remove what `begin` made."""


@dataclass(frozen=True)
class Writing(Workload):
    """Writes runs from the first step to the last, each awaited, all runs at once."""

    name: str
    title: str
    make: Maker
    sizes: Mapping[Scale, tuple[int, int]]  # runs, steps
    contenders: tuple[str, ...] = DRIVERS
    repeats: int = 5
    stores: tuple[str, ...] = ("sqlite", "postgres", "s3")
    counted: bool = True  # whether commits, hops and messages are counted too, in an execution of its own

    async def begin(self, contender: Contender, scale: Scale) -> None:
        runs, steps = self.sizes[scale]
        contender.prepare([])
        await contender.open()
        await contender.close()
        contender.empty_bytes = await contender.size()
        await contender.remove()
        await self._store(contender, runs, min(steps, 20), seed=0)

    async def measure(self, contender: Contender, scale: Scale, seed: int) -> Measures:
        runs, steps = self.sizes[scale]
        measures = await self._store(contender, runs, steps, seed)
        count: Callable[[], Awaitable[Measures]] | None = getattr(contender, "count_execution", None)
        if self.counted and seed == 1 and count is not None:
            measures |= await count()
        return measures

    async def _store(self, contender: Contender, runs: int, steps: int, seed: int) -> Measures:
        contender.prepare([make_run(self.make, steps, seed * 1000 + number) for number in range(runs)])
        await contender.open()
        gc.collect()  # what others have left; it is not frozen, for nobody
        work_before = await contender.work()
        begun = time.perf_counter()
        took = await contender.execute()
        seconds = time.perf_counter() - begun
        work = await contender.work() - work_before
        if len(took) != runs * steps:
            raise WrongAnswerError(f"{contender!r}: {len(took)} of {runs * steps} steps were executed")
        for run in contender.runs[:: max(1, runs // 4)]:
            await contender.check(run)
        measures = {
            "rate": runs * steps / seconds,
            "p50_ms": statistics.median(took) * 1000,
            "p99_ms": percentile(took, 0.99) * 1000,
            "cpu_ms": work.client_cpu / len(took) * 1000,
            **({"server_cpu_ms": work.server_cpu / len(took) * 1000} if work.server_cpu else {}),
            **({"device_bytes": work.device_bytes / len(took)} if work.device_bytes else {}),
            **await contender.counts(),
        }
        await contender.close()
        measures["bytes"] = await contender.size()
        measures["run_bytes"] = measures["bytes"] - contender.empty_bytes
        await contender.remove()
        return measures


class Executing(Writing):
    """The same by engines, which build the steps themselves."""

    async def measure(self, contender: Contender, scale: Scale, seed: int) -> Measures:
        measures = await super().measure(contender, scale, seed)
        wanted = ("rate", "p50_ms", "p99_ms", "cpu_ms", "server_cpu_ms", "device_bytes", "bytes", "run_bytes")
        return {name: measures[name] for name in wanted if name in measures}


@dataclass(frozen=True)
class History(Workload):
    """Reads from a store of many finished runs: the latest step, one step, a list."""

    name: str
    title: str
    sizes: Mapping[Scale, int]
    contenders: tuple[str, ...] = ("stargraph", "langgraph", "raw")
    repeats: int = 5

    async def begin(self, contender: Contender, scale: Scale) -> None:
        runs = same_runs(self.sizes[scale], make_run(small, RUN_STEPS, 1).steps)
        contender.prepare([])
        await contender.open()
        await contender.fill(runs)
        await contender.close()
        await contender.connect()
        contender.runs = runs
        for run in runs[:: max(1, len(runs) // 5)]:
            await contender.check(run)

    async def measure(self, contender: Contender, scale: Scale, seed: int) -> Measures:
        draw = random.Random(seed)
        chosen = [draw.choice(contender.runs) for _ in range(min(200, 2 * self.sizes[scale]))]
        gc.collect()
        latest = await timed(partial(contender.latest, run) for run in chosen)
        at_step = await timed(partial(contender.at_step, run, draw.randrange(RUN_STEPS)) for run in chosen)
        measures = {"latest_ms": statistics.median(latest), "at_step_ms": statistics.median(at_step)}
        measures |= await timed_list(contender, min(100, self.sizes[scale]), 7)
        return measures

    async def end(self, contender: Contender) -> None:
        await contender.close()
        await contender.remove()


@dataclass(frozen=True)
class Fresh(Workload):
    """Opens a store in a fresh process and reads the latest state of a run."""

    name: str
    title: str
    make: Maker
    sizes: Mapping[Scale, int]
    contenders: tuple[str, ...] = ("stargraph", "langgraph", "raw")
    repeats: int = 3

    async def begin(self, contender: Contender, scale: Scale) -> None:
        contender.prepare([make_run(self.make, self.sizes[scale], 1)])
        await contender.open()
        await contender.execute()
        await contender.check(contender.runs[0])
        await contender.close()

    async def measure(self, contender: Contender, scale: Scale, seed: int) -> Measures:
        took = [open_and_read(contender) for _ in range(1 if scale == "tiny" else 5)]
        return {"fresh_ms": statistics.median(took)}

    async def end(self, contender: Contender) -> None:
        await contender.remove()


@dataclass(frozen=True)
class Latest(Fresh):
    """Reads the latest state of a run by a handle that has not written it."""

    repeats: int = 5

    async def measure(self, contender: Contender, scale: Scale, seed: int) -> Measures:
        await contender.connect()
        run = contender.runs[0]
        await contender.latest(run)  # connections and caches of the system are warm; the state is read again each time
        took = await timed(partial(contender.latest, run) for _ in range(1 if scale == "tiny" else 20))
        await contender.close()
        return {"latest_ms": statistics.median(took)}


@dataclass(frozen=True)
class Known(Fresh):
    """Reads the latest state of a run by the handle that has written it."""

    contenders: tuple[str, ...] = ("stargraph-cache", "stargraph", "langgraph", "raw")
    repeats: int = 5

    async def begin(self, contender: Contender, scale: Scale) -> None:
        contender.prepare([make_run(self.make, self.sizes[scale], 1)])
        await contender.open()
        await contender.execute()

    async def measure(self, contender: Contender, scale: Scale, seed: int) -> Measures:
        run = contender.runs[0]
        await contender.latest(run)
        took = await timed(partial(contender.latest, run) for _ in range(1 if scale == "tiny" else 50))
        await contender.check(run)
        return {"latest_ms": statistics.median(took)}

    async def end(self, contender: Contender) -> None:
        await contender.close()
        await contender.remove()


@dataclass(frozen=True)
class Resume(Known):
    """Opens the store again and reads the latest state of a run."""

    contenders: tuple[str, ...] = ("stargraph", "langgraph", "langgraph-delta", "burr", "raw")

    async def measure(self, contender: Contender, scale: Scale, seed: int) -> Measures:
        run = contender.runs[0]

        async def resume() -> None:
            await contender.connect()
            await contender.latest(run)

        took = []
        gc.collect()
        for _ in range(10):
            await contender.close()
            took += await timed([resume])
        await contender.check(run)
        return {"resume_ms": statistics.median(took)}


@dataclass(frozen=True)
class Growth(Workload):
    """Writes and reads while the store grows."""

    name: str
    title: str
    sizes: Mapping[Scale, Sequence[int]]
    contenders: tuple[str, ...] = ("stargraph", "langgraph")
    repeats: int = 1

    async def measure(self, contender: Contender, scale: Scale, seed: int) -> Measures:
        steps = make_run(small, RUN_STEPS, seed).steps
        contender.prepare([])
        await contender.open()
        measures: Measures = {}
        stored = 0
        for size in self.sizes[scale]:
            filled = same_runs((size - stored) // RUN_STEPS, steps)
            await contender.fill(filled)
            await contender.close()
            await contender.connect()
            chosen = random.Random(seed).choices(filled, k=100)
            latest = await timed(partial(contender.latest, run) for run in chosen)
            listed = await timed_list(contender, min(100, len(filled)), 5)
            await contender.check(filled[-1])
            took: list[float] = []
            for number in range(10):
                contender.prepare([make_run(small, RUN_STEPS, seed + number)])
                took += await contender.execute()
            measures[f"write_ms@{size}"] = statistics.median(took) * 1000
            measures[f"latest_ms@{size}"] = statistics.median(latest)
            measures[f"list_ms@{size}"] = listed["list_ms"]
            stored = size + 10 * RUN_STEPS
        await contender.close()
        measures["bytes"] = await contender.size() / stored
        await contender.remove()
        return measures


@dataclass(frozen=True)
class Length(Workload):
    """Writes runs of more and more steps, whose state grows with each."""

    name: str
    title: str
    sizes: Mapping[Scale, Sequence[int]]
    contenders: tuple[str, ...] = ("stargraph",)
    repeats: int = 1

    async def measure(self, contender: Contender, scale: Scale, seed: int) -> Measures:
        measures: Measures = {}
        for steps in self.sizes[scale]:
            run = make_run(talk, steps, seed)
            contender.prepare([run])
            await contender.open()
            took = await contender.execute()
            await contender.check(run)
            await contender.close()
            measures[f"ms_a_step@{steps}"] = statistics.mean(took) * 1000
            measures[f"bytes_a_step@{steps}"] = await contender.size() / steps
            await contender.remove()
        return measures


@dataclass(frozen=True)
class Fanning(Workload):
    """A map over many items, executed by engines."""

    name: str
    title: str
    sizes: Mapping[Scale, int]
    contenders: tuple[str, ...] = ENGINES
    repeats: int = 3

    async def begin(self, contender: Contender, scale: Scale) -> None:
        await self._map(contender, min(10, self.sizes[scale]))

    async def measure(self, contender: Contender, scale: Scale, seed: int) -> Measures:
        return await self._map(contender, self.sizes[scale])

    async def _map(self, contender: Contender, items: int) -> Measures:
        execute: Any = getattr(contender, "execute_map")  # noqa: B009
        contender.prepare([])
        await contender.open()
        gc.collect()
        begun = time.perf_counter()
        doubled = await execute(list(range(items)))
        seconds = time.perf_counter() - begun
        if sorted(doubled) != list(range(0, 2 * items, 2)):
            raise WrongAnswerError(f"{contender!r}: the map did not give what it should")
        await contender.close()
        size = await contender.size()
        await contender.remove()
        return {"rate": items / seconds, "bytes": size}


async def timed(calls: Iterable[Callable[[], Awaitable[object]]]) -> list[float]:
    """Make calls one after another; return the milliseconds of each."""
    took = []
    for call in calls:
        begun = time.perf_counter()
        await call()
        took.append((time.perf_counter() - begun) * 1000)
    return took


async def timed_list(contender: Contender, limit: int, times: int) -> Measures:
    """List runs, and return the median; nothing if the contender has no list."""
    if type(contender).list_runs is Contender.list_runs:
        return {}
    if await contender.list_runs(limit) != limit:
        raise WrongAnswerError(f"{contender!r}: a list of {limit} has another length")
    return {"list_ms": statistics.median(await timed(partial(contender.list_runs, limit) for _ in range(times)))}


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which so large a share of the others lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _one(tiny: int, quick: int, default: int) -> dict[Scale, tuple[int, int]]:
    return {"tiny": (1, tiny), "quick": (1, quick), "default": (1, default), "full": (1, default)}


# What the workloads that read a single run read, so that their figures can be compared.
_READ_SMALL: Final[tuple[Maker, Mapping[Scale, int]]] = (small, {"tiny": 5, "quick": 20, "default": 20, "full": 20})
_READ_CHAT: Final[tuple[Maker, Mapping[Scale, int]]] = (chat, {"tiny": 5, "quick": 100, "default": 200, "full": 200})
_READ_BIG: Final[tuple[Maker, Mapping[Scale, int]]] = (big_edit, {"tiny": 2, "quick": 20, "default": 20, "full": 20})

WORKLOADS: Final[tuple[Workload, ...]] = (
    Writing("small", "one run, 1,000 steps of a 1 KB state", small, _one(5, 200, 1000)),
    Writing(
        "chat",
        "one run, 200 steps, a conversation of 2 KB that grows by 1 KB a step",
        chat,
        _one(5, 100, 200),
        (*DRIVERS, "langgraph-delta"),
    ),
    Writing(
        "big-edit",
        "one run, 50 steps, 2 MB in 20 fields, one of which each step edits",
        big_edit,
        _one(3, 10, 50),
        repeats=3,
        stores=("sqlite", "postgres"),
    ),
    Writing(
        "huge-edit",
        "one run, 20 steps, 20 MB in 20 fields, of which each step changes a number",
        huge_edit,
        {"tiny": (1, 2), "quick": (1, 5), "default": (1, 20), "full": (1, 20)},
        contenders=("stargraph", "langgraph"),
        repeats=3,
        stores=("sqlite", "postgres"),
    ),
    Writing(
        "fan",
        "64 runs at once, 50 steps of a 1 KB state each",
        small,
        {"tiny": (3, 3), "quick": (16, 20), "default": (64, 50), "full": (64, 50)},
        repeats=3,
        stores=("sqlite", "postgres"),
    ),
    Executing(
        "engine-small",
        "an engine loops over one node, 500 steps of a 1 KB state",
        small,
        _one(5, 100, 500),
        contenders=ENGINES,
        repeats=3,
        stores=("sqlite", "postgres"),
        counted=False,
    ),
    Executing(
        "engine-fan",
        "64 runs at once by an engine, each loops over one node, 50 steps of a 1 KB state",
        small,
        {"tiny": (3, 3), "quick": (16, 20), "default": (64, 50), "full": (64, 50)},
        contenders=ENGINES,
        repeats=3,
        stores=("sqlite", "postgres"),
        counted=False,
    ),
    Executing(
        "engine-chat",
        "an engine loops over one node, 200 steps of a conversation of 2 KB that grows by 1 KB a step",
        chat,
        _one(5, 50, 200),
        contenders=DELTA_ENGINES,
        repeats=3,
        stores=("sqlite", "postgres"),
        counted=False,
    ),
    Fanning("map", "an engine maps over 1,000 items", {"tiny": 5, "quick": 100, "default": 1000, "full": 1000}),
    Fresh("fresh-small", "open a store in a fresh process and read the latest of 20 steps of 1 KB", *_READ_SMALL),
    Fresh("fresh-big", "open a store in a fresh process and read a state of 2 MB after 20 edits", *_READ_BIG),
    Latest(
        "latest-chat",
        "read the latest state of a conversation of 200 steps by a handle that did not write it",
        *_READ_CHAT,
    ),
    Latest("latest-big", "read a state of 2 MB after 20 edits by a handle that did not write it", *_READ_BIG),
    Known("known-small", "read the latest of 20 steps of 1 KB by the handle that wrote it", *_READ_SMALL),
    Known(
        "known-chat", "read the latest state of a conversation of 200 steps by the handle that wrote it", *_READ_CHAT
    ),
    Known("known-big", "read a state of 2 MB after 20 edits by the handle that wrote it", *_READ_BIG),
    Resume("resume", "open the store and read the latest state of a conversation of 200 steps", *_READ_CHAT),
    History(
        "history-few", "read from 2,000 runs of 20 steps", {"tiny": 10, "quick": 200, "default": 2000, "full": 2000}
    ),
    History(
        "history-many",
        "read from 20,000 runs of 20 steps",
        {"tiny": 20, "quick": 2000, "default": 20_000, "full": 20_000},
        repeats=3,
    ),
    Growth(
        "growth",
        "write and read while the store grows",
        {
            "tiny": (100, 400),
            "quick": (1000, 10_000),
            "default": (1000, 10_000, 100_000),
            "full": (1000, 10_000, 100_000, 1_000_000),
        },
    ),
    Length(
        "length",
        "one run of n steps, a conversation that grows by 100 bytes a step",
        {"tiny": (5, 10), "quick": (100, 1000), "default": (100, 1000, 10_000), "full": (100, 1000, 10_000)},
    ),
)
