"""The form of a question: fields that fit the type of its answer, and the answer that they give."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from stargraph.checkpoint.protocol import Checkpoint, Interrupt, JsonValue
from stargraph.cli._inputs import parse_json
from stargraph.cli._questions import choices_of
from stargraph.errors import StateError
from stargraph.ir import parse_type
from stargraph.ui._console import Console
from stargraph.ui._text import visible
from stargraph.ui._tree import Branch, members_of, show_json

_PAYLOAD: Final = 2_000
_CONTROLS: Final[dict[Any, str]] = {int: "number", float: "number", str: "text"}


@dataclass(frozen=True, slots=True)
class QuestionForm:
    """A question, and how it is answered.

    Attributes:
        question: the question.
        payload: what the person needs to answer, if it is a scalar.
        branches: the members of it, if it has some.
        type_name: the type of the answer, as the graph declares it; empty if it may be anything.
        control: `choices`, `number`, `text` or `json`.
        choices: the words to choose from.
        command: the same in a terminal.
    """

    question: Interrupt
    payload: str
    branches: tuple[Branch, ...]
    type_name: str
    control: str
    choices: Mapping[str, JsonValue]
    command: str


async def question_form(console: Console, latest: Checkpoint, question: Interrupt) -> QuestionForm:
    """Return the form of a question.

    Args:
        console: what all pages share.
        latest: the latest checkpoint of the run that asks.
    """
    type_name, annotation = await _type_of(console, latest, question)
    choices = choices_of(annotation)
    control = "choices" if choices else _control(annotation)
    payload = question.payload
    is_container = isinstance(payload, (dict, list)) and bool(payload)
    return QuestionForm(
        question,
        "" if payload is None or is_container else show_json(payload, _PAYLOAD),
        members_of(payload, "[]", top=True)[0] if is_container else (),
        visible(type_name),
        control,
        choices,
        console.store.command("respond", latest.run_id, "--interrupt", question.id, "--value", "JSON"),
    )


def _control(annotation: Any) -> str:
    """Return the field of a type that has no choices; one that may also be None is written as without it."""
    members = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    known = [each for each in members if each is not type(None)]
    return _CONTROLS.get(known[0], "json") if len(known) == 1 else "json"


async def _type_of(console: Console, latest: Checkpoint, question: Interrupt) -> tuple[str, Any]:
    """Return the type of an answer: by the graph if it is loaded, or else as the log says."""
    graph = console.graphs.get(latest.graph_id)
    if graph is not None and latest.graph_hash == graph.graph_hash:
        annotation = graph.answer_type(question)
        return getattr(annotation, "__name__", str(annotation)) if annotation is not None else "", annotation
    if question.into is None or question.child_run_id is not None:
        return "", None
    definition: Any = await console.store.definition(latest) or {}
    field = definition.get("state_schema", {}).get(question.into)
    if not isinstance(field, Mapping):
        return "", None
    return str(field["type"]), parse_type(str(field["type"]))


def answer_of(control: str, choices: Mapping[str, JsonValue], text: str) -> JsonValue:
    """Return what a person has given.

    Args:
        control: as in `QuestionForm`.
        choices: likewise.
        text: what the field held.

    Raises:
        StateError: it is none of the choices, or not JSON.
    """
    if control == "choices":
        if text not in choices:
            raise StateError(
                f"{text!r} is not one of {', '.join(choices)}", reason="wrong-type", hint="Choose one of them."
            )
        return choices[text]
    if control == "text":
        return text.replace("\r\n", "\n")
    try:
        value: JsonValue = parse_json(text)
    except ValueError:
        raise StateError(
            f"{text[:80]!r} is not JSON", reason="not-json", hint='Write it as JSON: 12, true, "text", {"a": [1, 2]}.'
        ) from None
    return value
