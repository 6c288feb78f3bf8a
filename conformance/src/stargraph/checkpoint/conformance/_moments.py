"""Moments of a call: the lines of Python that it comes through, and which of them find the store changed.

A signal that is sent at a chosen moment ends or freezes a process between two lines that are microseconds apart.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple, TypeAlias

import pydantic
import pydantic_core

from stargraph.checkpoint import codec, protocol
from stargraph.checkpoint.conformance._files import files_of

_HERE: Final = Path(__file__).parent
_LIBRARY: Final = Path(sysconfig.get_path("stdlib"))

_CHANGES_FILES: Final = ("dbm", "gzip", "os", "pathlib", "shelve", "shutil", "sqlite3", "tempfile", "zipfile")
"""The part of Python's own library whose lines are looked at: a driver's store changes between them."""

_PASSED_OVER: Final = tuple(Path(str(module.__file__)).parent for module in (codec, protocol, pydantic, pydantic_core))
"""Packages that change no store, beside the kit and the rest of Python's own library."""

_READ_WHOLE: Final = 1 << 20
"""Bytes up to which a file's content is compared; of larger ones only the size and the time."""


class Moment(NamedTuple):
    """A point of a call.

    Attributes:
        file: of the code.
        line: in it.
        event: what the interpreter reports there: line, return or exception.
        turn: how often the call had come there before.
    """

    file: str
    line: int
    event: str
    turn: int

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line}" + (f" (time {self.turn + 1})" if self.turn else "")


@cache
def _is_looked_at(name: str) -> bool:
    file = Path(name)
    if name.startswith("<") or any(file.is_relative_to(folder) for folder in (_HERE, *_PASSED_OVER)):
        return False
    if not file.is_relative_to(_LIBRARY) or "site-packages" in file.parts:
        return True
    return file.relative_to(_LIBRARY).parts[0].removesuffix(".py") in _CHANGES_FILES


class Watch:
    """Tells the moments of whatever runs in this process while it is armed, in all its threads.

    Install it before the driver is opened: threads that started earlier are not seen.

    Args:
        file: look at the code of this file alone; at that of all that may change a store if None.
    """

    def __init__(self, file: str | None = None) -> None:
        self._file = file
        self._tell: Callable[[Moment], None] | None = None
        self._lock = threading.Lock()
        self._seen: Counter[tuple[str, int, str]] = Counter()

    def install(self) -> None:
        """Begin to look at this thread, and at those that start from now on."""
        threading.settrace(self._enter)
        sys.settrace(self._enter)

    def arm(self, tell: Callable[[Moment], None]) -> None:
        """Call back at every moment from now on."""
        self._seen.clear()
        self._tell = tell

    def disarm(self) -> None:
        """Call back no more."""
        self._tell = None

    # The parameters are those that the interpreter gives to a trace function.
    def _enter(self, frame: FrameType, event: str, _: Any) -> TraceFunction | None:
        name = frame.f_code.co_filename
        return self._step if (_is_looked_at(name) if self._file is None else name == self._file) else None

    def _step(self, frame: FrameType, event: str, _: Any) -> TraceFunction:
        if self._tell is not None:
            with self._lock:
                place = (frame.f_code.co_filename, frame.f_lineno, event)
                turn = self._seen[place]
                self._seen[place] += 1
                if self._tell is not None:
                    self._tell(Moment(*place, turn))
        return self._step


TraceFunction: TypeAlias = Callable[[FrameType, str, Any], Any]


def fingerprint(location: str) -> object:
    """What the files of a store look like; always the same if the location is no path."""
    return tuple(_look_at(Path(location))) if Path(location).is_absolute() else ()


def _look_at(store: Path) -> Iterator[tuple[str, int, int]]:
    for file in files_of(store):
        try:
            facts = file.stat()
            whole = facts.st_size <= _READ_WHOLE and file.is_file()
            yield str(file), facts.st_size, zlib.crc32(file.read_bytes()) if whole else facts.st_mtime_ns
        except FileNotFoundError:
            continue


_BEFORE: Final = (2, 6, 14, 30)
"""How many moments before the first change a call is looked at too: it has made up its mind, and not acted yet."""

_OWN_PARTS: Final = 6
"""Into how many parts its own lines before the first change are split: the driver has decided after one of them."""


def code_of(driver: object) -> tuple[str, ...]:
    """Return what the names of the files begin with that hold the code of a driver: of its package, or its one module.

    Those of the classes that its class is made of are among them.
    """
    found = set()
    for name in {kind.__module__ for kind in type(driver).__mro__}:
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if file is not None and _is_looked_at(file):
            found.add(f"{Path(file).parent}{os.sep}" if getattr(module, "__package__", "") else file)
    return tuple(sorted(found))


class MomentRecorder:
    """Collects moments, and those of them at which the store had changed since the moment before.

    Attributes:
        changed: those at which it had.
        own: the others that are in the driver's own code.
        others: all others, in the order in which they came.
        decided: some that came shortly before the first change.
        before: for each change, the moment that it came after: the line there is the one that makes it.
    """

    def __init__(self, location: str, code: tuple[str, ...]) -> None:
        self._location = location
        self._code = code
        self._before = fingerprint(location)
        self.changed: list[Moment] = []
        self.own: list[Moment] = []
        self.others: list[Moment] = []
        self.decided: list[Moment] = []
        self.before: list[Moment] = []
        self._last: Moment | None = None

    def __call__(self, moment: Moment) -> None:
        """Look at the store at a moment."""
        now = fingerprint(self._location)
        if now == self._before:
            self.others.append(moment)
            if moment.file.startswith(self._code):
                self.own.append(moment)
        else:
            if not self.changed:
                self.decided = [self.others[-back] for back in _BEFORE if back <= len(self.others)]
                if len(self.own) >= _OWN_PARTS:
                    self.decided += [self.own[len(self.own) * part // _OWN_PARTS] for part in range(1, _OWN_PARTS)]
            self.changed.append(moment)
            if self._last is not None:
                self.before.append(self._last)
        self._before = now
        self._last = moment
