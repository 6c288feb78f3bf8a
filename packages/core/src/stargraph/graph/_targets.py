"""Graphs by the names that people type: `graph.yaml`, `module:attribute` or `file.py:attribute`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple, cast

from stargraph.engine import Modules, folder_module, import_failed, user_line
from stargraph.errors import GraphError, StargraphError
from stargraph.ir import GraphBuilder, IRDocument, did_you_mean
from stargraph.runtime._given import check_type

_PYTHON: Final = re.compile(r"(?P<place>.+\.py)(?::(?P<name>[^:]*))?", re.DOTALL)
_MODULE: Final = re.compile(r"(?P<place>\w[\w.-]*):(?P<name>[^:/\\]*)")
_SOURCES: Final = (GraphBuilder, IRDocument)
_HOW: Final = "Name a graph as graph.yaml, file.py:attribute or module:attribute."


class PythonTarget(NamedTuple):
    """A graph in Python code.

    Attributes:
        text: as it was typed.
        place: the file, or the module.
        name: the attribute of the module that is the graph; None for the only one that it has.
    """

    text: str
    place: str
    name: str | None

    @property
    def is_file(self) -> bool:
        """Whether the place is a file."""
        return self.place.endswith(".py")


def target_text(target: object) -> str:
    """Return the name of a graph as people type it.

    Args:
        target: the name, or the path of a file.

    Raises:
        TypeError: it is neither.
    """
    give = "the name of a graph, as in graph.yaml, file.py:attribute or module:attribute"
    check_type(target, "target", (str, os.PathLike), give)
    text = os.fspath(cast("str | os.PathLike[str]", target))
    check_type(text, "target", str, give)  # an object of a path may be one of bytes
    return text


def python_target(text: str) -> PythonTarget | None:
    """Return the graph in Python code that a text names, or None if it names a graph file.

    Args:
        text: as it was typed.
    """
    found = _PYTHON.fullmatch(text) or _MODULE.fullmatch(text)
    if found is None or (found["name"] is not None and _is_file(text)):
        return None
    return PythonTarget(text, found["place"], found["name"])


def load_object(target: PythonTarget, code: Sequence[Path], graph: type) -> Any:
    """Import what a target names: a Graph, a GraphBuilder or an IRDocument.

    Args:
        code: folders in which modules are looked for last.
        graph: the class Graph.

    Raises:
        GraphError: `reason` is `unreadable-file`, `module-not-found`, `import-failed`, `name-not-found`, `not-a-graph`
            or `several-graphs`; or as the module raises itself.
    """
    module = _imported(target, code)
    graphs = _graphs(module, graph)
    if target.name is None:
        return _only_graph(target, graphs)
    found: Any = module
    for part in target.name.split("."):
        found = getattr(found, part, None) if part else None
        if found is None:
            raise _missing(target, module, graphs)
    if not isinstance(found, (graph, *_SOURCES)):
        raise GraphError(
            f"{target.text!r} is {_described(found)}, not a graph",
            reason="not-a-graph",
            hint=f"Name a Graph or a GraphBuilder. {_known(target, graphs)}",
        )
    return found


def _imported(target: PythonTarget, code: Sequence[Path]) -> ModuleType:
    if target.is_file and not _is_file(target.place):
        raise GraphError("there is no such file", reason="unreadable-file", hint=_HOW, file=target.place)
    if target.is_file and not re.fullmatch(r"\w[\w-]*", Path(target.place).stem):
        raise GraphError(
            f"{Path(target.place).name!r} cannot be the name of a module, by which a resumed run imports its nodes",
            reason="unreadable-file",
            hint="Name the file with letters, digits, '_' and '-'.",
        )
    try:
        return folder_module(Path(target.place), code) if target.is_file else Modules.named(target.place, code)
    except StargraphError as error:
        if isinstance(error, GraphError) and error.file is None and error.line is None:
            error.file, error.line = user_line(error)
        raise
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not target.is_file and (target.place == missing or target.place.startswith(f"{missing}.")):
            raise GraphError(
                f"there is no module {missing!r}{_file_meant(target)}",
                reason="module-not-found",
                hint="Run from the folder that holds it, name its file as file.py:attribute, or install its package.",
            ) from None
        raise import_failed(f"importing {target.place!r}", error) from error
    except Exception as error:
        raise import_failed(f"importing {target.place!r}", error) from error
    except SystemExit as end:
        raise GraphError(
            f"importing {target.place!r} ended in sys.exit({end.code!r})",
            reason="import-failed",
            hint="Put what the module does when it runs as a program under `if __name__ == '__main__':`.",
        ) from end


def _file_meant(target: PythonTarget) -> str:
    path = Path(*target.place.split(".")).with_suffix(".py")
    return f" in the import path, but a file: write {path}:{target.name}" if _is_file(path) else ""


def _graphs(module: ModuleType, graph: type) -> dict[str, Any]:
    """Return the graphs of a module by their names; of a builder and the Graph made of it, the Graph."""
    found = vars(module).items()
    named: dict[str, Any] = {name: value for name, value in found if isinstance(value, (graph, *_SOURCES))}
    distinct = {id(value): name for name, value in reversed(named.items())}
    made = {value.id for value in named.values() if not isinstance(value, _SOURCES)}
    return {
        name: value
        for name, value in named.items()
        if distinct[id(value)] == name and (not isinstance(value, _SOURCES) or value.id not in made)
    }


def _only_graph(target: PythonTarget, graphs: Mapping[str, Any]) -> Any:
    if len(graphs) == 1:
        return next(iter(graphs.values()))
    if not graphs:
        raise GraphError(f"{target.place} has no graph", reason="name-not-found", hint=_known(target, graphs))
    raise GraphError(
        f"{target.place} has {len(graphs)} graphs: {', '.join(graphs)}",
        reason="several-graphs",
        hint=f"Name one, as in {target.place}:{next(iter(graphs))}.",
    )


def _missing(target: PythonTarget, module: ModuleType, graphs: Mapping[str, Any]) -> GraphError:
    if not target.name:
        return GraphError(f"{target.text!r} names no attribute", reason="name-not-found", hint=_known(target, graphs))
    return GraphError(
        f"{target.place} has no {target.name!r}{did_you_mean(target.name, vars(module))}",
        reason="name-not-found",
        hint=_known(target, graphs),
    )


def _known(target: PythonTarget, graphs: Mapping[str, Any]) -> str:
    if not graphs:
        return "It defines no graph: make one by GraphBuilder(id), and name the variable."
    return f"It has: {', '.join(f'{target.place}:{name}' for name in graphs)}"


def _described(found: object) -> str:
    name = getattr(found, "__qualname__", None)
    if isinstance(found, type):
        return f"the class {name}"
    return f"the function {name}()" if callable(found) and name else f"a value of type {type(found).__qualname__}"


def _is_file(path: str | Path) -> bool:
    """Return whether a path names a file; one that the system refuses, as too long or not to be looked at, does not."""
    return os.path.isfile(path)  # noqa: PTH113  # Path.is_file raises for such a path
