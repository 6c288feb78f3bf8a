"""The graphs that the checks of the engine run, and their nodes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from stargraph.graph import Context, Graph

BEFORE: Final[dict[str, Callable[[str], Awaitable[None]]]] = {}
"""What a check wants to happen before a node of a run: by run id; called with the node."""

_HERE: Final = "stargraph.checkpoint.conformance._graphs"

_SEQUENCE: Final = f"""
id: conformance
state_schema:
  path: {{type: "list[str]", reduce: append, default: []}}
nodes:
  - {{id: a, kind: "{_HERE}:note"}}
  - {{id: b, kind: "{_HERE}:note"}}
  - {{id: c, kind: "{_HERE}:note"}}
"""

_QUESTION: Final = f"""
id: conformance-question
state_schema:
  path: {{type: "list[str]", reduce: append, default: []}}
  answer: {{type: "str | None", default: null}}
nodes:
  - {{id: a, kind: "{_HERE}:note"}}
  - {{id: ask, kind: interrupt, prompt: "Go on after {{path}}?", into: answer}}
  - {{id: c, kind: "{_HERE}:note"}}
"""


async def note(state: Any, context: Context) -> dict[str, Any]:
    """Append the node's own name to `path`."""
    if (wanted := BEFORE.get(context.run_id)) is not None:
        await wanted(context.node)
    return {"path": [context.node]}


def _graph(text: str) -> Graph:
    from stargraph.graph import Graph
    from stargraph.ir import parse_graph

    return Graph(parse_graph(text))


def sequence() -> Graph:
    """Three nodes, one after the other."""
    return _graph(_SEQUENCE)


def longer_sequence() -> Graph:
    """The same graph with one node more."""
    return _graph(_SEQUENCE + f'  - {{id: d, kind: "{_HERE}:note"}}\n')


def question() -> Graph:
    """A node, a question, a node."""
    return _graph(_QUESTION)
