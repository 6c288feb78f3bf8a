"""The driver protocol carries every capability: SQLite in another process passes what it passes in this one."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from stargraph.checkpoint.conformance import Check, run
from stargraph.checkpoint.conformance._capabilities import PROTOCOLS
from stargraph.checkpoint.conformance._catalogue import catalogue
from stargraph.checkpoint.conformance._neighbours import Neighbours
from stargraph.checkpoint.conformance._runs import begin, chain
from stargraph.checkpoint.conformance.stdio import DriverProcess, StdioCheckpointer, _has_room, stdio_target
from stargraph.errors import StoreUnavailableError

pytestmark = pytest.mark.thorough

OTHERS = ("sizes", "views", "stateful", "cancel", "interleaving", "concurrency", "growth")
"""Groups that look at how a driver works inside, or long: the protocol adds nothing to them but time."""


def picked(check: Check) -> bool:
    carried = check.capability is None or check.capability in PROTOCOLS
    return check.quick and carried and not check.advisory and check.group not in OTHERS


def test_a_driver_with_every_capability_passes_over_stdio() -> None:
    command = Neighbours("support.conformance_targets:sqlite")._command()
    target = stdio_target(command, capabilities=frozenset(PROTOCOLS))
    checks = [check.id for check in catalogue() if picked(check)]
    assert {check.partition(".")[0] for check in checks} >= {"watch", "timeline", "queues", "search", "trees"}
    report = run(target, only=checks, quick=True, seed=1)
    wrong = {result.check.id: result.message for result in report.results if result.verdict not in ("pass", "skip")}
    assert not wrong
    assert report.count("pass") > len(checks) * 0.9


async def opened(folder: Path) -> tuple[DriverProcess, StdioCheckpointer]:
    """Return the process of a driver, and a handle of a new store."""
    process = DriverProcess(Neighbours("support.conformance_targets:sqlite")._command())
    handle = StdioCheckpointer(process, str(folder / "store"))
    await handle.bootstrap()
    return process, handle


async def test_a_handle_outlives_the_process_of_its_driver(tmp_path: Path) -> None:
    process, handle = await opened(tmp_path)
    first, second = chain(length=2)
    await handle.write(first)
    before = process.running
    assert process._process is not None
    process._process.kill()
    process._process.wait()
    await handle.write(second)
    assert (before, process.running) == (1, 2)
    assert await handle.read_latest("run") == second
    await handle.close()
    process.end()


async def test_a_process_that_does_not_read_does_not_stop_this_one(tmp_path: Path) -> None:
    process, handle = await opened(tmp_path)
    running = process._process
    assert running is not None
    running.send_signal(signal.SIGSTOP)
    # More than a pipe holds, each of them short.
    runs = [begin(f"run-{number}", state={"text": "x" * 1000}) for number in range(100)]
    writes = [asyncio.create_task(handle.write(checkpoint)) for checkpoint in runs]
    while _has_room(running):
        await asyncio.sleep(0.01)
    assert not any(write.done() for write in writes)
    running.send_signal(signal.SIGCONT)
    await asyncio.gather(*writes)
    assert len(await handle.list_runs()) == len(runs)
    await handle.close()
    process.end()


async def test_a_process_that_does_not_read_can_be_ended(tmp_path: Path) -> None:
    process, handle = await opened(tmp_path)
    running = process._process
    assert running is not None
    running.send_signal(signal.SIGSTOP)
    write = asyncio.create_task(handle.write(begin(state={"text": "x" * 1_000_000})))  # more than a pipe holds
    while _has_room(running):
        await asyncio.sleep(0.01)
    await asyncio.to_thread(process.end)
    with pytest.raises(StoreUnavailableError):
        await write


IN_ANOTHER_PROCESS = """
from stargraph.checkpoint.conformance._neighbours import Neighbours
from stargraph.checkpoint.conformance.stdio import stdio_target

target = stdio_target(Neighbours("support.conformance_targets:sqlite")._command())
"""


def test_a_fork_leaves_the_process_of_its_driver_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere_target.py").write_text(IN_ANOTHER_PROCESS)
    monkeypatch.syspath_prepend(tmp_path)
    report = run("elsewhere_target:target", only=["fencing.forked_process"])
    assert {result.verdict for result in report.results} == {"pass"}, report.to_json()
