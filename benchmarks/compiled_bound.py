"""What compiled code could gain at most: writes whose costs that it might take over are left out of the clock.

    PYTHONPATH=benchmarks:tests python benchmarks/compiled_bound.py [--store postgres] [--repeats 9]

The first table is of whole writes. "free" makes and encodes every checkpoint before the clock starts, so that its ratio
is that of code which takes no time at all. Both take turns; a ratio is the median over the repeats. Wall time is that
of the quickest tenth of the steps, which other work on the machine disturbs least.

The second table is of making and encoding alone. Each leaf returns at once what it has returned before, in order: what
it saves is what compiled code could save at most, zstd, SHA-256 and orjson included, which are compiled already.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import pkgutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from unittest import mock

from stargraph.checkpoint.codec import Codec, Record
from stargraph.checkpoint.protocol import Checkpoint
from stargraph_bench import _stargraph
from stargraph_bench._bench import server
from stargraph_bench._contender import Place
from stargraph_bench._runs import Maker, Run, chat, make_run, small

_WORKLOADS: Final[dict[str, tuple[Maker, int, int]]] = {
    "small": (small, 1, 1000),
    "fan": (small, 64, 50),
    "chat": (chat, 1, 200),
}
_DRIVERS: Final = {"sqlite": _stargraph.StargraphSQLite, "postgres": _stargraph.StargraphPostgres}

_PROTOCOL: Final = "stargraph.checkpoint.protocol._checkpoint"
_CODEC: Final = "stargraph.checkpoint.codec._codec"
_LEAVES: Final[dict[str, tuple[str, ...]]] = {
    "check, encode and digest values": ("stargraph.checkpoint.values.EncodedValue.of",),
    "check the fields": (f"{_PROTOCOL}.is_plain_step", f"{_PROTOCOL}.Checkpoint.ensure_valid"),
    "texts and digest of the envelope": (
        f"{_PROTOCOL}.step_texts_of",
        f"{_PROTOCOL}.digests_text",
        f"{_PROTOCOL}.assembled_digest",
        f"{_CODEC}.fields_of",
    ),
    "deltas": (f"{_CODEC}.delta_after", f"{_CODEC}.delta_between", f"{_CODEC}.compose_deltas"),
    "pack, with zstd": (f"{_CODEC}.pack",),
    "zstd alone": ("stargraph.checkpoint.codec._stored.compress",),
}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", choices=list(_DRIVERS), default="sqlite")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    print("| write | CPU, µs | free, µs | gain | wall of the quickest tenth, µs | free, µs | gain |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="stargraph-bench-") as folder:
        home = Path(folder)
        home.chmod(0o755)  # PostgreSQL refuses to run as root, and another account has to reach it
        with server(arguments.store, home) as place:
            for name in _WORKLOADS:
                row = _end_to_end(arguments.store, name, place, arguments.repeats)
                print(f"| {arguments.store}, {name} | {row} |", flush=True)
    print("\n| leaf | small, µs | chat, µs |\n| --- | --- | --- |")
    columns = [_leaves(make_run(make, steps, 1), arguments.repeats) for make, steps in ((small, 600), (chat, 200))]
    for leaf in columns[0]:
        print(f"| {leaf} | {columns[0][leaf]:.0f} | {columns[1][leaf]:.0f} |")


def _end_to_end(store: str, workload: str, place: Place, repeats: int) -> str:
    ordinary: list[tuple[float, ...]] = []
    free: list[tuple[float, ...]] = []
    for repeat in range(repeats + 1):
        turns = [(ordinary, False), (free, True)]
        for figures, is_free in turns if repeat % 2 else reversed(turns):
            figures.append(asyncio.run(_written(store, workload, place, repeat, is_free=is_free)))
    cells = []
    for before, after in zip(zip(*ordinary[1:], strict=True), zip(*free[1:], strict=True), strict=True):
        gain = statistics.median(one / other for one, other in zip(before, after, strict=True))
        cells += [f"{statistics.median(before):.0f}", f"{statistics.median(after):.0f}", f"{gain:.2f}×"]
    return " | ".join(cells + ["–"] * (6 - len(cells)))


async def _written(store: str, workload: str, place: Place, seed: int, *, is_free: bool) -> tuple[float, ...]:
    """Write one workload to a fresh store; return CPU and, of a single run, wall time of a step, in microseconds."""
    make, runs, steps = _WORKLOADS[workload]
    contender = _DRIVERS[store](place)
    contender.prepare([make_run(make, steps, seed * 1000 + number) for number in range(runs)])
    with _made_before(contender.runs) if is_free else contextlib.nullcontext():
        await contender.open()
        gc.collect()
        begun = time.process_time()
        took = sorted(await contender.execute())
        cpu = time.process_time() - begun
    await contender.close()
    await contender.remove()
    return cpu / len(took) * 1e6, *([took[len(took) // 10] * 1e6] if runs == 1 else [])


@contextlib.contextmanager
def _made_before(runs: Sequence[Run]) -> Iterator[None]:
    """Make and encode the steps of runs now, and hand them out when they are to be made and encoded."""
    built = {run.run_id: list(_stargraph.checkpoints(run, number)) for number, run in enumerate(runs)}
    codec = Codec()
    records: dict[str, Record] = {}
    for checkpoint in (each for steps in built.values() for each in steps):
        records[checkpoint.digest] = record = codec.encode(checkpoint)
        codec.appended(record)

    def encode(self: Codec, checkpoint: Checkpoint, *, after: Record | None = None) -> Record:
        return records[checkpoint.digest]

    def checkpoints(run: Run, number: int = 0) -> Iterator[Checkpoint]:
        return iter(built[run.run_id])

    with mock.patch.object(Codec, "encode", encode), mock.patch.object(_stargraph, "checkpoints", checkpoints):
        yield


def _leaves(run: Run, repeats: int) -> dict[str, float]:
    """Return how many microseconds of making and encoding a step are left if leaves take no time, in turns."""
    left: dict[str, list[float]] = {"nothing left out": []}
    whole = [target for leaf, targets in _LEAVES.items() if leaf != "zstd alone" for target in targets]
    for _ in range(repeats):
        left["nothing left out"].append(_made(run))
        for leaf, targets in {**_LEAVES, "all of them": tuple(whole)}.items():
            left.setdefault(f"without: {leaf}", []).append(_replayed(run, targets))
    return {leaf: statistics.median(figures) for leaf, figures in left.items()}


def _made(run: Run) -> float:
    codec = Codec()
    begun = time.process_time()
    for checkpoint in _stargraph.checkpoints(run):
        codec.appended(codec.encode(checkpoint))
    return (time.process_time() - begun) / len(run.steps) * 1e6


def _replayed(run: Run, targets: tuple[str, ...]) -> float:
    answers: dict[str, list[Any]] = {target: [] for target in targets}

    def recording(target: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            answers[target].append(real(*arguments, **options))
            return answers[target][-1]

        return called

    def replaying(target: str, real: Callable[..., Any]) -> Callable[..., Any]:
        following = iter(answers[target])
        return lambda *arguments, **options: next(following)

    with _patched(targets, recording):
        _made(run)
    with _patched(targets, replaying):
        return _made(run)


@contextlib.contextmanager
def _patched(targets: tuple[str, ...], wrap: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    with contextlib.ExitStack() as patches:
        for target in targets:
            holder, name = pkgutil.resolve_name(target.rpartition(".")[0]), target.rpartition(".")[2]
            wrapped = wrap(target, getattr(holder, name))
            is_bound = isinstance(vars(holder)[name], classmethod)
            patches.enter_context(mock.patch.object(holder, name, staticmethod(wrapped) if is_bound else wrapped))
        yield


if __name__ == "__main__":
    main()
