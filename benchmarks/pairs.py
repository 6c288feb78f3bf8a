"""Whether another copy of this tree is faster, for example one whose modules were compiled in place.

    PYTHONPATH=benchmarks:tests .bench/bin/python benchmarks/pairs.py OTHER [workload …] [--store postgres]

Each tree has a process of its own, and both take turns, so that what else the machine does meets both. A figure is the
median over the repeats. A gain is the median of the ratios of the pairs, with its quartiles; above 1, the other tree is
faster.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

from stargraph_bench._bench import server
from stargraph_bench._contender import CONTENDERS, Place
from stargraph_bench._workloads import WORKLOADS, Writing

# Runs and steps of a workload: fewer than in `make bench`, since every pair writes them twice.
_SIZES: Final = {"small": (1, 300), "fan": (64, 20), "chat": (1, 120), "engine-small": (1, 150), "engine-fan": (64, 12)}


def main() -> None:
    """Print a row for each workload."""
    parser = argparse.ArgumentParser()
    parser.add_argument("other", type=Path, help="the other copy of this tree")
    parser.add_argument("workloads", nargs="*", default=list(_SIZES))
    parser.add_argument("--store", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_intermixed_args()
    if not any((arguments.other / "packages").glob("*/src")):  # this tree would be compared with itself
        parser.error(f"{str(arguments.other)!r} is no copy of this tree: it has no packages/*/src")
    if unknown := set(arguments.workloads) - set(_SIZES):
        parser.error(f"unknown workloads {sorted(unknown)}: choose from {', '.join(_SIZES)}")
    if arguments.repeats < 2:
        parser.error("--repeats is 2 or more: a single pair has no quartiles")
    with tempfile.TemporaryDirectory(prefix="stargraph-bench-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL refuses to run as root, and another account has to reach it
        with server(arguments.store, Path(folder)) as place:
            trees = [_measuring(tree, place) for tree in (Path(__file__).parents[1], arguments.other)]
            print("| write or step | CPU, µs | other, µs | gain | wall, µs | other, µs | gain |")
            print("| --- | --- | --- | --- | --- | --- | --- |")
            for workload in arguments.workloads:
                taken: list[list[list[float]]] = [[], []]
                for repeat in range(arguments.repeats + 1):
                    for turn in (0, 1) if repeat % 2 else (1, 0):
                        taken[turn].append(_asked(trees[turn], arguments.store, workload, repeat))
                columns = [zip(*rows[1:], strict=True) for rows in taken]  # the first repeat warms up
                cells = [_cells(*pairs) for pairs in zip(*columns, strict=True)]
                print(f"| {arguments.store}, {workload} | {' | '.join(cells)} |", flush=True)
            for tree in trees:
                tree.communicate()


def _measuring(tree: Path, place: Place) -> subprocess.Popen[str]:
    # With its own benchmarks, if it has some: an older driver takes other options.
    sources = [*(tree.resolve() / "packages").glob("*/src"), tree.resolve() / "benchmarks"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, sources), *filter(None, sys.path)])}
    source = f"import pairs; pairs.answer({str(place.folder)!r}, {place.dsn!r})"
    command = [sys.executable, "-c", source]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _asked(tree: subprocess.Popen[str], *question: object) -> list[float]:
    assert tree.stdin is not None
    assert tree.stdout is not None
    print(*question, file=tree.stdin, flush=True)
    figures: list[float] = json.loads(tree.stdout.readline())
    return figures


def _cells(ours: tuple[float, ...], others: tuple[float, ...]) -> str:
    low, gain, high = statistics.quantiles([a / b for a, b in zip(ours, others, strict=True)])
    return f"{statistics.median(ours):.0f} | {statistics.median(others):.0f} | {gain:.2f} ({low:.2f} to {high:.2f})"


def answer(folder: str, dsn: str) -> None:
    """Write the workloads that are asked for; print the microseconds of CPU and of wall time that a step takes."""
    for line in sys.stdin:
        print(json.dumps(asyncio.run(_measured(Place(Path(folder), dsn), *line.split()))), flush=True)


async def _measured(place: Place, store: str, name: str, seed: str) -> list[float]:
    workload = next(each for each in WORKLOADS if each.name == name)
    assert isinstance(workload, Writing)
    contender = CONTENDERS[store][workload.contenders[0]].make(place)  # ours is the first
    shorter = replace(workload, sizes={"default": _SIZES[name]}, counted=False)
    measures = await shorter.measure(contender, "default", int(seed))
    return [measures["cpu_ms"] * 1000, 1e6 / measures["rate"]]


if __name__ == "__main__":
    main()
