from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from stargraph.worker._isolation_log import LogSender, log_receiver

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a process inherits no pipe")

LOGGER = logging.getLogger("nodes_of_an_isolated_run")


class Unprintable:
    def __str__(self) -> str:
        raise KeyError("no text")


class Taken(logging.Handler):
    """Keeps records, and fails with those that say so."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "fail":
            raise LookupError("a handler of the application")
        self.records.append(record)


@pytest.fixture
def taken() -> Iterator[Taken]:
    handler = Taken()
    LOGGER.addHandler(handler)
    yield handler
    LOGGER.removeHandler(handler)


def record_of(message: Any, *args: Any, **facts: Any) -> logging.LogRecord:
    return LOGGER.makeRecord(LOGGER.name, logging.WARNING, "nodes.py", 1, message, args, None, extra=facts)


async def send(*records: logging.LogRecord) -> None:
    async with log_receiver() as log:
        assert log is not None
        sender = LogSender(log)
        for record in records:
            await asyncio.wait_for(asyncio.to_thread(sender.emit, record), 60)


async def test_a_record_arrives_as_it_was_made(taken: Taken) -> None:
    sent = record_of("%d lines", 3, run_id="r", step=2)
    sent.created, sent.msecs = 1_000_000.25, 250.0
    await send(sent)
    (arrived,) = taken.records
    form = logging.Formatter("%(asctime)s %(name)s %(message)s %(run_id)s %(step)d")
    assert form.format(arrived) == form.format(sent)


@pytest.mark.parametrize(
    ("message", "args"), [("%(missing)s", ({"a": 1},)), ("%s", (Unprintable(),)), ("%d", ("x",)), (Unprintable(), ())]
)
async def test_what_cannot_be_formatted_fails_no_node(taken: Taken, message: Any, args: tuple[Any, ...]) -> None:
    await send(record_of(message, *args))
    (arrived,) = taken.records
    assert arrived.getMessage() == (message if isinstance(message, str) else "Unprintable")


async def test_no_record_stops_those_after_it(taken: Taken) -> None:
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    await send(record_of("fail"), record_of("long", node="é" * 3_000_000), *[record_of("x" * 9000)] * 20)
    assert [len(record.getMessage()) for record in taken.records] == [4, *[9000] * 20]
    (failure,) = failures
    assert isinstance(failure["exception"], LookupError)


async def test_a_pipe_that_nobody_reads_any_more_is_closed() -> None:
    async with log_receiver() as log:
        assert log is not None
        (handling,) = [task for task in asyncio.all_tasks() if "_handle_lines" in repr(task)]
        handling.cancel()
        await asyncio.wait({handling})
        for _ in range(10):  # the transport closes its end in a later turn of the loop
            await asyncio.sleep(0)
        with pytest.raises(BrokenPipeError):
            os.write(log, b"{}\n")


async def test_one_that_is_cancelled_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    pipe = os.pipe

    def remembered() -> tuple[int, int]:
        made.extend(pipe())
        return made[-2], made[-1]

    monkeypatch.setattr(os, "pipe", remembered)
    task = asyncio.ensure_future(send())
    await asyncio.sleep(0)  # it waits for the pipe to be connected
    (pipe_itself,) = {_file_behind(descriptor) for descriptor in made}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(10):  # the transport closes its end in a later turn of the loop
        await asyncio.sleep(0)
    assert len(made) == 2
    # Another thread may have opened something since, which then has the same number.
    assert pipe_itself not in {_file_behind(descriptor) for descriptor in made}


def _file_behind(descriptor: int) -> tuple[int, int] | None:
    """Return which file a descriptor is open on, or None if it is open on none."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino
