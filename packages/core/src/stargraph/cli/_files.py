"""Files that a command writes as a whole, and reads; `-` stands for stdout and stdin."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

import typer

from stargraph.cli._output import exit_code_of_stdout
from stargraph.cli._streams import SafeStream
from stargraph.errors import StargraphError

_WRONG_PATH: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


@contextmanager
def output_file(name: str) -> Iterator[BinaryIO]:
    """Open a file that appears under its name once it is whole, readable by this user alone; `-` is stdout.

    Args:
        name: the path; what a link names is replaced, not the link, and a pipe or device is written to.

    Raises:
        StargraphError: it cannot be written.
        typer.Exit: the reader of stdout has gone.
    """
    if name == "-":
        with _stdout() as stream:
            yield stream
        return
    try:
        if _is_pipe_or_device(name):
            with _open_pipe_or_device(name) as stream:
                yield stream
        else:
            with _replaced(Path(os.path.realpath(name))) as stream:
                yield stream
    except OSError as error:
        raise StargraphError(
            f"{name}: {error.strerror or error}",
            reason="invalid-arguments" if isinstance(error, _WRONG_PATH) else "not-written",
            hint="Give a path in a directory that can be written to.",
        ) from None


@contextmanager
def _replaced(path: Path) -> Iterator[BinaryIO]:
    draft = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _is_pipe_or_device(name: str) -> bool:
    try:
        mode = os.stat(name).st_mode  # noqa: PTH116  # a name that the system refuses is refused by what opens it
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _open_pipe_or_device(name: str) -> BinaryIO:
    """Open it at once: a pipe that nobody reads is refused."""
    from stargraph.checkpoint.driver._files import open_at_once

    try:
        descriptor = open_at_once(name, os.O_WRONLY)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(error.errno, "nobody reads this pipe", name) from None
        raise
    return os.fdopen(descriptor, "wb")


@contextmanager
def input_file(name: str) -> Iterator[BinaryIO]:
    """Open a file to read; `-` is stdin.

    Args:
        name: the path.

    Raises:
        StargraphError: it cannot be read.
    """
    if name == "-":
        yield sys.stdin.buffer
        return
    from stargraph.checkpoint.driver import open_regular_file

    try:
        with open_regular_file(name) as stream:
            yield stream
    except OSError as error:
        raise StargraphError(
            f"{name}: {error.strerror or error}",
            reason="invalid-arguments",
            hint="Give the path of a file, or - for stdin.",
        ) from None


@contextmanager
def _stdout() -> Iterator[BinaryIO]:
    # Not the safe stream: data that does not arrive is an error.
    stdout = sys.stdout
    stream = cast("BinaryIO", stdout.raw_buffer if isinstance(stdout, SafeStream) else stdout.buffer)
    try:
        yield stream
        stream.flush()
    except OSError as error:
        if not isinstance(stdout, SafeStream):
            raise
        stdout.fail(error)
        raise typer.Exit(exit_code_of_stdout()) from None
