"""The meaning of a document: what must hold between its parts, however it was made."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeAlias

from pydantic import BaseModel

from stargraph.errors import GraphError, StateError
from stargraph.ir._models import (
    BUILTIN_KINDS,
    BUILTIN_REDUCERS,
    Action,
    FieldSpec,
    IRDocument,
    MigrationSpec,
    NodeSpec,
    RuleSpec,
    is_callable_path,
)
from stargraph.ir._positions import NO_SOURCE, Fault, Path, Source, did_you_mean, one_of, show_value
from stargraph.ir._prompts import prompt_fields
from stargraph.ir._types import field_type, validate_value

CompileExpression: TypeAlias = Callable[[str], Any]
"""Compiles CEL text; raises GraphError or ValueError if it is wrong."""

KIND_KEYS: Final[dict[str, dict[str, bool]]] = {
    "interrupt": {"prompt": True, "into": True},
    "subgraph": {"graph": True, "inputs": False, "outputs": False},
    "halt": {"reason": False},
    "wait": {"seconds": False, "until": False},
}
"""The keys that only one kind of node has, and whether it needs them."""

_UNTRIED: Final = ("interrupt", "subgraph", "wait")
"""The kinds of nodes that wait for others, and run no code that could be tried again."""

_REDUCER_TYPES: Final = {
    "append": ("list",),
    "merge": ("dict",),
    "add": ("int", "float", "str", "list"),
}


def check_document(
    document: IRDocument,
    *,
    compile_expression: CompileExpression | None = None,
    source: Source = NO_SOURCE,
) -> None:
    """Check that the parts of a document fit together.

    Args:
        document: the graph, from a file or made in Python.
        compile_expression: compiles CEL text and raises GraphError or ValueError if it is wrong;
            without it, expressions are not checked.
        source: where it comes from.

    Raises:
        GraphError: parts do not fit together; a line for each fault, with its position or else its path.
    """
    faults = [
        *_state_faults(document),
        *_id_faults("nodes", "node", document.nodes),
        *_id_faults("rules", "rule", document.rules),
    ]
    part = _Part(document, compile_expression)
    for index, node in enumerate(document.nodes):
        faults += part.node_faults(node, ("nodes", index))
    for index, rule in enumerate(document.rules):
        faults += part.rule_faults(rule, ("rules", index))
    for index, migration in enumerate(document.migrate):
        faults += part.migration_faults(migration, ("migrate", index))
    if faults:
        raise source.error(faults, reason="invalid-graph")


def _state_faults(document: IRDocument) -> Iterator[Fault]:
    if document.state_class is not None:
        if not is_callable_path(document.state_class):
            shown = show_value(document.state_class)
            yield Fault(f"{shown} does not name a class; write package.module:Class", ("state_class",))
        if document.state_schema is not None:
            yield Fault("give state_schema or state_class, not both", ("state_class",), key=True)
    for name, field in (document.state_schema or {}).items():
        path = ("state_schema", name)
        if name.startswith("model_") and hasattr(BaseModel, name):
            yield Fault(f"{name!r} is a name that pydantic uses itself; choose another", path, key=True)
        yield from _field_faults(field, path)


def _field_faults(field: FieldSpec, path: Path) -> Iterator[Fault]:
    reducer = field.reducer
    known_reducer = reducer in BUILTIN_REDUCERS or is_callable_path(reducer)
    if not known_reducer:
        unknown = f"unknown reducer {show_value(reducer)}{did_you_mean(reducer, BUILTIN_REDUCERS)}"
        yield Fault(f"{unknown} (use {one_of(BUILTIN_REDUCERS)}, or package.module:callable)", (*path, "reduce"))
    try:
        kind = field_type(field.type)
    except GraphError as error:
        yield Fault(error.message, (*path, "type"))
        return
    if reducer in _REDUCER_TYPES and kind.outer not in _REDUCER_TYPES[reducer]:
        fitting = one_of(_REDUCER_TYPES[reducer])
        yield Fault(f"the reducer {reducer!r} needs a field of type {fitting}, not {kind.text}", (*path, "reduce"))
    if not field.required:
        try:
            validate_value(field.type, field.default, "the default")
        except StateError as error:
            yield Fault(error.message, (*path, "default"))


def _id_faults(key: str, noun: str, parts: Iterable[NodeSpec | RuleSpec]) -> Iterator[Fault]:
    first: dict[str, int] = {}
    for index, part in enumerate(parts):
        if part.id in first:
            yield Fault(f"the {noun} id {part.id!r} is already taken by {key}[{first[part.id]}]", (key, index, "id"))
        first.setdefault(part.id, index)


class _Part:
    """Checks nodes and rules against the document that they belong to."""

    def __init__(self, document: IRDocument, compile_expression: CompileExpression | None) -> None:
        self._node_ids = [node.id for node in document.nodes]
        self._known_nodes = frozenset(self._node_ids)
        self._fields = document.state_schema
        self._compile = compile_expression

    def node_faults(self, node: NodeSpec, path: Path) -> Iterator[Fault]:
        yield from _kind_faults(node, path)
        if node.retry is not None:
            for index, name in enumerate(node.retry.on):
                yield from _exception_faults(name, (*path, "retry", "on", index))
        if node.prompt is not None:
            yield from self._prompt_faults(node.prompt, (*path, "prompt"))
        if node.until is not None:
            yield from self._prompt_faults(node.until, (*path, "until"))
        if node.into is not None:
            yield from self._field_faults(node.into, (*path, "into"))
        if node.graph is not None and not node.graph.strip():
            yield Fault("names no file", (*path, "graph"))
        for name, expression in (node.inputs or {}).items():
            yield from self._expression_faults(expression, (*path, "inputs", name))
        for name, expression in (node.outputs or {}).items():
            yield from self._field_faults(name, (*path, "outputs", name), key=True)
            yield from self._expression_faults(expression, (*path, "outputs", name))

    def rule_faults(self, rule: RuleSpec, path: Path) -> Iterator[Fault]:
        yield from self._target_faults(rule.when.node, (*path, "when", "node"))
        if rule.when.condition is not None:
            yield from self._expression_faults(rule.when.condition, (*path, "when", "if"))
        kinds = [action.kind for action in rule.then]
        if len(kinds) == 2 and (kinds[0] != "interrupt" or kinds[1] == "interrupt"):
            yield Fault(
                f"takes one action, before which an interrupt may stand, not {' and '.join(kinds)}", (*path, "then")
            )
        for index, action in enumerate(rule.then):
            yield from self._action_faults(action, (*path, "then", index))

    def migration_faults(self, migration: MigrationSpec, path: Path) -> Iterator[Fault]:
        for index, transform in enumerate(migration.state):
            if not is_callable_path(transform):
                shown = show_value(transform)
                yield Fault(f"{shown} does not name a function; write package.module:callable", (*path, "state", index))
        for old, new in migration.rename.items():
            yield from self._target_faults(new, (*path, "rename", old))

    def _action_faults(self, action: Action, path: Path) -> Iterator[Fault]:
        match action.kind:
            case "goto":
                yield from self._target_faults(action.target, (*path, "target"))
            case "parallel":
                for index, target in enumerate(action.targets):
                    yield from self._target_faults(target, (*path, "targets", index))
                    if target in action.targets[:index]:
                        yield Fault(f"{target!r} is already a target", (*path, "targets", index))
                yield from self._target_faults(action.join, (*path, "join"))
            case "map":
                yield from self._expression_faults(action.over, (*path, "over"))
                yield from self._target_faults(action.target, (*path, "target"))
                yield from self._target_faults(action.join, (*path, "join"))
            case "interrupt":
                yield from self._prompt_faults(action.prompt, (*path, "prompt"))
                yield from self._field_faults(action.into, (*path, "into"))

    def _target_faults(self, node_id: str, path: Path) -> Iterator[Fault]:
        if node_id not in self._known_nodes:
            yield Fault(f"there is no node {node_id!r}{did_you_mean(node_id, self._node_ids)}", path)

    def _field_faults(self, name: str, path: Path, *, key: bool = False) -> Iterator[Fault]:
        if self._fields is not None and name not in self._fields:
            yield Fault(f"the state has no field {name!r}{did_you_mean(name, self._fields)}", path, key=key)

    def _prompt_faults(self, prompt: str, path: Path) -> Iterator[Fault]:
        try:
            names = prompt_fields(prompt)
        except ValueError as error:
            yield Fault(str(error), path)
            return
        for name in names:
            yield from self._field_faults(name, path)

    def _expression_faults(self, expression: str, path: Path) -> Iterator[Fault]:
        if not expression.strip():
            yield Fault("the expression is empty", path)
        elif self._compile is not None:
            try:
                self._compile(expression)
            except GraphError as error:
                yield Fault(f"{error.message} ({error.hint})" if error.hint else error.message, path)
            except ValueError as error:
                yield Fault(f"{show_value(expression)} is not a CEL expression: {error}", path)


def _kind_faults(node: NodeSpec, path: Path) -> Iterator[Fault]:
    if node.kind not in BUILTIN_KINDS and not is_callable_path(node.kind):
        module, _, name = node.kind.rpartition(".")
        instead = f"{module}:{name}"
        meant = f"; did you mean {instead!r}?" if is_callable_path(instead) else did_you_mean(node.kind, BUILTIN_KINDS)
        unknown = f"unknown kind {show_value(node.kind)}{meant}"
        yield Fault(f"{unknown} (use {one_of(BUILTIN_KINDS)}, or package.module:callable)", (*path, "kind"))
        return
    if node.kind in _UNTRIED:
        for key in ("retry", "timeout", "isolation", "max_overrun"):
            if getattr(node, key) is not None:
                yield Fault(f"a node of kind {node.kind} has no code of its own", (*path, key), key=True)
    for kind, keys in KIND_KEYS.items():
        for key, needed in keys.items():
            given = getattr(node, key) is not None
            if given and kind != node.kind:
                yield Fault(f"belongs to a node of kind {kind}, not {node.kind}", (*path, key), key=True)
            if needed and not given and kind == node.kind:
                yield Fault(f"a node of kind {kind} needs {key!r}", path)
    if node.kind == "wait" and (node.seconds is None) == (node.until is None):
        yield Fault("a node of kind wait needs either 'seconds' or 'until'", path)


def _exception_faults(name: str, path: Path) -> Iterator[Fault]:
    if ":" in name and is_callable_path(name):
        return
    known = getattr(builtins, name, None)
    if isinstance(known, type) and issubclass(known, BaseException) and not issubclass(known, Exception):
        yield Fault(f"{show_value(name)} is meant for the process, and no attempt follows it; name an Exception", path)
    elif not (isinstance(known, type) and issubclass(known, Exception)):
        names = [
            key for key, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, Exception)
        ]
        meant = did_you_mean(name, names) or "; write package.module:Class for an exception of a package"
        yield Fault(f"{show_value(name)} is not a builtin exception{meant}", path)
