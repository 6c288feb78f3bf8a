"""Positions in a file, and faults at them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from stargraph.errors import GraphError

Path: TypeAlias = tuple[str | int, ...]
"""The way from the document to one of its parts: keys of mappings, indexes of lists."""

_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_MAX_FAULTS: Final = 50


class Position(NamedTuple):
    """A place in a file.

    Attributes:
        line: from 1.
        column: from 1; None in Python code, where a call may have many lines.
        file: the file, if it is another one than that of the whole.
    """

    line: int
    column: int | None
    file: str | None = None


@dataclass(slots=True)
class YamlNode:
    """A value in a YAML file, and its position.

    Attributes:
        position: where the value begins.
        value: a scalar, a list of nodes, or a mapping of nodes.
        keys: where the keys of a mapping stand.
        size: how many values it has inside, itself included, aliases written out.
        height: how many levels it has inside.
    """

    position: Position
    value: Any
    keys: dict[str, Position] = field(default_factory=dict)
    size: int = 1
    height: int = 0

    def plain(self) -> Any:
        """Return the value as plain Python objects, none of them shared."""
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        return self.value


class Positions:
    """Where the parts of a document stand in its file.

    Args:
        root: the whole file.
    """

    def __init__(self, root: YamlNode) -> None:
        self._root = root

    def find(self, path: Path, *, key: bool = False) -> Position:
        """Return the position of a part, or of the nearest part around it.

        Args:
            path: the way to the part.
            key: whether the key is meant, not the value.
        """
        node = self._root
        position = node.position
        for part in path:
            if isinstance(node.value, dict) and part in node.value:
                position = node.keys[str(part)]
                node = node.value[part]
            elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                position = node.position
            else:
                return node.position
        return position if key else node.position


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault in a document.

    Attributes:
        message: what.
        path: the part of the document.
        key: whether the part's key is meant, not its value.
        position: where in the file, if that is known without the path.
    """

    message: str
    path: Path = ()
    key: bool = False
    position: Position | None = None


def show_path(path: Iterable[str | int]) -> str:
    """Write a path as people read it: `nodes[2].kind`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f"[{show_value(part)}]"
    return text


def show_value(value: object) -> str:
    """Write a value on one line, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}…{text[-10:]}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` if a known word is close, or an empty text."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def one_of(words: Sequence[str] | Mapping[str, object]) -> str:
    """List words: `a, b or c`."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


class Finder(Protocol):
    """Knows where the parts of a document stand."""

    def find(self, path: Path, *, key: bool = False) -> Position:
        """Return the position of a part, or of the nearest part around it."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a document comes from: a file, lines of Python, or nothing that is known.

    Attributes:
        file: the file, or None.
        positions: the positions of its parts, or None.
    """

    file: str | None = None
    positions: Finder | None = None

    def error(self, faults: Sequence[Fault], *, reason: str) -> GraphError:
        """Make one error of all that is wrong with a document: a line for each fault, in the order of the file.

        Args:
            faults: what is wrong; at least one.
            reason: the error's reason.
        """
        located: list[tuple[Position | None, str]] = []
        for fault in faults:
            position = fault.position
            if position is None and self.positions is not None:
                position = self.positions.find(fault.path, key=fault.key)
            path = show_path(fault.path)
            located.append((position, f"{path}: {fault.message}" if path else fault.message))
        if all(position is not None for position, _ in located):
            located.sort(key=lambda item: _order(item[0] or Position(0, 0)))
        return self._joined(located, reason)

    def locate(self, error: GraphError, path: Path = (), *, key: bool = False) -> GraphError:
        """Return an error with the position of the part that it is about, unless it has one already.

        Args:
            error: what is wrong with the part.
            path: the way to the part.
            key: whether the key is meant, not the value.
        """
        if error.file is None and error.line is None:
            position = None if self.positions is None else self.positions.find(path, key=key)
            error.file = (None if position is None else position.file) or self.file
            error.line, error.column = (None, None) if position is None else position[:2]
        return error

    def _joined(self, located: list[tuple[Position | None, str]], reason: str) -> GraphError:
        left_out = len(located) - _MAX_FAULTS
        located = list(dict.fromkeys(located))[:_MAX_FAULTS]
        first, message = located[0]
        for position, text in located[1:]:
            where = ":".join(str(part) for part in self._place(position) if part is not None)
            message += f"\n{where}: {text}" if where else f"\n{text}"
        if left_out > 0:
            message += f"\n… and {left_out} more"
        file, line, column = self._place(first)
        return GraphError(message, reason=reason, file=file, line=line, column=column)

    def _place(self, position: Position | None) -> tuple[str | None, int | None, int | None]:
        if position is None:
            return self.file, None, None
        return position.file or self.file, position.line, position.column


NO_SOURCE: Final = Source()
"""Of a document that was made of parts whose places nobody knows."""


def joined(errors: Sequence[GraphError]) -> GraphError:
    """Return one error of several that have their positions: the first one, with a line for each of the others.

    Args:
        errors: at least one.
    """
    first, *others = errors
    lines = [_one_line(error) for error in others[: _MAX_FAULTS - 1]]
    more = [f"… and {len(errors) - _MAX_FAULTS} more"] if len(errors) > _MAX_FAULTS else []
    first.message = "\n".join([first.message, *lines, *more])
    return first


def _order(position: Position) -> tuple[str, int, int]:
    return position.file or "", position.line, position.column or 0


def _one_line(error: GraphError) -> str:
    place = ":".join(str(part) for part in (error.file, error.line, error.column) if part is not None)
    text = f"{error.message} ({error.hint})" if error.hint else error.message
    return f"{place}: {text}" if place else text
