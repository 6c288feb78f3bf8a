"""States whose reducers are declared in the types of their fields, and states that grow a field."""

from __future__ import annotations

import operator
from collections import deque
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from operator import itemgetter
from typing import Annotated, Any, Literal, NewType
from uuid import UUID, uuid4

from pydantic import BaseModel, Field, field_validator
from typing_extensions import TypedDict

from stargraph.graph import add, append, merge


class Item(BaseModel):
    name: str
    price: Decimal


def upsert(items: list[Item] | None, update: Item) -> list[Item]:
    """Put an item in the place of the one of its name; both are models."""
    assert isinstance(update, Item)
    assert all(isinstance(item, Item) for item in items or [])
    return [*(item for item in items or [] if item.name != update.name), update]


def latest(value: datetime, update: datetime) -> datetime:
    """Keep the later time."""
    assert isinstance(value, datetime)
    assert isinstance(update, datetime)
    return max(value, update)


def untyped(value, update):  # type: ignore[no-untyped-def]  # the shape under test
    """Keep the larger of what has the type of the field."""
    return max(value, update)


def lists(value: list[str], update: Any) -> list[str]:
    """Take one text as well as a list of them."""
    return [*value, *([update] if isinstance(update, str) else update)]


class Limited:
    """Adds up to a limit: an object that is called like a function."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def __call__(self, value: int, update: int) -> int:
        return min(value + update, self._limit)


Number = NewType("Number", int)

up_to_ten = Limited(10)
"""A reducer that a graph can name."""


async def slowly(value: int, update: int) -> int:
    """Is no reducer: nobody would await it."""
    return update


class Patient(Limited):
    """Is no reducer either."""

    async def __call__(self, value: int, update: int) -> int:  # type: ignore[override]
        return update


patient = Patient(10)


def halved(value: int) -> int:
    """Is no reducer: it takes no update."""
    return value // 2


class ModelState(BaseModel):
    notes: Annotated[list[str], append] = []
    few: Annotated[list[int], Field(max_length=3), append] = []
    tags: Annotated[set[str], append] = set()
    last: Annotated[deque[int], append] = Field(default_factory=deque)
    counts: Annotated[dict[int, int], merge] = {}
    total: Annotated[Decimal, add] = Decimal("0.10")
    spent: Annotated[timedelta, add] = timedelta(0)
    sum: Annotated[int, operator.add] = 0
    items: Annotated[list[Item], upsert] = []
    seen: Annotated[datetime, latest] = datetime(2020, 1, 1, tzinfo=UTC)
    large: Annotated[Decimal, untyped] = Decimal(0)
    words: Annotated[list[str], lists] = []
    capped: Annotated[int, "at most ten", up_to_ten] = 0
    named: int = Field(0, json_schema_extra={"reduce": "support.reduced_states:up_to_ten"})
    united: Annotated[set[int], set.union] = set()
    plain: Annotated[int, list[int], dict[str, int], Literal["a"], Number, itemgetter(0)] = 0


class Async(BaseModel):
    n: Annotated[int, slowly] = 0


class AsyncObject(BaseModel):
    n: Annotated[int, patient] = 0


class AsyncPartial(BaseModel):
    n: Annotated[int, partial(patient)] = 0


class ClassOfReducers(BaseModel):
    n: Annotated[int, Limited] = 0


class Unary(BaseModel):
    n: Annotated[int, halved] = 0


class NamedAsync(BaseModel):
    n: int = Field(0, json_schema_extra={"reduce": "support.reduced_states:slowly"})


class NamedText(BaseModel):
    n: int = Field(0, json_schema_extra={"reduce": "support.reduced_states:__doc__"})


@dataclass
class DataclassState:
    notes: Annotated[list[str], append] = field(default_factory=list)
    items: Annotated[list[Item], upsert] = field(default_factory=list)


class DictState(TypedDict, total=False):
    notes: Annotated[list[str], append]
    items: Annotated[list[Item], upsert]


class Totals(TypedDict):
    n: int
    notes: Annotated[list[str], append]


def back_without_notes(state: Any) -> Any:
    """Changes what it is given, and takes out what it has nothing to add to."""
    del state["notes"]
    state["n"] += 1
    return state


class Hidden(BaseModel):
    notes: Annotated[list[str], append] | None = None


class Twice(BaseModel):
    notes: Annotated[list[str], append, operator.add] = []


class Deduplicating(BaseModel):
    notes: Annotated[list[str], append] = []

    @field_validator("notes")
    @classmethod
    def _once(cls, value: list[str]) -> list[str]:
        return list(dict.fromkeys(value))


class Before(BaseModel):
    text: str = "URGENT"


class After(BaseModel):
    text: str = "other"
    level: int = 7
    key: UUID = Field(default_factory=uuid4)

    @field_validator("text")
    @classmethod
    def _lower(cls, value: str) -> str:
        return value.lower()


State: Any = None
"""The class of the state; tests set it."""

UPDATES: list[dict[str, Any]] = []
"""What `step` returns, one after the other."""

SEEN: list[Any] = []


def step(state: Any) -> dict[str, Any]:
    """Keeps what it is given, and returns the next update."""
    SEEN.append(state)
    return UPDATES.pop(0) if UPDATES else {}


def fails(state: Any) -> dict[str, Any]:
    """Fails until there are updates."""
    if not UPDATES:
        raise RuntimeError("not yet")
    return step(state)


@dataclass
class Notes:
    n: int = 0
    notes: Annotated[list[str], append] = field(default_factory=lambda: ["a"])
    parts: Annotated[tuple[str, ...], add] = ()


class NotesModel(BaseModel):
    n: int = 0
    notes: Annotated[list[str], append] = ["a"]
    parts: Annotated[tuple[str, ...], add] = ()


class NotesDict(TypedDict):
    n: int
    notes: Annotated[list[str], append]
    parts: Annotated[tuple[str, ...], add]


def replaced(state: Any) -> Any:
    if isinstance(state, dict):
        return {**state, "n": 2}
    return state.model_copy(update={"n": 2}) if isinstance(state, BaseModel) else replace(state, n=2)


def appended_in_place(state: Any) -> dict[str, Any]:
    notes = state["notes"] if isinstance(state, dict) else state.notes
    notes.append("b")
    return {"notes": notes}


def tuple_of_the_state(state: Any) -> dict[str, Any]:
    return {"parts": state["parts"] if isinstance(state, dict) else state.parts}


def new_list_in_the_state(state: Any) -> dict[str, Any]:
    if isinstance(state, dict):
        state["notes"] = ["b"]
        return {"notes": state["notes"]}
    state.notes = ["b"]
    return {"notes": state.notes}


def moved_between_fields(state: Any) -> dict[str, Any]:
    notes = state["notes"] if isinstance(state, dict) else state.notes
    return {"notes": [*notes], "parts": tuple(notes)}
