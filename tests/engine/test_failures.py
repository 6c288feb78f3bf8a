"""Whatever a node raises is recorded as a failure, with its class, a bounded text and a bounded traceback."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import urllib.error
from collections.abc import Callable
from typing import Any, cast

import pytest
from pydantic import BaseModel, model_validator
from support import nodes
from support.graphs import graph
from support.memory import MemoryCheckpointer

from stargraph.checkpoint.protocol import RunSummary
from stargraph.errors import NodeError
from stargraph.graph import Context

TEXT = """
state_schema: {x: {type: any, default: null}}
nodes: [{id: a, kind: "support.nodes:KIND"}]
"""


class Panic(BaseException):
    pass


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Exits(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class NoText(Exception):
    def __str__(self) -> str:
        return cast("str", None)


class OddText(str):
    def __getitem__(self, key: Any) -> str:
        raise RuntimeError("no part")

    def __format__(self, spec: str) -> str:
        raise RuntimeError("no form")

    def encode(self, *args: Any) -> bytes:
        raise RuntimeError("no bytes")


class Odd(Exception):
    def __str__(self) -> str:
        return OddText("odd" * 20_000)


class Word(Exception):
    reason = b"gone"


class Hidden(Exception):
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("no class")


class Named(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__name__", "__qualname__", "__module__"):
            raise RuntimeError("no name")
        return super().__getattribute__(name)


class OddlyNamed(Exception, metaclass=Named):
    pass


class Nowhere(Exception):
    pass


Nowhere.__module__ = 7  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    text: str = "cold"


class Notes(Exception):
    __notes__ = cast("list[str]", 3)


class UnpicklableError(Exception):
    def __init__(self) -> None:
        super().__init__(lambda: None)


def deep() -> None:
    deep()


def long_chain() -> None:
    error: Exception = ValueError("first")
    for n in range(3_000):
        link = ValueError(n)
        link.__cause__ = error
        error = link
    raise error


def noted() -> None:
    error = ValueError("see")
    error.add_note("a\udcff note")
    error.__notes__.append(Unprintable())  # type: ignore[arg-type]
    raise error


def raising(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


HERE = __name__
FAILURES: list[tuple[Callable[[], Any], str, str]] = [
    (raising(Panic("rust")), f"{HERE}.Panic", "rust"),
    (raising(Unprintable()), f"{HERE}.Unprintable", "(this exception has no text: its __str__ raised RuntimeError)"),
    (raising(Exits()), f"{HERE}.Exits", "(this exception has no text: its __str__ raised SystemExit)"),
    (raising(NoText()), f"{HERE}.NoText", "(this exception has no text: its __str__ raised TypeError)"),
    (raising(urllib.error.URLError(OSError(111, "refused"))), "urllib.error.URLError", "refused"),
    (raising(Word("b")), f"{HERE}.Word", "b"),
    (raising(Odd()), f"{HERE}.Odd", "43616 characters left out"),
    (raising(Hidden("h")), f"{HERE}.Hidden", "h"),
    (raising(OddlyNamed("o")), f"{HERE}.OddlyNamed", "o"),
    (raising(Nowhere("n")), "Nowhere", "n"),
    (raising(Frozen()), f"{HERE}.Frozen", ""),
    (raising(Notes("m")), f"{HERE}.Notes", "m"),
    (raising(UnpicklableError()), f"{HERE}.UnpicklableError", "lambda"),
    (raising(ValueError("x" * 70_000_000)), "ValueError", "69983616 characters left out"),
    (raising(ValueError("a \udcff b")), "ValueError", "a \\udcff b"),
    (raising(ValueError("nul \0")), "ValueError", "nul"),
    (raising(GeneratorExit()), "GeneratorExit", ""),
    (raising(StopAsyncIteration("s")), "StopAsyncIteration", "s"),
    (raising(MemoryError()), "MemoryError", ""),
    (raising(ExceptionGroup("many", [ValueError("a"), KeyError("b")])), "ExceptionGroup", "many (2 sub-exceptions)"),
    (raising(BaseExceptionGroup("all", [Panic("a")])), "BaseExceptionGroup", "all"),
    (raising(concurrent.futures.CancelledError("c")), "concurrent.futures._base.CancelledError", "c"),
    (deep, "RecursionError", "maximum recursion"),
    (long_chain, "ValueError", "2999"),
    (noted, "ValueError", "see"),
]


async def ended(store: MemoryCheckpointer, body: Callable[[Context], Any], kind: str) -> RunSummary:
    nodes.before = body
    run = await graph(TEXT.replace("KIND", kind)).start(checkpointer=store, run_id="r")
    summary = await run.start()
    assert summary.status == "failed"
    assert store.runs["r"][-1].event == "failed"
    assert not (await run.replay()).differences
    return summary


@pytest.mark.parametrize("kind", ["sync_x", "awaits_x"])
@pytest.mark.parametrize(("body", "name", "message"), FAILURES, ids=[f"{n}-{f[1]}" for n, f in enumerate(FAILURES)])
async def test_a_failure_is_recorded(
    store: MemoryCheckpointer, body: Callable[[], Any], name: str, message: str, kind: str
) -> None:
    summary = await ended(store, lambda ctx: body(), kind)
    assert summary.error is not None
    assert (summary.error.type, summary.error.reason, summary.error.node) == (name, None, "a")
    assert message in summary.error.message
    assert len(summary.error.message) < 17_000
    assert 0 < len(summary.error.traceback or "") < 17_000


async def test_stop_iteration_is_what_it_is_in_a_thread(store: MemoryCheckpointer) -> None:
    summary = await ended(store, lambda ctx: next(iter(())), "sync_x")
    assert summary.error is not None
    assert summary.error.type == "StopIteration"


@pytest.mark.parametrize("kind", ["sync_x", "awaits_x"])
@pytest.mark.parametrize(
    ("error", "reason"), [(SystemExit(3), "node-exited"), (KeyboardInterrupt(), "node-interrupted")]
)
async def test_what_is_meant_for_the_process_ends_the_run(
    store: MemoryCheckpointer, kind: str, error: BaseException, reason: str
) -> None:
    summary = await ended(store, lambda ctx: raising(error)(), kind)
    assert summary.error is not None
    assert summary.error.reason == reason
    assert "Resume the run" in summary.error.message
    nodes.before = lambda ctx: 1
    run = await graph(TEXT.replace("KIND", kind)).start(checkpointer=store)
    assert (await run.resume("r")).status == "done"


@pytest.mark.parametrize("kind", ["sync_x", "awaits_x"])
async def test_a_cancellation_that_is_the_nodes_own(store: MemoryCheckpointer, kind: str) -> None:
    summary = await ended(store, lambda ctx: raising(asyncio.CancelledError("c"))(), kind)
    assert summary.error is not None
    assert "Cancel" in summary.error.type or summary.error.reason == "node-cancelled"


async def test_a_reason_is_that_of_our_own_errors(store: MemoryCheckpointer) -> None:
    summary = await ended(store, lambda ctx: raising(NodeError("no", reason="own-word"))(), "sync_x")
    assert summary.error is not None
    assert summary.error.reason == "own-word"


@pytest.mark.parametrize(
    "error",
    [Panic("p"), StopIteration("s"), urllib.error.URLError("gone"), Unprintable(), ValueError("x" * 70_000_000)],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("kind", ["sync_x", "awaits_x"])
async def test_a_failed_call_is_recorded(store: MemoryCheckpointer, kind: str, error: BaseException) -> None:
    def body(ctx: Context) -> Any:
        return (ctx.call if kind == "awaits_x" else ctx.call_sync)("call", raising(error))

    summary = await ended(store, body, kind)
    assert summary.error is not None
    assert summary.error.reason == "call-failed"
    recorded = store.runs["r"][1].calls[0].error
    assert recorded is not None
    assert recorded.type.endswith(type(error).__name__)
    assert len(recorded.message) < 17_000


class Touchy(BaseModel):
    x: int = 0

    @model_validator(mode="after")
    def _panics(self) -> Touchy:
        if self.x == 13:
            raise Panic("thirteen")
        return self


async def test_what_the_class_of_the_state_raises_is_a_failure(store: MemoryCheckpointer) -> None:
    nodes.before = lambda ctx: Touchy.model_construct(x=13)
    text = f'state_class: "{HERE}:Touchy"\nnodes: [{{id: a, kind: "support.nodes:returns_x"}}]'
    run = await graph(text).start(checkpointer=store, run_id="r")
    assert (await run.start()).status == "failed"


def panics(old: Any, new: Any) -> Any:
    raise Panic("reducer")


async def test_what_a_reducer_raises_is_a_failure(store: MemoryCheckpointer) -> None:
    nodes.before = lambda ctx: 1
    run = await graph(TEXT.replace("KIND", "sync_x").replace("type: any", f'type: any, reduce: "{HERE}:panics"')).start(
        checkpointer=store, run_id="r"
    )
    assert (await run.start()).status == "failed"
