"""Graphs from files."""

from __future__ import annotations

import os

from stargraph.checkpoint.driver import open_regular_file
from stargraph.checkpoint.protocol import JsonValue
from stargraph.errors import GraphError
from stargraph.errors._arguments import check_type
from stargraph.ir._check import CompileExpression, check_document
from stargraph.ir._models import IRDocument
from stargraph.ir._parse import read_document
from stargraph.ir._positions import Position, Positions, Source
from stargraph.ir._yaml import MAX_BYTES, compose


def load_graph(path: str | os.PathLike[str], *, compile_expression: CompileExpression | None = None) -> IRDocument:
    """Read a graph from a file.

    Args:
        path: a YAML 1.2 or JSON file, UTF-8, at most 4 MiB.
        compile_expression: see `check_document`.

    Returns:
        The graph, checked.

    Raises:
        GraphError: the file cannot be read, or is not a graph; a line for each fault, with file:line:column.
    """
    return read_graph(path, compile_expression=compile_expression)[0]


def read_graph(
    path: str | os.PathLike[str], *, compile_expression: CompileExpression | None = None
) -> tuple[IRDocument, Source]:
    """Read a graph from a file, like `load_graph`, and return it with the places of its parts in the file.

    Args:
        path: as for `load_graph`.
        compile_expression: see `check_document`.

    Raises:
        GraphError: the file cannot be read, or is not a graph; a line for each fault, with file:line:column.
    """
    check_type(path, "path", (str, os.PathLike), "the path of a graph file")
    file = os.fspath(path)
    try:
        with open_regular_file(file) as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise GraphError("there is no such file", reason="unreadable-file", file=file) from None
    except IsADirectoryError:
        raise GraphError("this is a directory, not a graph file", reason="unreadable-file", file=file) from None
    except (OSError, ValueError) as error:
        message = f"the file cannot be read: {getattr(error, 'strerror', None) or error}"
        raise GraphError(message, reason="unreadable-file", file=file) from error
    if len(content) > MAX_BYTES:
        message = f"larger than the {MAX_BYTES // 2**20} MiB that a graph file may have"
        raise GraphError(message, reason="unreadable-file", file=file)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        position = _position_of_byte(content, error.start)
        raise GraphError(
            f"not UTF-8 text: the byte 0x{content[error.start]:02x} does not begin a character",
            reason="unreadable-file",
            hint="Save the file as UTF-8.",
            file=file,
            line=position.line,
            column=position.column,
        ) from None
    return _parsed(text, file, compile_expression)


def parse_graph(text: str, *, file: str = "<text>", compile_expression: CompileExpression | None = None) -> IRDocument:
    """Read a graph from text.

    Args:
        text: YAML 1.2, of which JSON is a part.
        file: the name that errors give the text.
        compile_expression: see `check_document`.

    Returns:
        The graph, checked.

    Raises:
        GraphError: the text is not a graph; a line for each fault, with file:line:column.
    """
    return _parsed(text, file, compile_expression)[0]


def _parsed(text: str, file: str, compile_expression: CompileExpression | None) -> tuple[IRDocument, Source]:
    check_type(text, "text", str, "the text of a graph; read_graph(path) reads a file")
    if len(text) > MAX_BYTES:
        message = f"larger than the {MAX_BYTES // 2**20} MiB that a graph may have"
        raise GraphError(message, reason="unreadable-file", file=file)
    root = compose(text, file=file)
    source = Source(file, Positions(root))
    document = read_document(root.plain(), source=source)
    check_document(document, compile_expression=compile_expression, source=source)
    return document, source


def parse_yaml(text: str, *, file: str = "<text>") -> JsonValue:
    """Read a value from YAML 1.2 text by the rules of graph files: plain data, bounded in size and depth.

    Args:
        file: the name that errors give it.

    Raises:
        GraphError: it is not YAML, or says what JSON cannot say; with file:line:column.
    """
    value: JsonValue = compose(text, file=file).plain()
    return value


def _position_of_byte(content: bytes, offset: int) -> Position:
    start = content.rfind(b"\n", 0, offset) + 1
    return Position(content.count(b"\n", 0, offset) + 1, len(content[start:offset].decode(errors="replace")) + 1)
