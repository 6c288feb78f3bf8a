"""What a loss of power can leave of files: all that was synced, and any part of what was not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final, Literal, TypeAlias, TypeVar

from stargraph_torture.syscalls import Event, Name, Sync, Truncate, Write

_SECTOR: Final = 512
"""Bytes that a disk writes whole or not at all."""

Kept: TypeAlias = Literal["nothing", "everything", "a prefix", "any writes", "any sectors"]
"""What reached the disk of that which was not synced."""

KEPT: Final[tuple[Kept, ...]] = ("nothing", "everything", "a prefix", "any writes", "any sectors")


T = TypeVar("T")


@dataclass
class _File:
    synced: list[Write | Truncate] = field(default_factory=list)
    pending: list[tuple[int, Write | Truncate]] = field(default_factory=list)


def disk_after(events: Sequence[Event], moment: int, kept: Kept, rng: random.Random, root: Path) -> dict[str, bytes]:
    """Return the files that are there when power comes back.

    A name is on disk once its directory was synced, data once the file was. What was written before a sync began
    is on disk when the sync ends. Nothing else is certain: later writes may be there without earlier ones.

    Args:
        events: what was done.
        moment: power goes before the event of this number.
        kept: what is there of what was not synced.
        rng: chooses.
        root: the folder, which was there before.

    Returns:
        The contents by their paths.
    """
    files: dict[str, _File] = {}
    owner: dict[str, str] = {}  # a name → the file that has it, called by the number of the event that made it
    synced_names: dict[str, str] = {}
    pending_names: list[tuple[int, Name, str | None]] = []
    for number, event in enumerate(events[:moment]):
        if isinstance(event, Name):
            file = None if event.of is None else str(number) if event.of == event.path else owner[event.of]
            if file is None:
                owner.pop(event.path, None)
            else:
                owner[event.path] = file
                files.setdefault(file, _File())
            pending_names.append((number, event, file))
        elif isinstance(event, (Write, Truncate)):
            files[owner[event.path]].pending.append((number, event))
        elif isinstance(event, Sync):
            if event.path in owner:
                written = files[owner[event.path]]
                written.synced += [each for at, each in written.pending if at < event.begun]
                written.pending = [(at, each) for at, each in written.pending if at >= event.begun]
            still_pending = []
            for at, name, file in pending_names:
                if at < event.begun and str(PurePosixPath(name.path).parent) == event.path:
                    _rename(synced_names, name.path, file)
                else:
                    still_pending.append((at, name, file))
            pending_names = still_pending
    names = dict(synced_names)
    for _, name, file in _survivors(pending_names, kept, rng):
        _rename(names, name.path, file)
    contents = {file: _content(files[file], kept, rng) for file in files}
    # A file in a folder that is not there is not there.
    return {
        path: contents[file]
        for path, file in names.items()
        if all(str(above) in names for above in PurePosixPath(path).parents if root in Path(above).parents)
    }


def _rename(names: dict[str, str], path: str, file: str | None) -> None:
    if file is None:
        names.pop(path, None)
    else:
        names[path] = file


def _survivors(pending: list[T], kept: Kept, rng: random.Random) -> list[T]:
    match kept:
        case "nothing":
            return []
        case "everything":
            return pending
        case "a prefix":
            return pending[: rng.randint(0, len(pending))]
    return [each for each in pending if rng.random() < 0.5]


def _content(file: _File, kept: Kept, rng: random.Random) -> bytes:
    content = bytearray()
    for each in file.synced:
        _apply(content, each)
    survivors = file.pending if kept == "any sectors" else _survivors(file.pending, kept, rng)
    for _, each in survivors:
        if kept == "any sectors" and isinstance(each, Write):
            for start, sector in _sectors(each):
                if rng.random() < 0.5:
                    _apply(content, Write(each.path, start, sector))
        elif kept != "any sectors" or rng.random() < 0.5:
            _apply(content, each)
    return bytes(content)


def _sectors(write: Write) -> list[tuple[int, bytes]]:
    """Cut a write where the sectors of the disk end."""
    parts, offset, data = [], write.offset, write.data
    while data:
        room = _SECTOR - offset % _SECTOR
        parts.append((offset, data[:room]))
        offset, data = offset + room, data[room:]
    return parts


def _apply(content: bytearray, change: Write | Truncate) -> None:
    if isinstance(change, Truncate):
        del content[change.size :]
        content.extend(bytes(change.size - len(content)))
        return
    end = change.offset + len(change.data)
    content.extend(bytes(max(end - len(content), 0)))
    content[change.offset : end] = change.data
