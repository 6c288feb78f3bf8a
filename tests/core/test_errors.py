"""The exception tree."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

import stargraph.errors
from stargraph.errors import (
    CheckpointError,
    GraphError,
    HashMismatchError,
    NodeError,
    StargraphError,
    StateError,
    _exceptions,
)

CLASSES = [getattr(stargraph.errors, name) for name in stargraph.errors.__all__]
each_class = pytest.mark.parametrize("error_class", CLASSES, ids=lambda cls: cls.__name__)


@each_class
def test_every_error_carries_its_reason_and_hint(error_class: type[StargraphError]) -> None:
    error = error_class("something broke", reason="some-word", hint="Do this.")
    assert isinstance(error, StargraphError)
    assert (error.message, error.reason, error.hint) == ("something broke", "some-word", "Do this.")
    assert str(error) == "something broke\nDo this."
    assert str(error_class("something broke")) == "something broke"


@each_class
def test_every_error_survives_a_process_boundary(error_class: type[StargraphError]) -> None:
    parameters = inspect.signature(error_class.__init__).parameters
    given = {name: f"<{name}>" for name in parameters if name not in {"self", "message"}}
    error = error_class("something broke", **given)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is error_class
    assert vars(copy) == vars(error)
    assert {"message": "something broke", **given} == vars(copy)
    assert str(copy) == str(error)


def test_the_drawn_tree_is_the_tree() -> None:
    drawn: list[tuple[int, str]] = []
    for line in (_exceptions.__doc__ or "").splitlines():
        match = re.match(r"([│├└─ ]*)([A-Z]\w+Error)\b", line)
        if match:
            drawn.append((len(match[1]) // 4, match[2]))
    parents: dict[str, str] = {}
    for position, (depth, name) in enumerate(drawn):
        above = [other for other_depth, other in drawn[:position] if other_depth == depth - 1]
        parents[name] = above[-1] if above else "Exception"
    assert parents == {cls.__name__: cls.__base__.__name__ for cls in CLASSES}


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ({}, "bad node"),
        ({"file": "g.yaml"}, "g.yaml: bad node"),
        ({"file": "g.yaml", "line": 3}, "g.yaml:3: bad node"),
        ({"file": "g.yaml", "line": 3, "column": 7}, "g.yaml:3:7: bad node"),
    ],
)
def test_a_graph_error_begins_with_its_place(place: dict[str, object], shown: str) -> None:
    assert str(GraphError("bad node", **place)) == shown  # type: ignore[arg-type]


def test_fields_of_each_kind() -> None:
    assert StateError("x", path="state.a", node="n").path == "state.a"
    assert NodeError("x", node="n", run_id="r").run_id == "r"
    assert CheckpointError("x", run_id="r", step=3).step == 3
    mismatch = HashMismatchError("x", stored="a", loaded="b", changes=("rule 'urgent' changed",))
    assert (mismatch.stored, mismatch.loaded, mismatch.changes) == ("a", "b", ("rule 'urgent' changed",))


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_is_called_by_the_name_that_is_imported(kind: type) -> None:
    assert f"{kind.__module__}.{kind.__qualname__}" == f"stargraph.errors.{kind.__name__}"
