"""Files that a command writes as a whole, and reads; `-` stands for stdout and stdin."""

from __future__ import annotations

import os
import secrets
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
        name: the path.

    Raises:
        StargraphError: it cannot be written.
        typer.Exit: the reader of stdout has gone.
    """
    if name == "-":
        with _stdout() as stream:
            yield stream
        return
    path = Path(name)
    draft = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except OSError as error:
        raise StargraphError(
            f"{name}: {error.strerror or error}",
            reason="invalid-arguments" if isinstance(error, _WRONG_PATH) else "not-written",
            hint="Give a path in a directory that can be written to.",
        ) from None
    finally:
        draft.unlink(missing_ok=True)


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
    try:
        with Path(name).open("rb") as stream:
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
