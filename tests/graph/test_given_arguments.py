"""What a program gives is refused with what to give instead; a store is not shown: it may hold a password."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from stargraph.audit import anchor, verify, verify_run
from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.errors import CheckpointError, GraphError, StateError
from stargraph.graph import Graph, GraphBuilder, Middleware, Run, RunRequest, cancel, pause, requeue, respond
from stargraph.replay import Overlay, compare_runs, open_fork, replay
from stargraph.transfer import copy_runs, delete_runs, export_runs, import_runs, move_runs
from stargraph.worker import RunRetries, Worker

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
    "anchor": anchor,
    "verify": verify,
    "verify_run": lambda store: verify_run(store, "r"),
    "copy_runs from": lambda store: copy_runs(store, MemoryCheckpointer()),
    "copy_runs to": lambda store: copy_runs(MemoryCheckpointer(), store),
    "move_runs from": lambda store: move_runs(store, MemoryCheckpointer(), ["r"]),
    "move_runs to": lambda store: move_runs(MemoryCheckpointer(), store, ["r"]),
    "delete_runs": lambda store: delete_runs(store, ["r"]),
    "export_runs": lambda store: export_runs(store, BytesIO()),
    "import_runs": lambda store: import_runs(store, BytesIO()),
    "replay": lambda store: replay(graph._plan, store, "r"),
    "open_fork": lambda store: open_fork(graph._plan, store, "r", 0, Overlay(), run_id="f"),
    "compare_runs": lambda store: compare_runs(store, "a", "b"),
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


def test_a_worker_takes_no_class_of_stores() -> None:
    with pytest.raises(TypeError, match="store is the class MemoryCheckpointer: pass an instance of it"):
        Worker(MemoryCheckpointer, graph)  # type: ignore[arg-type]


def test_a_worker_shows_no_settings() -> None:
    with pytest.raises(TypeError, match="store is of type dict: give the address") as caught:
        Worker({"dsn": URL}, graph)  # type: ignore[arg-type]
    assert "a-password" not in str(caught.value)


@dataclass
class Order:
    n: int = 0


@pytest.mark.parametrize("given", [Order(3), [1], "n", 0], ids=["object", "list", "text", "zero"])
async def test_inputs_that_are_no_dict_are_refused(given: Any) -> None:
    store = MemoryCheckpointer()
    await store.bootstrap()
    for use in (graph.start(checkpointer=store, inputs=given), graph.enqueue(store, given)):
        with pytest.raises(StateError, match=f"inputs is of type {type(given).__name__}: give a dict") as caught:
            await use
        assert caught.value.reason == "wrong-type"
    assert await store.list_runs() == []


@pytest.mark.parametrize("run_id", ["", 5, uuid.UUID(int=7)], ids=["empty", "number", "uuid"])
async def test_a_run_id_that_is_none_is_refused_and_never_made_up(run_id: Any) -> None:
    store = MemoryCheckpointer()
    await store.bootstrap()
    uses = (
        graph.start(checkpointer=store, run_id=run_id),
        graph.start_or_resume(checkpointer=store, run_id=run_id),
        graph.enqueue(store, run_id=run_id),
        graph.enqueue_many(store, [RunRequest(run_id=run_id)]),
        respond(store, run_id, "q", 1),
    )
    for use in uses:
        with pytest.raises(CheckpointError, match=r"cannot be a run id|holds no run") as caught:
            await use
        assert caught.value.reason in ("invalid-run-id", "run-not-found")
    run = await graph.start(checkpointer=store, run_id="r")
    await run.start()
    for again in (run.resume(run_id), run.check(run_id), run.fork(0, run_id=run_id)):
        with pytest.raises(CheckpointError):
            await again
    assert [known.run_id for known in await store.list_runs()] == ["r"]


@pytest.mark.parametrize("metadata", ["team", ["team"], {"attempt": 1}, {1: "a"}], ids=repr)
async def test_metadata_that_is_no_dict_of_texts_is_refused(metadata: Any) -> None:
    with pytest.raises(TypeError, match=r"^metadata .*: give "):
        await graph.start(checkpointer=MemoryCheckpointer(), metadata=metadata)
    with pytest.raises(TypeError, match=r"^metadata .*: give "):
        await graph.enqueue(MemoryCheckpointer(), metadata=metadata)


async def test_an_executor_is_an_executor() -> None:
    with pytest.raises(TypeError, match=r"executor is 5: pass an instance of concurrent\.futures\.Executor"):
        await graph.start(checkpointer=MemoryCheckpointer(), executor=5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given", [None, Middleware(), iter([Middleware()]), {Middleware()}], ids=["None", "one", "iterator", "set"]
)
async def test_middleware_is_a_list(given: Any) -> None:
    with pytest.raises(TypeError, match=r"^middleware is .*: give a list of instances of"):
        await graph.start(checkpointer=MemoryCheckpointer(), middleware=given)


@pytest.mark.parametrize("watch", ["2", None, -1, float("nan")], ids=repr)
async def test_watch_is_a_number_of_seconds(watch: Any) -> None:
    with pytest.raises(ValueError, match=r"^watch is .*: give seconds"):
        await graph.start(checkpointer=MemoryCheckpointer(), watch=watch)


RUNS: dict[str, Callable[[MemoryCheckpointer, Any], Any]] = {
    "copy_runs": lambda store, named: copy_runs(store, MemoryCheckpointer(), run_ids=named),
    "move_runs": lambda store, named: move_runs(store, MemoryCheckpointer(), named),
    "delete_runs": delete_runs,
    "export_runs": lambda store, named: export_runs(store, BytesIO(), run_ids=named),
    "verify": lambda store, named: verify(store, run_ids=named),
}


@pytest.mark.parametrize("use", RUNS.values(), ids=RUNS)
async def test_the_letters_of_one_id_are_no_ids(use: Callable[[MemoryCheckpointer, Any], Any]) -> None:
    store = MemoryCheckpointer()
    await store.bootstrap()
    for run_id in "ab":
        await (await graph.start(checkpointer=store, run_id=run_id)).start()
    with pytest.raises(TypeError, match=r"^run_ids is 'ab': give a list of ids, as in \['ab'\]$"):
        await use(store, "ab")
    with pytest.raises(TypeError, match=r"^run_ids holds 5: give ids, which are texts$"):
        await use(store, ["a", 5])
    assert {run.run_id for run in await store.list_runs()} == {"a", "b"}


@pytest.mark.parametrize("accept", ["graph", ("graphs",), None, 5], ids=repr)
async def test_what_is_accepted_is_named_in_a_tuple(accept: Any) -> None:
    store = MemoryCheckpointer()
    await store.bootstrap()
    run = await graph.start(checkpointer=store, run_id="r")
    await run.start()
    uses: tuple[Callable[[], Any], ...] = (
        lambda: run.resume(accept=accept),
        lambda: run.check(accept=accept),
        lambda: run.replay(accept=accept),
        lambda: run.fork(0, accept=accept),
    )
    for use in uses:
        with pytest.raises(ValueError, match=r"^accept (is|holds) "):
            await use()
    with pytest.raises(ValueError, match=r"^accept (is|holds) "):
        Worker(store, graph, accept=accept)


def test_a_worker_accepts_what_an_iterator_names() -> None:
    at_work = Worker(MemoryCheckpointer(), graph, accept=iter(["runtime"]))  # type: ignore[arg-type]
    assert at_work._versions._accept == at_work._taken._accept == ("runtime",)


@pytest.mark.parametrize("queues", [[5], ["default", ""], ["a b"]], ids=repr)
def test_a_worker_takes_no_queue_that_none_can_be(queues: Any) -> None:
    with pytest.raises(ValueError, match=r"^queues holds .*, which cannot name a queue$"):
        Worker(MemoryCheckpointer(), graph, queues=queues)


def test_a_name_is_not_a_node() -> None:
    builder = GraphBuilder("g")
    with pytest.raises(GraphError) as caught:
        builder.node("first")(len)  # type: ignore[call-overload]
    assert caught.value.message == "'first' is not a function"
    assert "@builder.node(id=…)" in (caught.value.hint or "")


def test_a_builder_without_an_id_has_a_repr() -> None:
    assert repr(GraphBuilder(None)) == "GraphBuilder(None, 0 nodes)"  # type: ignore[call-overload]


NOT_SECONDS = ("5m", True, -1, float("nan"), timedelta(seconds=1))
SECONDS: dict[str, Callable[[MemoryCheckpointer, Run[Any], Any], Any]] = {
    "only_if_idle": lambda _, run, given: run.resume(only_if_idle=given),
    "grace of Run.cancel": lambda _, run, given: run.cancel(grace=given),
    "grace of Run.pause": lambda _, run, given: run.pause(grace=given),
    "grace of cancel": lambda store, _, given: cancel(store, "r", grace=given),
    "grace of pause": lambda store, _, given: pause(store, "r", grace=given),
    "silent_after": lambda store, _, given: Worker(store, graph, silent_after=given),
    "poll": lambda store, _, given: Worker(store, graph, poll=given),
    "grace of Worker": lambda store, _, given: Worker(store, graph, grace=given),
    "initial_delay": lambda _, __, given: RunRetries(initial_delay=given),
    "max_delay": lambda _, __, given: RunRetries(max_delay=given),
}
COUNTS: dict[str, Callable[[MemoryCheckpointer, Run[Any], Any], Any]] = {
    "max_resumes": lambda _, run, given: run.resume(max_resumes=given),
    "concurrency": lambda store, _, given: Worker(store, graph, concurrency=given),
    "isolate_after": lambda store, _, given: Worker(store, graph, isolate_after=given),
    "poison_after": lambda store, _, given: Worker(store, graph, poison_after=given),
    "attempts": lambda _, __, given: RunRetries(attempts=given),
}


async def _refused(use: Callable[[MemoryCheckpointer, Run[Any], Any], Any], given: object, message: str) -> None:
    """A run that waits for its answer stays what it is, whatever is refused."""
    store = MemoryCheckpointer()
    await store.bootstrap()
    asking = Graph(GraphBuilder("g").add_node("a", "interrupt", prompt="ok?", into="answer"))
    run = await asking.start(checkpointer=store, run_id="r")
    before = await run.start()

    async def used() -> None:
        outcome = use(store, run, given)
        if inspect.isawaitable(outcome):
            await outcome

    with pytest.raises(ValueError, match=message):
        await used()
    assert (before.status, (await run.refresh()).last_step) == ("awaiting_input", before.last_step)


@pytest.mark.parametrize("use", SECONDS.values(), ids=SECONDS)
@pytest.mark.parametrize("given", NOT_SECONDS, ids=repr)
async def test_seconds_are_a_number_of_them(use: Callable[..., Any], given: Any) -> None:
    await _refused(use, given, r"^\w+ is .*: give seconds, ")


@pytest.mark.parametrize("use", COUNTS.values(), ids=COUNTS)
@pytest.mark.parametrize("given", ["3", True, 0, -1, 1.5], ids=repr)
async def test_counts_are_whole_numbers(use: Callable[..., Any], given: Any) -> None:
    await _refused(use, given, r"^\w+ is .*: give \d or more(, as an int)?$")


@pytest.mark.parametrize(
    ("use", "given", "message"),
    [
        (lambda run, given: run.resume(only_at_step=given), "1", "^only_at_step is '1': give 0 or more$"),
        (lambda run, given: run.resume(as_of=given), 5, "^as_of is 5: give a datetime with its offset"),
        (
            lambda run, given: run.resume(as_of=given),
            datetime.fromisoformat("2026-01-01"),
            "^as_of is .*: give a datetime with its",
        ),
    ],
    ids=["text", "number", "naive"],
)
async def test_what_a_worker_gives_to_a_resume_is_checked_too(
    use: Callable[[Run[Any], Any], Any], given: Any, message: str
) -> None:
    await _refused(lambda _, run, each: use(run, each), given, message)


@pytest.mark.parametrize("listen", ["9464", 9464, "h:p", ("h", "9464"), ("h", 65536), ("h", True), ("h",)], ids=repr)
def test_a_worker_listens_on_a_host_and_a_port(listen: Any) -> None:
    with pytest.raises(ValueError, match=r"^listen is .*: give a tuple of host and port"):
        Worker(MemoryCheckpointer(), graph, listen=listen)


def test_a_worker_is_not_given_a_number_of_retries() -> None:
    with pytest.raises(TypeError, match=r"^retries is 3: give RunRetries, as in RunRetries\(attempts=3\)$"):
        Worker(MemoryCheckpointer(), graph, retries=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("graphs", [None, 5, GraphBuilder("g"), [graph, GraphBuilder("h")]], ids=str)
def test_a_worker_takes_graphs_and_names_of_graphs(graphs: Any) -> None:
    with pytest.raises(TypeError, match=r"^graphs holds .*: give a Graph, as in Graph\(builder\), or the name of one$"):
        Worker(MemoryCheckpointer(), graphs)


@pytest.mark.parametrize(
    "entry", [{"not_before": 5}, {"not_before": 30.5}, {"not_before": timedelta(hours=1)}], ids=str
)
async def test_a_number_is_no_time_to_begin_at(entry: dict[str, Any]) -> None:
    await _refused_entry(entry, r"not_before .*: this is not a datetime")


@pytest.mark.parametrize("entry", [{"priority": "3"}, {"priority": True}, {"priority": 1.0}], ids=str)
async def test_a_priority_is_an_integer(entry: dict[str, Any]) -> None:
    await _refused_entry(entry, r"priority .*: this is not an integer")


async def _refused_entry(entry: dict[str, Any], message: str) -> None:
    store = MemoryCheckpointer()
    await store.bootstrap()
    await graph.enqueue(store, run_id="r")
    uses = (
        graph.enqueue(store, **entry),
        graph.enqueue_many(store, [RunRequest(**entry)]),
        requeue(store, "r", **entry),
    )
    for use in uses:
        with pytest.raises(CheckpointError, match=message) as caught:
            await use
        assert caught.value.reason == "invalid-queue-entry"
    assert [(known.run_id, known.last_step) for known in await store.list_runs()] == [("r", 0)]


@pytest.mark.parametrize("question", [None, 5, ("q",)], ids=str)
async def test_a_question_is_one_or_its_id(question: Any) -> None:
    store = MemoryCheckpointer()
    await store.bootstrap()
    asking = Graph(GraphBuilder("g").add_node("a", "interrupt", prompt="ok?", into="answer"))
    run = await asking.start(checkpointer=store, run_id="r")
    (asked,) = (await run.start()).questions
    for use in (run.answer(question, 1), run.answer(question, 1), respond(store, "r", question, 1)):
        with pytest.raises(TypeError, match="is no question: give one of the questions of a run, or its id"):
            await use
    assert (await respond(store, "r", asked, 1)).status == "running"


@pytest.mark.parametrize("given", [True, 3.0, Fraction(3)], ids=repr)
async def test_a_number_of_another_type_is_told_what_is_taken(given: Any) -> None:
    async with MemoryCheckpointer() as store:
        with pytest.raises(ValueError, match=r"^limit is .*: give 0 or more, as an int$"):
            await store.list_runs(limit=given)
        with pytest.raises(ValueError, match=r"^concurrency is .*: give 1 or more, as an int$"):
            Worker(store, graph, concurrency=given)


@pytest.mark.parametrize("given", [True, Fraction(3)], ids=repr)
def test_seconds_of_another_type_are_told_what_is_taken(given: Any) -> None:
    with pytest.raises(ValueError, match=r"^grace is .*: give seconds, 0 or more, as an int or a float$"):
        Worker(MemoryCheckpointer(), graph, grace=given)
