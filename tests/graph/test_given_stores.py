"""What is no store is refused with what to give instead, and is not shown: it may hold a password."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.graph import Graph, GraphBuilder, RunRequest, cancel, pause, respond
from stargraph.worker import Worker

graph = Graph(GraphBuilder("g").add_node("a", "echo"))

USES: dict[str, Callable[[Any], Any]] = {
    "start": lambda store: graph.start(checkpointer=store),
    "start_or_resume": lambda store: graph.start_or_resume(checkpointer=store, run_id="r"),
    "enqueue": graph.enqueue,
    "enqueue_many": lambda store: graph.enqueue_many(store, [RunRequest()]),
    "run_sync": lambda store: graph.run_sync(checkpointer=store),
    "resume_sync": lambda store: graph.resume_sync("r", checkpointer=store),
    "respond_sync": lambda store: graph.respond_sync("r", "q", 1, checkpointer=store),
    "respond": lambda store: respond(store, "r", "q", 1),
    "cancel": lambda store: cancel(store, "r"),
    "pause": lambda store: pause(store, "r"),
}
URL = "postgresql://u:a-password@h/db"


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (URL, "open_checkpointer of stargraph.checkpoint.registry"),
        (Path("run.sqlite"), "open_checkpointer of stargraph.checkpoint.registry"),
        ({"dsn": URL}, "is of type dict: pass an object with the methods of"),
        (MemoryCheckpointer, "the class MemoryCheckpointer: pass an instance of it"),
    ],
    ids=["url", "path", "settings", "class"],
)
async def test_what_is_no_store_is_refused(use: Callable[[Any], Any], given: Any, advice: str) -> None:
    with pytest.raises(TypeError) as caught:
        await use(given)
    assert advice in str(caught.value)
    assert "a-password" not in str(caught.value)


def test_a_worker_shows_no_settings() -> None:
    with pytest.raises(TypeError, match="store is of type dict: give the address") as caught:
        Worker({"dsn": URL}, graph)  # type: ignore[arg-type]
    assert "a-password" not in str(caught.value)
