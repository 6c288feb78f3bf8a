"""stargraph.testing: one node without a run, whole graphs with what was given ahead, crashes, and the plugin."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace as State
from typing import Any

import pytest
from support import tested_nodes
from support.graphs import everything, graph
from support.records import chain
from support.tested_nodes import MADE, Receipt, ask, charge, pay, talk, talk_in_a_thread, tell

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.errors import CallError
from stargraph.graph import Graph, GraphBuilder, StoreInfo
from stargraph.testing import (
    CallMade,
    Crashed,
    FakeContext,
    InTurn,
    QuestionAsked,
    check_resumable,
    crash_after,
    recorded_calls,
    run_graph,
)
from stargraph.testing._clock import run_in_skipping_loop

FIELDS = """
state_schema:
  amount: {type: int, default: 12}
  approved: {type: "str | None", default: null}
  receipt: {type: "int | None", default: null}
  told: {type: "list[str]", reduce: append, default: []}
"""

PAYMENT = f"""
id: payment
{FIELDS}
nodes:
  - {{id: ask, kind: "support.tested_nodes:ask"}}
  - {{id: pay, kind: "support.tested_nodes:pay", retry: {{attempts: 2, on: [ConnectionError], initial_delay: 600}}}}
  - {{id: tell, kind: "support.tested_nodes:tell"}}
"""


@pytest.fixture(autouse=True)
def _made() -> Iterator[None]:
    MADE.clear()
    yield
    MADE.clear()


@pytest.fixture
def payment() -> Graph:
    return graph(PAYMENT)


async def test_a_node_gets_what_stands_in_for_its_calls() -> None:
    ctx = FakeContext(calls={"charge": Receipt(number=4711)})
    assert await pay(State(amount=3), ctx) == {"receipt": 4711}
    assert ctx.calls_made == [CallMade("charge", (3,), {}, None)]
    assert MADE == []


def test_a_sync_node_needs_no_loop() -> None:
    assert tell(State(receipt=1), FakeContext(calls={"mail": "noted"})) == {"told": ["noted"]}
    assert tell(State(receipt=1), FakeContext()) == {"told": ["sent"]}
    assert MADE == ["mail 1"]


async def test_a_call_may_fail_be_made_by_another_function_or_come_in_turn() -> None:
    for fake in (ConnectionError("down"), InTurn(ConnectionError("down"))):
        with pytest.raises(CallError, match="down") as caught:
            await pay(State(amount=3), FakeContext(calls={"charge": fake}))
        assert caught.value.error_type == "ConnectionError"
    assert await pay(State(amount=3), FakeContext(calls={"charge": lambda amount: Receipt(number=amount + 1)})) == {
        "receipt": 4
    }


async def test_a_call_without_a_fake_or_with_one_that_no_run_would_store_is_an_error() -> None:
    with pytest.raises(AssertionError, match="node 'node' made the call 'charge', for which there is no fake"):
        await pay(State(amount=3), FakeContext(calls={}))
    turns = InTurn()
    with pytest.raises(AssertionError, match="was made 1 times, and has 0"):
        await pay(State(amount=3), FakeContext(calls={"charge": turns}))
    with pytest.raises(Exception, match="charge"):
        await pay(State(amount=3), FakeContext(calls={"charge": object()}))


async def test_a_question_is_answered_ahead_or_ends_the_node() -> None:
    ctx = FakeContext(answers={"Pay 3?": "yes"})
    assert await ask(State(amount=3), ctx) == {"approved": "yes"}
    assert ctx.questions_asked == ["Pay 3?"]
    by_node = FakeContext(node="ask", answers={"ask": lambda payload: f"yes, {payload['amount']}"})
    assert await ask(State(amount=3), by_node) == {"approved": "yes, 3"}
    with pytest.raises(QuestionAsked) as caught:
        await ask(State(amount=3), FakeContext())
    assert (caught.value.prompt, caught.value.payload) == ("Pay 3?", {"amount": 3})


async def test_what_a_node_emits_is_noted_and_needs_no_fake() -> None:
    ctx = FakeContext(calls={})
    await talk(State(), ctx)
    assert (ctx.emitted, ctx.calls_made) == (["hello", {"progress": 1}], [])
    store = MemoryCheckpointer()
    talking = graph(f"{FIELDS}nodes: [{{id: a, kind: 'support.tested_nodes:talk'}}]")
    assert run_graph(talking, calls={}, checkpointer=store, run_id="r").status == "done"
    assert recorded_calls(store, "r") == {}


def test_what_a_sync_node_emits_is_noted() -> None:
    ctx = FakeContext(calls={})
    talk_in_a_thread(State(), ctx)
    assert ctx.emitted == ["hello"]


def test_a_context_tells_what_it_was_given() -> None:
    moment = datetime(2026, 1, 31, tzinfo=UTC)
    ctx = FakeContext(now=moment, node="pay", run_id="r", attempt=2, index=1, item=5, metadata={"user": "42"})
    assert (ctx.now, ctx.node, ctx.run_id, ctx.attempt, ctx.index, ctx.item) == (moment, "pay", "r", 2, 1, 5)
    assert (ctx.metadata, ctx.random.random()) == ({"user": "42"}, FakeContext(node="pay", run_id="r").random.random())


def test_a_graph_runs_to_its_end_with_what_was_given_ahead(payment: Graph) -> None:
    began = time.monotonic()
    result = run_graph(
        payment,
        inputs={"amount": 3},
        answers={"Pay 3?": "yes"},
        calls={"charge": InTurn(ConnectionError(), Receipt(number=9)), "mail": "noted"},
    )
    assert result.status == "done", result.error
    assert result.stored_state == {"amount": 3, "approved": "yes", "receipt": 9, "told": ["noted"]}
    assert MADE == []
    assert time.monotonic() - began < 60, "ten minutes lie between the two attempts"


async def test_an_async_test_may_run_one_too(payment: Graph) -> None:
    result = run_graph(payment, calls={})
    assert (result.status, [question.prompt for question in result.questions]) == ("awaiting_input", ["Pay 12?"])
    failed = run_graph(payment, answers={"ask": "yes"}, calls={})
    assert failed.error is not None
    assert "there is no fake" in failed.error.message


def test_hours_pass_at_once_and_threads_take_the_time_that_they_take() -> None:
    late = graph(
        f"{FIELDS}nodes: [{{id: a, kind: 'support.tested_nodes:late', timeout: 1800,"
        " retry: {attempts: 3, on: [TimeoutError], initial_delay: 3600}}]"
    )
    assert run_graph(late).status == "done"
    slow = graph(f"{FIELDS}nodes: [{{id: a, kind: 'support.tested_nodes:slow', timeout: 60}}]")
    assert run_graph(slow).stored_state["told"] == ["slowly"]


def test_no_time_is_skipped_if_a_thread_ends_while_the_loop_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait() -> float:
        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def ends_now() -> bool:
            if not ended.done():
                loop.call_soon_threadsafe(ended.cancel)
            return False

        monkeypatch.setattr("stargraph.testing._clock.threads_are_busy", ends_now)
        began = loop.time()
        await asyncio.wait([ended], timeout=3600)
        return loop.time() - began

    assert run_in_skipping_loop(wait) < 3600


def test_calls_are_replayed_from_a_recorded_run(payment: Graph) -> None:
    store = MemoryCheckpointer()
    assert run_graph(payment, answers={"ask": "yes"}, checkpointer=store, run_id="r").status == "done"
    assert MADE == ["charge 12", "mail 7"]
    again = run_graph(payment, answers={"ask": "no"}, calls=recorded_calls(store, "r"))
    assert (again.status, again.stored_state["receipt"], MADE) == ("done", 7, ["charge 12", "mail 7"])
    only = recorded_calls(store, "r", node="pay")
    assert list(only) == ["charge"]


async def test_a_recorded_failure_fails_again(payment: Graph) -> None:
    store = MemoryCheckpointer()
    failing = {"charge": InTurn(LookupError("no account")), "mail": ""}
    run_graph(payment, answers={"ask": "yes"}, calls=failing, checkpointer=store, run_id="r")
    with pytest.raises(CallError, match="LookupError: no account"):
        await pay(State(amount=3), FakeContext(calls=recorded_calls(store, "r")))


def test_a_crash_leaves_what_was_stored_and_no_more(payment: Graph) -> None:
    store = MemoryCheckpointer()
    options: dict[str, Any] = {"answers": {"ask": "yes"}, "checkpointer": store, "run_id": "r"}
    with pytest.raises(Crashed):
        run_graph(payment, middleware=[crash_after(5)], **options)
    assert MADE == ["charge 12"]
    result = run_graph(payment, **options)
    assert (result.status, MADE) == ("done", ["charge 12", "mail 7"]), "a recorded call is not made again"


async def test_nothing_of_a_lost_process_is_written() -> None:
    lost = crash_after(1)
    first, second, third = chain("r", 3)
    async with lost.store(StoreInfo("write", "r", (first,))):
        pass
    with pytest.raises(Crashed):
        async with lost.store(StoreInfo("write", "r", (second,))):
            pass
    written: list[int] = []
    with pytest.raises(Crashed):
        async with lost.store(StoreInfo("write", "r", (third,))):
            written.append(2)
    assert written == []


def test_a_graph_is_checked_at_each_step(payment: Graph, tmp_path: Path) -> None:
    fakes = {"charge": Receipt(number=1), "mail": "noted"}
    crashes = check_resumable(payment, answers={"ask": "yes"}, calls=lambda: fakes)
    assert crashes >= 5
    assert check_resumable(everything(tmp_path), answers={"approve": "yes", "ask": "me", "sub": "me"}) > 10


def test_what_is_kept_in_the_process_is_found() -> None:
    forgetful = graph(
        f"{FIELDS}nodes: [{{id: a, kind: 'support.tested_nodes:forgetful'}},"
        " {id: b, kind: 'support.tested_nodes:forgetful'}]"
    )
    with pytest.raises(AssertionError, match=r"after a crash that followed step 0 state\.told is"):
        check_resumable(forgetful)


pytest_plugins = ["pytester"]

USERS = """
from stargraph.ir import parse_graph
from stargraph.graph import Graph

def test_fixtures(stargraph_run, stargraph_store, stargraph_context):
    graph = Graph(parse_graph("id: g\\nnodes: [{id: a, kind: echo}]"))
    assert stargraph_run(graph, run_id="r").status == "done"
    assert stargraph_run(graph, run_id="r").last_step == 1
    assert stargraph_context(node="x").node == "x"

async def test_async(stargraph_store):
    assert await stargraph_store.list_runs() == []
"""


@pytest.mark.thorough
def test_the_fixtures_of_the_plugin(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(USERS)
    result = pytester.runpytest_subprocess("-o", "asyncio_mode=auto", "-p", "no:randomly")
    result.assert_outcomes(passed=2)


def test_the_plugin_costs_a_run_nothing_that_shows() -> None:
    program = "import sys, pytest; before = set(sys.modules); import stargraph.testing._pytest; import json;"
    program += "print(json.dumps(sorted(name for name in set(sys.modules) - before if name != 'json')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    loaded = {name for name in json.loads(done.stdout) if not name.startswith("json.")}
    assert loaded <= {"stargraph", "stargraph.testing", "stargraph.testing._lazy", "stargraph.testing._pytest"}


def test_the_names_are_there() -> None:
    import stargraph.testing

    assert all(getattr(stargraph.testing, name) for name in stargraph.testing.__all__)
    with pytest.raises(AttributeError):
        stargraph.testing.nothing  # type: ignore[attr-defined]  # noqa: B018
    assert charge.__module__ == tested_nodes.__name__


def test_waits_take_no_time() -> None:
    builder = GraphBuilder("g").state(n=(int, 0))
    builder.add_node("month", "wait", seconds=30 * 24 * 3600)
    builder.node(tested_nodes.naps)
    store = MemoryCheckpointer()
    result = run_graph(Graph(builder), checkpointer=store, run_id="r")
    assert (result.status, result.state) == ("done", {"n": 1})


async def test_a_fake_context_keeps_what_a_node_waits_for_and_emits() -> None:
    context = FakeContext()
    assert await tested_nodes.naps({"n": 0}, context) == {"n": 1}
    assert (context.waits, context.emitted) == ([3600.0], ["awake"])
