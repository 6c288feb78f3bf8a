"""The demo: review a folder, kill the process in the middle, resume, and prove that nothing was done twice.

make demo                     this repository's own documents
make demo FOLDER=~/notes      a folder of yours
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import shlex
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Final, NoReturn

from rich.console import Console
from rich.markdown import Markdown
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from reviewer.files import find_markdown, is_report
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.sqlite import SQLiteCheckpointer

ROOT: Final = Path(__file__).resolve().parents[2]
GRAPH: Final = Path(__file__).with_name("graph.yaml")
RUN_ID: Final = "docs-review-demo"
COMMAND: Final = Path(sys.executable).with_name("stargraph")

AT_ONCE: Final = 4
"""How many files the graph reviews at once."""

WATCHED: Final = 6.0
"""Seconds that the reviews of all files shall take together, so that there is something to watch and to kill."""

LISTED: Final = 25
"""A folder with more files has only those listed that were running at the kill."""

console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=110)


@dataclass(frozen=True)
class Stage:
    """Where the demo keeps what it makes.

    Attributes:
        work: the folder.
    """

    work: Path

    @property
    def store(self) -> Path:
        """The store of the run."""
        return self.work / "run.sqlite"

    @property
    def ledger(self) -> Path:
        """The file that counts executions."""
        return self.work / "ledger.jsonl"

    @property
    def report(self) -> Path:
        """The report of the review."""
        return self.work / "report.md"


@dataclass
class Proof:
    """What the log and the ledger say together.

    Attributes:
        finished: the files whose reviews were durable at the kill, with their steps.
        running: those that were being reviewed at that moment.
        executions: the process ids that ran each node or file, in order.
        faults: what contradicts the promise.
    """

    finished: dict[str, int]
    running: list[str]
    executions: dict[str, list[int]]
    faults: list[str] = field(default_factory=list)

    def expect(self, truth: bool, fault: str) -> None:
        """Note a fault unless something is true.

        Args:
            truth: what must be true.
            fault: what is wrong if it is not.
        """
        if not truth:
            self.faults.append(fault)


def main() -> None:
    """Run the demo; exit 1 if the proof fails."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    arguments = argparse.ArgumentParser(description="Kill a review of documents, resume it, prove what happened.")
    arguments.add_argument("folder", nargs="?", type=Path, default=ROOT, help="a folder of Markdown files")
    arguments.add_argument("--work", type=Path, default=ROOT / ".demo", help="where the store and the report go")
    given = arguments.parse_args()
    folder, stage = given.folder.expanduser().absolute(), Stage(given.work.absolute())
    files = [name for name in find_markdown(folder) if not is_report(folder / name)]
    if len(files) <= AT_ONCE:
        give_up(f"{folder} holds {len(files)} Markdown files; the demo needs more than the {AT_ONCE} that run at once")
    for path in (stage.store, *stage.store.parent.glob(f"{stage.store.name}-*"), stage.ledger, stage.report):
        path.unlink(missing_ok=True)
    stage.work.mkdir(exist_ok=True)
    try:
        first, second, stopped_at = act(stage, folder, len(files))
    except KeyboardInterrupt:
        give_up("stopped")
    head(f"The report, {shown(stage.report)}")
    show_report(stage.report)
    head("The proof")
    log = asyncio.run(read_log(stage.store))
    proof = examine(log, read_ledger(stage.ledger), first=first, second=second, stopped_at=stopped_at)
    show_proof(proof, log, first, second)
    line = f"The whole report is {plain(shown(stage.report))}. Try a folder of yours: make demo FOLDER=~/notes"
    console.print(line, markup=False, soft_wrap=True)
    if proof.faults:
        give_up("the proof failed: " + "; ".join(proof.faults))


def act(stage: Stage, folder: Path, count: int) -> tuple[int, int, int]:
    """Start, kill, look, resume.

    Args:
        stage: where things go.
        folder: the folder to review.
        count: the number of files in it.

    Returns:
        The two process ids, and the last step that was durable at the kill.
    """
    wanted = max(1, count * 2 // 5)
    pace = round(min(1.0, WATCHED * AT_ONCE / count), 3)
    head(f"1. Review {count} Markdown files, {AT_ONCE} at once, each as one durable step")
    inputs = [f"folder={folder}", f"pace={pace}", f"ledger={stage.ledger}", f"report={stage.report}"]
    run = start(
        "run",
        GRAPH,
        "--checkpoint",
        stage.store,
        "--run-id",
        RUN_ID,
        *(part for each in inputs for part in ("-i", each)),
    )
    asyncio.run(wait_for_step(stage.store, wanted + 1, run))
    # Into the middle of the reviews that have begun since.
    time.sleep(pace * 0.4)
    run.kill()
    code = run.wait()
    console.show_cursor()
    console.print()
    head(f"2. Killed by SIGKILL (process {run.pid}, exit code {code}). What survived:")
    check(start("inspect", RUN_ID, "--checkpoint", stage.store))
    stopped_at = asyncio.run(read_log(stage.store))[-1].step
    head("3. A new process resumes the run")
    resumed = start("resume", RUN_ID, GRAPH, "--checkpoint", stage.store)
    check(resumed)
    return run.pid, resumed.pid, stopped_at


def start(*arguments: str | Path) -> subprocess.Popen[bytes]:
    """Start the command line of Stargraph, after showing how.

    Args:
        arguments: its arguments.
    """
    words = [shown(word) if isinstance(word, Path) else word.replace(f"{ROOT}/", "") for word in arguments]
    console.print(Text(f"$ stargraph {plain(shlex.join(words))}", "bold"), soft_wrap=True)
    sys.stdout.flush()
    return subprocess.Popen([COMMAND, *arguments], cwd=ROOT)


def check(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a command that must succeed.

    Args:
        process: the command.
    """
    if process.wait(timeout=300) != 0:
        give_up(f"the command ended with exit code {process.returncode}")


async def wait_for_step(store_file: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    """Watch the store, as any other process can, until a run has reached a step.

    Args:
        store_file: the store.
        step: the step.
        process: what executes the run.
    """
    async with SQLiteCheckpointer(store_file) as store:
        while process.poll() is None:
            latest = await store.read_latest(RUN_ID)
            if latest is not None and latest.step >= step:
                return
            await asyncio.sleep(0.02)
    give_up("the run ended before it could be killed")


async def read_log(store_file: Path) -> list[Checkpoint]:
    """Return every checkpoint of the run.

    Args:
        store_file: the store.
    """
    async with SQLiteCheckpointer(store_file) as store:
        return [checkpoint async for checkpoint in store.history(RUN_ID)]


def read_ledger(ledger: Path) -> dict[str, list[int]]:
    """Return the process ids that executed each node, or each file if a node has one, in order.

    Args:
        ledger: the ledger.
    """
    executions: dict[str, list[int]] = defaultdict(list)
    for line in ledger.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        executions[entry["file"] or f"({entry['node']})"].append(entry["process"])
    return dict(executions)


def examine(
    log: list[Checkpoint], executions: dict[str, list[int]], *, first: int, second: int, stopped_at: int
) -> Proof:
    """Hold the log against the ledger.

    Args:
        log: the checkpoints of the run.
        executions: the process ids that executed each node or file.
        first: the process that was killed.
        second: the process that resumed.
        stopped_at: the last step before the kill.
    """
    completed = {name_of(record): record.step for record in log if record.event == "completed"}
    finished = {name: step for name, step in completed.items() if step <= stopped_at}
    running = [name for name, pids in executions.items() if first in pids and name not in finished]
    proof = Proof(finished, running, executions)
    proof.expect([record.step for record in log] == list(range(len(log))), "the log has gaps")
    proof.expect(log[-1].status == "done", f"the run is {log[-1].status}")
    proof.expect([record.event for record in log].count("resumed") == 1, "the run was not resumed once")
    proof.expect(len(completed) == sum(record.event == "completed" for record in log), "a node completed twice")
    proof.expect(set(completed) == set(executions), "the log and the ledger name different nodes")
    proof.expect(len(finished) > 1 and bool(running), "the kill came too early or too late")
    proof.expect(len(running) <= AT_ONCE, "more files ran again than were running")
    for name, pids in executions.items():
        expected = [first] if name in finished else [first, second] if name in running else [second]
        proof.expect(pids == expected, f"{name} was executed by {pids}, not by {expected}")
    return proof


def name_of(record: Checkpoint) -> str:
    """Return the file that a completed node was about, else its name in brackets.

    Args:
        record: the checkpoint of its completion.
    """
    if record.last_node == "review":
        assert record.update is not None
        return str(record.update["reviews"][0]["path"])
    return f"({record.last_node})"


def show_report(report: Path) -> None:
    """Print the head of the report.

    Args:
        report: the report.
    """
    text = report.read_text(encoding="utf-8").partition("## Findings")[0]
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        console.print(text.rstrip(), markup=False, soft_wrap=True)


def show_proof(proof: Proof, log: list[Checkpoint], first: int, second: int) -> None:
    """Print what ran where, and what follows.

    Args:
        proof: what was found.
        log: the checkpoints of the run.
        first: the process that was killed.
        second: the process that resumed.
    """
    events = (f"{record.event} {record.last_node or ''}".strip() for record in log)
    runs = ((event, sum(1 for _ in group)) for event, group in groupby(events))
    console.print("The log: " + ", ".join(event if times == 1 else f"{event} × {times}" for event, times in runs))
    console.print("The ledger, to which each node adds a line when it begins:")
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("file (or node)", overflow="fold")
    table.add_column("durable at the kill")
    table.add_column(f"process {first}")
    table.add_column(f"process {second}")
    for name, pids in proof.executions.items():
        if len(proof.executions) > LISTED and name not in proof.running:
            continue
        durable = f"step {proof.finished[name]}" if name in proof.finished else "no"
        counts = [
            "once" if pids.count(pid) == 1 else f"{pids.count(pid)} times" if pid in pids else ""
            for pid in (first, second)
        ]
        table.add_row("↻" if name in proof.running else "✓", Text(plain(name)), durable, *counts)
    console.print(table)
    console.print()
    if not proof.faults:
        console.print(
            f"[bold green]Proved:[/] the {len(proof.finished)} nodes that were durable at the kill ran once, in process"
            f" {first} alone. Only the {len(proof.running)} in flight (↻) ran again."
        )


def head(title: str) -> None:
    """Print a headline.

    Args:
        title: the headline.
    """
    console.print()
    console.print(Rule(Text(plain(title)), align="left", style="cyan"))
    sys.stdout.flush()


def shown(path: Path) -> str:
    """Return a path as one would type it here.

    Args:
        path: the path.
    """
    return os.path.relpath(path, ROOT) if path.is_relative_to(ROOT) else str(path)


def plain(text: str) -> str:
    """Return a text without what a terminal would obey; names of files may hold anything.

    Args:
        text: the text.
    """
    return "".join(character if character.isprintable() else "�" for character in text)


def give_up(reason: str) -> NoReturn:
    """End the demo with exit code 1.

    Args:
        reason: why.
    """
    console.show_cursor()
    print(f"demo: {plain(reason)}", file=sys.stderr)
    raise SystemExit(1)


if __name__ == "__main__":
    main()
