"""Show a run's questions, and read what a person types as an answer."""

from __future__ import annotations

import json
import sys
import types
import typing
from collections.abc import Callable, Coroutine, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeVar

from stargraph.cli._errors import print_error
from stargraph.cli._output import clean, emit, one_line, shorten
from stargraph.errors import StateError

if TYPE_CHECKING:
    from stargraph.checkpoint.protocol import Interrupt, JsonValue

T = TypeVar("T")

_HOW_TO_WRITE: Final = 'An answer is written as JSON, as in true, 3 or ["a", "b"]; text needs no quotes.'

_AS_BOOL: Final = {"yes": True, "y": True, "true": True, "no": False, "n": False, "false": False}

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
    """Return the values that a text may mean, the likelier one first.

    They are its JSON value, or what yes and no stand for, and the text itself. The word "no" is a text only if the
    answer cannot be a bool: for `if not ctx.interrupt("Pay?")`, whose answer has no type, the text would be a yes.

    Args:
        text: what was typed.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        word = text.casefold()
        return [_AS_BOOL[word], text] if word in _AS_BOOL else [text]
    return [value] if isinstance(value, str) else [value, text]


async def first_that_fits(values: Sequence[JsonValue], give: Callable[[JsonValue], Coroutine[Any, Any, T]]) -> T:
    """Give an answer by the first of its readings that the question's type takes.

    Args:
        values: the readings of what was typed.
        give: records a value; raises StateError if it does not fit.

    Raises:
        StateError: none fits; the error is that of the likelier one, or of the text itself if it is yes or no.
    """
    errors: list[StateError] = []
    for value in values:
        try:
            return await give(value)
        except StateError as error:
            errors.append(error)
    refused = errors[-1 if isinstance(values[0], bool) else 0]
    refused.hint = refused.hint or _HOW_TO_WRITE
    raise refused


def choices_of(annotation: Any) -> dict[str, JsonValue]:
    """Return the words that a person may answer with, and what each stands for; none if there is no end of them.

    Args:
        annotation: the type of the answer; None if it may be anything.
    """
    choices: dict[str, JsonValue] = {}
    for member in _members(annotation):
        if member is bool:
            choices |= {"yes": True, "no": False}
        elif typing.get_origin(member) is typing.Literal:
            choices |= {_word(value): value for value in typing.get_args(member)}
        elif isinstance(member, type) and issubclass(member, Enum):
            choices |= {_word(each.value): each.value for each in member}
        elif member not in (None, type(None)):
            return {}
    return choices


def _members(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) is typing.Annotated:
        return _members(annotation.__origin__)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [inner for member in typing.get_args(annotation) for inner in _members(member)]
    return [annotation]


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def ask_person(
    questions: Sequence[Interrupt], type_of: Callable[[Interrupt], Any]
) -> dict[str, list[JsonValue]] | None:
    """Ask a person on the terminal; return the readings of what was typed by the ids of the questions.

    Args:
        questions: the open ones.
        type_of: returns the type of the answer to one, or None.

    Returns:
        None if the terminal is gone. A question whose answer was empty or none of its choices is not among them; if
        that is so for all of them, they are asked again.
    """
    typed: dict[str, list[JsonValue]] = {}
    while questions and not typed:
        for question in questions:
            if question.payload is not None:
                emit("\n".join(payload_lines(question)), sys.stderr)
            choices = choices_of(type_of(question))
            prompt = clean(shorten(question.prompt, _SHOWN))
            try:
                text = input(f"{prompt} [{'/'.join(choices)}] " if choices else f"{prompt} ").strip()
            except (EOFError, KeyboardInterrupt, OSError, ValueError):  # the terminal may be gone
                emit("", sys.stderr)
                return None
            if not text:
                print_error("there is no answer yet", 'Write "" for an empty text.' if not choices else None)
            elif found := _chosen(text, choices) if choices else readings(text):
                typed[question.id] = found
            else:
                print_error(f"{one_line(shorten(text, 80))!r} is not one of {', '.join(choices)}")
    return typed or None


def _chosen(text: str, choices: Mapping[str, JsonValue]) -> list[JsonValue]:
    """Return what a word stands for among choices, in a list that is empty if it is none of them."""
    words = {**_AS_BOOL, **choices} if set(choices) == {"yes", "no"} else choices
    folded = {word.casefold(): value for word, value in words.items()}
    return [choices[text]] if text in choices else [folded[text.casefold()]] if text.casefold() in folded else []
