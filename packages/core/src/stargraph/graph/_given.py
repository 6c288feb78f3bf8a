"""What a program gives for the inputs and the metadata of a run, and for the changes that a resume accepts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast, get_args

from pydantic import BaseModel

from stargraph.checkpoint.protocol import JsonValue
from stargraph.errors import StateError
from stargraph.graph._resume_checks import Accept


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


def as_metadata(metadata: object) -> dict[str, str]:
    """Return the metadata of a run as a dict; None is none.

    Raises:
        TypeError: they are not a mapping from text to text.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata is of type {type(metadata).__qualname__}: give a dict of texts")
    for name, value in metadata.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"metadata holds {name!r:.80}: {value!r:.80}: give texts, as in {{'team': 'post'}}")
    return dict(metadata)


def as_accepted(accept: Iterable[str]) -> tuple[Accept, ...]:
    """Return the changes that are accepted.

    Raises:
        ValueError: there is no such change, or they are a single text.
    """
    known = get_args(Accept)
    if isinstance(accept, str) or not isinstance(accept, Iterable):
        raise ValueError(f"accept is {accept!r:.80}: give a tuple, as in ('runtime',)")
    given = tuple(accept)
    for each in given:
        if each not in known:
            raise ValueError(f"accept holds {each!r:.80}: use one of {', '.join(known)}")
    return cast("tuple[Accept, ...]", given)
