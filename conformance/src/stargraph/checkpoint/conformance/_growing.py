"""Runs whose state grows and changes in every way that JSON can, a little with each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from random import Random
from typing import Any, Final, TypeAlias

from stargraph.checkpoint.conformance._runs import NOON, begin, follow
from stargraph.checkpoint.protocol import Checkpoint, Interrupt, StepRange, Task

_State: TypeAlias = dict[str, Any]

_WORDS: Final = ("alpha", "βήτα", "\u0000", "e\u0301", "\u00e9", "\U0001f600", '"quoted"', "line\nbreak", "\\", "")


def _words(chance: Random, count: int) -> str:
    return " ".join(chance.choices(_WORDS, k=count))


def _log(state: _State, chance: Random, step: int) -> None:
    state["log"].append({"step": step, "note": _words(chance, 4)})


def _insert_in_the_middle(state: _State, chance: Random, step: int) -> None:
    state["log"].insert(chance.randrange(len(state["log"]) + 1), {"step": -step, "note": "inserted"})


def _remove_from_the_middle(state: _State, chance: Random, step: int) -> None:
    if state["log"]:
        del state["log"][chance.randrange(len(state["log"]))]


def _swap_items(state: _State, chance: Random, step: int) -> None:
    state["log"].reverse()


def _other_type_of_the_same_number(state: _State, chance: Random, step: int) -> None:
    cycle: tuple[Any, ...] = (1, 1.0, True)
    state["number"] = cycle[(next(i for i, one in enumerate(cycle) if type(one) is type(state["number"])) + 1) % 3]
    state["zero"] = -0.0 if str(state["zero"]) == "0.0" else 0.0


def _other_emptiness(state: _State, chance: Random, step: int) -> None:
    kinds: tuple[Any, ...] = (None, "", [], {}, False, 0)
    state["nothing"] = kinds[step % len(kinds)]
    state["nested"]["nothing"] = [kinds[step % len(kinds)]]


def _reorder_keys(state: _State, chance: Random, step: int) -> None:
    state["nested"] = dict(reversed(state["nested"].items()))


def _reorder_fields(state: _State, chance: Random, step: int) -> None:
    fields = dict(reversed(state.items()))
    state.clear()
    state.update(fields)


def _rename_key(state: _State, chance: Random, step: int) -> None:
    state["nested"] = {f"{key}'" if key.startswith("k") else key: value for key, value in state["nested"].items()}
    state["nested"][f"k{step}"] = {"deep": [{"deeper": step}]}


def _change_deep_inside(state: _State, chance: Random, step: int) -> None:
    inside = state["tree"]
    for _ in range(chance.randrange(8)):
        inside = inside.setdefault("child", {})
    inside["value"] = step


def _edit_text(state: _State, chance: Random, step: int) -> None:
    place = chance.randrange(len(state["text"]) + 1)
    state["text"] = state["text"][:place] + _words(chance, 2) + state["text"][place + 1 :]


def _normalise_text(state: _State, chance: Random, step: int) -> None:
    state["accent"] = "e\u0301" if state["accent"] == "\u00e9" else "\u00e9"


def _to_and_fro(state: _State, chance: Random, step: int) -> None:
    state["large"] = "xy"[step % 2] * 5000


def _come_and_go(state: _State, chance: Random, step: int) -> None:
    if state.pop("guest", None) is None:
        state["guest"] = {"since": step}
    state[""] = step


def _field_for_each_step(state: _State, chance: Random, step: int) -> None:
    state[f"field-{step}"] = [step]
    state.pop(f"field-{step - 30}", None)


def _nothing(state: _State, chance: Random, step: int) -> None:
    return


_CHANGES: Final[tuple[Callable[[_State, Random, int], None], ...]] = (
    _log,
    _insert_in_the_middle,
    _remove_from_the_middle,
    _swap_items,
    _other_type_of_the_same_number,
    _other_emptiness,
    _reorder_keys,
    _reorder_fields,
    _rename_key,
    _change_deep_inside,
    _edit_text,
    _normalise_text,
    _to_and_fro,
    _come_and_go,
    _field_for_each_step,
    _nothing,
)

KINDS: Final = len(_CHANGES)
"""How many kinds of change there are."""


def _fresh_state() -> _State:
    return {
        "log": [],
        "number": 1,
        "zero": 0.0,
        "nothing": None,
        "nested": {"b": 1, "a": 2, "": []},
        "tree": {},
        "text": "once upon a time",
        "accent": "\u00e9",
        "large": "x" * 5000,
    }


def growing(chance: Random, run_id: str = "run", **fields: Any) -> Iterator[Checkpoint]:
    """Yield the steps of a run without end: each kind of change in turn, some at random, and the log grows.

    Args:
        chance: decides what changes.
        fields: those of step 0.
    """
    state = _fresh_state()
    latest = begin(run_id, state=state, **fields)
    while True:
        yield latest
        latest = grown(latest, chance)


def grown(before: Checkpoint, chance: Random, **fields: Any) -> Checkpoint:
    """Return a step after another one of such a run, with the next kind of change in it."""
    step = before.step + 1
    state = before.fresh_state()
    for change in (_CHANGES[step % KINDS], chance.choice(_CHANGES), _log):
        change(state, chance, step)
    return follow(before, state=state, **(_surroundings(step, chance) | fields))


def _surroundings(step: int, chance: Random) -> dict[str, Any]:
    """What changes beside the state: the update, the frontier, the open questions."""
    tasks = tuple(
        Task(id=f"t{number}", node="work", since_step=max(0, step - number), calls=_calls(step, number))
        for number in range(step % 5)
    )
    question = Interrupt(
        id=f"q{step}", task_id="t0", node="ask", prompt=_words(chance, 3), asked_at=NOON + timedelta(seconds=step)
    )
    return {
        "update": (None, {}, {"log": [step]}, {"text": _words(chance, 5), "large": None})[step % 4],
        "frontier": tasks,
        "interrupts": (question,) * (step % 3),
        "last_node": ("work", None, "ask")[step % 3],
    }


def _calls(step: int, number: int) -> tuple[StepRange, ...]:
    return () if step < 3 else (StepRange(first=number, last=step - 1),) if number < step - 1 else ()


def grown_run(chance: Random, length: int, run_id: str = "run", **fields: Any) -> list[Checkpoint]:
    """Return so many steps of such a run."""
    steps = growing(chance, run_id, **fields)
    return [next(steps) for _ in range(length)]
