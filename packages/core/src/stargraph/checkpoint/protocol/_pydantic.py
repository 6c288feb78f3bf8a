"""What is known of pydantic's inside, in one place; tests/core/test_pydantic_inside.py fails when it changes."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)


def assemble(model: type[Model], fields: dict[str, Any], private: dict[str, Any] | None = None) -> Model:
    """Return a model of fields that are known to be valid.

    `model_construct` does the same and walks every field, which costs five times as much.

    Args:
        model: the class.
        fields: every field by its name, in the order of the class; taken over, not copied.
        private: every private attribute by its name, or None if the class has none; likewise.
    """
    made = model.__new__(model)
    # The class is frozen, and has an assignment of its own.
    assign = object.__setattr__
    assign(made, "__dict__", fields)
    assign(made, "__pydantic_fields_set__", _names(model))
    assign(made, "__pydantic_extra__", None)
    assign(made, "__pydantic_private__", private)
    return made


@cache
def _names(model: type[BaseModel]) -> set[str]:
    """Return the names of all fields, shared: a set of its own takes 2 KB of each checkpoint, and a model is frozen."""
    return set(model.model_fields)


def private_attributes(made: BaseModel) -> dict[str, Any]:
    """Return the private attributes of a model; empty if it was made without them.

    Pydantic's own way to one of them takes as long as the work that is done with it.
    """
    found: dict[str, Any] | None = getattr(made, "__pydantic_private__", None)
    return found or {}
