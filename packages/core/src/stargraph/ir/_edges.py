"""What follows a node, as code: `graph.after(classify, when="state.severity >= 4").goto(ask)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypeAlias

NodeRef: TypeAlias = str | Callable[..., Any]
"""A node: its id, or the function or class that was added as one."""


class Edge:
    """What follows a node; `GraphBuilder.after` makes it, and one of its methods says what.

    Args:
        node_id: returns the id of a node.
        add: takes an action, as a graph file has it.
    """

    def __init__(self, node_id: Callable[[NodeRef], str], add: Callable[[dict[str, Any]], None]) -> None:
        self._node_id = node_id
        self._add = add

    def ask(self, prompt: str, *, into: str) -> Self:
        """Wait for a person's answer first; then what follows this call, or else the next node in order.

        Args:
            prompt: the question, with fields of the state in braces.
            into: the field that takes the answer.
        """
        self._add({"kind": "interrupt", "prompt": prompt, "into": into})
        return self

    def goto(self, target: NodeRef) -> None:
        """Go on at a node.

        Args:
            target: the node: its id, or its function.
        """
        self._add({"kind": "goto", "target": self._node_id(target)})

    def halt(self, reason: str | None = None) -> None:
        """End the run as done.

        Args:
            reason: why, for people.
        """
        self._add({"kind": "halt", **({} if reason is None else {"reason": reason})})

    def parallel(self, *targets: NodeRef, join: NodeRef) -> None:
        """Run nodes side by side, and go on at another one when all have completed.

        Args:
            *targets: the nodes that run, each of them one branch.
            join: the node that follows.
        """
        nodes = [self._node_id(target) for target in targets]
        self._add({"kind": "parallel", "targets": nodes, "join": self._node_id(join)})

    def map(self, over: str, target: NodeRef, *, join: NodeRef, max_concurrency: int = 16) -> None:
        """Run a node for each item of a list, side by side, and go on at another one when all have completed.

        Args:
            over: CEL that gives the list, as in `state.notes`.
            target: the node; `ctx.item` is its item.
            join: the node that follows.
            max_concurrency: how many may run at once.
        """
        nodes = {"target": self._node_id(target), "join": self._node_id(join)}
        self._add({"kind": "map", "over": over, **nodes, "max_concurrency": max_concurrency})
