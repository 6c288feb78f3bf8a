"""Graphs written in Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path as FilePath
from types import NoneType
from typing import (
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    Self,
    TypeAlias,
    cast,
    get_origin,
    overload,
)

from pydantic import BaseModel
from typing_extensions import TypeVar

from stargraph.errors import GraphError
from stargraph.errors._arguments import check_type
from stargraph.ir._annotations import field_type_of
from stargraph.ir._callables import SESSION, callable_path, check_name
from stargraph.ir._check import check_document
from stargraph.ir._code_lines import CodeLines
from stargraph.ir._edges import Edge, NodeRef
from stargraph.ir._models import Action, FieldSpec, IRDocument, RetrySpec
from stargraph.ir._parse import read_document
from stargraph.ir._positions import Source, did_you_mean

S = TypeVar("S", default=Any)
_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S")
_Class = TypeVar("_Class", bound=type[Any])

_StateNode: TypeAlias = Callable[Concatenate[_S, _P], _R]
_ContextNode: TypeAlias = Callable[Concatenate[Any, _S, _P], _R]


class GraphBuilder(Generic[S]):
    """Builds a graph step by step; an equal graph has an equal hash, wherever it is written.

    Args:
        id: the name of the graph.
        state_class: the class of the state: a pydantic model, a dataclass or a TypedDict. Without it, `state` declares
            fields, and the state of a graph that declares nothing is any JSON object.
        description: for people.
        max_steps: a run in which more nodes than this complete fails, so that no loop runs for ever; 10,000 if None.
    """

    @overload
    def __init__(
        self,
        id: str,
        state_class: type[S],
        *,
        description: str | None = None,
        max_steps: int | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self: GraphBuilder[Any],
        id: str,
        state_class: None = None,
        *,
        description: str | None = None,
        max_steps: int | None = None,
    ) -> None: ...

    def __init__(
        self,
        id: str,  # noqa: A002
        state_class: type[Any] | None = None,
        *,
        description: str | None = None,
        max_steps: int | None = None,
    ) -> None:
        self._lines = CodeLines()
        self._keys = _given(id=id, description=description, max_steps=max_steps)
        if state_class is not None:
            self._keys["state_class"] = _named_class(state_class)
            self._lines.note("state_class")
        self._fields: dict[str, Any] = {}
        self._nodes: list[dict[str, Any]] = []
        self._rules: list[dict[str, Any]] = []
        self._migrations: dict[str, dict[str, Any]] = {}
        self._code: dict[str, Callable[..., Any]] = (
            {} if state_class is None else {self._keys["state_class"]: state_class}
        )
        self._ids: list[tuple[Callable[..., Any], str]] = []

    def __repr__(self) -> str:
        return f"GraphBuilder({self._keys.get('id')!r}, {len(self._nodes)} nodes)"

    @property
    def id(self) -> str:
        """The id of the graph."""
        return str(self._keys["id"])

    def state(self, **fields: Any) -> Self:
        """Declare fields of the state.

        Args:
            **fields: for each its type, as in `float`, `list[str] | None` or `Annotated[list[str], append]`; the type
                and a default, as in `(float, 0.0)`; or its `FieldSpec`. A type may also be text.

        Raises:
            GraphError: a field cannot have that type.
        """
        for name, field in fields.items():
            self._fields[name] = _dumped(field) if isinstance(field, FieldSpec) else _field(name, field)
            self._lines.note("state_schema", name)
        return self

    @overload
    def node(self, code: _Class, /) -> _Class: ...

    @overload
    def node(self, code: _StateNode[S, _P, _R], /) -> _StateNode[S, _P, _R]: ...

    @overload
    def node(self, code: _ContextNode[S, _P, _R], /) -> _ContextNode[S, _P, _R]: ...

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
    ) -> NodeDecorator[S]: ...

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
        """Add a function, or a class with `execute`, as the next node: `@builder.node` or `@builder.node(timeout=20)`.

        Args:
            code: the function or class; it is returned unchanged.
            id: the id of the node; the function's own name if None.
            retry: how often it is tried; once if None.
            timeout: seconds that one attempt may take; None for no limit.
            isolation: `process` runs each attempt in a process of its own, which the timeout kills; otherwise the
                executor of the run says where a sync node runs.
            max_overrun: seconds that the next attempt waits for the thread of one that timed out, which nothing can
                stop; 30 if None.

        Raises:
            GraphError: the function cannot be imported by name.
        """
        attempts = {"retry": retry, "timeout": timeout, "isolation": isolation, "max_overrun": max_overrun}

        def add(code: Callable[..., Any]) -> Callable[..., Any]:
            if isinstance(code, str):
                raise GraphError(
                    f"{code!r:.80} is not a function",
                    reason="invalid-graph",
                    hint="@builder.node takes a function or a class; @builder.node(id=…) names the node.",
                )
            kind = callable_path(code)
            node_id = id or str(getattr(code, "__name__", ""))
            if kind.startswith(f"{SESSION}:") and self._replaced(node_id, kind, code, attempts):
                return code
            self._add_code(kind, code)
            self._ids.append((code, node_id))
            self.add_node(node_id, kind, **attempts)
            return code

        return add if code is None else add(code)

    def add_node(self, id: str, kind: str, **keys: Any) -> Self:  # noqa: A002 - the name that the file has
        """Add the next node.

        Args:
            kind: `package.module:callable`, or `echo`, `halt`, `interrupt`, `subgraph`, `wait`.
            **keys: the other keys of a node, as in a file: `prompt`, `into`, `graph`, `timeout`, and so on.
        """
        self._lines.note("nodes", len(self._nodes))
        self._nodes.append(_given(id=id, kind=kind, **keys))
        return self

    def after(
        self,
        node: NodeRef,
        *,
        when: str | None = None,
        id: str | None = None,  # noqa: A002 - the name that the file has
        description: str | None = None,
    ) -> Edge:
        """Say what follows a node, as in `builder.after(classify, when="state.severity >= 4").goto(ask)`.

        The first rule of a node that applies decides. Without one, the next node in order follows.

        Args:
            node: the node: its id, or its function.
            when: CEL over `state` and `node`; without it the rule always applies.
            id: the id of the rule; made of the node's if None.
            description: for people.

        Returns:
            An object with a method for each action: `goto`, `halt`, `parallel`, `map`, and `ask` before one of them.

        Raises:
            GraphError: the function is not a node of this graph.
        """
        node_id = self._node_id(node)
        actions: list[dict[str, Any]] = []
        self._add_rule(
            _given(id=id or self._rule_id(node_id), when=_when(node_id, when), description=description), actions
        )
        return Edge(self._node_id, actions.append)

    def rule(
        self,
        id: str,  # noqa: A002 - the name that the file has
        node: str,
        *then: Action,
        condition: str | None = None,
        description: str | None = None,
    ) -> Self:
        """Add a rule by the parts that a file has.

        Args:
            node: the node that it follows.
            *then: one action, before which an `Ask` may stand.
            condition: CEL over `state` and `node`; without it the rule always applies.
            description: for people.
        """
        check_type(node, "node", str, "the id of the node that the rule follows")
        for action in then:
            check_type(action, "one of then", BaseModel, "an action of stargraph.ir, such as Goto(goto='next')")
        actions = [_dumped(action) for action in then]
        self._add_rule(_given(id=id, when=_when(node, condition), description=description), actions)
        return self

    def migrate(
        self,
        graph_hash: str,
        *state: Callable[[dict[str, Any]], dict[str, Any]] | str,
        rename: Mapping[str, NodeRef] | None = None,
    ) -> Self:
        """Say how the runs of an older version of this graph go on in it, as a `migrate` block of a file does.

        A second call for the same version replaces the first.

        Args:
            graph_hash: that of the older version, whole or its first 12 digits or more, as `stargraph inspect` shows.
            *state: functions, or their names, each given the stored state as a dict and returning the new one.
            rename: the nodes that have another id now: the old id, and the node.

        Raises:
            GraphError: a function cannot be imported by name, or the function of a node is none of this graph.
        """
        paths = [transform if isinstance(transform, str) else callable_path(transform) for transform in state]
        kinds = {node["kind"] for node in self._nodes}
        for path, transform in zip(paths, state, strict=True):
            if isinstance(transform, str):
                continue
            if path.startswith(f"{SESSION}:") and path not in kinds:
                self._code.pop(path, None)
            self._add_code(path, transform)
        check_type(graph_hash, "graph_hash", str, "that of the older version, as `stargraph inspect` shows it")
        check_type(rename, "rename", (Mapping, NoneType), "a dict of the nodes by their old ids")
        renamed = {old: self._node_id(new) for old, new in (rename or {}).items()}
        # A cell of a notebook that is run again replaces what it said before.
        self._migrations[graph_hash] = {"from": graph_hash, "state": paths, "rename": renamed}
        self._lines.note("migrate", list(self._migrations).index(graph_hash))
        return self

    def _add_code(self, path: str, code: Callable[..., Any]) -> None:
        if self._code.setdefault(path, code) is not code:
            raise GraphError(
                f"two functions have the name {path!r}, so a graph cannot name them",
                reason="not-importable",
                hint="A run that is resumed in another process imports its code by name."
                " Give each function a name of its own.",
            )

    def _add_rule(self, rule: dict[str, Any], actions: list[Any]) -> None:
        self._lines.note("rules", len(self._rules))
        self._rules.append({**rule, "then": actions})

    def build(self) -> IRDocument:
        """Return the graph, checked.

        Raises:
            GraphError: it has faults; each is named with its path and the line of Python that it stands in.
        """
        if not self._nodes:
            raise self.source.locate(
                GraphError(
                    f"the graph {self._keys['id']!r} has no nodes",
                    reason="invalid-graph",
                    hint="Decorate a function with @builder.node, or call builder.add_node(id, kind).",
                )
            )
        for index, rule in enumerate(self._rules):
            if not rule["then"]:
                raise self.source.locate(
                    GraphError(
                        f"after({rule['when']['node']!r}) does not say what follows",
                        reason="invalid-graph",
                        hint="Call goto, halt, parallel, map or ask on it.",
                    ),
                    ("rules", index),
                )
        keys = {**self._keys, "nodes": self._nodes, "rules": self._rules, "migrate": [*self._migrations.values()]}
        if self._fields:
            keys["state_schema"] = self._fields
        for path, code in self._code.items():
            check_name(path, code)
        document = read_document(keys, source=self.source)
        check_document(document, source=self.source)
        return document

    @property
    def source(self) -> Source:
        """The lines of Python that made the parts of the graph, for errors."""
        return self._lines.source

    @property
    def folder(self) -> FilePath | None:
        """The folder of the code that began the graph, or None if no file holds it."""
        file = FilePath(self._lines.start.file or "")
        return file.parent if file.is_file() else None

    @property
    def code(self) -> Mapping[str, Callable[..., Any]]:
        """The functions and classes of the graph, by their names."""
        return dict(self._code)

    def _replaced(self, node_id: str, kind: str, code: Callable[..., Any], attempts: dict[str, Any]) -> bool:
        """Take a cell of a notebook that is run again for a change of its node, not for another one."""
        index = next((place for place, node in enumerate(self._nodes) if node["id"] == node_id), None)
        if index is None or self._nodes[index]["kind"] != kind:
            return False
        self._lines.note("nodes", index)
        self._nodes[index] = _given(id=node_id, kind=kind, **attempts)
        self._code[kind] = code
        self._ids = [(code, each) if each == node_id else (other, each) for other, each in self._ids]
        return True

    def _node_id(self, node: NodeRef) -> str:
        if isinstance(node, str):
            return node
        ids = [node_id for code, node_id in self._ids if code is node]
        if len(ids) == 1:
            return ids[0]
        name = getattr(node, "__qualname__", repr(node))
        known = [node_id for _, node_id in self._ids]
        raise CodeLines().source.locate(
            GraphError(
                f"{name} is the code of {len(ids)} nodes: {', '.join(map(repr, ids))}"
                if ids
                else f"{name} is not a node of the graph {self._keys['id']!r}{did_you_mean(name, known)}",
                reason="invalid-graph",
                hint="Name one by its id."
                if ids
                else "Decorate it with @builder.node first, or name a node by its id.",
            )
        )

    def _rule_id(self, node_id: str) -> str:
        taken = {rule["id"] for rule in self._rules}
        name = f"after-{node_id[:80]}"
        number = 1
        while (each := name if number == 1 else f"{name}-{number}") in taken:
            number += 1
        return each


class NodeDecorator(Protocol[S]):
    """What `GraphBuilder.node(…)` returns: it adds the function or class that it decorates as the next node."""

    @overload
    def __call__(self, code: _Class, /) -> _Class: ...

    @overload
    def __call__(self, code: _StateNode[S, _P, _R], /) -> _StateNode[S, _P, _R]: ...

    @overload
    def __call__(self, code: _ContextNode[S, _P, _R], /) -> _ContextNode[S, _P, _R]: ...

    def __call__(self, code: Any, /) -> Any:
        """Add the function or class, and return it."""


def _named_class(state_class: type[Any]) -> str:
    generic = get_origin(state_class)
    if isinstance(generic, type):
        raise GraphError(
            f"{state_class!r:.80} is made where it is used, so a graph cannot name it",
            reason="not-importable",
            hint=f"Give it a name at the top of a module, as in class State({generic.__name__}[…]): ….",
        )
    if not isinstance(state_class, type):
        raise GraphError(
            f"{state_class!r:.80} is not a class of states",
            reason="bad-state-class",
            hint="Give a pydantic model, a dataclass or a TypedDict; builder.state(name=type) declares single fields.",
        )
    return callable_path(state_class)


def _field(name: str, field: Any) -> dict[str, Any]:
    annotation, *default = field if isinstance(field, tuple) and len(field) == 2 else (field,)
    text, reducer = field_type_of(annotation, name)
    spec = {"type": text, **({} if reducer is None else {"reduce": reducer})}
    return {**spec, "default": default[0]} if default else spec


def _when(node: str, condition: str | None) -> dict[str, Any]:
    return _given(node=node, **{"if": condition})


def _given(**keys: Any) -> dict[str, Any]:
    return {
        name: _dumped(value) if isinstance(value, BaseModel) else value
        for name, value in keys.items()
        if value is not None
    }


def _dumped(spec: BaseModel) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", spec.model_dump(by_alias=True))
