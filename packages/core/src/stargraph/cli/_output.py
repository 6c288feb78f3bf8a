"""Print text that cannot harm a terminal: lines, JSON, tables, durations and sizes."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import typer

from stargraph.cli._exit_codes import ExitCode
from stargraph.cli._secrets import hide_in_json, hide_known
from stargraph.cli._streams import SafeStream, Stream

_UNSAFE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """Return a text with control characters written as escapes, so that it cannot drive the terminal.

    Args:
        text: may come from a node, a store or a file.
    """
    return _UNSAFE.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """Return a text on one line, harmless.

    Args:
        text: may come from a node, a store or a file.
    """
    return clean(text.replace("\n", "\\n").replace("\t", "\\t"))


def shorten(text: str, length: int) -> str:
    """Return a text, or its start and how long it is.

    Args:
        text: may be of many megabytes.
        length: how many characters are shown at most.
    """
    return text if len(text) <= length else f"{text[:length]}… ({len(text):,} characters in all)"


def emit(text: str, stream: Stream | None = None) -> bool:
    """Write a line and flush; return whether the stream still takes text.

    Args:
        text: the line, without its end.
        stream: stdout if None.
    """
    stream = stream or sys.stdout
    if stream is None:  # a node has put None in the place of both
        return False
    line = hide_known(text)
    if isinstance(stream, SafeStream):
        return stream.write_line(line)
    stream.write(f"{line}\n")
    stream.flush()
    return True


def print_lines(lines: Iterable[str]) -> None:
    """Print lines on stdout; stop silently if its reader has gone.

    Args:
        lines: without their ends.

    Raises:
        typer.Exit: stdout takes no more text.
    """
    for line in lines:
        if not emit(line):
            raise typer.Exit(exit_code_of_stdout())


def exit_code_of_stdout() -> ExitCode:
    """Return the exit code of a command that could not print its result."""
    failure = sys.stdout.failure if isinstance(sys.stdout, SafeStream) else None
    return ExitCode.BROKEN_PIPE if isinstance(failure, BrokenPipeError) else ExitCode.OUTPUT


def print_json(value: object, *, indent: int | None = 2) -> None:
    """Print a JSON value on stdout.

    Args:
        value: what JSON can say, and datetimes.
        indent: how deep to indent; None puts it on one line.

    Raises:
        typer.Exit: stdout takes no more text.
    """
    print_lines([json_text(value, indent=indent)])


def json_text(value: object, *, indent: int | None = None) -> str:
    """Return a value as JSON that stdout can carry, whatever its encoding.

    Args:
        value: what JSON can say, and datetimes.
        indent: how deep to indent; None puts it on one line.
    """
    ascii_only = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "") != "utf8"
    return json.dumps(hide_in_json(value), indent=indent, ensure_ascii=ascii_only, allow_nan=False, default=_as_json)


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


def show_age(age: timedelta) -> str:
    """Return how long ago something was, for people, in at most 7 characters.

    Args:
        age: the time since; negative if clocks differ.
    """
    seconds = max(int(age.total_seconds()), 0)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


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
    """Return a value as JSON on one line, or None if it is longer than that.

    Args:
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
