"""Cuts the power of a recorded process at many moments, and looks at what a store is left with each time.

    PYTHONPATH=torture:tests python -m stargraph_torture.power_cuts --states 2000 --seed 1

Exits with 1 where something acknowledged is not there although it was written with synchronous=full, or where a state
is worse than that.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.errors import CheckpointError
from stargraph_torture import power_loss_program, syscalls
from stargraph_torture.fleet import SEARCH_PATH
from stargraph_torture.folders import folder_in_memory
from stargraph_torture.power_loss import KEPT, Kept, disk_after
from stargraph_torture.seeds import SEED_VARIABLE, first_seed
from stargraph_torture.syscalls import Event, Told, Write

KINDS: Final[tuple[tuple[str, Literal["full", "normal"], bool], ...]] = (
    ("full", "full", False),
    ("normal", "normal", False),
    ("a driver that skips fsync", "full", True),
)
"""How the recorded process writes; the last one is planted, to show that it is caught."""


@dataclass
class Cuts:
    """What came of cutting the power many times.

    Attributes:
        states: how many states of the disk were looked at.
        checked: how many acknowledged checkpoints were looked for, in all states together.
        lost: how many of them were not there.
        lossy: how many states lacked one, by what the disk had kept.
        most_lost: how many acknowledged checkpoints one state lacked at most.
        broken: the states that were worse: a log with a gap, a file that is not sound or cannot be opened.
    """

    states: int = 0
    checked: int = 0
    lost: int = 0
    lossy: Counter[str] = field(default_factory=Counter)
    most_lost: int = 0
    broken: list[str] = field(default_factory=list)

    def add(self, other: Cuts) -> None:
        """Take others in."""
        self.states += other.states
        self.checked += other.checked
        self.lost += other.lost
        self.lossy += other.lossy
        self.most_lost = max(self.most_lost, other.most_lost)
        self.broken += other.broken


def record(
    folder: Path, synchronous: Literal["full", "normal"], seed: int, *, skips_fsync: bool = False
) -> list[Event]:
    """Run the program under strace.

    Args:
        folder: where; it gets a folder `disk` with the store.
        synchronous: as for the driver.
        seed: of the program.
        skips_fsync: plant a driver that does not sync.
    """
    root, ledger = folder / "disk", folder / "ledger"
    root.mkdir()
    command = [
        sys.executable,
        "-B",
        power_loss_program.__file__,
        str(_store(root)),
        str(ledger),
        synchronous,
        str(seed),
    ]
    return syscalls.record(
        [*command, *(["skips fsync"] if skips_fsync else [])],
        root=root,
        ledger=ledger,
        trace=folder / "trace",
        environment={**os.environ, "PYTHONPATH": SEARCH_PATH},
    )


def _store(root: Path) -> Path:
    return root / "made" / "runs.sqlite"


async def cut(events: list[Event], folder: Path, *, states: int, seed: int) -> Cuts:
    """Look at what is left after losses of power: at every moment while the store is made, then at random ones.

    Args:
        events: what was recorded in the folder.
        folder: the one that was given to `record`.
        states: how many random ones.
        seed: chooses the moments, and what the disk has kept.
    """
    rng = random.Random(seed)
    cuts = Cuts()
    # How a store is made is looked at from event to event: it happens once, and has steps of every kind.
    made = next(number for number, event in enumerate(events) if isinstance(event, Told))
    for moment in range(made):
        for kept in ("nothing", "everything"):
            await _look(events, folder, moment, kept, rng, cuts)
    rare = [number for number, event in enumerate(events) if not isinstance(event, (Write, Told))]
    for number in range(states):
        kept = KEPT[number % len(KEPT)]
        moment = rng.choice(rare) + rng.randint(0, 1) if rng.random() < 0.5 else rng.randint(0, len(events))
        await _look(events, folder, moment, kept, rng, cuts)
    return cuts


async def _look(events: list[Event], folder: Path, moment: int, kept: Kept, rng: random.Random, cuts: Cuts) -> None:
    root = folder / "disk"
    shutil.rmtree(root)
    root.mkdir()
    for path, content in disk_after(events, moment, kept, rng, root).items():
        if path.endswith("/made"):
            Path(path).mkdir(exist_ok=True)
        elif not path.endswith("-shm"):  # made again by whoever comes first
            Path(path).parent.mkdir(exist_ok=True)
            Path(path).write_bytes(content)
    shown = [event.line for event in events[:moment] if isinstance(event, Told)]
    deleted = {line["run"] for line in shown if line["what"] == "deleting"}
    acknowledged = [line for line in shown if line["what"] == "acknowledged" and line["run"] not in deleted]
    cuts.states += 1
    cuts.checked += len(acknowledged)
    where = f"power lost before event {moment} of {len(events)}, {kept} kept"
    try:
        logs = await _read(_store(root))
    except CheckpointError as error:
        cuts.broken.append(f"{where}: {error}")
        return
    for run_id, steps in logs.items():
        if run_id not in deleted and list(steps) != list(range(len(steps))):
            cuts.broken.append(f"{where}: run {run_id} has the steps {list(steps)}")
    lost = [line for line in acknowledged if logs.get(line["run"], {}).get(line["step"]) != line["digest"]]
    cuts.lost += len(lost)
    cuts.lossy[kept] += bool(lost)
    cuts.most_lost = max(cuts.most_lost, len(lost))
    with closing(sqlite3.connect(_store(root))) as connection:
        try:
            (sound,) = connection.execute("PRAGMA integrity_check").fetchone()
        except sqlite3.DatabaseError as error:
            sound = str(error)
    if sound != "ok":
        cuts.broken.append(f"{where}: {sound}")


async def _read(path: Path) -> dict[str, dict[int, str]]:
    """Open a store as its next user would, and return the digests of its steps."""
    async with SQLiteCheckpointer(path) as store:
        logs: dict[str, dict[int, str]] = {}
        for summary in await store.list_runs(limit=1_000):
            previous = None
            steps = logs[summary.run_id] = {}
            async for checkpoint in store.history(summary.run_id):
                if checkpoint.previous_digest == previous:
                    steps[checkpoint.step] = previous = checkpoint.digest
            latest = await store.read_latest(summary.run_id)
            if latest is None or latest.step != summary.last_step:
                steps[-1] = "the listing and the log differ"
        return logs


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="stargraph_torture.power_cuts", description="Cut the power of the SQLite driver."
    )
    parser.add_argument("--states", type=int, default=2_000, help="of the disk to look at, for each recording")
    parser.add_argument("--recordings", type=int, default=5)
    parser.add_argument("--seed", type=int, default=first_seed(), help=f"of the first recording; else {SEED_VARIABLE}")
    options = parser.parse_args()
    if reason := syscalls.why_not():
        print(reason)
        return 1
    print(f"seed {options.seed}", file=sys.stderr)
    totals: dict[str, Cuts] = {}
    for name, synchronous, skips_fsync in KINDS:
        total = totals[name] = Cuts()
        for number in range(options.recordings if not skips_fsync else 1):
            with folder_in_memory() as folder:
                events = record(folder, synchronous, options.seed + number, skips_fsync=skips_fsync)
                total.add(asyncio.run(cut(events, folder, states=options.states, seed=options.seed + number)))
    print(table(totals))
    sound = not any(totals[name].broken for name in ("full", "normal")) and not totals["full"].lost
    for name in ("full", "normal"):
        print(*totals[name].broken[:10], sep="\n", file=sys.stderr)
    return 0 if sound else 1


def table(totals: dict[str, Cuts]) -> str:
    """Return the figures as Markdown.

    Args:
        totals: by the way of writing.
    """
    rows: list[tuple[str, list[object]]] = [
        ("states of the disk looked at", [total.states for total in totals.values()]),
        ("acknowledged checkpoints looked for", [total.checked for total in totals.values()]),
        ("of these not there", [total.lost for total in totals.values()]),
        ("states that lacked one", [total.lossy.total() for total in totals.values()]),
        ("lacked by one state, at most", [total.most_lost for total in totals.values()]),
        ("states that could not be opened, had a gap or were damaged", [len(each.broken) for each in totals.values()]),
    ]
    lines = [f"| | {' | '.join(totals)} |", f"|---|{'---:|' * len(totals)}"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(map(str, figures))} |" for name, figures in rows)])


if __name__ == "__main__":
    sys.exit(main())
