"""Which nodes of a graph can run, and which of its rules can apply, whatever the state is."""

from __future__ import annotations

from collections.abc import Iterator

from stargraph.ir._models import Ask, Goto, IRDocument, Map, Parallel, RuleSpec
from stargraph.ir._positions import Fault


def unreachable_parts(document: IRDocument) -> list[Fault]:
    """Return the nodes that never run and the rules that never apply. Conditions are not evaluated.

    Args:
        document: a graph that `check_document` accepts.
    """
    walk = _Walk(document)
    faults = [
        Fault("nothing leads to this node, so it never runs", ("nodes", index, "id"))
        for index, node in enumerate(document.nodes)
        if node.id not in walk.steps | walk.branches
    ]
    for index, rule in enumerate(document.rules):
        node, place = rule.when.node, ("rules", index, "id")
        decided = walk.deciding.get(node)
        if node in walk.branches - walk.steps:
            faults.append(Fault(f"{node!r} runs only as a branch, after which the join follows and no rule", place))
        elif node in walk.steps and decided is not None and document.rules.index(decided) < index:
            faults.append(Fault(f"this rule never applies, since {decided.id!r} before it always does", place))
    return faults


class _Walk:
    """The nodes that can run.

    Attributes:
        steps: those that rules and the order of the nodes follow.
        branches: those that run as a branch of a fork.
        deciding: the first rule of a node that always applies.
    """

    def __init__(self, document: IRDocument) -> None:
        self._order = [node.id for node in document.nodes]
        self._halts = {node.id for node in document.nodes if node.kind == "halt"}
        self._rules = document.rules
        self.steps: set[str] = set()
        self.branches: set[str] = set()
        self.deciding: dict[str, RuleSpec] = {}
        waiting = self._order[:1]
        while waiting:
            node = waiting.pop()
            if node not in self.steps:
                self.steps.add(node)
                waiting += self._next(node)

    def _next(self, node: str) -> Iterator[str]:
        for rule in self._rules:
            if rule.when.node == node:
                yield from self._targets(rule)
                if rule.when.condition is None:
                    self.deciding[node] = rule
                    return
        if node not in self._halts:
            yield from self._in_order(node)

    def _targets(self, rule: RuleSpec) -> Iterator[str]:
        action = rule.then[-1]
        if isinstance(action, Goto):
            yield action.target
        elif isinstance(action, Ask):
            yield from self._in_order(rule.when.node)
        elif isinstance(action, (Parallel, Map)):
            self.branches.update(action.targets if isinstance(action, Parallel) else (action.target,))
            yield action.join

    def _in_order(self, node: str) -> list[str]:
        place = self._order.index(node) + 1
        return self._order[place : place + 1]
