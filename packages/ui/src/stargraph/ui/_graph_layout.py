"""Where the nodes of a graph stand in a drawing: in layers, downwards (Sugiyama, Tagawa and Toda, 1981)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

_SWEEPS: Final = 8
"""How often the layers are reordered; more changes little."""

WIDTH: Final = 156.0
HEIGHT: Final = 44.0
GAP_X: Final = 28.0
GAP_Y: Final = 46.0
START: Final = "\0start"
DONE: Final = "\0done"
"""The ends of the drawing; no node has such an id."""


@dataclass(frozen=True, slots=True)
class Arrow:
    """A way from one node to another.

    Attributes:
        source: the id of the node that it leaves.
        target: the id of the node that it comes to.
        label: the condition, or how the branches come to be; empty if it is always taken.
        kind: `next`, or `branch` for the branches of a fan-out and their join.
    """

    source: str
    target: str
    label: str = ""
    kind: str = "next"


@dataclass(frozen=True, slots=True)
class Layout:
    """A drawing's places.

    Attributes:
        places: the centre of each node.
        bends: where an arrow passes on its way, by its ends.
        arrows: the arrows, those that go up among them.
        width: of the whole.
        height: of the whole.
    """

    places: Mapping[str, tuple[float, float]]
    bends: Mapping[tuple[str, str], tuple[tuple[float, float], ...]]
    arrows: tuple[Arrow, ...]
    width: float
    height: float


def arrows_of(definition: Mapping[str, Any]) -> list[Arrow]:
    """Return the arrows of a graph, from the definition that its log holds.

    Args:
        definition: what `graph_hash` was made of.
    """
    nodes = [node for node in definition.get("nodes", ()) if isinstance(node, Mapping)]
    order = [str(node["id"]) for node in nodes]
    following = dict(zip(order, [*order[1:], DONE], strict=True))
    rules: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for rule in definition.get("rules", ()):
        rules[str(rule["when"]["node"])].append(rule)
    branches = {
        target for each in rules.values() for rule in each for action in rule["then"] for target in _branches(action)
    }
    found = [Arrow(START, order[0])] if order else []
    for node in nodes:
        name = str(node["id"])
        if node.get("kind") == "halt":
            found.append(Arrow(name, DONE))
            continue
        decides = False
        for rule in rules[name]:
            condition = str(rule["when"].get("if", ""))
            found += _ways(name, rule["then"][-1], condition, following)
            if not condition:
                decides = True
                break
        # What is only ever a branch continues at the join of its fan-out.
        if not decides and (name not in branches or any(each.target == name and each.kind == "next" for each in found)):
            found.append(Arrow(name, following[name], "else" if rules[name] else ""))
    return list(dict.fromkeys(found))


def _branches(action: Mapping[str, Any]) -> list[str]:
    if action.get("kind") == "parallel":
        return [str(target) for target in action["targets"]]
    return [str(action["target"])] if action.get("kind") == "map" else []


def _ways(name: str, action: Mapping[str, Any], condition: str, following: Mapping[str, str]) -> list[Arrow]:
    match action.get("kind"):
        case "goto":
            return [Arrow(name, str(action["target"]), condition)]
        case "halt":
            return [Arrow(name, DONE, condition)]
        case "parallel" | "map":
            how = f"for each of {action['over']}" if action["kind"] == "map" else ""
            label = " · ".join(text for text in (condition, how) if text)
            join = str(action["join"])
            return [
                way
                for target in _branches(action)
                for way in (Arrow(name, target, label, "branch"), Arrow(target, join, "", "branch"))
            ]
        case _:  # a question of the rule, after which the declared order goes on
            return [Arrow(name, following[name], condition)]


def lay_out(nodes: Sequence[str], arrows: Sequence[Arrow]) -> Layout:
    """Return where each node stands.

    Args:
        nodes: the ids, in their order.
        arrows: the ways between them; those to unknown nodes are left out.
    """
    known = {START, *nodes, DONE}
    arrows = [each for each in arrows if each.source in known and each.target in known]
    used = [START, *nodes, *([DONE] if any(each.target == DONE for each in arrows) else [])]
    down = _without_circles(used, arrows)
    layers = _layers(used, down)
    # An arrow that skips layers gets a narrow place in each of them, so that it passes beside what stands there.
    bends: dict[tuple[str, str], list[str]] = {}
    whole: list[tuple[str, str]] = []
    for source, target in dict.fromkeys(down):
        passed = [f"\0{source}\0{target}\0{layer}" for layer in range(layers[source] + 1, layers[target])]
        layers |= {name: layers[source] + 1 + at for at, name in enumerate(passed)}
        bends[source, target] = passed
        whole += pairwise([source, *passed, target])
    rows = _ordered([*used, *(name for passed in bends.values() for name in passed)], layers, whole)
    widths = [sum(_width(name) for name in row) + GAP_X * (len(row) - 1) for row in rows]
    width = max(*widths, WIDTH) + 2 * GAP_X
    places: dict[str, tuple[float, float]] = {}
    for depth, row in enumerate(rows):
        left = (width - widths[depth]) / 2
        for name in row:
            places[name] = (left + _width(name) / 2, 26 + depth * (HEIGHT + GAP_Y))
            left += _width(name) + GAP_X
    return Layout(
        {name: places[name] for name in used},
        {ends: tuple(places[name] for name in passed) for ends, passed in bends.items()},
        tuple(arrows),
        width,
        52 + (len(rows) - 1) * (HEIGHT + GAP_Y),
    )


def _width(name: str) -> float:
    return WIDTH if name in (START, DONE) or not name.startswith("\0") else 24.0


def _without_circles(nodes: Sequence[str], arrows: Sequence[Arrow]) -> list[tuple[str, str]]:
    """Return the arrows that a depth-first walk does not find to lead back to where it comes from."""
    ways: dict[str, list[str]] = defaultdict(list)
    for each in arrows:
        ways[each.source].append(each.target)
    state: dict[str, int] = {}
    kept: list[tuple[str, str]] = []
    for root in nodes:
        if root in state:
            continue
        stack = [(root, iter(ways[root]))]
        state[root] = 1
        while stack:
            name, targets = stack[-1]
            target = next(targets, None)
            if target is None:
                state[name] = 2
                stack.pop()
            elif state.get(target) != 1:
                kept.append((name, target))
                if target not in state:
                    state[target] = 1
                    stack.append((target, iter(ways[target])))
    return kept


def _layers(nodes: Sequence[str], down: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return how far below the first node each one stands: by the longest way to it."""
    targets: dict[str, list[str]] = defaultdict(list)
    waiting = dict.fromkeys(nodes, 0)
    for source, target in down:
        targets[source].append(target)
        waiting[target] += 1
    layers = {name: 0 for name, count in waiting.items() if not count}
    ready = list(layers)
    while ready:
        name = ready.pop()
        for target in targets[name]:
            layers[target] = max(layers.get(target, 0), layers[name] + 1)
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    return layers


def _ordered(nodes: Sequence[str], layers: Mapping[str, int], down: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Return the layers from left to right, each node near the middle of those that it is connected with."""
    rows: list[list[str]] = [[] for _ in range(max(layers.values(), default=0) + 1)]
    for name in nodes:
        rows[layers[name]].append(name)
    near: dict[str, list[str]] = defaultdict(list)
    for source, target in down:
        near[source].append(target)
        near[target].append(source)
    for sweep in range(_SWEEPS):
        at = {name: place - (len(row) - 1) / 2 for row in rows for place, name in enumerate(row)}
        downwards = sweep % 2 == 0
        for depth in range(len(rows)) if downwards else reversed(range(len(rows))):
            beside = depth - 1 if downwards else depth + 1

            def middle(name: str, at: Mapping[str, float] = at, beside: int = beside) -> float:
                places = [at[each] for each in near[name] if layers[each] == beside]
                return sum(places) / len(places) if places else at[name]

            rows[depth].sort(key=middle)
            at |= {name: place - (len(rows[depth]) - 1) / 2 for place, name in enumerate(rows[depth])}
    return rows
