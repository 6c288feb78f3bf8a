"""What a program gives for a store, or for the inputs of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pydantic import BaseModel

from stargraph.checkpoint.protocol import Checkpointer, JsonValue
from stargraph.errors import StateError


def check_checkpointer(checkpointer: object) -> None:
    """Refuse what is not a checkpointer; what it is may hold a password, and is not shown.

    Raises:
        TypeError: it lacks a method, or is a class.
    """
    if isinstance(checkpointer, type):
        raise TypeError(f"checkpointer is the class {checkpointer.__name__}: pass an instance of it")
    if isinstance(checkpointer, str | os.PathLike):
        raise TypeError(
            "checkpointer is the address of a store: pass what open_checkpointer of stargraph.checkpoint.registry"
            " returns for it"
        )
    if not isinstance(checkpointer, Checkpointer):
        raise TypeError(
            f"checkpointer is of type {type(checkpointer).__qualname__}: pass an object with the methods of"
            " stargraph.checkpoint.protocol.Checkpointer"
        )


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
