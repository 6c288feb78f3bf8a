"""The state of a graph: its types, what a node is given, and how what it returns becomes part of it."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Final

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PydanticSchemaGenerationError,
    TypeAdapter,
    ValidationError,
    create_model,
)

from stargraph.checkpoint.protocol import Checkpoint, JsonValue
from stargraph.checkpoint.values import EncodedValue, join_encoded
from stargraph.engine._imports import load_object
from stargraph.errors import GraphError, StateError
from stargraph.ir import BUILTIN_REDUCERS, FieldSpec, IRDocument, parse_type

_MISSING: Final[Any] = object()

Reducer = Callable[[JsonValue, JsonValue], JsonValue]


class StateField:
    """One declared field: its type and its reducer.

    Args:
        name: its name.
        annotation: its type.
        strict: whether values must have the type exactly, as those of a `state_schema` must.
        reducer: the name of its reducer.
        owner: what names the field in errors.
    """

    def __init__(self, name: str, annotation: object, *, strict: bool, reducer: str, owner: str) -> None:
        self.name = name
        self.reducer = reducer
        self._strict = strict
        self._adapter: TypeAdapter[Any] = _adapter(annotation, strict=strict)
        self.custom: Reducer | None = load_object(reducer, wanted_by=f"{owner}: reducer") if ":" in reducer else None

    def check(self, value: object, path: str) -> JsonValue:
        """Return a value as JSON, checked against the type.

        Args:
            value: the value.
            path: where it is, for the error.

        Raises:
            StateError: it does not fit.
        """
        try:
            checked = self._adapter.validate_python(value)
            if self._strict:
                # The types of a state_schema are those of JSON: what fits them is JSON, or is refused as such.
                return checked
            plain = self._adapter.dump_python(checked, mode="json", warnings=False)
            same = self._adapter.validate_json(self._adapter.dump_json(checked, warnings=False)) == checked
        except ValidationError as error:
            raise _does_not_fit(error, path) from None
        if not same:
            raise StateError(
                f"{path}: {value!r:.80} would not come back from JSON as it is",
                reason="not-json",
                hint="Give the field a type that says how it is stored, or return plain JSON values.",
                path=path,
            )
        return plain

    def record(self, value: object, path: str) -> JsonValue:
        """Return an update as JSON; what a reducer of the user's takes may have any type.

        Args:
            value: what a node returned for the field.
            path: where it is, for the error.

        Raises:
            StateError: it does not fit.
        """
        if self.custom is None:
            return self.check(value, path)
        return value.model_dump(mode="json") if isinstance(value, BaseModel) else value

    def reduce(self, old: EncodedValue | None, updates: Sequence[EncodedValue], path: str) -> EncodedValue:
        """Return what the field holds after updates, applied one after the other.

        Args:
            old: what it held before, if anything.
            updates: what `record` returned for each.
            path: where it is, for the error.

        Raises:
            StateError: the reducer failed, or what it returned does not fit.
        """
        if self.reducer == "replace":
            return updates[-1]
        if self.custom is not None:
            return self._reduce_by_custom(self.custom, old, updates, path)
        fragments = updates if old is None else (old, *updates)
        if self.reducer == "append":
            lists = [fragment for fragment in fragments if fragment.value is not None]
            return functools.reduce(EncodedValue.extended, lists) if lists else EncodedValue.of_checked([])
        present = [fragment.value for fragment in fragments if fragment.value is not None]
        if self.reducer == "merge":
            return EncodedValue.of_checked({key: item for value in present for key, item in value.items()})
        # A sum of numbers that JSON can say may be one that it cannot.
        return EncodedValue.of(functools.reduce(operator.add, present), path)

    def _reduce_by_custom(
        self, reducer: Reducer, old: EncodedValue | None, updates: Sequence[EncodedValue], path: str
    ) -> EncodedValue:
        # It may change what it is given.
        value = None if old is None else old.fresh()
        for update in updates:
            try:
                value = reducer(value, update.fresh())
            except Exception as error:
                raise StateError(
                    f"{path}: the reducer {self.reducer!r} failed: {type(error).__name__}: {error}",
                    reason="reducer-failed",
                    path=path,
                ) from error
            value = self.check(value, path)
        return EncodedValue.of(value, path)


class StateSpec:
    """The state that a graph declares, or any JSON object where it declares none.

    Args:
        document: the graph.

    Raises:
        GraphError: a type, a class or a reducer in it is wrong.
    """

    def __init__(self, document: IRDocument) -> None:
        self.fields: dict[str, StateField] | None = None
        self.model: type[BaseModel] | None = None
        self.class_schema: dict[str, JsonValue] | None = None
        self._defaults: dict[str, JsonValue] = {}
        self._required: tuple[str, ...] = ()
        self._own_validators = False
        if document.state_schema is not None:
            self._from_schema(document.id, document.state_schema)
        elif document.state_class is not None:
            self._from_class(document.state_class)

    def _from_schema(self, graph_id: str, schema: Mapping[str, FieldSpec]) -> None:
        types = {name: parse_type(field.type) for name, field in schema.items()}
        self.fields = {
            name: StateField(name, types[name], strict=True, reducer=field.reducer, owner=f"state field {name!r}")
            for name, field in schema.items()
        }
        self._defaults = {
            name: self.fields[name].check(field.default, f"state_schema.{name}.default")
            for name, field in schema.items()
            if not field.required
        }
        self._required = tuple(name for name, field in schema.items() if field.required)
        definitions: dict[str, Any] = {
            name: (types[name], ... if field.required else Field(default=field.default))
            for name, field in schema.items()
        }
        self.model = create_model(
            f"{graph_id}_state", __config__=ConfigDict(extra="forbid", protected_namespaces=()), **definitions
        )

    def _from_class(self, path: str) -> None:
        found = load_object(path, wanted_by="state_class")
        if not (isinstance(found, type) and issubclass(found, BaseModel)):
            raise GraphError(f"state_class: {path!r} is not a pydantic model", reason="not-a-model")
        self.model = found
        decorators = found.__pydantic_decorators__
        self._own_validators = bool(decorators.field_validators or decorators.model_validators or decorators.validators)
        self.fields = {
            name: StateField(
                name,
                Annotated[info.annotation, info] if info.annotation is not None else Any,
                strict=False,
                reducer=_declared_reducer(info.json_schema_extra),
                owner=f"{path}.{name}",
            )
            for name, info in found.model_fields.items()
        }
        self._required = tuple(name for name, info in found.model_fields.items() if info.is_required())
        self.class_schema = found.model_json_schema(mode="serialization")

    def code(self) -> dict[str, object]:
        """Return the reducers of the user's, by what names them."""
        fields = self.fields or {}
        return {
            f"the reducer of state field {name!r}": field.custom
            for name, field in fields.items()
            if field.custom is not None
        }

    def initial(self, inputs: Mapping[str, object]) -> dict[str, JsonValue]:
        """Return the state that a run begins with.

        Args:
            inputs: the values that were given.

        Raises:
            StateError: one is unknown, missing or does not fit.
        """
        if self.fields is None:
            return dict(inputs)
        self._refuse_unknown(inputs, "inputs")
        missing = [name for name in self._required if name not in inputs]
        if missing:
            raise StateError(
                f"inputs: {_listed(missing)} {'is' if len(missing) == 1 else 'are'} missing",
                reason="missing-input",
                hint=f"Give a value, as in: -i {missing[0]}=…",
                path=f"inputs.{missing[0]}",
            )
        given = {name: self.fields[name].check(value, f"inputs.{name}") for name, value in inputs.items()}
        if self.class_schema is None:
            return {name: given[name] if name in given else self._defaults[name] for name in self.fields}
        assert self.model is not None
        try:
            whole = self.model.model_validate_json(orjson.dumps(given))
            # What the class computes is not stored: it would not be accepted when it is read.
            return whole.model_dump(mode="json", include=set(self.fields))
        except ValidationError as error:
            raise _does_not_fit(error, "inputs") from None

    def read(self, checkpoint: Checkpoint) -> Any:
        """Return what a node is given: a fresh model, or a fresh dict where the graph declares no state.

        Args:
            checkpoint: the one whose state it is.

        Raises:
            StateError: what is stored does not fit the state that the graph declares.
        """
        self.refuse_unknown(checkpoint)
        return self.parse(checkpoint.state_json(), f"step {checkpoint.step}: state")

    def parse(self, text: bytes, path: str) -> Any:
        """Return what a node is given, from the JSON text of the state.

        Args:
            text: the JSON text.
            path: where it is, for the error.

        Raises:
            StateError: it does not fit the state that the graph declares.
        """
        if self.model is None:
            return orjson.loads(text)
        try:
            return self.model.model_validate_json(text)
        except ValidationError as error:
            raise _does_not_fit(error, path) from None

    def refuse_unknown(self, checkpoint: Checkpoint) -> None:
        """Refuse a stored state that holds more than the graph declares; nothing of it may be dropped.

        Args:
            checkpoint: the one whose state it is.

        Raises:
            StateError: it holds a field that is not declared.
        """
        unknown = [] if self.fields is None else [name for name in checkpoint.state if name not in self.fields]
        if unknown:
            raise StateError(
                f"step {checkpoint.step} holds {_listed(unknown)}, which the graph's state does not declare",
                reason="unknown-field",
                hint="Declare the field again, or move the run across with a migrate block.",
                path=f"state.{unknown[0]}",
            )

    def update_of(self, returned: object, node: str) -> dict[str, object]:
        """Return what a node returned as the fields that it updates.

        Args:
            returned: a dict, a model (the fields that were set on it), or None.
            node: the node.

        Raises:
            StateError: it is something else, or names a field that the state does not have.
        """
        if returned is None:
            return {}
        if isinstance(returned, BaseModel):
            update: dict[str, object] = {name: getattr(returned, name) for name in returned.model_fields_set}
        elif isinstance(returned, dict):
            update = returned
        else:
            raise StateError(
                f"node {node!r} returned a value of type {type(returned).__qualname__}",
                reason="not-an-update",
                hint="A node returns a dict of the fields that it updates, a model, or None.",
                node=node,
            )
        if self.fields is not None:
            self._refuse_unknown(update, f"node {node!r} returned")
        return update

    def record(self, update: Mapping[str, object]) -> dict[str, EncodedValue]:
        """Return an update in the form in which it is recorded.

        Args:
            update: what `update_of` returned.

        Raises:
            StateError: a value does not fit, or is not JSON.
        """
        return {
            name: EncodedValue.of(
                value if self.fields is None else self.fields[name].record(value, f"state.{name}"), f"state.{name}"
            )
            for name, value in update.items()
        }

    def merge(
        self, state: Mapping[str, EncodedValue], updates: Iterable[Mapping[str, EncodedValue]]
    ) -> dict[str, EncodedValue]:
        """Return the fields of the state that updates change, applied one after the other.

        Args:
            state: the fields before.
            updates: what `record` returned for each.

        Raises:
            StateError: a reducer failed, or the state as a whole does not fit.
        """
        by_field: dict[str, list[EncodedValue]] = {}
        for recorded in updates:
            for name, fragment in recorded.items():
                by_field.setdefault(name, []).append(fragment)
        changes = {
            name: fragments[-1]
            if self.fields is None
            else self.fields[name].reduce(state.get(name), fragments, f"state.{name}")
            for name, fragments in by_field.items()
        }
        if self._own_validators:
            self._validate_whole(state, changes)
        return changes

    def replaces(self, name: str) -> bool:
        """Tell whether an update of a field takes the place of its value."""
        return self.fields is None or self.fields[name].reducer == "replace"

    def _validate_whole(self, state: Mapping[str, EncodedValue], changes: Mapping[str, EncodedValue]) -> None:
        assert self.model is not None
        try:
            self.model.model_validate_json(join_encoded({**state, **changes}))
        except ValidationError as error:
            raise _does_not_fit(error, "state") from None

    def _refuse_unknown(self, values: Mapping[str, object], where: str) -> None:
        assert self.fields is not None
        for name in values:
            if name not in self.fields:
                raise StateError(
                    f"{where}: the state has no field {name!r}",
                    reason="unknown-field",
                    hint=f"It has: {', '.join(self.fields) or 'none'}.",
                    path=f"state.{name}",
                )


def _adapter(annotation: Any, *, strict: bool) -> TypeAdapter[Any]:
    try:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return TypeAdapter(annotation)
        return TypeAdapter(annotation, config=ConfigDict(strict=True) if strict else None)
    except PydanticSchemaGenerationError as error:
        raise GraphError(f"state: {error.message}", reason="bad-type") from error


def _declared_reducer(extra: object) -> str:
    reducer = extra.get("reduce", "replace") if isinstance(extra, dict) else "replace"
    if not isinstance(reducer, str) or not (reducer in BUILTIN_REDUCERS or ":" in reducer):
        raise GraphError(
            f"state_class: unknown reducer {reducer!r}",
            reason="unknown-reducer",
            hint="Use replace, append, merge, add or package.module:callable in json_schema_extra={'reduce': …}.",
        )
    return reducer


def _does_not_fit(error: ValidationError, path: str) -> StateError:
    """Pydantic's complaint in one line: where, what was given, what is wanted."""
    complaint = error.errors(include_url=False)[0]
    where = path + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in complaint["loc"])
    given = complaint["input"]
    shown = "" if complaint["type"] == "missing" else f" (given: {given!r:.60}, {type(given).__qualname__})"
    return StateError(f"{where}: {complaint['msg']}{shown}", reason="wrong-type", path=where)


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names[:5]) + ("…" if len(names) > 5 else "")
