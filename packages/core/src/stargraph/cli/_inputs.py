"""Turn what a user types into values: `-i name=value`, `--inputs FILE`, tags and times."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, get_args

from stargraph.cli._examples import examples_of
from stargraph.errors import StargraphError, StateError

if TYPE_CHECKING:
    from stargraph.checkpoint.protocol import JsonValue
    from stargraph.engine import StateField, StateSpec
    from stargraph.graph import Graph

_SPAN: Final = re.compile(r"(\d{1,6})([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class _NotJson(ValueError):
    """The text is almost JSON: it says what JSON cannot say."""


def read_inputs(graph: Graph, pairs: Iterable[str], file: str | None, *, complete: bool = True) -> dict[str, JsonValue]:
    """Return the inputs of a run.

    The text of a `str` field is taken as it is. Any other field takes JSON, or the text itself if only
    that fits. If the graph declares no state, a value is JSON if it can be read as such, else text.

    Args:
        graph: the graph, whose state says what is expected.
        pairs: `name=value` each; they win over the file.
        file: a YAML or JSON file with a mapping; `-` reads stdin.
        complete: whether every value that a run needs must be there; a run that is resumed has them.

    Raises:
        StateError: a value does not fit, or is missing.
        StargraphError: a pair or the file cannot be read.
    """
    inputs: dict[str, JsonValue] = {} if file is None else _read_mapping(file)
    spec = graph.state
    for name, text in split_pairs(pairs, "-i").items():
        inputs[name] = typed(graph, spec, name, text)
    if complete:  # before a store is made for a run that cannot start
        spec.initial(inputs)
    return inputs


def read_text(file: str, option: str, wanted: str) -> str:
    """Return the text of a file.

    Args:
        file: its path; `-` reads stdin.
        option: the option that takes it, for the error.
        wanted: what the file should be, for the error.

    Raises:
        StargraphError: it cannot be read, or is not UTF-8.
    """
    from stargraph.checkpoint.driver import open_regular_file

    name = "stdin" if file == "-" else file
    try:
        if file == "-":
            content = sys.stdin.buffer.read()
        else:
            with open_regular_file(file) as stream:
                content = stream.read()
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _refused(
            f"{name}, line {line}: not UTF-8 text: {error.reason} at byte {error.start}", "Save it as UTF-8."
        ) from None
    except (OSError, ValueError) as error:
        complaint = getattr(error, "strerror", None) or str(error)
        raise _refused(f"{option} {name}: {complaint}", f"Give {wanted}, or - for stdin.") from None


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or says what JSON cannot say or says twice.
    """

    def refuse(constant: str) -> None:
        raise _NotJson(f"{constant} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse, object_pairs_hook=_object)
    except RecursionError:
        raise _NotJson("nested too deeply") from None


def split_pairs(pairs: Iterable[str], option: str) -> dict[str, str]:
    """Return `name=value` texts as a mapping.

    Args:
        pairs: the texts.
        option: the option that takes them, for the error.

    Raises:
        StargraphError: one has no `=`, or a name is given twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise _refused(f"{option} {pair!r:.220} is not of the form name=value", f"Write {option} name=value.")
        if name in found:
            raise _refused(f"{option}: {name!r:.220} is given twice", "Give each name once.")
        found[name] = value
    return found


def parse_since(text: str, option: str = "--since") -> datetime:
    """Return the instant that a text names.

    Args:
        text: an ISO 8601 date or time, local if it has no offset; or an age as in `30m`, `12h`, `7d`.
        option: the option that takes it, for the error.

    Raises:
        StargraphError: it is neither.
    """
    return _parse_moment(text, option, -1, "an age")


def parse_delay(text: str, option: str) -> datetime:
    """Return the instant that a text names.

    Args:
        text: an ISO 8601 date or time, local if it has no offset; or how long from now, as in `30m`, `12h`, `7d`.
        option: the option that takes it, for the error.

    Raises:
        StargraphError: it is neither.
    """
    return _parse_moment(text, option, +1, "how long from now")


def _parse_moment(text: str, option: str, direction: int, distance: str) -> datetime:
    span = _SPAN.fullmatch(text)
    try:
        if span:
            return datetime.now(UTC) + direction * timedelta(**{_UNITS[span.group(2)]: int(span.group(1))})
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise _refused(
            f"{option} {text!r:.220} is not a time",
            f"Write 2026-01-31, 2026-01-31T12:00:00Z, or {distance}: 30m, 12h, 7d.",
        ) from None


def typed(graph: Graph, spec: StateSpec, name: str, text: str, option: str = "-i") -> JsonValue:
    """Return the value that a text stands for.

    Args:
        spec: its state.
        name: the field; of one that is not declared, the value is JSON if it can be read as such, else text.
        option: the option that takes it, for the error.

    Raises:
        StateError: it does not fit the field.
    """
    try:
        parsed, value = True, parse_json(text)
    except _NotJson as error:
        if not _takes_text_alone(spec, name):
            raise StateError(f"{option} {name}={text:.60}: {error}", reason="not-json", path=f"inputs.{name}") from None
        return text
    except ValueError:
        parsed, value = False, text
    field = spec.field(name)
    if field is None:
        # A name that the state does not have is refused by the run, with the names that it has.
        return value
    if _takes_text_alone(spec, name):
        return text
    complaint = _complaint(field, value)
    if complaint is None:
        return value
    if parsed and _complaint(field, text) is None:
        return text
    expected, example = _type_name(graph, field), _example(field)
    raise StateError(
        f"{option} {name}={text:.60}: {complaint.message.partition(': ')[2]}",
        reason="wrong-type",
        hint=f"{name} is {expected}, written as JSON"
        + ("." if example is None else f", as in: {option} {shlex.quote(f'{name}={example}')}"),
        path=f"inputs.{name}",
    )


def _example(field: StateField) -> str | None:
    """Return a text that the field takes, or None if none is known."""
    fitting = (value for value in examples_of(field.annotation) if _complaint(field, value) is None)
    return next((json.dumps(value, ensure_ascii=False) for value in fitting), None)


def _complaint(field: StateField, value: object) -> StateError | None:
    try:
        field.check(value, f"inputs.{field.name}")
    except StateError as error:
        return error
    return None


def _takes_text_alone(spec: StateSpec, name: str) -> bool:
    field = spec.field(name)
    return field is not None and field.annotation is str


def _type_name(graph: Graph, field: StateField) -> str:
    if graph.ir.state_schema is not None:
        return graph.ir.state_schema[field.name].type
    is_plain = isinstance(field.annotation, type) and not get_args(field.annotation)
    return field.annotation.__name__ if is_plain else str(field.annotation)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _NotJson("an object has a key twice")
    return found


def _read_mapping(file: str) -> dict[str, JsonValue]:
    name = "stdin" if file == "-" else file
    text = read_text(file, "--inputs", "a YAML or JSON file")
    if all(not line.strip() or line.lstrip().startswith("#") for line in text.splitlines()):
        raise _refused(f"{name}: it is empty", "Write a line `name: value` for each input, or leave out --inputs.")
    try:
        inputs = parse_json(text)
    except _NotJson as error:
        raise _refused(f"{name}: {error}", "Correct the file.") from None
    except ValueError as error:
        if file.endswith(".json"):
            raise _refused(f"{name}: not JSON: {error}", "Correct the file, or call it .yaml.") from None
        inputs = _parse_yaml(text, name)
    if not isinstance(inputs, dict):
        raise _refused(f"{name}: not a mapping of names to values", "Write a line `name: value` for each input.")
    return inputs


def _parse_yaml(text: str, name: str) -> object:
    from stargraph.ir import parse_yaml

    return parse_yaml(text, file=name)


def _refused(message: str, hint: str) -> StargraphError:
    return StargraphError(message, reason="invalid-arguments", hint=hint)
