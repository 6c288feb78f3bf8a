"""What a recorded call returns: what the function returned, now and ever after, or a refusal that repeats nothing."""

from __future__ import annotations

import dataclasses
import enum
import functools
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, SecretStr, field_serializer
from support import nodes
from support.graphs import graph
from support.memory import Killed, MemoryCheckpointer
from typing_extensions import TypedDict

from stargraph.engine._results import ResultType
from stargraph.errors import CallError
from stargraph.graph import Context, Run

TEXT = """
state_schema: {x: {type: any, default: null}}
nodes: [{id: a, kind: "support.nodes:KIND", retry: {attempts: 3, initial_delay: 0}}]
"""
MADE: list[str] = []


@pytest.fixture(autouse=True)
def made() -> None:
    MADE.clear()


@dataclasses.dataclass
class Receipt:
    id: str
    at: datetime


class Bill(BaseModel):
    lines: list[Receipt]
    sum: Decimal = Decimal("1.10")


class Color(enum.Enum):
    RED = "r"


class Row(TypedDict):
    id: UUID


class Lossy(BaseModel):
    n: int

    @field_serializer("n")
    def _rounded(self, n: int) -> int:
        return n // 10 * 10


class Violent(BaseModel):
    n: int = 0

    @field_serializer("n")
    def _fail(self, n: int) -> int:
        raise Killed


NOW = datetime(2026, 1, 31, 12, 30, tzinfo=UTC)


def receipt() -> Receipt:
    MADE.append("receipt")
    return Receipt("r1", NOW)


async def bill() -> Bill:
    MADE.append("bill")
    return Bill(lines=[Receipt("r1", NOW)])


def pair() -> tuple[str, int]:
    MADE.append("pair")
    return ("a", 1)


def row() -> list[Row]:
    return [{"id": UUID(int=7)}]


def colors() -> set[Color] | None:
    return {Color.RED}


def wait() -> timedelta:
    return timedelta(seconds=1.5)


def path() -> Path:
    return Path("a/b")


def nothing() -> Receipt | None:
    return None


class Client:
    def __call__(self) -> Receipt:
        return receipt()

    def method(self, name: str) -> Receipt:
        return Receipt(name, NOW)


RESULTS: list[tuple[Callable[..., Any], Any, Any]] = [
    (receipt, None, Receipt("r1", NOW)),
    (bill, None, Bill(lines=[Receipt("r1", NOW)])),
    (pair, None, ("a", 1)),
    (row, None, [{"id": UUID(int=7)}]),
    (colors, None, {Color.RED}),
    (wait, None, timedelta(seconds=1.5)),
    (path, None, Path("a/b")),
    (nothing, None, None),
    (Client(), None, Receipt("r1", NOW)),
    (functools.partial(Client().method, "r2"), None, Receipt("r2", NOW)),
    (lambda: (NOW, b"text"), tuple[datetime, bytes], (NOW, b"text")),
    (lambda: NOW, datetime, NOW),
    (lambda: [1, 2.5, None], None, [1, 2.5, None]),
]


async def played(store: MemoryCheckpointer, function: Callable[..., Any], returns: Any, kind: str) -> tuple[Run, Any]:
    """Run a node whose first attempt and second attempt, and replay, make the same call; return what they were told."""
    shown: list[Any] = []

    def body(ctx: Context) -> Any:
        options = ctx.with_options(returns=returns)
        if kind == "sync_x":
            shown.append(options.call_sync("f", function))
            return after(ctx)
        return later(ctx, options)

    async def later(ctx: Context, options: Any) -> Any:
        shown.append(await options.call("f", function))
        return after(ctx)

    def after(ctx: Context) -> Any:
        if ctx.attempt == 1:
            raise ValueError("again")

    nodes.before = body
    run = await graph(TEXT.replace("KIND", kind)).start(checkpointer=store, run_id="r")
    await run.start()
    return run, shown


@pytest.mark.parametrize("kind", ["sync_x", "awaits_x"])
@pytest.mark.parametrize(("function", "returns", "expected"), RESULTS, ids=map(str, range(len(RESULTS))))
async def test_a_result_comes_back_as_it_was(
    store: MemoryCheckpointer, function: Callable[..., Any], returns: Any, expected: Any, kind: str
) -> None:
    run, shown = await played(store, function, returns, kind)
    assert run.summary is not None
    assert run.summary.status == "done", run.summary.error
    assert shown == [expected, expected]
    assert [type(each) for each in shown] == [type(expected)] * 2
    assert not (await run.replay()).differences
    assert shown == [expected] * len(shown)
    assert len(MADE) <= 1


def declared_wrong() -> Receipt:
    MADE.append("wrong")
    return {"id": "r1", "at": "2026-01-31T12:30:00Z"}  # type: ignore[return-value]


def secret() -> SecretStr:
    MADE.append("secret")
    return SecretStr("hush")


def lossy() -> Lossy:
    MADE.append("lossy")
    return Lossy(n=17)


def violent() -> Violent:
    MADE.append("violent")
    return Violent()


def huge() -> str:
    MADE.append("huge")
    return "x" * 70_000_000


def undeclared() -> Any:
    MADE.append("undeclared")
    return Receipt("r1", NOW)


@pytest.mark.parametrize("kind", ["sync_x", "awaits_x"])
@pytest.mark.parametrize("function", [declared_wrong, secret, lossy, huge, undeclared])
async def test_a_call_whose_result_cannot_be_stored_is_made_once(
    store: MemoryCheckpointer, function: Callable[..., Any], kind: str
) -> None:
    run, shown = await played(store, function, None, kind)
    assert run.summary is not None
    assert run.summary.error is not None
    assert (run.summary.status, run.summary.error.reason) == ("failed", "result-not-storable")
    assert "hush" not in (run.summary.error.traceback or "")
    assert store.events("r") == ["started", "called a", "failed a"]
    assert not (await run.replay()).differences
    assert (await run.resume()).status == "failed"
    assert len(MADE) == 1
    assert shown == []


async def test_a_node_may_catch_it_and_goes_the_same_way_ever_after(store: MemoryCheckpointer) -> None:
    def body(ctx: Context) -> Any:
        try:
            ctx.call_sync("f", undeclared)
        except CallError as error:
            return [error.reason, ctx.attempt, ctx.interrupt("Paid?")]

    nodes.before = body
    run = await graph(TEXT.replace("KIND", "sync_x")).start(checkpointer=store, run_id="r")
    await run.start()
    await run.answer(store.runs["r"][-1].interrupts[0].id, "yes")
    assert (await run.resume()).status == "done"
    assert run.state == {"x": ["result-not-storable", 1, "yes"]}
    assert len(MADE) == 1
    assert not (await run.replay()).differences
    fork = await run.fork(2, run_id="f")
    await fork.start()
    assert len(MADE) == 1


async def test_a_type_that_has_changed_since_is_reported(store: MemoryCheckpointer) -> None:
    returns: Any = dict[str, datetime]

    def body(ctx: Context) -> Any:
        ctx.with_options(returns=returns).call_sync("f", lambda: {"at": NOW})
        return ctx.interrupt("Go on?")

    nodes.before = body
    run = await graph(TEXT.replace("KIND", "sync_x")).start(checkpointer=store, run_id="r")
    await run.start()
    await run.answer(store.runs["r"][-1].interrupts[0].id, "yes")
    returns = dict[str, timedelta]
    summary = await run.resume()
    assert summary.error is not None
    assert summary.error.reason == "wrong-type"


class Paid(BaseModel):
    to: str
    amount: int


class Renamed(BaseModel):
    to: str
    sum: int = 0


class Extended(Paid):
    note: str = ""


@pytest.mark.parametrize(
    ("now", "lost"),
    [(Renamed, "amount"), (list[Renamed], "[0].amount"), (dict[str, Renamed], "a.amount"), (Extended, None)],
    ids=["class", "list", "dict", "added"],
)
async def test_a_changed_type_drops_nothing_of_what_is_recorded(
    store: MemoryCheckpointer, now: Any, lost: str | None
) -> None:
    paid = Paid(to="Ada", amount=500)
    made = {list[Renamed]: [paid], dict[str, Renamed]: {"a": paid}}.get(now, paid)
    returns: Any = {list[Renamed]: list[Paid], dict[str, Renamed]: dict[str, Paid]}.get(now, Paid)
    shown: list[Any] = []

    def body(ctx: Context) -> Any:
        shown.append(ctx.with_options(returns=returns).call_sync("f", lambda: made))
        return ctx.interrupt("Go on?")

    nodes.before = body
    run = await graph(TEXT.replace("KIND", "sync_x")).start(checkpointer=store, run_id="r")
    (question,) = (await run.start()).questions
    await run.answer(question, "yes")
    returns = now
    summary = await run.resume()
    if lost is None:
        assert (summary.status, shown) == ("done", [paid, Extended(to="Ada", amount=500)])
    else:
        assert summary.error is not None
        assert (summary.error.reason, shown) == ("wrong-type", [made])
        assert f"any more: it has no {lost!r}" in summary.error.message


def test_a_set_may_be_written_in_another_order() -> None:
    """Another process hashes texts otherwise."""
    result_type = ResultType(set[tuple[str, ...]])
    stored = [["a"], ["b", "c"], ["d", "e", "f"]]
    for order in itertools.permutations(stored):
        assert result_type.load(list(order), "x") == {("a",), ("b", "c"), ("d", "e", "f")}


@pytest.mark.parametrize("returns", [7, "Receipt", Callable[[], int], Literal["a"]])
async def test_what_is_no_type_is_refused_before_anything_happens(store: MemoryCheckpointer, returns: Any) -> None:
    nodes.before = lambda ctx: ctx.call_sync("f", receipt, returns=returns)
    run = await graph(TEXT.replace("KIND", "sync_x")).start(checkpointer=store, run_id="r")
    summary = await run.start()
    assert summary.status == "failed"
    assert summary.error is not None
    assert (summary.error.reason == "bad-call") == (MADE == [])
