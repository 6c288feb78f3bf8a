"""Show on stderr what the drivers log: that a request is tried again, for instance."""

from __future__ import annotations

import logging
import sys

from stargraph.cli._output import emit, one_line, shorten
from stargraph.cli._secrets import hide_secrets

_SHOWN = 500


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


def show_warnings_of_drivers() -> None:
    """Print what is logged under `stargraph` from a warning on; once in a process."""
    logger = logging.getLogger("stargraph")
    if not any(isinstance(handler, _WarningsOnStderr) for handler in logger.handlers):
        logger.addHandler(_WarningsOnStderr(logging.WARNING))
