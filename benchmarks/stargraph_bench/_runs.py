"""What the contenders store: runs of Python values, the same for all of them."""

from __future__ import annotations

import functools
import itertools
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

State: TypeAlias = dict[str, Any]

APPENDED = "turns"
"""The field that grows; a peer that knows deltas gets its name."""

SECTIONS = 20
PARAGRAPHS = 100


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a run.

    Attributes:
        state: the whole state after it; shares what did not change with the step before.
        changed: the fields that differ from the step before.
        update: what the node returned.
    """

    state: State
    changed: tuple[str, ...]
    update: State


@dataclass(frozen=True, slots=True)
class Run:
    """A run: its id and its steps."""

    run_id: str
    steps: Sequence[Step]


Maker: TypeAlias = Callable[[int, int], Iterator[Step]]
"""Yields so many steps; the second argument seeds the text."""


@functools.cache
def _vocabulary() -> tuple[list[str], list[float]]:
    """Return made-up words, and how often they occur, summed up: few often, most seldom, as in English."""
    draw = random.Random(0)
    syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprstv", "aeiou")]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(4000)]
    return words, list(itertools.accumulate(1 / (rank + 3) for rank in range(len(words))))


class Prose:
    """Text that compresses about as English does: to two fifths with pglz.

    Args:
        seed: equal seeds give equal text.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def text(self, length: int) -> str:
        """Return so many characters."""
        vocabulary, weights = _vocabulary()
        words = self._random.choices(vocabulary, cum_weights=weights, k=length // 3)
        return " ".join(words).ljust(length, ".")[:length]


def small(steps: int, seed: int) -> Iterator[Step]:
    """A state of 1 KB, of which each step changes a number."""
    text = Prose(seed).text(1000)
    for number in range(steps):
        yield Step({"n": number, "text": text}, ("n", "text") if number == 0 else ("n",), {"n": number})


def chat(steps: int, seed: int, *, first: int = 2000, message: int = 1000) -> Iterator[Step]:
    """A conversation that begins with 2 KB, to which each step adds 1 KB.

    LangGraph makes objects of its own of lists of messages, so the words are others here.
    """
    prose = Prose(seed)
    messages: list[State] = []
    for number in range(steps):
        said = {"speaker": "assistant" if number % 2 else "user", "text": prose.text(message if number else first)}
        messages = [*messages, said]
        changed = ("n", APPENDED)
        yield Step({"n": number, APPENDED: messages}, changed, {"n": number, APPENDED: [said]})


def talk(steps: int, seed: int) -> Iterator[Step]:
    """A conversation to which each step adds 100 bytes, for runs of many steps."""
    return chat(steps, seed, first=100, message=100)


def big_edit(steps: int, seed: int) -> Iterator[Step]:
    """2 MB in twenty sections of a hundred paragraphs, one of which each step edits."""
    prose = Prose(seed)
    state: State = {f"section_{number:02}": [prose.text(1040) for _ in range(PARAGRAPHS)] for number in range(SECTIONS)}
    yield Step(state, tuple(state), {})
    for number in range(1, steps):
        name = f"section_{number * 7 % SECTIONS:02}"
        section = list(state[name])
        place = number * 13 % PARAGRAPHS
        section[place] = f"{section[place][:500]} (edit {number}) {section[place][500:]}"
        state = {**state, name: section}
        yield Step(state, (name,), {name: section})


def huge_edit(steps: int, seed: int) -> Iterator[Step]:
    """20 MB in twenty sections, beside which each step changes a number."""
    prose = Prose(seed)
    page = [prose.text(1040) for _ in range(PARAGRAPHS)]
    state: State = {"n": 0} | {
        f"section_{number:02}": [f"{number}.{part} {text}" for part in range(10) for text in page]
        for number in range(SECTIONS)
    }
    yield Step(state, tuple(state), {})
    for number in range(1, steps):
        state = {**state, "n": number}
        yield Step(state, ("n",), {"n": number})


def make_run(make: Maker, steps: int, seed: int) -> Run:
    """Return a run with an id that nobody has had."""
    return Run(str(uuid.uuid4()), list(make(steps, seed)))


def same_runs(count: int, steps: Sequence[Step]) -> list[Run]:
    """Return runs with equal steps and ids of their own."""
    return [Run(str(uuid.uuid4()), steps) for _ in range(count)]
