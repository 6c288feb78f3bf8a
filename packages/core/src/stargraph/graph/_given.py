"""What a program gives for the inputs of a run."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from stargraph.checkpoint.protocol import JsonValue
from stargraph.errors import StateError


def as_inputs(inputs: object) -> dict[str, JsonValue]:
    """Return the inputs of a run as a dict.

    Raises:
        StateError: they are no mapping and no model.
    """
    if isinstance(inputs, Mapping | BaseModel):
        return dict(inputs)
    raise StateError(
        f"inputs is of type {type(inputs).__qualname__}: give a dict of the fields of the state",
        reason="wrong-type",
        hint="vars(…) and dataclasses.asdict(…) make a dict of an object.",
        path="inputs",
    )
