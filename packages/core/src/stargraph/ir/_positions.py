"""Positions in a file, and faults at them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

from stargraph.errors import GraphError

Path: TypeAlias = tuple[str | int, ...]
"""The way from the document to one of its parts: keys of mappings, indexes of lists."""

_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_MAX_FAULTS: Final = 50


class Position(NamedTuple):
    """A line and a column in a file, both from 1."""

    line: int
    column: int


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
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def one_of(words: Sequence[str] | Mapping[str, object]) -> str:
    """List words: `a, b or c`."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def error_of(
    faults: Sequence[Fault], *, reason: str, file: str | None = None, positions: Positions | None = None
) -> GraphError:
    """Make one error of all that is wrong with a document: a line for each fault, in the order of the file.

    Args:
        faults: what is wrong; at least one.
        reason: the error's reason.
        file: the file, if the document has one.
        positions: the positions of its parts in the file.
    """
    located: list[tuple[Position | None, str]] = []
    for fault in faults:
        position = fault.position
        if position is None and positions is not None:
            position = positions.find(fault.path, key=fault.key)
        path = show_path(fault.path)
        located.append((position, f"{path}: {fault.message}" if path else fault.message))
    if all(position is not None for position, _ in located):
        located.sort(key=lambda item: item[0] or Position(0, 0))
    left_out = len(located) - _MAX_FAULTS
    located = list(dict.fromkeys(located))[:_MAX_FAULTS]
    first, message = located[0]
    for position, text in located[1:]:
        where = ":".join(str(part) for part in (file, *(position or ())) if part is not None)
        message += f"\n{where}: {text}" if where else f"\n{text}"
    if left_out > 0:
        message += f"\n… and {left_out} more"
    line, column = first or (None, None)
    return GraphError(message, reason=reason, file=file, line=line, column=column)
