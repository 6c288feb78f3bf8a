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

_LONGEST_LINE: Final = 1024 * 1024
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
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # its arguments do not fit it
            message = str(record.msg)
        fields = {"name": record.name, "levelno": record.levelno, "levelname": record.levelname}
        fields |= {"msg": message[:_SENT], "created": record.created, "process": record.process}
        fields |= {name: getattr(record, name) for name in _FACTS if hasattr(record, name)}
        if record.exc_info and record.exc_info[0] is not None:
            fields["exc_text"] = "".join(traceback.format_exception(*record.exc_info))[-_SENT:]
        line = json.dumps(fields, default=str).encode() + b"\n"
        with suppress(OSError):
            while line:
                line = line[os.write(self._descriptor, line) :]


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
    stream = asyncio.StreamReader(_LONGEST_LINE)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reading, "rb", buffering=0)
    )
    handling = asyncio.ensure_future(_handle_lines(stream))
    try:
        yield writing
    finally:
        os.close(writing)
        await asyncio.wait({handling}, timeout=_LAST_LINES)
        handling.cancel()
        transport.close()


async def _handle_lines(stream: asyncio.StreamReader) -> None:
    while line := await stream.readline():
        with suppress(ValueError):  # the process was lost while it wrote
            record = logging.makeLogRecord(json.loads(line))
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
