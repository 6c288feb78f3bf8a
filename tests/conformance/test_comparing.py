"""What a violation says about two values that differ."""

from __future__ import annotations

from typing import Any

import pytest

from stargraph.checkpoint.conformance._compare import absent, differences, same, same_runs
from stargraph.checkpoint.conformance._expect import Violation
from stargraph.checkpoint.conformance._runs import begin, chain
from stargraph.checkpoint.protocol import Checkpoint, Seal


@pytest.mark.parametrize(
    ("wrote", "read", "expected"),
    [
        (-0.0, 0, "k: wrote -0.0, read 0 (the type changed: float to int)"),
        (-0.0, 0.0, "k: wrote -0.0, read 0.0"),
        (1, 1.0, "k: wrote 1, read 1.0 (the type changed: int to float)"),
        (1, True, "k: wrote 1, read True (the type changed: int to bool)"),
        (None, 0, "k: wrote None, read 0"),
        ([1, 2], [1, 3], "k[1]: wrote 2, read 3"),
        ([1], [1, 2], "k: wrote 1 elements, read 2: [1], [1, 2]"),
        ({"a": {"b": "é"}}, {"a": {"b": "e\u0301"}}, "k.a.b: wrote 'é', read 'e\u0301'"),
        ({"": 1}, {}, "k['']: wrote 1, read nothing"),
        ({}, {"x": 1}, "k['x']: wrote nothing, read 1"),
        ({"b": 1, "a": 2}, {"a": 2, "b": 1}, "k: wrote the keys in the order ['b', 'a'], read ['a', 'b']"),
    ],
)
def test_a_difference_is_named_by_its_path(wrote: Any, read: Any, expected: str) -> None:
    assert list(differences(wrote, read, "k")) == [expected]


@pytest.mark.parametrize("value", [None, -0.0, 1, True, "x", [1, {"a": []}], {"a": 1, "b": [None]}])
def test_equal_values_have_no_difference(value: Any) -> None:
    assert list(differences(value, value, "k")) == []


def test_a_long_value_is_shortened() -> None:
    (shown,) = differences("a" * 10_000, "b", "k")
    assert len(shown) < 300
    assert "10002 characters" in shown


def test_a_checkpoint_that_came_back_is_compared_field_by_field() -> None:
    first = begin()
    assert same(first, begin(), "read") is not None
    with pytest.raises(Violation, match=r"^read: state\.count: wrote 0, read 1;"):
        same(first, begin(state={"count": 1}), "read")
    with pytest.raises(Violation, match=r"^read: seal: wrote Seal"):
        same(first.sealed(Seal(key_id="k", mac="a" * 64)), first, "read")
    with pytest.raises(Violation, match="gave None; step 0 of run 'run' was written"):
        same(first, None, "read")


def test_a_checkpoint_that_was_put_together_by_hand_is_no_checkpoint() -> None:
    first = begin()
    by_hand = Checkpoint.model_construct(**first.__dict__)
    with pytest.raises(Violation, match="put together by hand"):
        same(first, by_hand, "read")


def test_something_where_nothing_should_be() -> None:
    absent(None, "read")
    with pytest.raises(Violation, match="read gave step 2 of run 'run'; the contract wants None"):
        absent(chain()[2], "read")


def test_runs_in_another_order() -> None:
    with pytest.raises(Violation, match=r"gave the runs \[\]; the contract wants \['a'\]"):
        same_runs(["a"], [], "list_runs()")
