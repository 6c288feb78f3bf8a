"""The state of a graph: its types, what a node is given, and how what it returns becomes part of it."""

from __future__ import annotations

import dataclasses
import warnings
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.values import EncodedValue, JsonValue, check_json, join_encoded, trimmed
from stargraph.engine._fidelity import difference, dropped
from stargraph.engine._fields import ClassField, SchemaField, StateField
from stargraph.engine._fingerprint import ValueClass
from stargraph.engine._imports import Modules
from stargraph.engine._reducers import BUILTIN, Reducer, check_reducer, reducer_name, replace
from stargraph.engine._state_class import StateClass, does_not_fit, would_be_lost
from stargraph.engine._turns import SLICE, Turns
from stargraph.errors import GraphError, StateError
from stargraph.ir import BUILTIN_REDUCERS, FieldSpec, IRDocument, parse_type


class Start(NamedTuple):
    """What a run begins with.

    Attributes:
        state: its state.
        update: the inputs that make this state again, as they are recorded.
    """

    state: Mapping[str, JsonValue | EncodedValue]
    update: Mapping[str, JsonValue | EncodedValue]


class Given(NamedTuple):
    """The state that a node is given.

    Attributes:
        state: the object, which the node may change.
        lists: what it held, before the node ran, in fields with the reducer `append` or `add`.
    """

    state: object
    lists: Mapping[str, object]


_LISTS: Final = (list, tuple, deque)
"""What is one object only if it was handed on: equal texts and small numbers may be."""


class StateSpec:
    """The state that a graph declares, or any JSON object if it declares none.

    Args:
        document: the graph.
        modules: where its class and its reducers are.

    Attributes:
        fields: its fields; None if it declares none.
        class_schema: the JSON Schema of its class, if it has one.

    Raises:
        GraphError: a type, a class or a reducer in it is wrong.
    """

    def __init__(self, document: IRDocument, modules: Modules) -> None:
        self._modules = modules
        self.fields: dict[str, StateField] | None = None
        self.class_schema: dict[str, JsonValue] | None = None
        self._class: StateClass | None = None
        self._model: type[BaseModel] | None = None
        self._defaults: dict[str, JsonValue] = {}
        self._required: tuple[str, ...] = ()
        if document.state_schema is not None:
            self._from_schema(document.id, document.state_schema)
        elif document.state_class is not None:
            self._from_class(document.state_class)
        fields: dict[str, StateField] = self.fields or {}
        self._adding = tuple(name for name, field in fields.items() if field.reducer in ("append", "add"))

    def _from_schema(self, graph_id: str, schema: Mapping[str, FieldSpec]) -> None:
        types = {name: parse_type(field.type) for name, field in schema.items()}
        fields = {
            name: SchemaField(
                name, types[name], reducer=field.reducer, custom=self._loaded(field.reducer, f"state field {name!r}")
            )
            for name, field in schema.items()
        }
        self._defaults = {
            name: fields[name].check(field.default, f"state_schema.{name}.default")
            for name, field in schema.items()
            if not field.required
        }
        self.fields = {**fields}
        self._required = tuple(name for name, field in schema.items() if field.required)
        definitions: dict[str, Any] = {
            name: (types[name], ... if field.required else Field(default=field.default))
            for name, field in schema.items()
        }
        config = ConfigDict(extra="forbid", protected_namespaces=())
        with warnings.catch_warnings():
            # A field may have the name of a method of pydantic's, such as `copy`: a node is given the field.
            warnings.filterwarnings("ignore", message="Field name .* shadows an attribute", category=UserWarning)
            self._model = create_model(f"{graph_id}_state", __config__=config, **definitions)

    def _loaded(self, reducer: str, owner: str) -> Reducer | None:
        if ":" not in reducer:
            return None
        loaded: Reducer = self._modules.load(reducer, wanted_by=f"{owner}: reducer")
        check_reducer(loaded, owner)
        return loaded

    def _from_class(self, path: str) -> None:
        self._class = StateClass(self._modules.load(path, wanted_by="state_class"), path)
        reducers = {
            name: _declared(f"{path}.{name}", declared, extra, self._modules)
            for name, (declared, extra) in self._class.reducers().items()
        }
        self.fields = {name: ClassField(self._class, name, reducer) for name, reducer in reducers.items()}
        self._required = self._class.required
        named = {name: reducer_name(reducer) for name, reducer in reducers.items() if reducer is not replace}
        self.class_schema = {**self._class.json_schema, **({"reducers": named} if named else {})}

    def field(self, key: str) -> StateField | None:
        """Return the field of a name or an alias, or None if the state declares none.

        Args:
            key: the name or the alias.
        """
        name = key if self._class is None else self._class.name_of(key)
        return None if self.fields is None or name is None else self.fields.get(name)

    def code(self) -> dict[str, object]:
        """Return the user-defined reducers and the class of the state, by what names them."""
        fields = self.fields or {}
        own = {} if self._class is None else {"the class of the state": ValueClass(self._class.kind)}
        return own | {
            f"the reducer of state field {name!r}": field.custom
            for name, field in fields.items()
            if field.custom is not None
        }

    def initial(self, inputs: Mapping[str, object]) -> Start:
        """Return the state that a run begins with.

        Args:
            inputs: the values that were given.

        Raises:
            StateError: one is unknown, missing or does not fit.
        """
        if self.fields is None:
            encoded = {name: EncodedValue.of(value, f"inputs.{name}") for name, value in inputs.items()}
            return Start(encoded, encoded)
        if self._class is not None:
            return self._made(self._class, inputs)
        given = self._named(inputs, "inputs")
        _refuse_missing([name for name in self._required if name not in given])
        update = {name: self.fields[name].check(value, f"inputs.{name}") for name, value in given.items()}
        return Start({name: update[name] if name in update else self._defaults[name] for name in self.fields}, update)

    async def initial_in_turns(self, inputs: Mapping[str, object]) -> Start:
        """Like `initial`, encoded; other work of the event loop has its turn between large values.

        Args:
            inputs: the values that were given.

        Raises:
            StateError: as `initial` raises.
        """
        if self.fields is None:
            encoded = await _encoded_in_turns(inputs, "inputs")
            return Start(encoded, encoded)
        if self._class is not None:
            return self.initial(inputs)  # encoded: a class sees all of it at once
        state, update = self.initial(inputs)
        encoded = await _encoded_in_turns(state, "state")
        same = {name: encoded[name] if value is state.get(name) else value for name, value in update.items()}
        return Start(encoded, same)

    def _made(self, state: StateClass, inputs: Mapping[str, object]) -> Start:
        for key in inputs:
            if key not in state.input_keys:
                raise self._unknown("inputs", key)
        given = {name for key in inputs for name in state.input_keys[key]}
        _refuse_missing([name for name in state.required if name not in given])
        paths = {name: f"inputs.{name}" if name in given else f"the default of {name!r}" for name in state.names}
        values = state.values(state.whole(inputs))
        plain = {name: state.dumped(name, value, paths[name], values) for name, value in values.items()}
        encoded = {name: EncodedValue.of(value, paths[name]) for name, value in plain.items()}
        self._refuse_lost(state, values, encoded, paths)
        # What a factory made must be the same when the run is done again from its log.
        return Start(encoded, {name: each for name, each in encoded.items() if name in given or name in state.made})

    def read(self, checkpoint: Checkpoint) -> Any:
        """Return what a node is given: a fresh object of the state's class, or a dict if the graph declares no state.

        Args:
            checkpoint: the one whose state it is.

        Raises:
            StateError: what is stored does not fit the state that the graph declares.
        """
        self.refuse_unknown(checkpoint)
        return self.parse(checkpoint.state_json(), f"step {checkpoint.step}: state")

    async def read_in_turns(self, checkpoint: Checkpoint) -> Any:
        """Like `read`, field by field if the state is large, so that it does not hold the event loop for long.

        A class is given its state as a whole: its validators may look at all of it.

        Args:
            checkpoint: the one whose state it is.

        Raises:
            StateError: as `read` raises.
        """
        encoded = checkpoint.encoded_state()
        if self._class is not None or sum([len(each.encoded) for each in encoded.values()]) < SLICE:
            return self.read(checkpoint)
        self.refuse_unknown(checkpoint)
        values: dict[str, JsonValue] = {}
        turns = Turns()
        for name, each in encoded.items():
            values[name] = each.fresh()
            await turns.after(len(each.encoded))
        try:
            return values if self._model is None else self._model.model_validate(values)
        except ValidationError as error:
            raise does_not_fit(error, f"step {checkpoint.step}: state") from None

    def value(self, checkpoint: Checkpoint) -> Any:
        """Return the state as a program is given it: an object of the state's class, or a dict of JSON.

        Args:
            checkpoint: the one whose state it is.

        Raises:
            StateError: what is stored does not fit the state that the graph declares.
        """
        return checkpoint.fresh_state() if self._class is None else self.read(checkpoint)

    def parse(self, text: bytes, path: str) -> Any:
        """Return what a node is given, from the JSON text of the state.

        Args:
            text: the JSON text.
            path: where it is, for the error.

        Raises:
            StateError: it does not fit the state that the graph declares.
        """
        if self._class is not None:
            return self._class.load(text, path)
        if self._model is None:
            return orjson.loads(text)
        try:
            return self._model.model_validate_json(text)
        except ValidationError as error:
            raise does_not_fit(error, path) from None

    def refuse_unknown(self, checkpoint: Checkpoint) -> None:
        """Refuse a stored state that holds more than the graph declares; nothing of it may be dropped.

        Args:
            checkpoint: the one whose state it is.

        Raises:
            StateError: it holds a field that is not declared.
        """
        if self.fields is not None and not checkpoint.state.keys() <= self.fields.keys():
            unknown = [name for name in checkpoint.state if name not in self.fields]
            raise _undeclared(checkpoint, _listed(unknown), f"state.{unknown[0]}")

    def refuse_dropped(self, checkpoint: Checkpoint, state: Mapping[str, EncodedValue]) -> None:
        """Refuse a state that another version of the class has stored if this one would drop a part of it.

        Inside a field, most classes ignore a member that they do not have.

        Args:
            checkpoint: the one that it comes from, for the error.
            state: the fields.

        Raises:
            StateError: there is such a part, or what is stored does not fit.
        """
        if self._class is None:
            return
        read = self._class.read_and_dumped
        stored: JsonValue = {name: value.value for name, value in state.items() if name in self._class.names}
        lost = dropped(stored, read(stored), read)
        if lost is not None:
            raise _undeclared(checkpoint, repr(lost.removeprefix(".")), f"state{lost}")

    def update_of(self, returned: object, node: str) -> dict[str, object]:
        """Return what a node returned as the fields that it updates.

        Args:
            returned: a dict, a model (the fields that were set on it), a dataclass, or None.

        Raises:
            StateError: it is something else, or names a field that the state does not have.
        """
        if returned is None:
            return {}
        if isinstance(returned, dict):
            update: dict[str, object] = returned
        elif isinstance(returned, BaseModel):
            update = {name: getattr(returned, name) for name in returned.model_fields_set}
        elif dataclasses.is_dataclass(returned) and not isinstance(returned, type):
            update = {field.name: getattr(returned, field.name) for field in dataclasses.fields(returned)}
        else:
            raise StateError(
                f"node {node!r} returned a value of type {type(returned).__qualname__}",
                reason="not-an-update",
                hint="A node returns a dict of the fields that it updates, a model, a dataclass, or None.",
                node=node,
            )
        return update if self.fields is None else self._named(update, f"node {node!r} returned")

    def given(self, state: object) -> Given:
        """Return a state that was read as what a node is given, for `refuse_given`.

        Args:
            state: the object.
        """
        lists: dict[str, object] = {}
        for name in self._adding:
            held = state.get(name) if isinstance(state, Mapping) else getattr(state, name, None)
            lists[name] = held if isinstance(held, _LISTS) and held else None
        return Given(state, lists)

    def refuse_given(self, returned: object, update: Mapping[str, object], given: Given, node: str) -> None:
        """Refuse what a node was given as its update, if it would be added to itself.

        It is the state itself, or the very list of a field, as after `state.notes.append(…)` and in a copy of the state
        by `dataclasses.replace` or `{**state}`. A text or a number may be the same object by chance.

        Args:
            returned: what the node returned.
            update: what `update_of` makes of it.
            given: its state, as it was before.

        Raises:
            StateError: it is the same object, and a field has the reducer `append` or `add`.
        """
        is_state = returned is given.state
        # A node may have taken a field out of the dict, or of what is set on the model.
        doubled = [
            name
            for name, held in given.lists.items()
            if name in update and (is_state or (held is not None and update[name] is held))
        ]
        if doubled:
            what = "the state" if is_state else "a list"
            raise StateError(
                f"node {node!r} returned {what} that it was given, which would add {_listed(doubled)} to itself",
                reason="not-an-update",
                hint="Return only what is new, as a dict of the fields that the node updates.",
                path=f"state.{doubled[0]}",
                node=node,
            )

    async def record_in_turns(
        self, update: Mapping[str, object], within: Checkpoint, *, from_json: bool
    ) -> dict[str, EncodedValue]:
        """Like `record`; other work of the event loop has its turn between large values.

        Args:
            update: as for `record`.
            within: likewise.
            from_json: likewise.

        Raises:
            StateError: as `record` raises.
        """
        if len(update) < 2 or (self._class is not None and self._class.needs_others):
            return self.record(update, within, from_json=from_json)
        checked = {name: self._checked(name, value, from_json=from_json) for name, value in update.items()}
        return await _encoded_in_turns(checked, "state")

    def record(
        self, update: Mapping[str, object], within: Checkpoint | bytes | None = None, *, from_json: bool = False
    ) -> dict[str, EncodedValue]:
        """Return an update in the form in which it is recorded.

        Args:
            update: what `update_of` returned.
            within: the state that it is an update of, or its JSON text; some classes validate a field by the others.
            from_json: whether the values are JSON, as those of a child run and of an answer are; a node's are Python's.

        Raises:
            StateError: a value does not fit, is not JSON, or would not come back as it is.
        """
        if self._class is not None and self._class.needs_others and within is not None:
            text = within if isinstance(within, bytes) else within.state_json()
            return self._recorded_among_others(self._class, update, text, from_json=from_json)
        return {
            name: EncodedValue.of(self._checked(name, value, from_json=from_json), f"state.{name}")
            for name, value in update.items()
        }

    def _checked(self, name: str, value: Any, *, from_json: bool) -> JsonValue:
        """Return the update of one field as JSON, checked against the type of the field; it may be the same object."""
        return value if self.fields is None else self.fields[name].record(value, f"state.{name}", from_json=from_json)

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
            for name, encoded in recorded.items():
                by_field.setdefault(name, []).append(encoded)
        changes = {
            name: encoded[-1]
            if self.fields is None
            else self.fields[name].reduce(state.get(name), encoded, f"state.{name}")
            for name, encoded in by_field.items()
        }
        if self._class is not None and (self._class.has_hooks or self._class.needs_others):
            changes |= self.adopted({**state, **changes})
        return changes

    def adopted(
        self, state: Mapping[str, EncodedValue], recorded: Mapping[str, EncodedValue] | None = None
    ) -> dict[str, EncodedValue]:
        """Return the fields that the state's class makes otherwise of what is stored, so that rules see what nodes see.

        There are none, unless the class changes values as a whole, or was another one when they were stored: a field
        that it has now and that is missing gets its default.

        Args:
            state: the fields.
            recorded: what came of it before, if this is done again: what a factory made then is taken from there.

        Raises:
            StateError: what is stored does not fit.
        """
        if self._class is None:
            return {
                name: EncodedValue.of_checked(default)
                for name, default in self._defaults.items()
                if self.fields is not None and name not in state
            }
        made = {name: value for name, value in (recorded or {}).items() if name in self._class.made}
        stored = {**made, **state}
        values = self._class.values(self._class.load(join_encoded(stored), "state"))
        paths = {name: f"state.{name}" for name in self._class.names}
        encoded = {
            name: EncodedValue.of(self._class.dumped(name, value, paths[name], values), paths[name])
            for name, value in values.items()
        }
        changes = {
            name: value for name, value in encoded.items() if name not in state or state[name].digest != value.digest
        }
        if changes:
            self._refuse_lost(self._class, values, {**state, **changes}, paths)
        return changes

    def replaces(self, name: str) -> bool:
        """Return whether an update of a field takes the place of its value."""
        return self.fields is None or self.fields[name].reducer == "replace"

    def _recorded_among_others(
        self, state: StateClass, update: Mapping[str, object], text: bytes, *, from_json: bool
    ) -> dict[str, EncodedValue]:
        made = state.among_others(update, text, from_json=from_json)
        values = {**state.values(state.load(text, "state")), **made}
        recorded = {
            name: EncodedValue.of(state.dumped(name, value, f"state.{name}", values), f"state.{name}")
            for name, value in made.items()
        }
        back = state.among_others({name: value.value for name, value in recorded.items()}, text, from_json=True)
        for name, value in made.items():
            found = difference(value, back[name])
            if found is not None:
                raise would_be_lost(f"state.{name}", found)
        return recorded

    @staticmethod
    def _refuse_lost(
        state: StateClass,
        values: Mapping[str, object],
        encoded: Mapping[str, EncodedValue],
        paths: Mapping[str, str],
    ) -> None:
        """Refuse values that would not come back from what is stored of them."""
        for name, value in values.items():
            if not state.needs_others:
                back = state.load_field(name, encoded[name].encoded, paths[name], lost=True)
                found = difference(value, back)
                if found is not None:
                    raise would_be_lost(paths[name], found)
        again = state.values(state.load(join_encoded(encoded), "state"))
        for name, value in values.items():
            found = difference(value, again.get(name))
            if found is not None:
                raise would_be_lost(paths[name], found)

    def _unknown(self, where: str, key: object) -> StateError:
        why = self._class.why_no_field(key) if self._class is not None and isinstance(key, str) else None
        return StateError(
            f"{where}: the state has no field {key!r}",
            reason="unknown-field",
            hint=f"{f'{why} ' if why else ''}It has: {', '.join(self.fields or ()) or 'none'}.",
            path=f"state.{key}",
        )

    def _named(self, values: Mapping[str, object], where: str) -> dict[str, object]:
        """Return values by the names of their fields, which may be given by their aliases."""
        assert self.fields is not None
        named: dict[str, object] = {}
        for key, value in values.items():
            name = key if self._class is None else self._class.name_of(key)
            if name is None or name not in self.fields:
                raise self._unknown(where, key)
            if name in named:
                raise StateError(
                    f"{where}: the field {name!r} is given twice, by its name and by an alias",
                    reason="unknown-field",
                    hint="Give it once.",
                    path=f"state.{name}",
                )
            named[name] = value
        return named


async def _encoded_in_turns(values: Mapping[str, Any], path: str) -> dict[str, EncodedValue]:
    """Return values encoded as they are now; other work of the event loop has its turn while they are digested."""
    texts: dict[str, bytes] = {}
    for name, value in values.items():
        check_json(value, f"{path}.{name}")
        # All texts in this turn: in the next ones, whoever shares these objects may change them.
        texts[name] = trimmed(orjson.dumps(value))  # all steps of the run share them
    encoded: dict[str, EncodedValue] = {}
    turns = Turns()
    await turns.after(sum(map(len, texts.values())))
    for name, text in texts.items():
        encoded[name] = EncodedValue.of_stored(text)
        await turns.after(len(text))
    return encoded


def _refuse_missing(names: list[str]) -> None:
    if names:
        raise StateError(
            f"inputs: {_listed(names)} {'is' if len(names) == 1 else 'are'} missing",
            reason="missing-input",
            hint=f"Give a value, as in: -i {names[0]}=…",
            path=f"inputs.{names[0]}",
        )


def _declared(owner: str, declared: list[Reducer], extra: object, modules: Modules) -> Reducer:
    """Return the one reducer of a field of a class: in its type, in its json_schema_extra, or none."""
    named = extra.get("reduce") if isinstance(extra, dict) else None
    if named is not None and (not isinstance(named, str) or not (named in BUILTIN_REDUCERS or ":" in named)):
        raise GraphError(
            f"state_class: unknown reducer {named!r} of {owner}",
            reason="unknown-reducer",
            hint="Use replace, append, merge, add or package.module:callable in json_schema_extra={'reduce': …}.",
        )
    if len(declared) + (named is not None) > 1:
        raise GraphError(f"state_class: {owner} has more than one reducer", reason="unknown-reducer", hint="Keep one.")
    if isinstance(named, str):
        reducer = BUILTIN[named] if named in BUILTIN else modules.load(named, wanted_by=f"{owner}: reducer")
    else:
        reducer = declared[0] if declared else replace
    check_reducer(reducer, f"state_class: {owner}")
    return reducer


def _undeclared(checkpoint: Checkpoint, what: str, path: str) -> StateError:
    return StateError(
        f"step {checkpoint.step} holds {what}, which the graph's state does not declare",
        reason="unknown-field",
        hint="Declare the field again, or carry the run over with a migrate block.",
        path=path,
    )


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names[:5]) + ("…" if len(names) > 5 else "")
