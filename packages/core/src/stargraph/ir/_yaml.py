"""YAML 1.2 and JSON text to plain values, with the position of each.

Values follow the core schema of YAML 1.2 (section 10.3.2), so `on`, `yes` and `12:30` are text. There are no
tags but those of that schema, so nothing in a file can name a class or run code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from stargraph.ir._positions import Fault, Position, Positions, Source, YamlNode, show_value

MAX_BYTES: Final = 4 * 1024 * 1024
"""How large a file may be."""

MAX_VALUES: Final = 100_000
"""How many values a file may hold, aliases written out."""

MAX_DEPTH: Final = 100
"""How deep lists and mappings may nest, aliases written out."""

_CORE: Final = "tag:yaml.org,2002:"
_NULL: Final = re.compile(r"null|Null|NULL|~|")
_BOOL: Final = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT: Final = re.compile(r"[-+]?[0-9]+")
_OCTAL: Final = re.compile(r"0o[0-7]+")
_HEX: Final = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_UNCLEAR_BREAK: Final = re.compile("[\x85\u2028\u2029]")


class _ScalarFault(Exception):
    """Why a scalar is refused."""


def compose(text: str, *, file: str) -> YamlNode:
    """Read YAML or JSON text.

    Args:
        text: the text of the file.
        file: its name, for errors.

    Returns:
        The document with its places.

    Raises:
        GraphError: the text is not YAML, says what JSON cannot say, or is beyond a bound.
    """
    from ruamel.yaml.error import MarkedYAMLError
    from ruamel.yaml.reader import ReaderError

    if unclear := _UNCLEAR_BREAK.search(text):
        code = ord(unclear.group())
        _fail(
            f"U+{code:04X} is a line break to some readers and text to others;"
            f' write it as "\\u{code:04x}" in double quotes',
            _position_at(text, unclear.start()),
            file,
        )
    composer = _Composer(file)
    try:
        root = composer.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = Position(mark.line + 1, mark.column + 1) if mark else composer.position
        problem = str(error.problem or error.context)
        if error.problem and error.context:
            problem += f", {error.context}"
            if error.context_mark:
                problem += f" that begins at line {error.context_mark.line + 1}"
        _fail(f"not valid YAML: {problem}", position, file)
    except ReaderError as error:
        found = error.character if isinstance(error.character, str) else chr(error.character)
        _fail(
            f"not valid YAML: the character U+{ord(found):04X} must be written as an escape in double quotes",
            _position_at(text, text.find(found)),
            file,
        )
    except (ValueError, OverflowError):
        # ruamel.yaml hands what stands in an escape to chr() as it is
        _fail("not valid YAML: an escape after here names no character", composer.position, file)
    if composer.faults:
        raise Source(file, Positions(root)).error(composer.faults, reason="invalid-yaml")
    return root


class _Composer:
    """Turns the events of one YAML text into nodes, without recursion.

    Faults that leave the rest readable are collected, others are raised.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.position = Position(1, 1)
        self.faults: list[Fault] = []
        self._anchors: dict[str, YamlNode | None] = {}
        self._open: list[_Open] = []
        self._values = 0

    def compose(self, text: str) -> YamlNode:
        from ruamel.yaml import events

        root: YamlNode | None = None
        documents = 0
        for event in _events(text):
            mark = event.start_mark
            self.position = Position(mark.line + 1, mark.column + 1)
            match event:
                case events.DocumentStartEvent():
                    documents += 1
                    self._check_document_start(event, documents)
                case events.ScalarEvent():
                    self._count(1)
                    root = self._add(self._scalar(event), event.anchor) or root
                case events.CollectionStartEvent():
                    self._count(1)
                    self._begin(event, mapping=isinstance(event, events.MappingStartEvent))
                case events.CollectionEndEvent():
                    opened = self._open.pop()
                    root = self._add(opened.close(), opened.anchor) or root
                case events.AliasEvent():
                    node = self._alias(event.anchor)
                    self._count(node.size)
                    root = self._add(node, None) or root
        if root is None or root.value is None:
            _fail("the file is empty; a graph needs at least 'id' and 'nodes'", Position(1, 1), self.file)
        return root

    def _check_document_start(self, event: Any, documents: int) -> None:
        if documents > 1:
            _fail("a second document begins here; a file holds one graph", self.position, self.file)
        if event.version is not None and tuple(event.version) != (1, 2):
            version = ".".join(map(str, event.version))
            _fail(f"the file says %YAML {version}; graphs are YAML 1.2", self.position, self.file)

    def _count(self, size: int) -> None:
        self._values += size
        if self._values > MAX_VALUES:
            _fail(f"more than {MAX_VALUES:,} values, aliases written out", self.position, self.file)

    def _begin(self, event: Any, *, mapping: bool) -> None:
        wanted = f"{_CORE}{'map' if mapping else 'seq'}"
        if event.tag not in (None, "!", wanted):
            self._fault(f"the tag {event.tag!r} is not supported; leave it out")
        if len(self._open) >= MAX_DEPTH:
            _fail(f"nested deeper than {MAX_DEPTH} levels", self.position, self.file)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._open.append(_Open(self.position, event.anchor, mapping))

    def _alias(self, anchor: str) -> YamlNode:
        if anchor not in self._anchors:
            # Not quoted: a password that begins with a star reads as an alias.
            _fail("this alias has no anchor before it", self.position, self.file)
        node = self._anchors[anchor]
        if node is None:
            _fail(f"the alias *{anchor} stands inside the value that it stands for", self.position, self.file)
        if len(self._open) + node.height > MAX_DEPTH:
            _fail(f"nested deeper than {MAX_DEPTH} levels, aliases written out", self.position, self.file)
        return node

    def _add(self, node: YamlNode, anchor: str | None) -> YamlNode | None:
        """Put a complete value where it belongs; return it if it is the whole document."""
        if anchor is not None:
            self._anchors[anchor] = node
        if not self._open:
            return node
        parent = self._open[-1]
        parent.size += node.size
        parent.height = max(parent.height, node.height + 1)
        if parent.mapping and parent.key is None:
            parent.key = node
            self._check_key(parent, node)
        else:
            parent.take(node)
        return None

    def _check_key(self, parent: _Open, key: YamlNode) -> None:
        if not isinstance(key.value, str):
            shown = "a list or a mapping" if isinstance(key.value, list | dict) else show_value(key.value)
            self._fault(f"a key must be text, not {shown}; put it in quotes", key.position)
        elif key.value in parent.keys:
            first = parent.keys[key.value]
            self._fault(f"the key {key.value!r} is given twice; it is first given at line {first.line}", key.position)

    def _scalar(self, event: Any) -> YamlNode:
        try:
            value = _resolve(event.value, event.tag, plain=event.implicit[0] and event.style is None)
        except _ScalarFault as fault:
            self._fault(str(fault))
            value = None
        position = self.position
        if event.start_mark.index == event.end_mark.index and self._open and self._open[-1].key is not None:
            # a value left out begins nowhere, or on a later line; its key is what people look for
            position = self._open[-1].key.position
        return YamlNode(position, value)

    def _fault(self, message: str, position: Position | None = None) -> None:
        self.faults.append(Fault(message, position=position or self.position))


class _Open:
    """A list or a mapping whose end has not come yet."""

    def __init__(self, position: Position, anchor: str | None, mapping: bool) -> None:
        self.position = position
        self.anchor = anchor
        self.mapping = mapping
        self.items: list[YamlNode] = []
        self.members: dict[str, YamlNode] = {}
        self.keys: dict[str, Position] = {}
        self.key: YamlNode | None = None
        self.size = 1
        self.height = 0

    def take(self, node: YamlNode) -> None:
        if self.key is None:
            self.items.append(node)
            return
        name = self.key.value
        if isinstance(name, str) and name not in self.members:
            self.members[name] = node
            self.keys[name] = self.key.position
        self.key = None

    def close(self) -> YamlNode:
        value = self.members if self.mapping else self.items
        return YamlNode(self.position, value, self.keys, self.size, self.height)


def _events(text: str) -> Iterator[Any]:
    from ruamel.yaml import YAML

    yaml: Any = YAML(typ="safe", pure=True)
    return iter(yaml.parse(text))


def _resolve(text: str, tag: str | None, *, plain: bool) -> Any:
    if tag is None:
        return _resolve_plain(text) if plain else _joined(text)
    if tag in ("!", f"{_CORE}str"):
        return _joined(text)
    for name, pattern in (
        ("null", (_NULL,)),
        ("bool", (_BOOL,)),
        ("int", (_INT, _OCTAL, _HEX)),
        ("float", (_FLOAT, _NOT_FINITE)),
    ):
        if tag == f"{_CORE}{name}":
            if not any(form.fullmatch(text) for form in pattern):
                raise _ScalarFault(f"{show_value(text)} is not a value of the tag !!{name}")
            value = _resolve_plain(text)
            return float(value) if name == "float" else value
    raise _ScalarFault(f"the tag {tag!r} is not supported; leave it out")


def _resolve_plain(text: str) -> Any:
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text[0] in "tT"
    for form, base in ((_INT, 10), (_OCTAL, 8), (_HEX, 16)):
        if form.fullmatch(text):
            # int() has a limit of its own for long texts, far above 64 bits
            digits = text.lstrip("+-0ox")
            number = int(text, base) if len(digits) <= 64 else None
            if number is None or not -(2**63) <= number < 2**63:
                raise _ScalarFault(f"{show_value(text)} does not fit 64 bits; put it in quotes to keep it as text")
            return number
    if _NOT_FINITE.fullmatch(text) or (_FLOAT.fullmatch(text) and not math.isfinite(float(text))):
        raise _ScalarFault(f"{show_value(text)} is not a number that JSON has; put it in quotes to keep it as text")
    if _FLOAT.fullmatch(text):
        return float(text)
    return _joined(text)


def _joined(text: str) -> str:
    """Join the halves of a character that JSON text escapes as a surrogate pair."""
    if text.isascii():
        return text
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise _ScalarFault("half of a surrogate pair is not text; write both halves or the character itself") from None


def _position_at(text: str, offset: int) -> Position:
    before = text[:offset]
    start = before.rfind("\n") + 1
    return Position(before.count("\n") + 1, offset - start + 1)


def _fail(message: str, position: Position, file: str) -> NoReturn:
    raise Source(file).error([Fault(message, position=position)], reason="invalid-yaml") from None
