"""Classes of states: pydantic models, dataclasses and TypedDicts, one field at a time or as a whole.

A field is validated by the part of the class's core schema that belongs to it, and written by the class's own
serializer. So its config, validators and serializers apply to inputs, defaults and updates alike. A value is stored
only if what is stored gives it back, in value and in type.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import orjson
from pydantic import BaseModel, PydanticUserError, SecretBytes, SecretStr, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError, from_json

from stargraph.checkpoint.values import JsonValue, check_json, is_json
from stargraph.checkpoint.values._json import REPLACE_SURROGATES
from stargraph.engine._class_schema import (
    ClassJsonSchema,
    Schema,
    aliases_of,
    in_order,
    is_plain_list,
    is_required,
    mentions,
    not_a_state_class,
    reads_others,
    refuse_lossy,
    shape_of,
    takes_info,
)
from stargraph.engine._fidelity import NO_NUMBER, Difference, difference
from stargraph.engine._reducers import Reducer, annotation_parts, hides_reducers
from stargraph.errors import GraphError, StateError
from stargraph.ir import reducers_in, refuse_named_reducers

_UNDEFINED: Final = ("class-not-fully-defined", "undefined-annotation")
"""The codes of pydantic's complaints about names that stand for nothing yet."""

_NOT_A_TYPE: Final = (NameError, AttributeError, SyntaxError, TypeError)
"""What the text of an annotation raises, as in `x: "datetime.Date"`, when it is evaluated, here or inside pydantic."""


class StateClass:
    """A class of states.

    Args:
        found: the class.
        path: names it, for errors.

    Attributes:
        kind: the class itself.
        names: its fields.
        annotations: the types of the fields.
        required: those of them that have no default, and must be there.
        made: those whose default is made by a factory for each object.
        has_hooks: whether it validates or changes its values as a whole.
        needs_others: whether a validator or a serializer of a field looks at other fields.
        input_keys: the keys that an input may have, and the fields that they may stand for.
        json_schema: its JSON Schema.

    Raises:
        GraphError: a state cannot be of this class, or a default would not come back as it is.
    """

    def __init__(self, found: object, path: str) -> None:
        if not isinstance(found, type):
            raise not_a_state_class(path)
        _refuse_undecorated(found, path)
        self.kind = found
        self._class: Any = found
        self._path = path
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(found)
            shape = shape_of(self._adapter.core_schema, path)
            self.json_schema: dict[str, JsonValue] = self._adapter.json_schema(
                mode="serialization", by_alias=False, schema_generator=ClassJsonSchema
            )
        except (PydanticUserError, *_NOT_A_TYPE) as error:
            if isinstance(error, PydanticSchemaGenerationError) and not _is_kind(found):
                raise not_a_state_class(path) from None
            hint = "Give each field a type that pydantic can validate."
            if isinstance(error, (NameError, AttributeError)) or getattr(error, "code", None) in _UNDEFINED:
                hint = "Define what the class names before the graph is made."
            elif getattr(error, "code", None) == "typed-dict-version":
                hint = "Import TypedDict from typing_extensions, which is installed with Stargraph."
            first = (str(error) or type(error).__name__).splitlines()[0]
            raise GraphError(
                f"state_class: {path}: {_at_field(found)}{first}", reason="bad-state-class", hint=hint
            ) from (None if isinstance(error, PydanticUserError) else error)  # its traceback shows pydantic's inside
        self._read_annotations(shape.fields)
        for name, schema in shape.fields.items():
            refuse_lossy(path, name, schema)
        schemas = {name: field["schema"] for name, field in shape.fields.items()}
        self.names = tuple(schemas)
        self.required = tuple(name for name, field in shape.fields.items() if is_required(field))
        self.made = frozenset(name for name, schema in schemas.items() if "default_factory" in schema)
        self.has_hooks = shape.has_hooks
        self.needs_others = any(
            takes_info(schemas[name]) or reads_others(name, field, schemas) for name, field in shape.fields.items()
        )
        self._inner = shape.part(shape.inner) if self.needs_others else None
        self._validators = {name: shape.part(schema) for name, schema in schemas.items()}
        sets = ("set", "frozenset")
        self._has_sets = {name for name, schema in schemas.items() if mentions(schema, sets)}
        if any(mentions(schema, sets) for schema in shape.definitions):
            self._has_sets = set(schemas)
        self._plain_lists = {name for name, schema in schemas.items() if is_plain_list(schema)}
        self._aliases: dict[str, str] = {}
        self.input_keys: dict[str, set[str]] = {name: {name} for name in schemas}
        for name, field in shape.fields.items():
            aliases, paths = aliases_of(field)
            self._aliases |= dict.fromkeys(aliases, name)
            for key in (*aliases, *paths):
                self.input_keys.setdefault(key, set()).add(name)
        self._validates_defaults = bool((shape.config or {}).get("validate_default"))
        if not self.needs_others:
            self._check_defaults(schemas)
            for name in self.names:
                self._check_secrets(name)

    def _read_annotations(self, names: Iterable[str]) -> None:
        infos: Mapping[str, FieldInfo] = getattr(self._class, "model_fields", {})
        hints = {} if infos else typing.get_type_hints(self._class, include_extras=True)
        self.annotations: dict[str, Any] = {}
        self._metadata: dict[str, list[object]] = {}
        fields = dataclasses.fields(self._class) if dataclasses.is_dataclass(self._class) else ()
        self._field_metadata = {field.name: field.metadata for field in fields}
        for name in names:
            if name in infos:
                self._metadata[name] = [*infos[name].metadata, infos[name]]
                self.annotations[name] = infos[name].annotation
            else:
                self._metadata[name], self.annotations[name] = annotation_parts(hints.get(name, Any))

    def is_plain_list(self, name: str) -> bool:
        """Return whether a field is a list that stays valid whatever valid items are appended.

        Args:
            name: the field.
        """
        return name in self._plain_lists

    def name_of(self, key: str) -> str | None:
        """Return the field that a key of an input or an update stands for: its name or its alias; None if none does."""
        return key if key in self._validators else self._aliases.get(key)

    def why_no_field(self, key: str) -> str | None:
        """Return why what the class has by a name is no field of it, or None if it has nothing of that name.

        Args:
            key: the name.
        """
        if key in getattr(self.kind, "__private_attributes__", ()):
            return f"{key!r} is a private attribute, which is not stored: name it without the _."
        bases = [base for base in self.kind.__mro__ if base not in (object, BaseModel, dict)]
        owner = next((base for base in bases if key in vars(base) or key in _annotations_of(base)), None)
        if owner is None:
            return None
        if (annotation := _annotations_of(owner).get(key)) is not None:
            if _is_shared(annotation) or not dataclasses.is_dataclass(self.kind):
                return f"{key!r} is annotated as one value of the class {self.kind.__name__}, and not as a field."
            return f"{key!r} is no field, since {owner.__name__} is no dataclass: write @dataclass above it."
        value = vars(owner)[key]
        if callable(value) or hasattr(value, "__get__"):
            return f"{key!r} is a method or property of {self.kind.__name__}, and no field."
        # A text may be a secret, and what else has a text may be long.
        shown = repr(value) if type(value) in (bool, int, float) else "…"
        return f"{key!r} has no annotation, so it is no field: write {key}: {type(value).__name__} = {shown}."

    def reducers(self) -> dict[str, tuple[list[Reducer], object]]:
        """Return the reducers that the type of each field declares, and its `json_schema_extra`."""
        found: dict[str, tuple[list[Reducer], object]] = {}
        for name, metadata in self._metadata.items():
            if hides_reducers(self.annotations[name]):
                raise GraphError(
                    f"state_class: {self._path}.{name} declares a reducer inside its type",
                    reason="unknown-reducer",
                    hint="Put it outermost, as in: Annotated[list[str] | None, append].",
                )
            extra = next((item.json_schema_extra for item in metadata if isinstance(item, FieldInfo)), None)
            others = {key: value for key, value in extra.items() if key != "reduce"} if isinstance(extra, dict) else {}
            reducers = reducers_in(metadata)
            if not reducers:
                said = [*metadata, others, self._field_metadata.get(name, {})]
                refuse_named_reducers(said, f"state_class: {self._path}.{name}")
            found[name] = (reducers, extra)
        return found

    def whole(self, inputs: Mapping[str, object]) -> Any:
        """Return the instance that inputs make, with its defaults.

        Args:
            inputs: values by name or alias: JSON, or what Python has.

        Raises:
            StateError: they do not fit.
        """
        with _faults("inputs"):
            if is_json(inputs):
                return self._adapter.validator.validate_json(orjson.dumps(dict(inputs)), by_alias=True, by_name=True)
            return self._adapter.validator.validate_python(dict(inputs), by_alias=True, by_name=True)

    def load(self, text: bytes, path: str) -> Any:
        """Return the instance that is stored as a JSON text.

        Args:
            text: the JSON text of all fields, by name.
            path: where it is, for the error.

        Raises:
            StateError: it does not fit.
        """
        with _faults(path):
            return self._adapter.validator.validate_json(text, by_alias=False, by_name=True)

    def load_field(self, name: str, text: bytes, path: str, *, lost: bool = False) -> Any:
        """Return the value of a field that is stored as a JSON text.

        Args:
            name: the field.
            text: the JSON text.
            path: where it is, for the error.
            lost: whether the text was made of a value just now, which would be lost.

        Raises:
            StateError: it does not fit.
        """
        with _faults(path, lost=lost):
            return self._validators[name].validate_json(text, by_alias=False, by_name=True)

    def values(self, instance: Any) -> dict[str, Any]:
        """Return the fields of an instance, as far as it has them.

        Args:
            instance: of this class.
        """
        if isinstance(instance, dict):
            return {name: instance[name] for name in self.names if name in instance}
        return {name: getattr(instance, name) for name in self.names}

    def checked(self, name: str, value: object, path: str, *, from_json: bool) -> Any:
        """Return a value as the class makes it.

        Args:
            name: the field that takes it.
            path: where it is, for the error.
            from_json: whether the value is JSON, and is read as what is stored is.

        Raises:
            StateError: it does not fit.
        """
        validator = self._validators[name]
        if from_json:
            check_json(value, path)
        with _faults(path):
            if from_json:
                return validator.validate_json(orjson.dumps(value), by_alias=True, by_name=True)
            return validator.validate_python(value, by_alias=True, by_name=True)

    def stored(self, name: str, value: object, path: str) -> JsonValue:
        """Return a value of a field as JSON.

        Args:
            name: the field.
            value: what the class made.
            path: where it is, for the error.

        Raises:
            StateError: it cannot be written, or would not come back as it is.
        """
        plain = self.dumped(name, value, path)
        check_json(plain, path)
        found = difference(value, self.load_field(name, orjson.dumps(plain), path, lost=True))
        if found is not None:
            raise would_be_lost(path, found)
        return plain

    def dumped(self, name: str, value: object, path: str, others: Mapping[str, object] | None = None) -> JsonValue:
        """Return a value of a field as JSON, by the class's own serializer; it may not come back as it is.

        Args:
            name: the field.
            value: what the class made.
            path: where it is, for the error.
            others: the fields of the same object; some serializers read them.

        Raises:
            StateError: it cannot be written.
        """
        with _faults(path, lost=True):
            text = self._adapter.serializer.to_json(
                _holder(self._class, self.names, {**(others or {}), name: value}),
                include={name},
                by_alias=False,
                round_trip=True,
                warnings=False,
            )
        plain = from_json(text)[name]
        return in_order(value, plain) if name in self._has_sets else plain

    def read_and_dumped(self, stored: JsonValue) -> JsonValue:
        """Return what would be stored of a state that is read; what a factory makes of a missing field is left out.

        Args:
            stored: the fields, by name.

        Raises:
            StateError: it does not fit, or cannot be written.
        """
        assert isinstance(stored, dict)
        values = self.values(self.load(orjson.dumps(stored), "state"))
        return {
            name: self.dumped(name, value, f"state.{name}", values)
            for name, value in values.items()
            if name in stored or name not in self.made
        }

    def among_others(self, update: Mapping[str, object], text: bytes, *, from_json: bool) -> dict[str, Any]:
        """Return an update as the class makes it; its validators see the other fields.

        Args:
            update: values by field.
            text: the JSON text of the state that it is an update of.
            from_json: as for `checked`.

        Raises:
            StateError: it does not fit.
        """
        assert self._inner is not None
        with _faults("state"):
            if from_json:
                whole = orjson.dumps({**orjson.loads(text), **update})
                result = self._inner.validate_json(whole, by_alias=False, by_name=True)
            else:
                values = {**self.values(self.load(text, "state")), **update}
                result = self._inner.validate_python(values, by_alias=False, by_name=True)
        made = result[0] if isinstance(result, tuple) else result
        return {name: made[name] for name in update}

    def _check_secrets(self, name: str) -> None:
        """Refuse a field of a type that masks what it holds, unless the class says how to store it."""
        path = f"{self._path}.{name}"
        kinds = [self.annotations[name], *typing.get_args(self.annotations[name])]
        for secret in (SecretStr("secret"), SecretBytes(b"secret")):
            if type(secret) not in kinds:
                continue
            try:
                self.stored(name, secret, path)
            except StateError as error:
                if error.reason == "not-json":
                    raise GraphError(
                        f"state_class: {error.message}", reason="bad-state-class", hint=error.hint
                    ) from error

    def _check_defaults(self, schemas: Mapping[str, Schema]) -> None:
        for name, schema in schemas.items():
            if "default" not in schema:
                continue
            path = f"{self._path}.{name}: its default"
            try:
                value = schema["default"]
                if schema.get("validate_default", self._validates_defaults):
                    value = self.checked(name, value, path, from_json=False)
                self.stored(name, value, path)
            except StateError as error:
                hint = f"{error.hint or ''} A validate_default=True in its config makes it what validators make of it."
                raise GraphError(f"state_class: {error.message}", reason="bad-default", hint=hint.strip()) from error


def would_be_lost(path: str, found: Difference) -> StateError:
    """Return the error of a value that would not come back from JSON as it is.

    Args:
        path: leads to the value that was stored.
        found: what would become of it.
    """
    where = path + found.path
    return StateError(
        f"{where}: {found.what}, so it would not come back from JSON as it is",
        reason="not-json",
        hint=found.hint,
        path=where,
    )


def does_not_fit(error: ValidationError, path: str) -> StateError:
    """Return pydantic's complaint in one line: where, what was given, what is wanted.

    Args:
        error: what pydantic raised.
        path: where the value is.
    """
    complaint = error.errors(include_url=False)[0]
    where = path + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in complaint["loc"])
    given = complaint["input"]
    # A class may hide its inputs (hide_input_in_errors).
    is_shown = complaint["type"] != "missing" and "input_value=" in str(error)
    shown = f" (given: {given!r:.60}, {type(given).__qualname__})" if is_shown else ""
    return StateError(f"{where}: {complaint['msg']}{shown}", reason="wrong-type", path=where)


@contextlib.contextmanager
def _faults(path: str, *, lost: bool = False) -> Iterator[None]:
    """Turn whatever a class raises into a StateError.

    Args:
        path: where the value is.
        lost: whether the value itself is fine, and only its way to the store is not.
    """
    try:
        yield
    except StateError:
        raise
    except ValidationError as error:
        fault = does_not_fit(error, path)
        if not lost:
            raise fault from None
        complaint = error.errors(include_url=False)[0]
        what = f"what is stored of it would not be accepted ({complaint['msg']})"
        found = Difference("", what, "Let its validator accept what its serializer writes.")
        # The class made a number, and its serializer wrote null.
        is_number = complaint["type"] == "float_type" and complaint["input"] is None
        raise would_be_lost(fault.path or path, NO_NUMBER if is_number else found) from None
    except (PydanticSerializationError, ValueError, TypeError) as error:
        hint = "Give the field a type or a serializer that says how it is stored."
        if "surrogates" in str(error):
            hint = REPLACE_SURROGATES
        elif "utf-8" in str(error):
            hint = "Set ser_json_bytes='base64' and val_json_bytes='base64' in its model_config."
        raise StateError(
            f"{path}: it cannot be written as JSON: {error}", reason="not-json", hint=hint, path=path
        ) from error
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except Exception as error:
        raise StateError(
            f"{path}: the code of the state's class failed: {type(error).__name__}: {error}",
            reason="wrong-type",
            path=path,
        ) from error


def _holder(kind: Any, names: Iterable[str], values: dict[str, object]) -> Any:
    """Return an instance that holds values, for the class's serializer; no code of the class runs."""
    if _is_typed_dict(kind):
        return values
    holder = kind.__new__(kind)
    if issubclass(kind, BaseModel):
        # As pickle makes one.
        holder.__setstate__(
            {
                "__dict__": values,
                "__pydantic_extra__": None,
                "__pydantic_fields_set__": set(values),
                "__pydantic_private__": None,
            }
        )
        return holder
    for other in names:
        object.__setattr__(holder, other, values.get(other))
    return holder


def _annotations_of(kind: type) -> Mapping[str, object]:
    """Return the annotations of a class itself, unevaluated where they may name what is not defined yet.

    Args:
        kind: the class.
    """
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(kind, format=annotationlib.Format.FORWARDREF)
    found: Mapping[str, object] = vars(kind).get("__annotations__", {})
    return found


def _refuse_undecorated(found: type, path: str) -> None:
    """Refuse what a class says of fields of a dataclass, and is none itself: it would be ignored."""
    if not dataclasses.is_dataclass(found) or "__dataclass_fields__" in vars(found):
        return
    known = {field.name: field for field in dataclasses.fields(found)}
    annotations, own = _annotations_of(found), vars(found)
    for name, annotation in annotations.items():
        is_constant = name in own and _says(annotation, "Final")
        if name not in known and not (_is_shared(annotation) or is_constant):
            raise _undecorated_error(found, f"{path} adds the field {name!r} to a dataclass")
    types = _types_of(found)
    for name, field in known.items():
        has_default = name in own and own[name] is not field.default
        if has_default or (name in annotations and types.get(name) != _types_of(_owner_of(found, name)).get(name)):
            raise _undecorated_error(found, f"{path} declares the field {name!r} of a dataclass again")


def _undecorated_error(found: type, what: str) -> GraphError:
    return GraphError(
        f"state_class: {what}, and is not decorated itself",
        reason="bad-state-class",
        hint=f"Write @dataclass above class {found.__name__}.",
    )


def _owner_of(found: type, name: str) -> type:
    """Return the dataclass that declares a field of a class that is not decorated."""
    bases = (base for base in found.__mro__ if "__dataclass_fields__" in vars(base))
    return next((base for base in bases if name in _annotations_of(base)), found)


def _types_of(found: type) -> Mapping[str, Any]:
    """Return the types of fields without what `Annotated` adds; none if one names what is not defined yet."""
    try:
        return typing.get_type_hints(found)
    except _NOT_A_TYPE:
        return {}


def _is_shared(annotation: object) -> bool:
    return _says(annotation, "ClassVar")


def _says(annotation: object, word: str) -> bool:
    return word in (annotation if isinstance(annotation, str) else repr(annotation))


def _at_field(found: type) -> str:
    """Return the beginning of a complaint of pydantic, which does not tell which field it is about."""
    try:
        annotations = typing.get_type_hints(found, include_extras=True)
    except _NOT_A_TYPE:
        return ""
    for name, annotation in annotations.items():
        try:
            TypeAdapter(annotation)
        except (PydanticUserError, *_NOT_A_TYPE):
            return f"field {name!r}: "
    return ""


def _is_kind(found: type) -> bool:
    return issubclass(found, BaseModel) or dataclasses.is_dataclass(found) or _is_typed_dict(found)


def _is_typed_dict(found: type) -> bool:
    # typing and typing_extensions have one each.
    return issubclass(found, dict) and hasattr(found, "__total__")
