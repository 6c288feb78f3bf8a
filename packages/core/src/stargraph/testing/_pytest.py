"""The pytest plugin: fixtures, and nothing that changes a run which does not use them."""

# Every run of pytest imports this, so what the fixtures are made of is imported where it is used.
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from stargraph.checkpoint.memory import MemoryCheckpointer
    from stargraph.graph import RunResult
    from stargraph.testing._context import FakeContext


@pytest.fixture
def stargraph_store() -> MemoryCheckpointer:
    """A store in memory that is ready, empty in each test."""
    from stargraph.checkpoint.memory import MemoryCheckpointer
    from stargraph.testing._clock import run_in_skipping_loop

    store = MemoryCheckpointer()
    run_in_skipping_loop(store.bootstrap)
    return store


@pytest.fixture
def stargraph_context() -> type[FakeContext]:
    """Makes the context of a node: `stargraph_context(calls={"fetch": 1})`."""
    from stargraph.testing._context import FakeContext

    return FakeContext


@pytest.fixture
def stargraph_run(stargraph_store: MemoryCheckpointer) -> Callable[..., RunResult]:
    """Runs a graph to its end on `stargraph_store`: `stargraph_run(graph, inputs={…}, answers={…})`."""
    from functools import partial

    from stargraph.testing._runs import run_graph

    return partial(run_graph, checkpointer=stargraph_store)
