"""What a fork changes of the run that it comes from."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final

from stargraph.checkpoint.protocol import JsonValue
from stargraph.checkpoint.values import path_part
from stargraph.errors import StargraphError, StateError
from stargraph.graph import Graph
from stargraph.ir import parse_yaml
from stargraph.replay._diff import show
from stargraph.runtime._given import check_type

_STEP: Final = re.compile(r'\.?([A-Za-z_][A-Za-z0-9_-]*)|\[(\d+)\]|\[("(?:[^"\\]|\\.)*")\]')


@dataclass(frozen=True, slots=True)
class Overlay:
    """The changes that a fork makes to its run.

    Attributes:
        state: values of the state, by their paths as messages show them: `user.scores[3]`, `state.user.name`.
        outputs: what nodes return, in place of running them: by node, or by task for one of its executions.
        answers: answers to questions, in place of asking: by node, or by question.
        drop_calls: recorded calls to make again, with those that their task made after them: `name`, or
            `task/name`.
        graph: the graph that the fork runs; None for that of the run.
    """

    state: Mapping[str, JsonValue] = field(default_factory=dict)
    outputs: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=dict)
    answers: Mapping[str, JsonValue] = field(default_factory=dict)
    drop_calls: tuple[str, ...] = ()
    graph: Graph | None = None

    def __post_init__(self) -> None:
        for name in ("state", "outputs", "answers"):
            if not isinstance(getattr(self, name), Mapping):
                raise bad_overlay(f"{name} is not a mapping")
            if unnamed := [key for key in getattr(self, name) if not isinstance(key, str)]:
                raise bad_overlay(f"{name} holds {unnamed[0]!r:.80}, which is not text")
        for node, update in self.outputs.items():
            if not isinstance(update, Mapping):
                raise bad_overlay(f"outputs.{node} is not a mapping of fields to values")
        names: object = self.drop_calls
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise bad_overlay("drop_calls is not a list of names")
        if self.graph is not None and not isinstance(self.graph, Graph):
            raise bad_overlay(f"graph is of type {type(self.graph).__qualname__}, and not a Graph")

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, code: Sequence[str | os.PathLike[str]] = ()) -> Overlay:
        """Read an overlay from a YAML or JSON file; the path of its `graph` begins in the folder of the file.

        Args:
            path: the file.
            code: folders of modules, as for `Graph.from_file`.

        Raises:
            GraphError: the file is not YAML, or the graph that it names cannot be loaded.
            StargraphError: the file cannot be read, or is not an overlay (`reason="bad-overlay"`).
        """
        check_type(path, "path", (str, os.PathLike), "the path of a YAML or JSON file")
        file = Path(path)
        try:
            text = file.read_text(encoding="utf-8-sig")
            content = parse_yaml(text, file=str(path)) if text.strip() else {}
        except (OSError, ValueError) as error:
            complaint = getattr(error, "strerror", None) or "not UTF-8 text"
            raise bad_overlay(f"{path}: {complaint}") from None
        if not isinstance(content, dict):
            raise bad_overlay(f"{path}: not a mapping")
        known = {each.name for each in fields(cls)}
        for name in content:
            if name not in known:
                raise bad_overlay(f"{path}: there is no key {name!r}")
        graph = content.pop("graph", None)
        if not (graph is None or isinstance(graph, str)):
            raise bad_overlay(f"{path}: graph is not the path of a file")
        return cls(**content, graph=None if graph is None else Graph.from_file(file.parent / graph, code=code))

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) for each in fields(self))

    def as_json(self) -> dict[str, JsonValue]:
        """Return what the first step of the fork records of it."""
        members: dict[str, JsonValue] = {
            "state": dict(self.state),
            "outputs": {name: dict(update) for name, update in self.outputs.items()},
            "answers": dict(self.answers),
            "drop_calls": list(self.drop_calls),
        }
        return {name: value for name, value in members.items() if value}


def bad_overlay(complaint: str) -> StargraphError:
    """Return the error of an overlay that cannot be.

    Args:
        complaint: what is wrong.
    """
    return StargraphError(
        f"the overlay: {complaint}",
        reason="bad-overlay",
        hint="It has the keys state, outputs, answers, drop_calls and graph.",
    )


def changed_state(state: dict[str, JsonValue], changes: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return a state with values set at paths.

    Args:
        state: the state; it is changed.
        changes: the values by their paths.

    Raises:
        StateError: a path leads nowhere.
    """
    for path, value in changes.items():
        parts = _parts(path)
        if parts[0] == "state" and len(parts) > 1 and "state" not in state:
            parts = parts[1:]
        place: JsonValue = state
        walked = "state"
        for part in parts[:-1]:
            place = _at(place, part, walked)
            walked += path_part(part)
        last = parts[-1]
        if isinstance(place, dict) and isinstance(last, str):
            place[last] = value
        else:
            _at(place, last, walked)
            place[last] = value
    return state


def _at(place: JsonValue, part: str | int, walked: str) -> JsonValue:
    fits = isinstance(place, list if isinstance(part, int) else dict)
    if not fits or (part >= len(place) if isinstance(part, int) else part not in place):
        has = show(place, 40)
        raise StateError(
            f"{walked}{path_part(part)} does not exist; {walked} is {has}",
            reason="no-such-path",
            hint="A path names an existing value, as in user.scores[3]; only its last part, a key, may be new.",
            path=walked + path_part(part),
        )
    return place[part]


def _parts(path: str) -> list[str | int]:
    parts: list[str | int] = []
    at = 0
    while at < len(path):
        found = _STEP.match(path, at)
        if found is None or (path[at] == "." and at == 0) or (at > 0 and path[at] not in ".["):
            break
        name, index, quoted = found.groups()
        try:
            parts.append(name if name is not None else int(index) if index is not None else json.loads(quoted))
        except ValueError:
            break
        at = found.end()
    if at < len(path) or not parts or isinstance(parts[0], int):
        raise StateError(
            f"{path!r:.200} is not a path into the state",
            reason="bad-path",
            hint='Write it as in user.scores[3], or user["a key"] if a name has other characters.',
        )
    return parts
