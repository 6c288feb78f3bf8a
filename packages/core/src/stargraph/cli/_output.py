"""Printing: text that cannot harm a terminal, pipes that may close, JSON, tables, durations and sizes."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, TextIO

import typer

_UNSAFE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

BROKEN_PIPE: Final = 141
"""The exit code where the reader of stdout has gone: that of a process which SIGPIPE ended."""


def clean(text: str) -> str:
    """Return a text with control characters written as escapes, so that it cannot drive the terminal.

    Args:
        text: may come from a node, a store or a file.
    """
    return _UNSAFE.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """Return a text on one line, harmless.

    Args:
        text: the text.
    """
    return clean(text.replace("\n", "\\n").replace("\t", "\\t"))


def emit(text: str, stream: TextIO | None = None) -> bool:
    """Write a line and flush; return whether its reader is still there.

    Args:
        text: the line, without its end.
        stream: stdout where None.
    """
    stream = stream or sys.stdout
    try:
        stream.write(f"{text}\n")
        stream.flush()
    except BrokenPipeError:
        discard(stream)
        return False
    return True


def print_lines(lines: Iterable[str]) -> None:
    """Print lines on stdout; stop without a word if its reader has gone.

    Args:
        lines: the lines.

    Raises:
        typer.Exit: the reader has gone.
    """
    for line in lines:
        if not emit(line):
            raise typer.Exit(BROKEN_PIPE)


def print_json(value: object, *, indent: int | None = 2) -> None:
    """Print a JSON value on stdout.

    Args:
        value: what JSON can say, and datetimes.
        indent: how deep to indent; None puts it on one line.

    Raises:
        typer.Exit: the reader has gone.
    """
    print_lines([json_text(value, indent=indent)])


def json_text(value: object, *, indent: int | None = None) -> str:
    """Return a value as JSON that stdout can carry, whatever its encoding.

    Args:
        value: what JSON can say, and datetimes.
        indent: how deep to indent; None puts it on one line.
    """
    ascii_only = (sys.stdout.encoding or "ascii").lower().replace("-", "") != "utf8"
    return json.dumps(value, indent=indent, ensure_ascii=ascii_only, allow_nan=False, default=_as_json)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table, its columns aligned.

    Args:
        header: the names of the columns.
        rows: the cells, one line of text each.
    """
    cells = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def plural(number: int, noun: str) -> str:
    """Return a number with its noun.

    Args:
        number: how many.
        noun: what, in the singular.
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def show_seconds(seconds: float) -> str:
    """Return a duration for people.

    Args:
        seconds: the duration.
    """
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def show_bytes(size: int) -> str:
    """Return a size for people.

    Args:
        size: in bytes.
    """
    if size < 1000:
        return f"{size} B"
    value = float(size)
    for unit in ("kB", "MB"):
        value /= 1000
        if value < 1000:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} GB"


def show_time(moment: datetime) -> str:
    """Return a time in the local time zone, to the second.

    Args:
        moment: an aware datetime.
    """
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def show_value(value: Any, width: int) -> str | None:
    """Return a value as JSON on one line, or None where it is longer than that.

    Args:
        value: the value.
        width: how many characters it may have.
    """
    if isinstance(value, str) and len(value) > width:
        return None
    if isinstance(value, (list, dict)) and len(value) > width // 2:
        return None
    text = one_line(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= width else None


def _as_json(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__qualname__} is not JSON")


def discard(stream: TextIO) -> None:
    """Let what is written from now on go nowhere, also what Python flushes at exit.

    Args:
        stream: its reader has gone.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
