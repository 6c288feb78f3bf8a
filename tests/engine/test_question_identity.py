"""An answer reaches the question that it was given to, and no question is lost."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from support import nodes
from support.graphs import graph
from support.memory import MemoryCheckpointer

from stargraph.errors import StateError
from stargraph.graph import Context, Run, respond

ASYNC = """
state_schema: {x: {type: any, default: null}}
nodes: [{id: ask, kind: "support.nodes:awaits_x"}]
"""
SYNC = """
state_schema: {x: {type: any, default: null}}
nodes: [{id: ask, kind: "support.nodes:sync_x"}]
"""


async def begin(store: MemoryCheckpointer, body: Callable[[Context], Any], text: str = ASYNC) -> Run:
    nodes.before = body
    run = await graph(text).start(checkpointer=store, run_id="r")
    await run.start()
    return run


async def answer_all(run: Run, store: MemoryCheckpointer, limit: int = 9) -> list[str]:
    """Answer each open question by its own prompt, one at a time; return the prompts in their order."""
    asked = []
    while store.runs["r"][-1].interrupts and limit:
        limit -= 1
        question = store.runs["r"][-1].interrupts[0]
        asked.append(question.prompt)
        await run.answer(question.id, f"to {question.prompt}")
        await run.resume()
    return asked


def failure(store: MemoryCheckpointer) -> tuple[str, str | None]:
    last = store.runs["r"][-1]
    return last.status, last.error.reason if last.error else None


async def test_each_answer_reaches_its_own_question_whatever_the_order(store: MemoryCheckpointer) -> None:
    tries: list[asyncio.Event] = []
    """Whether the first of the two is answered, in each execution."""

    async def both(ctx: Context) -> Any:
        tries.append(is_answered := asyncio.Event())

        async def ask(prompt: str, is_first: bool) -> Any:
            if not is_first:
                await is_answered.wait()
            answer = ctx.interrupt(prompt)
            is_answered.set()
            return answer

        return await asyncio.gather(ask("Pay?", len(tries) != 1), ask("Mail?", len(tries) == 1))

    run = await begin(store, both)
    assert await answer_all(run, store) == ["Mail?", "Pay?"]
    assert run.state == {"x": ["to Pay?", "to Mail?"]}


async def test_a_question_whose_text_has_changed_is_asked_anew(store: MemoryCheckpointer) -> None:
    sums = iter([900, 9000, 9000])
    run = await begin(store, lambda ctx: ctx.interrupt(f"Pay {next(sums)}?", key="pay"))
    assert await answer_all(run, store) == ["Pay 900?", "Pay 9000?"]
    assert run.state == {"x": "to Pay 9000?"}


async def test_a_question_is_what_its_payload_says_too(store: MemoryCheckpointer) -> None:
    sums = iter([900, 9000, 9000])
    run = await begin(store, lambda ctx: ctx.interrupt("Pay?", {"sum": next(sums)}))
    assert await answer_all(run, store) == ["Pay?", "Pay?"]
    assert [record.interrupts[0].payload for record in store.runs["r"] if record.event == "asked"] == [
        {"sum": 900},
        {"sum": 9000},
    ]


async def test_the_same_question_again_is_another_one(store: MemoryCheckpointer) -> None:
    run = await begin(store, lambda ctx: [ctx.interrupt("More?"), ctx.interrupt("More?")], SYNC)
    first = store.runs["r"][-1].interrupts[0].id
    assert await answer_all(run, store) == ["More?", "More?"]
    assert (run.state, len([record for record in store.runs["r"] if record.event == "asked"])) == (
        {"x": ["to More?", "to More?"]},
        2,
    )
    assert store.runs["r"][-2].interrupts == ()
    assert first.startswith(f"{store.runs['r'][1].task_id}/")


@pytest.mark.parametrize("wrapped", [asyncio.gather, "group"])
async def test_keys_let_a_node_ask_several_things_at_once(store: MemoryCheckpointer, wrapped: Any) -> None:
    async def both(ctx: Context) -> Any:
        async def ask(key: str) -> Any:
            return ctx.interrupt("Sure?", {"of": key}, key=key)

        if wrapped == "group":
            async with asyncio.TaskGroup() as group:
                asking = [group.create_task(ask(key)) for key in "ab"]
            return [each.result() for each in asking]
        return await wrapped(ask("a"), ask("b"))

    run = await begin(store, both)
    first, second = store.runs["r"][-1].interrupts
    assert store.events("r") == ["started", "asked ask"]
    await run.answer(second.id, "B")
    assert (await run.resume()).status == "awaiting_input"
    assert store.runs["r"][-1].interrupts == (first,)
    await run.answer(first.id, "A")
    assert (await run.resume()).status == "done"
    assert run.state == {"x": ["A", "B"]}
    assert not (await run.replay()).differences


async def test_two_at_once_without_keys_are_refused(store: MemoryCheckpointer) -> None:
    async def both(ctx: Context) -> Any:
        async def ask(prompt: str) -> Any:
            return ctx.interrupt(prompt)

        return await asyncio.gather(ask("a?"), ask("b?"))

    run = await begin(store, both)
    assert failure(store) == ("failed", "concurrent-questions")
    assert run.summary is not None
    assert run.summary.error is not None
    assert "'b?'" in run.summary.error.message
    assert "key=" in run.summary.error.message


def bare_except(ctx: Context) -> Any:
    try:
        return ctx.interrupt("q?")
    except BaseException:
        return "swallowed"


def suppressed(ctx: Context) -> Any:
    with contextlib.suppress(BaseException):
        ctx.interrupt("q?")


def turned(ctx: Context) -> Any:
    try:
        ctx.interrupt("q?")
    except BaseException as error:
        raise RuntimeError("something went wrong") from error


def finally_raises(ctx: Context) -> Any:
    try:
        ctx.interrupt("q?")
    finally:
        raise KeyError("cleanup")


def in_a_thread_of_its_own(ctx: Context) -> Any:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(ctx.interrupt, "q?")


def in_a_call(ctx: Context) -> Any:
    def swallow() -> str:
        return str(bare_except(ctx))

    return ctx.call_sync("ask", swallow)


async def collected(ctx: Context) -> Any:
    async def ask() -> Any:
        return ctx.interrupt("q?")

    return [str(each) for each in await asyncio.gather(ask(), return_exceptions=True)]


async def collected_and_taken_for_an_answer(ctx: Context) -> Any:
    async def ask() -> Any:
        return ctx.interrupt("q?")

    answers: Any = await asyncio.gather(ask(), return_exceptions=True)
    return answers[0] + 1


async def collected_and_asked_for_a_part(ctx: Context) -> Any:
    async def ask() -> Any:
        return ctx.interrupt("q?")

    answers: Any = await asyncio.gather(ask(), return_exceptions=True)
    return answers[0].amount


async def waited_for(ctx: Context) -> Any:
    async def ask() -> Any:
        return ctx.interrupt("q?")

    task = asyncio.ensure_future(ask())
    await asyncio.wait({task})
    task.exception()


async def turned_in_a_group(ctx: Context) -> Any:
    async def ask() -> Any:
        try:
            return ctx.interrupt("q?")
        except BaseException as error:
            raise ValueError("no") from error

    async with asyncio.TaskGroup() as group:
        group.create_task(ask())


@pytest.mark.parametrize(
    "body",
    [
        bare_except,
        suppressed,
        turned,
        turned_in_a_group,
        finally_raises,
        in_a_thread_of_its_own,
        in_a_call,
        collected,
        collected_and_taken_for_an_answer,
        collected_and_asked_for_a_part,
        waited_for,
    ],
)
async def test_a_node_that_loses_a_question_fails(store: MemoryCheckpointer, body: Callable[..., Any]) -> None:
    text = ASYNC if asyncio.iscoroutinefunction(body) else SYNC
    run = await begin(store, body, text.replace('x"}', 'x", retry: {attempts: 3, initial_delay: 0}}'))
    assert failure(store) == ("failed", "question-lost")
    assert nodes.LEDGER == ["ask"], "no further attempt can heal it"
    assert not (await run.replay()).differences


@pytest.mark.parametrize("sync", [False, True])
async def test_a_question_in_a_recorded_call_works_and_replays(store: MemoryCheckpointer, sync: bool) -> None:
    def ask_in_call(ctx: Context) -> Any:
        call = ctx.call_sync if sync else ctx.call
        return call("ask", lambda: ctx.interrupt("q?"))

    run = await begin(store, ask_in_call, SYNC if sync else ASYNC)
    assert await answer_all(run, store) == ["q?"]
    assert run.state == {"x": "to q?"}
    assert not (await run.replay()).differences


async def test_an_error_beside_a_question_is_told_and_not_the_question(store: MemoryCheckpointer) -> None:
    async def body(ctx: Context) -> Any:
        async def ask() -> Any:
            return ctx.interrupt("q?")

        async def fail() -> Any:
            raise ValueError("no")

        async with asyncio.TaskGroup() as group:
            group.create_task(ask())
            group.create_task(fail())

    run = await begin(store, body)
    assert run.summary is not None
    assert run.summary.error is not None
    assert (run.summary.status, run.summary.error.type) == ("failed", "ExceptionGroup")
    assert "ValueError: no" in (run.summary.error.traceback or "")


LIVE = """
state_schema: {x: {type: any, default: null}}
nodes: [{id: begin, kind: echo}, {id: ask, kind: "support.nodes:awaits_x"}, {id: work, kind: "support.nodes:step"}]
rules: [{id: both, when: {node: begin}, then: [{kind: parallel, targets: [ask, work], join: end}]}]
"""


async def test_an_open_question_goes_when_its_task_completes(store: MemoryCheckpointer) -> None:
    text = LIVE.replace('work, kind: "support.nodes:step"', 'work, kind: "support.nodes:returns_x"')
    asked, done = asyncio.Event(), asyncio.Event()

    async def body(ctx: Context) -> Any:
        if ctx.node == "work":
            await done.wait()
            return None

        async def ask(key: str) -> Any:
            return ctx.interrupt(f"{key}?", key=key)

        if asked.is_set():
            return ctx.interrupt("a?", key="a")
        asked.set()
        return await asyncio.gather(ask("a"), ask("b"))

    nodes.before = body
    run = await graph(text.replace("}]\nrules", "}, {id: end, kind: echo}]\nrules")).start(
        checkpointer=store, run_id="r"
    )
    work = asyncio.ensure_future(run.start())
    while "asked ask" not in (store.events("r") if "r" in store.runs else []):
        await asyncio.sleep(0.001)
    await run.answer(store.runs["r"][-1].interrupts[0].id, "A")
    while "completed ask" not in store.events("r"):
        await asyncio.sleep(0.001)
    assert store.runs["r"][-1].interrupts == ()
    done.set()
    assert (await work).status == "done"


@pytest.mark.parametrize(("prompt", "key"), [("\udcff", None), ("q?", "\udcff"), (b"q?", None), ("q?", 3)])
async def test_what_is_no_text_is_no_question(store: MemoryCheckpointer, prompt: Any, key: Any) -> None:
    await begin(store, lambda ctx: ctx.interrupt(prompt, key=key))
    assert store.runs["r"][-1].status == "failed"
    assert store.runs["r"][-1].error is not None
    assert store.runs["r"][-1].error.type == "stargraph.errors.StateError"


async def test_a_node_that_asks_is_told_one_time_until_it_completes(store: MemoryCheckpointer) -> None:
    def body(ctx: Context) -> Any:
        shown = ctx.now.isoformat()
        return [ctx.interrupt(f"At {shown}?"), ctx.interrupt(f"Still at {shown}?"), shown]

    run = await begin(store, body, SYNC)
    assert [prompt.partition(" at ")[0][:5] for prompt in await answer_all(run, store)] == ["At 20", "Still"]
    assert run.state is not None
    assert run.state["x"][0] == f"to At {run.state['x'][2]}?"
    assert not (await run.replay()).differences
    fork = await run.fork(2, run_id="f")
    await fork.start()
    (question,) = store.runs["f"][-1].interrupts
    assert question.prompt == f"Still at {run.state['x'][2]}?"


TYPED = """
state_schema: {x: {type: "bool | None", default: null}}
nodes: [{id: ask, kind: "support.nodes:KIND"}]
"""


@pytest.mark.parametrize("kind", ["awaits_x", "sync_x"])
async def test_an_answer_that_its_field_does_not_take_appends_nothing(store: MemoryCheckpointer, kind: str) -> None:
    text = TYPED.replace("KIND", kind)
    run = await begin(store, lambda ctx: ctx.interrupt("Send?", into="x"), text)
    (question,) = run.questions
    assert graph(text).answer_type(question) == bool | None
    length = len(store.runs["r"])
    for wrong in ("maybe", 7, [True]):
        with pytest.raises(StateError, match="the answer to") as refused:
            await run.answer(question, wrong)
        assert refused.value.reason == "wrong-type"
        with pytest.raises(StateError):  # without the graph
            await respond(store, "r", question.id, wrong)
    assert len(store.runs["r"]) == length
    await run.answer(question, True)
    assert ((await run.resume()).status, store.runs["r"][-1].state["x"]) == ("done", True)


async def test_a_question_for_a_field_that_is_not_there_fails_its_node(store: MemoryCheckpointer) -> None:
    await begin(store, lambda ctx: ctx.interrupt("Send?", into="xx"), TYPED.replace("KIND", "sync_x"))
    assert failure(store) == ("failed", "unknown-field")
    error = store.runs["r"][-1].error
    assert error is not None
    assert "'xx'" in error.message
