"""Show a run's questions, and read what a person types as an answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from stargraph.cli._output import clean, emit, one_line, shorten
from stargraph.errors import StateError

if TYPE_CHECKING:
    from stargraph.checkpoint.protocol import Interrupt, JsonValue

T = TypeVar("T")

_HOW_TO_WRITE: Final = 'An answer is written as JSON, as in true, 3 or ["a", "b"]; text needs no quotes.'

_SHOWN: Final = 2000
"""How many characters of a prompt or a payload are shown."""


def question_lines(questions: Sequence[Interrupt]) -> list[str]:
    """Return open questions as lines: id and prompt, and below them what is asked about.

    Args:
        questions: the open ones.
    """
    lines: list[str] = []
    for question in questions:
        lines.append(f"  {question.id}: {one_line(shorten(question.prompt, _SHOWN))}")
        if question.payload is not None:
            lines += [f"      {line}" for line in payload_lines(question)]
    return lines


def payload_lines(question: Interrupt) -> list[str]:
    """Return what a question is about, as JSON.

    Args:
        question: has a payload.
    """
    text = json.dumps(question.payload, indent=2, ensure_ascii=False)
    return clean(shorten(text, _SHOWN)).split("\n")


def readings(text: str) -> list[JsonValue]:
    """Return the values that a text may mean, the likelier one first: its JSON value, and the text itself.

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
        give: records a value; raises StateError if it does not fit.

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
    first.hint = first.hint or _HOW_TO_WRITE
    raise first


def ask_person(questions: Sequence[Interrupt]) -> dict[str, str] | None:
    """Ask a person on the terminal; return what was typed by the ids of the questions, or None if nothing was.

    Args:
        questions: the open ones.
    """
    typed: dict[str, str] = {}
    for question in questions:
        if question.payload is not None:
            emit("\n".join(payload_lines(question)), sys.stderr)
        try:
            text = input(f"{clean(shorten(question.prompt, _SHOWN))} ")
        except (EOFError, KeyboardInterrupt, OSError, ValueError):  # the terminal may be gone
            emit("", sys.stderr)
            return None
        typed[question.id] = text.strip()
    return typed
