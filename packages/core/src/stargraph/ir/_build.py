"""Graphs written in Python."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, NoReturn, Self, TypeVar, overload

from pydantic import BaseModel

from stargraph.errors import GraphError
from stargraph.ir._check import check_document
from stargraph.ir._models import Action, FieldSpec, IRDocument, RetrySpec, is_callable_path
from stargraph.ir._parse import read_document

_Code = TypeVar("_Code", bound=Callable[..., Any])
_NAMED: Final = "Give it a name in a module, and name it: add_node(id, 'package.module:name')."
_WHY: Final = "A run that is resumed in another process imports its nodes by name."


class GraphBuilder:
    """Builds a graph step by step; an equal graph has an equal hash, wherever it is written.

    Args:
        id: the name of the graph.
        description: for people.
        state_class: the class of the state, instead of `state`: a pydantic model, a dataclass or a TypedDict.
        max_steps: a run that has more steps than this fails.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 - the name that the file has
        *,
        description: str | None = None,
        state_class: type[Any] | None = None,
        max_steps: int | None = None,
    ) -> None:
        self._keys = _given(id=id, description=description, max_steps=max_steps)
        if state_class is not None:
            self._keys["state_class"] = callable_path(state_class)
        self._fields: dict[str, Any] = {}
        self._nodes: list[dict[str, Any]] = []
        self._rules: list[dict[str, Any]] = []
        self._code: dict[str, Callable[..., Any]] = {}

    def state(self, **fields: str | FieldSpec) -> Self:
        """Declare fields of the state.

        Args:
            **fields: the type of each, or its `FieldSpec`.
        """
        for name, field in fields.items():
            self._fields[name] = {"type": field} if isinstance(field, str) else _dumped(field)
        return self

    @overload
    def node(self, code: _Code, /) -> _Code: ...

    @overload
    def node(
        self,
        code: None = None,
        /,
        *,
        id: str | None = None,
        retry: RetrySpec | None = None,
        timeout: float | None = None,
        isolation: Literal["thread", "process"] | None = None,
        max_overrun: float | None = None,
    ) -> Callable[[_Code], _Code]: ...

    def node(
        self,
        code: Callable[..., Any] | None = None,
        /,
        *,
        id: str | None = None,  # noqa: A002 - the name that the file has
        retry: RetrySpec | None = None,
        timeout: float | None = None,
        isolation: Literal["thread", "process"] | None = None,
        max_overrun: float | None = None,
    ) -> Any:
        """Add a function, or a class with `execute`, as the next node: `@graph.node` or `@graph.node(timeout=20)`.

        Args:
            code: the function or class; it stays what it is.
            id: the id of the node; the function's own name if None.
            retry: how often it is tried.
            timeout: seconds that one try may take.
            isolation: `process` runs each try in a process of its own, which the timeout kills.
            max_overrun: seconds that a further try waits for the thread of one whose time is over.

        Raises:
            GraphError: the function cannot be imported by name.
        """
        tries = {"retry": retry, "timeout": timeout, "isolation": isolation, "max_overrun": max_overrun}

        def add(code: _Code) -> _Code:
            kind = callable_path(code)
            if self._code.setdefault(kind, code) is not code:
                _refuse(f"there are two of the name {kind!r}", "Give each function a name of its own.")
            self.add_node(id or str(getattr(code, "__name__", "")), kind, **tries)
            return code

        return add if code is None else add(code)

    def add_node(self, id: str, kind: str, **keys: Any) -> Self:  # noqa: A002 - the name that the file has
        """Add the next node.

        Args:
            id: its id.
            kind: `package.module:callable`, or `echo`, `halt`, `interrupt`, `subgraph`.
            **keys: the other keys of a node, as in a file: `prompt`, `into`, `graph`, `timeout`, and so on.
        """
        self._nodes.append(_given(id=id, kind=kind, **keys))
        return self

    def rule(
        self,
        id: str,  # noqa: A002 - the name that the file has
        node: str,
        *then: Action,
        condition: str | None = None,
        description: str | None = None,
    ) -> Self:
        """Add a rule.

        Args:
            id: its id.
            node: the node that it follows.
            *then: one action, before which an `Ask` may stand.
            condition: CEL over `state` and `node`; without it the rule always applies.
            description: for people.
        """
        when = _given(node=node, **{"if": condition})
        self._rules.append(_given(id=id, when=when, then=[_dumped(action) for action in then], description=description))
        return self

    def build(self) -> IRDocument:
        """Return the graph, checked.

        Raises:
            GraphError: it has faults; each is named with its path.
        """
        keys = {**self._keys, "nodes": self._nodes, "rules": self._rules}
        if self._fields:
            keys["state_schema"] = self._fields
        for path, code in self._code.items():
            _check_name(path, code)
        document = read_document(keys)
        check_document(document)
        return document


def callable_path(code: Callable[..., Any]) -> str:
    """Return the name `package.module:name` by which any process can import a function or a class.

    What a script defines is named by the script's file, since `__main__` is another module in another process.

    Args:
        code: the function or class.

    Raises:
        GraphError: there is no such name.
    """
    module, name = getattr(code, "__module__", None), getattr(code, "__qualname__", None)
    if isinstance(code, functools.partial) or not isinstance(module, str) or not isinstance(name, str):
        _refuse(f"{code!r} is an object without a name of its own", _NAMED)
    owner = getattr(code, "__self__", None)
    if isinstance(owner, type):
        # A class method is known by the class that it is taken from, which may have inherited it.
        module, name = owner.__module__, f"{owner.__qualname__}.{code.__name__}"
    elif not isinstance(owner, ModuleType | None):
        _refuse(f"{name!r} is bound to an object", _NAMED)
    if "<lambda>" in name:
        _refuse(f"a lambda has no name ({module})", "Define a function at the top of a module.")
    if "<locals>" in name:
        _refuse(
            f"{name!r} is defined inside a function",
            "Define it at the top of a module; a decorator keeps the name of what it wraps by functools.wraps.",
        )
    if module == "__main__":
        found = main_module_name()
        if found is None:
            _refuse(f"{name!r} is defined in a session that no file holds", "Put it into a module, and import it.")
        module = found
    path = f"{module}:{name}"
    if not is_callable_path(path):
        _refuse(f"{path!r} is not a name to import by", "Put it into a module whose name is an identifier.")
    return path


def _check_name(path: str, code: Callable[..., Any]) -> None:
    """Refuse code whose name stands for something else by now: that would run in its position."""
    module, _, name = path.partition(":")
    found: Any = sys.modules.get("__main__" if module == main_module_name() else module)
    for part in name.split("."):
        found = getattr(found, part, None)
    # A name that is not bound yet, in a module that is being imported, is looked up when the graph is made.
    while found is not None and not _is_same(found, code):
        found = getattr(found, "__wrapped__", None)
        if found is None:
            _refuse(f"{path!r} is the name of something else by now", "Give each function a name of its own.")


def _is_same(found: Any, code: Any) -> bool:
    return found is code or (inspect.ismethod(found) and found == code)


def main_module_name() -> str | None:
    """Return the name by which another process can import the running script, or None if no file holds it."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    stem = Path(file).stem if file else ""
    return stem if stem.isidentifier() else None


def _refuse(what: str, hint: str) -> NoReturn:
    raise GraphError(f"{what}, so it cannot be a node", reason="not-importable", hint=f"{_WHY} {hint}")


def _given(**keys: Any) -> dict[str, Any]:
    return {
        name: _dumped(value) if isinstance(value, BaseModel) else value
        for name, value in keys.items()
        if value is not None
    }


def _dumped(spec: BaseModel) -> Mapping[str, Any]:
    return spec.model_dump(by_alias=True)
