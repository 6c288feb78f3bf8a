"""What a process did to files, as strace saw it: writes with their bytes, syncs, and names that came and went."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_CALLS: Final = (
    "openat,open,creat,write,pwrite64,pwritev,pwritev2,writev,ftruncate,truncate,fallocate,fsync,fdatasync,"
    "sync_file_range,link,linkat,unlink,unlinkat,rename,renameat,renameat2,mkdir,mkdirat,rmdir"
)
_LINE: Final = re.compile(r"(?P<pid>\d+) +(?P<rest>.*)")
_RESUMED: Final = re.compile(r"<\.\.\. \w+ resumed>(?P<rest>.*)")
_CALL: Final = re.compile(r"(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+)")
_HEX: Final = re.compile(r"(?:\\x[0-9a-f]{2})+")
_UNFINISHED: Final = " <unfinished ...>"


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes at an offset of a file."""

    path: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """A file got a size."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Name:
    """A name came, or went.

    Attributes:
        path: the name.
        of: the name of the file that it is given to: itself if that is new; None if the name goes.
    """

    path: str
    of: str | None


@dataclass(frozen=True, slots=True)
class Sync:
    """A file or a directory is on disk, as it was when the call began.

    Attributes:
        path: the file or the directory.
        begun: how many events had happened when the call was made.
    """

    path: str
    begun: int


@dataclass(frozen=True, slots=True)
class Told:
    """A line of the ledger."""

    line: Mapping[str, Any]


Event = Write | Truncate | Name | Sync | Told


def why_not() -> str | None:
    """Return why nothing can be recorded here, or None."""
    if shutil.which("strace") is None:
        return "strace is not here: apt-get install strace"
    done = subprocess.run(["strace", "-f", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return f"strace may not trace here: {done.stderr.strip()}" if done.returncode else None


def record(
    command: Sequence[str], *, root: Path, ledger: Path, trace: Path, environment: Mapping[str, str]
) -> list[Event]:
    """Run a command and return what it did below a folder, in order.

    Args:
        command: what to run; it must succeed.
        root: the folder; empty.
        ledger: the file that the command tells its acknowledgements to; outside of the folder.
        trace: where to put strace's file.
        environment: variables of the command.
    """
    strace = ["strace", "-f", "-y", "-xx", "-s", str(2**24), "-e", f"trace={_CALLS}", "-e", "signal=none"]
    done = subprocess.run(
        [*strace, "-o", str(trace), *command], env=dict(environment), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-4000:]
    with trace.open() as lines:
        return _Reader(str(root), str(ledger)).read(lines)


class _Reader:
    def __init__(self, root: str, ledger: str) -> None:
        self._root = root
        self._ledger = ledger
        self._events: list[Event] = []
        self._names: set[str] = {root}
        self._lengths: dict[str, int] = {}

    def read(self, lines: Iterator[str]) -> list[Event]:
        begun: dict[str, tuple[str, int]] = {}
        for line in lines:
            matched = _LINE.match(line.rstrip("\n"))
            assert matched is not None, line[:200]
            pid, rest = matched["pid"], matched["rest"]
            resumed = _RESUMED.match(rest)
            if resumed is not None:
                head, since = begun.pop(pid)
                self._take(head + resumed["rest"], since)
            elif rest.endswith(_UNFINISHED):
                begun[pid] = (rest.removesuffix(_UNFINISHED), len(self._events))
            else:
                self._take(rest, len(self._events))
        return self._events

    def _take(self, text: str, begun: int) -> None:
        matched = _CALL.match(text)
        if matched is None or matched["result"].startswith("-"):
            return  # an exit, or a call that failed
        name, result = matched["name"], int(matched["result"])
        arguments = matched["arguments"].split(", ")
        paths = [_text(part) for part in _HEX.findall(matched["arguments"].partition('"')[0] or arguments[0])]
        if name in ("write", "pwrite64"):
            self._take_write(name, paths[0], arguments, result)
        elif name in ("fsync", "fdatasync"):
            if self._ours(paths[0]):
                self._events.append(Sync(paths[0], begun))
        elif name == "ftruncate":
            if self._ours(paths[0]):
                self._lengths[paths[0]] = int(arguments[1])
                self._events.append(Truncate(paths[0], int(arguments[1])))
        else:
            self._take_name(name, matched["arguments"])

    def _take_write(self, name: str, path: str, arguments: list[str], result: int) -> None:
        if path != self._ledger and not self._ours(path):
            return
        data = bytes.fromhex(arguments[1].strip('"').replace("\\x", ""))
        assert len(data) == result, (path, len(data), result)
        if path == self._ledger:
            self._events.append(Told(json.loads(data)))
        else:
            # A write that says no place is one of those that append.
            length = self._lengths.get(path, 0)
            start = length if name == "write" else int(arguments[3])
            self._lengths[path] = max(length, start + len(data))
            self._events.append(Write(path, start, data))

    def _take_name(self, name: str, arguments: str) -> None:
        quoted = [_text(part) for part in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', arguments)]
        if not any(self._ours(path) for path in quoted):
            return
        if name in ("open", "openat", "creat", "mkdir", "mkdirat"):
            (path,) = quoted
            makes = name not in ("open", "openat") or "O_CREAT" in arguments
            if makes and path not in self._names:
                self._names.add(path)
                self._events.append(Name(path, path))
            assert "O_TRUNC" not in arguments, path
        elif name in ("link", "linkat"):
            source, path = quoted
            self._names.add(path)
            self._lengths[path] = self._lengths.get(source, 0)
            self._events.append(Name(path, source))
        elif name in ("unlink", "unlinkat", "rmdir"):
            self._names.discard(quoted[0])
            self._lengths.pop(quoted[0], None)
            self._events.append(Name(quoted[0], None))
        else:
            raise AssertionError(f"{name}({arguments[:200]}): what this leaves behind is not known")

    def _ours(self, path: str) -> bool:
        return path == self._root or path.startswith(f"{self._root}/")


def _text(escaped: str) -> str:
    return bytes.fromhex(escaped.replace("\\x", "")).decode()
