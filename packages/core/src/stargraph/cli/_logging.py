"""Show on stderr what the drivers log, such as a request that is tried again, or everything that a run logs."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Final

from stargraph.cli._options import LogLevel
from stargraph.cli._output import clean, emit, one_line, shorten
from stargraph.cli._secrets import hide_secrets

_SHOWN: Final = 500
_SHOWN_TRACEBACK: Final = 8000
"""How many characters of a message and of a traceback are printed."""


class _WarningsOnStderr(logging.Handler):
    """One line for each warning; silent if the code of a graph has set up a log of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        if logging.getLogger().handlers:
            return
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # its arguments do not fit it
            message = str(record.msg)
        word = "warning" if record.levelno < logging.ERROR else "error"
        emit(f"{word}: {hide_secrets(shorten(one_line(message), _SHOWN))}", sys.stderr)
        if record.exc_info and record.exc_info[0] is not None:
            text = "".join(traceback.format_exception(*record.exc_info))
            emit(clean(hide_secrets(shorten(text, _SHOWN_TRACEBACK))), sys.stderr)


def show_warnings_of_drivers() -> None:
    """Print what drivers and asyncio log from a warning on; once in a process."""
    if any(isinstance(handler, _LogOnStderr) for handler in logging.getLogger("stargraph").handlers):
        return
    for name in ("stargraph.checkpoint", "asyncio"):
        logger = logging.getLogger(name)
        if not any(isinstance(handler, _WarningsOnStderr) for handler in logger.handlers):
            logger.addHandler(_WarningsOnStderr(logging.WARNING))


class _LogOnStderr(logging.Handler):
    """One line for each record: text, or a JSON object.

    Args:
        level: from which level on.
        as_json: whether the lines are JSON.
    """

    def __init__(self, level: int, *, as_json: bool) -> None:
        super().__init__(level)
        self._as_json = as_json

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # its arguments do not fit it
            message = str(record.msg)
        message = hide_secrets(shorten(one_line(message), _SHOWN))
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        if not self._as_json:
            emit(f"{time} {record.levelname} {record.name}: {message}", sys.stderr)
            return
        members = {"time": time, "level": record.levelname.lower(), "logger": record.name, "message": message}
        facts = {name: getattr(record, name, None) for name in ("run_id", "step", "node", "attempt")}
        members |= {name: value for name, value in facts.items() if value is not None}
        emit(json.dumps(members, ensure_ascii=False), sys.stderr)


def show_log(level: LogLevel, *, as_json: bool) -> None:
    """Print on stderr what is logged from a level on, if it is wanted.

    Args:
        as_json: whether each line is a JSON object; then from info on, unless there is a level.
    """
    if level is LogLevel.OFF and not as_json:
        return
    number = logging.getLevelNamesMapping()[(LogLevel.INFO if level is LogLevel.OFF else level).name]
    logger = logging.getLogger("stargraph")
    for handler in [handler for handler in logger.handlers if isinstance(handler, _LogOnStderr)]:
        logger.removeHandler(handler)
    logger.addHandler(_LogOnStderr(number, as_json=as_json))
    logger.setLevel(number)
