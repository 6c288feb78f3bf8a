"""The structural difference of two values: exact, aligned, and short however large the values are."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import following, genesis

from stargraph.checkpoint.values import canonical
from stargraph.replay import Change, diff_states, diff_values


def changes(before: Any, after: Any, **options: Any) -> list[str]:
    return diff_values(before, after, **options).lines()


def test_paths_lead_to_what_differs() -> None:
    before = {"user": {"name": "Ada", "scores": [1, 2, 3, 4]}, "gone": True, "a key": 1}
    after = {"user": {"name": "Ada", "scores": [1, 2, 3, 5]}, "a key": 2, "new": None}
    assert changes(before, after) == [
        "~ state.user.scores[3]: 4 → 5",
        "- state.gone: true",
        '~ state["a key"]: 1 → 2',
        "+ state.new: null",
    ]


@pytest.mark.parametrize(
    ("one", "other"), [(1, 1.0), (1, True), (0.0, -0.0), (None, False), ("1", 1), ([], {}), ("\u00e9", "e\u0301")]
)
def test_types_count(one: Any, other: Any) -> None:
    assert diff_values({"x": one}, {"x": other}).changes == (Change("state.x", "changed", one, other),)


def test_the_order_of_keys_does_not_count() -> None:
    assert not diff_values({"a": 1, "b": {"c": 1, "d": 2}}, {"b": {"d": 2, "c": 1}, "a": 1})


def test_an_insertion_into_a_long_list_is_one_change() -> None:
    items = [{"n": n, "text": f"item {n}"} for n in range(10_000)]
    changed = [{"first": True}, *items[:5000], *items[5003:], {"last": True}]
    assert changes({"x": items}, {"x": changed}) == [
        '+ state.x[0]: {"first": true}',
        "- state.x[5000:5003]: […] (3 items)",
        '+ state.x[9998]: {"last": true}',
    ]


def test_items_that_changed_are_compared_in_pairs() -> None:
    items = [{"n": n, "seen": False} for n in range(100)]
    changed = [{**item, "seen": item["n"] == 40} for item in items]
    assert changes(items, changed, path="items") == ["~ items[40].seen: false → true"]


def test_repeated_items_align() -> None:
    assert changes([0, 1, 0, 1, 0, 1], [0, 1, 0, 1, 0, 1, 0], path="x") == ["+ x[6]: 0"]
    assert changes([0, 0, 7, 0, 0], [0, 0, 0, 0], path="x") == ["- x[2]: 7"]


def test_a_thousand_fields_stay_readable() -> None:
    before = {f"field_{n}": n for n in range(1000)}
    lines = changes(before, {name: value + 1 for name, value in before.items()}, limit=20)
    assert lines[0] == "~ state.field_0: 0 → 1"
    assert lines[20:] == ["… and 980 more"]
    assert changes(before, {**before, "field_500": -1}) == ["~ state.field_500: 500 → -1"]


def test_five_megabytes_stay_readable() -> None:
    text = "abcdefghij" * 500_000
    changed = f"{text[:3_000_000]}X{text[3_000_001:]}"
    (line,) = changes({"text": text}, {"text": changed})
    assert len(line) < 300
    assert "from character 3000000)" in line
    rows = [{"id": n, "body": "x" * 480} for n in range(10_000)]
    (line,) = changes({"rows": rows}, {"rows": [row if row["id"] != 7777 else {**row, "id": -1} for row in rows]})
    assert line == "~ state.rows[7777].id: 7777 → -1"
    (line,) = changes({}, {"rows": rows})
    assert line == "+ state.rows: […] (10000 items)"
    assert len(json.dumps(diff_values({"text": text}, {"text": [text]}).as_json())) < 1000


def test_what_is_listed_does_not_depend_on_chance() -> None:
    source = random.Random(7)
    before, after = ([source.randrange(50) for _ in range(300)] for _ in range(2))
    assert diff_values(before, after) == diff_values(before, after)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.0, -0.0, 1.0, "", "a"]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=20,
)


@given(JSON, JSON)
def test_no_difference_means_equal(one: Any, other: Any) -> None:
    assert bool(diff_values(one, other)) == (canonical(one) != canonical(other))
    assert not diff_values(one, one)


@given(st.lists(st.integers(0, 5), max_size=12), st.lists(st.integers(0, 5), max_size=12))
def test_a_list_can_be_made_from_the_other_by_its_difference(before: list[int], after: list[int]) -> None:
    """Reads the paths as they are documented, and applies the changes."""
    changes = diff_values(before, after, path="").changes
    made: list[int | None] = list(before)
    for change in reversed(changes):
        if change.kind == "removed":
            start, end = bounds(change.path)
            assert before[start:end] == (change.before if ":" in change.path else [change.before])
            del made[start:end]
    for change in changes:
        start, end = bounds(change.path)
        if change.kind == "added":
            made[start:start] = change.after if ":" in change.path else [change.after]
        elif change.kind == "changed":
            made[start] = change.after
    assert made == after


def bounds(path: str) -> tuple[int, int]:
    start, _, end = path.strip("[]").partition(":")
    return int(start), int(end or int(start) + 1)


def test_states_of_checkpoints() -> None:
    first = genesis(state={"a": 1, "b": [1, 2], "c": "x"})
    second = following(first, state={"b": [1, 2, 3], "d": 0, "a": 1})
    assert diff_states(first, second).lines() == ["+ state.b[2]: 3", '- state.c: "x"', "+ state.d: 0"]
    assert not diff_states(first, first)
