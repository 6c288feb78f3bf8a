"""Makes the plan of a graph, and of the graphs inside it, from a file, a builder or a definition."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from stargraph.engine import Expression, Modules, Plan
from stargraph.errors import GraphError
from stargraph.ir import NO_SOURCE, SESSION, GraphBuilder, IRDocument, Source, check_document, read_graph
from stargraph.runtime._given import as_folders, check_type


def plan_of(ir: IRDocument | GraphBuilder[Any], folder: str | os.PathLike[str] | None) -> Plan:
    """Return the plan of a definition, or of what a builder makes.

    Args:
        ir: the definition or the builder.
        folder: the folder that paths of subgraphs are relative to; if None, that of the code that calls the builder,
            and for a definition the current folder.

    Raises:
        GraphError: the definition is wrong, or the code that it names cannot be imported.
        TypeError: `ir` is neither.
    """
    check_type(folder, "folder", (str, os.PathLike, NoneType), "the path of a folder, or None")
    source, modules = NO_SOURCE, Modules()
    if isinstance(ir, GraphBuilder):
        source, modules = ir.source, Modules.of(ir.code)
        folder = folder or ir.folder
        ir = ir.build()
    elif not isinstance(ir, IRDocument):
        raise TypeError(
            f"a graph is made from a GraphBuilder or an IRDocument, not {ir!r:.80}; Graph.from_file loads a file"
        )
    check_document(ir, compile_expression=Expression, source=source)
    return _plan(ir, Path(folder or Path.cwd()), (), modules, [], source)


def plan_of_file(path: str | os.PathLike[str], code: Sequence[str | os.PathLike[str]]) -> Plan:
    """Return the plan of a graph file; its nodes may be in modules beside it.

    Args:
        path: the file.
        code: further folders, for modules that are neither beside the file nor installed.

    Raises:
        GraphError: the file cannot be read, or the definition is wrong; with its line and column.
    """
    check_type(path, "path", (str, os.PathLike), "the path of a graph file")
    try:
        file = Path(path).resolve()
    except ValueError as error:  # it holds what no path can, such as NUL
        raise GraphError(f"the file cannot be read: {error}", reason="unreadable-file", file=repr(path)) from None
    if file.suffix == ".py":
        raise GraphError(
            "a graph in Python is not read as a graph file",
            reason="unreadable-file",
            hint=f"Load it by Graph.load('{path}:NAME'), or import it.",
            file=os.fspath(path),
        )
    others = as_folders(code)
    document, source = read_graph(path, compile_expression=Expression)
    return _plan(document, file.parent, (file,), Modules.beside(file, others), others, source)


def warn_of_session_code(document: IRDocument, *, stacklevel: int) -> None:
    """Warn if nodes of a graph are defined in a session that no file holds, as in a notebook.

    Args:
        document: the definition.
        stacklevel: of the caller, as `warnings.warn` would take it there.
    """
    nodes = [repr(node.id) for node in document.nodes if node.kind.startswith(f"{SESSION}:")]
    if nodes:
        warnings.warn(
            f"{', '.join(nodes[:5])}{'…' if len(nodes) > 5 else ''}: defined in this session, so only this session can"
            " resume the runs of this graph; put the functions into a module, and import it, to resume them elsewhere",
            stacklevel=stacklevel + 1,
        )


def _plan(
    document: IRDocument, folder: Path, above: tuple[Path, ...], modules: Modules, others: list[Path], source: Source
) -> Plan:
    """Make a graph and the graphs of its subgraph nodes ready to run; each of these finds the modules beside itself."""

    def load_child(reference: str) -> Plan:
        path = (folder / reference).resolve()
        if path in above:
            raise GraphError(
                f"{reference}: a graph cannot contain itself: {' → '.join(str(step.name) for step in (*above, path))}",
                reason="recursive-subgraph",
                file=str(path),
            )
        try:
            child, inner = read_graph(path, compile_expression=Expression)
        except GraphError as error:
            if error.reason == "unreadable-file" and error.line is None:
                # What is wrong is the line that names the file.
                raise GraphError(f"{reference}: {error.message}", reason=error.reason, hint=error.hint) from None
            raise
        return _plan(child, path.parent, (*above, path), Modules.beside(path, others), others, inner)

    return Plan.build(document, load_child, modules, source)
