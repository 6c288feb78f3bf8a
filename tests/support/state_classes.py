"""State classes for the tests of the engine."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Self
from uuid import UUID, uuid4

from pydantic import BaseModel, Field, field_validator, model_validator


class Colour(Enum):
    RED = "red"


class Line(BaseModel):
    price: Decimal
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    inner: Line | None = None


class Basket(BaseModel):
    """Nested models, types that JSON does not know, validators of its own."""

    lines: Annotated[list[Line], Field(json_schema_extra={"reduce": "append"})] = []
    key: UUID = Field(default_factory=uuid4)
    colour: Colour = Colour.RED
    pair: tuple[int, str] = (1, "a")
    names: set[str] = set()
    limit: int = 10
    note: str = ""
    anything: Any = None

    @field_validator("note")
    @classmethod
    def _strip(cls, value: str) -> str:
        return value.strip()

    @model_validator(mode="after")
    def _within(self) -> Self:
        if len(self.lines) > self.limit:
            raise ValueError("too many lines")
        return self


async def fill(state: Basket) -> dict[str, Any]:
    return {"lines": [Line(price=Decimal("1.10"), inner=Line(price=Decimal(2)))], "names": {"b", "a"}, "note": " x "}


async def refill(state: Basket) -> dict[str, Any]:
    assert isinstance(state.lines[0].price, Decimal)
    assert state.colour is Colour.RED
    assert state.pair == (1, "a")
    return {"lines": [state.lines[0]], "limit": 2}


async def overfill(state: Basket) -> dict[str, Any]:
    return {"lines": [*state.lines]}


async def unstorable(state: Basket) -> dict[str, Any]:
    return {"anything": (1, 2)}


async def whole(state: Basket) -> Basket:
    return Basket(limit=5)
