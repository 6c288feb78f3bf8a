"""What of a graph's code a run can still come to."""

from __future__ import annotations

from collections.abc import Iterator

from stargraph.checkpoint.protocol import FanOut, Task
from stargraph.engine._plan import Plan, Rule
from stargraph.ir import Ask, Goto, Halt, Map, Parallel


def reachable_code(plan: Plan, frontier: tuple[Task | FanOut, ...]) -> set[str]:
    """Return what names the code that a run can still come to, as `runtime_definition` names it.

    Conditions of rules are not evaluated: a node counts if any state could lead to it.

    Args:
        plan: the graph.
        frontier: what is running or comes next.
    """
    begun = [name for item in frontier for name in _begun(plan, item)]
    nodes: set[str] = set()
    while begun:
        name = begun.pop()
        if name in plan.nodes and name not in nodes:
            nodes.add(name)
            begun += _next(plan, name)
    code = set(plan.state.code()) if nodes else set()
    for name in nodes:
        code.add(f"node {name!r}")
        if name in plan.children:
            inner = plan.children[name].runtime_definition["code"]
            code |= {f"{part} of subgraph {name!r}" for part in inner}
    return code


def _begun(plan: Plan, item: Task | FanOut) -> Iterator[str]:
    if isinstance(item, FanOut):
        yield item.join
        rule = plan.rules.get(item.rule)
        if rule is not None and item.next_index < item.width:
            yield from _targets(rule)
    elif item.rule is None:
        yield item.node
    else:
        # It stands at a rule's question: its node has run.
        rule = plan.rules.get(item.rule)
        yield from _after_question(plan, item.node, rule) if rule is not None else plan.nodes


def _after_question(plan: Plan, node: str, rule: Rule) -> Iterator[str]:
    if len(rule.spec.then) > 1:
        yield from _targets(rule)
    else:
        yield from _in_order(plan, node)


def _next(plan: Plan, node: str) -> Iterator[str]:
    rules = plan.rules_after(node)
    for rule in rules:
        if isinstance(rule.spec.then[0], Ask):
            yield from _after_question(plan, node, rule)
        else:
            yield from _targets(rule)
        if rule.condition is None:
            return
    if plan.nodes[node].spec.kind != "halt":
        yield from _in_order(plan, node)


def _targets(rule: Rule) -> Iterator[str]:
    action = rule.spec.then[-1]
    if isinstance(action, Parallel):
        yield from (*action.targets, action.join)
    elif isinstance(action, Map):
        yield from (action.target, action.join)
    elif isinstance(action, Goto):
        yield action.target
    else:
        assert isinstance(action, (Halt, Ask))


def _in_order(plan: Plan, node: str) -> Iterator[str]:
    if node in plan.next_in_order:
        yield plan.next_in_order[node]
