"""Show on stderr what the drivers log: that a request is tried again, for instance."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Final

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
    for name in ("stargraph", "asyncio"):
        logger = logging.getLogger(name)
        if not any(isinstance(handler, _WarningsOnStderr) for handler in logger.handlers):
            logger.addHandler(_WarningsOnStderr(logging.WARNING))
