"""What a person types as an answer, made into a value."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from stargraph.cli._output import clean, emit
from stargraph.errors import StateError

if TYPE_CHECKING:
    from stargraph.checkpoint.protocol import Interrupt, JsonValue

T = TypeVar("T")


def readings(text: str) -> list[JsonValue]:
    """Return the values that a text may mean, the likelier one first: what it says as JSON, and the text itself.

    Args:
        text: what was typed.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return [text]
    return [value] if isinstance(value, str) else [value, text]


async def first_that_fits(text: str, give: Callable[[JsonValue], Coroutine[Any, Any, T]]) -> T:
    """Give an answer by the first of its readings that the question's type takes.

    Args:
        text: what was typed.
        give: records a value; raises StateError where it does not fit.

    Raises:
        StateError: none fits; the error is that of the likelier one.
    """
    first: StateError | None = None
    for value in readings(text):
        try:
            return await give(value)
        except StateError as error:
            first = first or error
    assert first is not None
    raise first


def ask_person(questions: Sequence[Interrupt]) -> dict[str, str] | None:
    """Ask a person on the terminal; return what was typed by the ids of the questions, None where nothing was.

    Args:
        questions: the open ones.
    """
    typed: dict[str, str] = {}
    for question in questions:
        if question.payload is not None:
            emit(clean(json.dumps(question.payload, indent=2, ensure_ascii=False)), sys.stderr)
        try:
            text = input(f"{clean(question.prompt)} ")
        except (EOFError, KeyboardInterrupt):
            emit("", sys.stderr)
            return None
        typed[question.id] = text.strip()
    return typed
