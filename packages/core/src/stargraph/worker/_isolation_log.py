"""The log of a run in a process of its own, which its worker writes as it writes its own: through a pipe."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

_SENT: Final = 16_000
"""How many characters of a message and of a traceback are sent."""

_SENT_OF_A_NAME: Final = 1_000
_LONGEST_LINE: Final = 1024 * 1024
"""Bytes that no line has: JSON writes a character in at most 12."""

_FACTS: Final = ("run_id", "step", "node", "attempt")
_LAST_LINES: Final = 1.0
"""Seconds to wait for the last lines: a child process of a node may keep the pipe open for longer."""


class LogSender(logging.Handler):
    """Sends what is logged to the worker, a JSON object a line.

    Args:
        descriptor: the end of the pipe to write to.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record; one that nobody takes any more is lost."""
        fields = {"name": _short(record.name), "levelno": record.levelno, "levelname": _short(record.levelname)}
        fields |= {"process": record.process, "msg": _message_of(record)[:_SENT]}
        fields |= {name: _short(getattr(record, name)) for name in _FACTS if hasattr(record, name)}
        if record.exc_info and record.exc_info[0] is not None:
            fields["exc_text"] = "".join(traceback.format_exception(*record.exc_info))[-_SENT:]
        line = json.dumps({**fields, "created": record.created, "msecs": record.msecs}).encode() + b"\n"
        with suppress(OSError):
            while line:
                line = line[os.write(self._descriptor, line) :]


def _message_of(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001  # whatever an argument raises, a log fails no node
        return record.msg if isinstance(record.msg, str) else type(record.msg).__name__


def _short(value: object) -> str | int | None:
    return value if value is None or isinstance(value, int) else str(value)[:_SENT_OF_A_NAME]


@asynccontextmanager
async def log_receiver() -> AsyncIterator[int | None]:
    """Give the log of another process to the handlers of this one, for the time of a block.

    Yields:
        The descriptor that the process inherits and writes to; None on Windows, where a process inherits none.
    """
    if sys.platform == "win32":
        yield None
        return
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb", buffering=0) as sender:
        stream = asyncio.StreamReader(_LONGEST_LINE)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reading, "rb", buffering=0)
        )
        handling = asyncio.ensure_future(_handle_lines(stream))
        # A process would wait for ever to write into a pipe that is full and that nobody reads; into a closed one it
        # does not.
        handling.add_done_callback(lambda _: transport.close())
        try:
            yield writing
        finally:
            sender.close()
            try:
                await asyncio.wait({handling}, timeout=_LAST_LINES)
            finally:
                handling.cancel()


async def _handle_lines(stream: asyncio.StreamReader) -> None:
    while line := await stream.readline():
        try:
            fields = json.loads(line)
        except ValueError:  # the process was lost while it wrote
            continue
        record = logging.makeLogRecord(fields)
        logger = logging.getLogger(record.name)
        try:
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
        except Exception as error:  # noqa: BLE001  # of a filter or handler; the next line is handled nevertheless
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"a record of the logger {record.name!r} could not be handled", "exception": error}
            )
