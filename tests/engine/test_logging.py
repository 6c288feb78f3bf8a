"""What a run logs: which record at which level, with which fields, and never a value."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from support import calling_nodes
from support.graphs import SEQUENCE, graph
from support.memory import Killed, MemoryCheckpointer

from stargraph.checkpoint.protocol import ProcessInfo
from stargraph.engine import _logging
from stargraph.errors import CheckpointConflictError, StoreUnavailableError
from stargraph.graph import Context

SECRET = "hunter22"
PLAYING = """
state_schema: {x: {type: any, default: null}}
nodes: [{id: a, kind: "support.calling_nodes:play", retry: {attempts: 2, initial_delay: 0, on: [ConnectionError]}}]
"""

Lines = list[tuple[str, str, dict[str, Any]]]


@pytest.fixture(autouse=True)
def _nodes() -> Iterator[None]:
    calling_nodes.reset()
    yield
    calling_nodes.reset()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.LogCaptureFixture]:
    """What Stargraph logs, and nobody else; no store is slow, however long a busy machine takes for a write."""
    monkeypatch.setattr(_logging, "SLOW_SECONDS", math.inf)
    caplog.set_level(logging.DEBUG, "stargraph")
    with caplog.filtering(logging.Filter("stargraph")):
        yield caplog


def fields(record: logging.LogRecord) -> tuple[Any, ...]:
    return tuple(getattr(record, name) for name in ("run_id", "step", "node", "attempt"))


def records(log: pytest.LogCaptureFixture) -> list[tuple[str, str, tuple[Any, ...]]]:
    return [(record.levelname, record.name, fields(record)) for record in log.records]


async def test_a_run_logs_its_ends_and_those_of_its_nodes(
    store: MemoryCheckpointer, log: pytest.LogCaptureFixture
) -> None:
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    await run.start()
    assert records(log) == [
        ("INFO", "stargraph.run", ("r", 0, None, None)),
        ("INFO", "stargraph.node", ("r", 1, "a", None)),
        ("INFO", "stargraph.node", ("r", 2, "b", None)),
        ("INFO", "stargraph.node", ("r", 3, "c", None)),
        ("INFO", "stargraph.run", ("r", 3, None, None)),
    ]
    assert "run r: done after" in log.text
    assert "run r: node b completed in" in log.text


async def test_a_retry_is_a_warning_and_a_failure_an_error_without_what_was_said(
    store: MemoryCheckpointer, log: pytest.LogCaptureFixture
) -> None:
    async def script(state: Any, context: Context) -> None:
        raise ConnectionError(f"password={SECRET}")

    calling_nodes.script = script
    run = await graph(PLAYING).start(checkpointer=store, run_id="r", inputs={"x": SECRET})
    await run.start()
    assert records(log) == [
        ("INFO", "stargraph.run", ("r", 0, None, None)),
        ("WARNING", "stargraph.node", ("r", 0, "a", 1)),
        ("ERROR", "stargraph.node", ("r", 1, "a", None)),
        ("ERROR", "stargraph.run", ("r", 1, "a", None)),
    ]
    assert "attempt 1 of 2 of node a failed with ConnectionError" in log.text
    assert SECRET not in log.text


async def test_a_takeover_and_its_conflict_are_warnings(
    store: MemoryCheckpointer, log: pytest.LogCaptureFixture
) -> None:
    async def script(state: Any, context: Context) -> None:
        if context.run_id == "r" and not log.records[-1].getMessage().startswith("run r: taken over"):
            other = await graph(PLAYING).start(checkpointer=store)
            await other.resume("r")

    calling_nodes.script = script
    run = await graph(PLAYING).start(checkpointer=store, run_id="r")
    with pytest.raises(CheckpointConflictError):
        await run.start()
    warnings = [record.getMessage() for record in log.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert warnings[0] == "run r: taken over from another execution in this process (step 0)"
    assert warnings[1].startswith("run r: stopped here by ")


async def test_a_takeover_names_the_process_of_another(
    store: MemoryCheckpointer, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(state: Any, context: Context) -> None:
        if len(store.runs["r"]) == 1:
            raise Killed

    calling_nodes.script = script
    elsewhere = ProcessInfo.current().model_copy(update={"id": "f" * 16, "host": "elsewhere", "pid": 7})
    with monkeypatch.context() as patched:
        patched.setattr(ProcessInfo, "current", lambda: elsewhere)
        with pytest.raises(Killed):
            await (await graph(PLAYING).start(checkpointer=store, run_id="r")).start()
    await (await graph(PLAYING).start(checkpointer=store)).resume("r")
    warnings = [record.getMessage() for record in log.records if record.levelno == logging.WARNING]
    assert warnings == ["run r: taken over from process 7 on elsewhere (step 0)"]


async def test_a_start_of_a_run_that_exists_is_not_logged_as_the_end_of_it(
    store: MemoryCheckpointer, log: pytest.LogCaptureFixture
) -> None:
    async def script(state: Any, context: Context) -> None:
        return None

    calling_nodes.script = script
    run = await graph(PLAYING).start(checkpointer=store, run_id="r")
    await run.start()
    with pytest.raises(CheckpointConflictError):
        await run.start()
    warnings = [record.getMessage() for record in log.records if record.levelno == logging.WARNING]
    assert warnings == ["run r: not started, since it exists already"]


async def test_a_run_that_waits_or_has_failed_is_not_taken_over(
    store: MemoryCheckpointer, log: pytest.LogCaptureFixture
) -> None:
    async def script(state: Any, context: Context) -> Any:
        return {"x": context.interrupt("Well?")}

    calling_nodes.script = script
    run = await graph(PLAYING).start(checkpointer=store, run_id="r")
    await run.start()
    await run.answer(run.questions[0].id, 1)
    await run.resume()
    assert "taken over" not in log.text


async def test_a_slow_store_is_a_warning(
    store: MemoryCheckpointer, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_logging, "SLOW_SECONDS", -1.0)
    await (await graph(SEQUENCE).start(checkpointer=store, run_id="r")).start()
    slow = [record for record in log.records if record.name == "stargraph.store"]
    assert [fields(record)[:2] for record in slow] == [("r", 1), ("r", 2), ("r", 3)]
    assert {record.levelname for record in slow} == {"WARNING"}


async def test_a_fault_of_the_store_is_an_error(store: MemoryCheckpointer, log: pytest.LogCaptureFixture) -> None:
    def unreachable(_: object) -> None:
        raise StoreUnavailableError(f"no route to {SECRET}", reason="unavailable")

    store.before_write = unreachable
    with pytest.raises(StoreUnavailableError):
        await (await graph(SEQUENCE).start(checkpointer=store, run_id="r")).start()
    assert records(log)[-1] == ("ERROR", "stargraph.run", ("r", 0, None, None))
    assert "ended with unavailable" in log.text
    assert SECRET not in log.text


async def test_the_loss_of_the_process_logs_nothing(store: MemoryCheckpointer, log: pytest.LogCaptureFixture) -> None:
    def killed(_: object) -> None:
        raise Killed

    store.before_write = killed
    with pytest.raises(Killed):
        await (await graph(SEQUENCE).start(checkpointer=store, run_id="r")).start()
    assert [record.levelname for record in log.records] == ["INFO"]


def test_nothing_is_printed_unless_logging_is_set_up() -> None:
    program = """
import logging
import stargraph.engine, stargraph.checkpoint.sqlite, stargraph.checkpoint.postgres, stargraph.checkpoint.s3
for name in ("run", "node", "store", "checkpoint.sqlite", "checkpoint.postgres", "checkpoint.s3"):
    logging.getLogger(f"stargraph.{name}").warning("nobody wants to know")
logging.getLogger("another").warning("somebody wants to know")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == "somebody wants to know\n"
