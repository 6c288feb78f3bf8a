"""stdout and stderr that never end a run: what cannot be printed is lost, with a warning at most."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import IO, Any, Final, TextIO, TypeAlias, cast

Stream: TypeAlias = "SafeStream | TextIO"

_STREAMS: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


class _Cursor:
    """Where the next character goes, for the streams that share a terminal or a file."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.at_line_start = True


class SafeStream(io.TextIOBase):
    """A stream whose writes never raise, and whose lines never start behind other text.

    Args:
        inner: the stream that is written to.
        cursor: shared with a stream that leads to the same place.

    Attributes:
        failure: why the stream takes no more text, or None while it does.
        sink: takes what is written instead, while a live display owns the terminal.
    """

    def __init__(self, inner: TextIO, cursor: _Cursor) -> None:
        self.failure: OSError | None = None
        self.sink: Callable[[str], None] | None = None
        self._inner = inner
        self._cursor = cursor

    def write(self, text: str) -> int:
        """Write a text; lose it if that is not possible."""
        if not isinstance(text, str):
            raise TypeError(f"write() takes text, not {type(text).__name__}")
        if self.sink is not None:
            self.sink(text)
        elif text:
            with self._cursor.lock:
                self._attempt(lambda: self._inner.write(text))
                self._cursor.at_line_start = text.endswith("\n")
        return len(text)

    def write_line(self, line: str) -> bool:
        """Write a line that begins at the left, and flush; return whether the stream still takes text.

        Args:
            line: the line, without its end.
        """
        if self.sink is not None:
            self.sink(f"{line}\n")
            return True
        with self._cursor.lock:
            self.start_line()
            self.write(f"{line}\n")
            self.flush()
        return self.failure is None

    def start_line(self) -> None:
        """End the line that a node has left open, if there is one."""
        with self._cursor.lock:
            if not self._cursor.at_line_start:
                self.write("\n")

    def write_now(self, text: str) -> None:
        """Write a text past the sink, and flush.

        Args:
            text: what the owner of the terminal draws.
        """
        with self._cursor.lock:
            self._attempt(lambda: self._inner.write(text))
            self._attempt(self._inner.flush)

    def flush(self) -> None:
        """Flush, as far as that is possible."""
        if self.sink is None:  # its owner flushes
            with self._cursor.lock:
                self._attempt(self._inner.flush)

    def close(self) -> None:
        """Do nothing; a node that closes stdout does not close it for others."""

    def isatty(self) -> bool:
        """Whether it leads to a terminal that is still there."""
        return self.failure is None and is_terminal(self._inner)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._inner.fileno()

    def writable(self) -> bool:
        """Return True."""
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream."""
        return getattr(self._inner, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """What is done with text that the encoding lacks."""
        return getattr(self._inner, "errors", None)

    @property
    def buffer(self) -> IO[bytes]:
        """The same stream for bytes, which never raises either."""
        return cast("IO[bytes]", _SafeBuffer(self))

    @property
    def raw_buffer(self) -> IO[bytes]:
        """The inner stream for bytes, whose errors are raised: for data that must arrive."""
        return self._inner.buffer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write_bytes(self, content: bytes) -> int:
        """Write bytes; lose them if that is not possible."""
        if self.sink is not None:
            self.sink(content.decode(errors="backslashreplace"))
        elif content:
            with self._cursor.lock:
                self.flush()
                self._attempt(lambda: self._inner.buffer.write(content))
                self._cursor.at_line_start = content.endswith(b"\n")
        return len(content)

    def fail(self, error: OSError) -> None:
        """Take no more text; what is written from now on, also by Python at exit, goes nowhere.

        Args:
            error: why.
        """
        self.failure = error
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._inner.fileno())
            os.close(nowhere)
        if not isinstance(error, BrokenPipeError) and self is not sys.stderr and isinstance(sys.stderr, SafeStream):
            sys.stderr.write_line(f"warning: cannot write to stdout: {error.strerror or error}")

    def _attempt(self, write: Callable[[], object]) -> None:
        if self.failure is not None:
            return
        try:
            write()
        except OSError as error:
            self.fail(error)
        except ValueError as error:  # the stream is closed
            self.fail(OSError(str(error)))


class _SafeBuffer(io.BufferedIOBase):
    """The bytes of a safe stream."""

    def __init__(self, stream: SafeStream) -> None:
        self._stream = stream

    def write(self, content: Any) -> int:
        """Write bytes; lose them if that is not possible."""
        return self._stream.write_bytes(bytes(content))

    def flush(self) -> None:
        """Flush, as far as that is possible."""
        self._stream.flush()

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._stream.fileno()

    def close(self) -> None:
        """Do nothing."""


@contextlib.contextmanager
def safe_streams() -> Iterator[None]:
    """Make stdout and stderr safe for a while."""
    before = sys.stdout, sys.stderr
    if not any(isinstance(stream, SafeStream) for stream in before):
        cursor = _Cursor()
        sys.stdout = SafeStream(before[0], cursor)
        sys.stderr = SafeStream(before[1], cursor if _same_place(*before) else _Cursor())
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # a module of a graph may have put None in its place
                stream.flush()
        sys.stdout, sys.stderr = before


def open_missing_streams() -> None:
    """Open what the caller has closed of stdin, stdout and stderr.

    The next file that is opened would take its number otherwise, and what a child process prints would end up in it.
    """
    for number in range(len(_STREAMS)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number, which is this one
    for name, mode in _STREAMS:
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115


@contextlib.contextmanager
def stdout_kept() -> Iterator[Stream]:
    """Keep stdout for the caller: what else writes there, child processes too, goes to stderr for a while."""
    stdout = sys.stdout
    sys.stdout = sys.stderr
    try:
        with _kept_descriptor(stdout) as kept:
            yield kept
    finally:
        sys.stdout = stdout


@contextlib.contextmanager
def _kept_descriptor(stdout: Stream) -> Iterator[Stream]:
    try:
        number = stdout.fileno()
        taken = number == 1 and sys.stderr.fileno() == 2
    except (OSError, ValueError):  # in a test, a stream without a descriptor
        taken = False
    if not taken or not isinstance(stdout, SafeStream):
        yield stdout
        return
    stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    try:
        with open(own, "w", encoding=stdout.encoding, errors=stdout.errors, closefd=False) as inner:
            kept = SafeStream(inner, _Cursor())
            yield kept
            kept.flush()
    finally:
        os.dup2(own, 1)
        os.close(own)


def is_terminal(stream: Any) -> bool:
    """Return whether a stream leads to a terminal; False for one that is closed or missing.

    Args:
        stream: stdin, stdout or stderr.
    """
    try:
        return stream is not None and bool(stream.isatty())
    except (OSError, ValueError):
        return False


def _same_place(one: TextIO, other: TextIO) -> bool:
    try:
        return os.path.sameopenfile(one.fileno(), other.fileno())
    except (OSError, ValueError, AttributeError):
        return False
