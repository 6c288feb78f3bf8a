"""A value of a wrong type is refused by the name of its argument: no error comes from deep inside.

Each public callable that a program passes something to gets each of `VALUES` for each of its arguments. What is no
refusal must be taken; whether it should be is for the other tests.
"""

from __future__ import annotations

import inspect
import io
import linecache
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from langgraph.checkpoint.base import empty_checkpoint

from stargraph.audit import anchor, verify, verify_run
from stargraph.checkpoint.codec import Cipher, Keyring
from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.protocol import RunFilters
from stargraph.checkpoint.registry import find_secrets, open_checkpointer, redact, redact_text
from stargraph.checkpoint.s3 import S3Checkpointer
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.dask import Fleet
from stargraph.errors import StargraphError
from stargraph.graph import Graph, GraphBuilder, Run, cancel, load_document, pause, requeue, respond
from stargraph.ir import (
    canonical_type,
    definition_of,
    graph_hash,
    parse_graph,
    parse_type,
    prompt_fields,
    read_graph,
    validate_value,
)
from stargraph.langgraph import StargraphSaver
from stargraph.otel import OpenTelemetryMiddleware, observe_worker
from stargraph.replay import Overlay, compare_runs, diff_runs, open_fork
from stargraph.testing import FakeContext, crash_after, recorded_calls, run_graph
from stargraph.transfer import copy_runs, delete_runs, export_runs, import_runs, move_runs
from stargraph.ui import create_app
from stargraph.worker import Scheduler, Worker, damaged_runs, living_processes, orphaned_runs, stranded_runs

VALUES: Final[tuple[Any, ...]] = (
    *(None, 5, -1, 10**40, 1e300, float("nan"), True, "", "zz zz", "a\0b", b"zz", Path("zz/zz.yaml")),
    *([], ["a"], [None], {"a": 1}, {1: object()}, {1}, object(), datetime(2026, 1, 1, tzinfo=UTC)),
)

graph = Graph(GraphBuilder("g").add_node("a", "interrupt", prompt="ok?", into="answer"))
URL = "sqlite:///run.sqlite"

Call = Callable[..., Any]
CALLS: Final[dict[str, tuple[Call, str]]] = {
    "Graph": (lambda _, __, **given: Graph(GraphBuilder("g").add_node("a", "echo"), **given), "folder integrity_key"),
    "Graph ir": (lambda _, __, ir: Graph(ir), "ir"),
    "Graph.load": (lambda _, __, target: Graph.load(target), "target"),
    "Graph.from_file": (lambda _, __, path: Graph.from_file(path), "path"),
    "load_document": (lambda _, __, target: load_document(target), "target"),
    "read_graph": (lambda _, __, path: read_graph(path), "path"),
    "parse_graph": (lambda _, __, text: parse_graph(text), "text"),
    "answer_type": (lambda _, __, question: graph.answer_type(question), "question"),
    "enqueue_many": (lambda store, _, runs: graph.enqueue_many(store, runs), "runs"),
    "enqueue_many of one": (lambda store, _, run: graph.enqueue_many(store, [run]), "run"),
    "rule": (lambda _, __, **given: GraphBuilder("g").rule("r", **{"node": "a"} | given), "node"),
    "rule then": (lambda _, __, then: GraphBuilder("g").rule("r", "a", then), "then"),
    "migrate": (
        lambda _, __, **given: GraphBuilder("g").migrate(**{"graph_hash": "0" * 64} | given),
        "graph_hash rename",
    ),
    "Run.resume": (lambda _, run, **given: run.resume(**given), "run_id"),
    "Run.check": (lambda _, run, **given: run.check(**given), "run_id"),
    "Run.fork": (lambda _, run, **given: run.fork(**{"step": 0} | given), "step overlay run_id metadata accept"),
    "Run.fork overlay": (
        lambda _, run, **given: run.fork(0, Overlay(**given)),
        "state outputs answers drop_calls graph",
    ),
    "respond": (lambda store, _, **given: respond(store, **RESPONSE | given), "run_id interrupt_id keyring"),
    "cancel": (lambda store, _, **given: cancel(store, **STOP | given), "run_id keyring"),
    "pause": (lambda store, _, **given: pause(store, **STOP | given), "run_id keyring"),
    "requeue": (lambda store, _, **given: requeue(store, **{"run_id": "r"} | given), "run_id queue priority keyring"),
    "open_fork": (
        lambda store, _, **given: open_fork(graph._plan, store, **FORK | given),
        "parent_run_id step overlay keyring",
    ),
    "compare_runs": (
        lambda store, _, **given: compare_runs(store, **{"a": "r", "b": "r"} | given),
        "a b keyring limit",
    ),
    "diff_runs": (lambda _, run, **given: diff_runs(**{"a": run, "b": run} | given), "a b limit"),
    "Overlay.from_file": (lambda _, __, path: Overlay.from_file(path), "path"),
    "anchor": (lambda store, _, **given: anchor(store, **given), "keyring after progress"),
    "verify": (lambda store, _, **given: verify(store, **given), "run_ids keyring anchor progress on_run"),
    "verify_run": (lambda store, _, **given: verify_run(store, **{"run_id": "r"} | given), "run_id keyring"),
    "copy_runs": (
        lambda store, _, **given: copy_runs(store, MemoryCheckpointer(), **given),
        "run_ids since keyring",
    ),
    "move_runs": (lambda store, _, run_ids: move_runs(store, MemoryCheckpointer(), run_ids), "run_ids"),
    "delete_runs": (lambda store, _, **given: delete_runs(store, **given), "run_ids metadata"),
    "export_runs": (
        lambda store, _, **given: export_runs(store, **{"stream": io.BytesIO()} | given),
        "stream run_ids since keyring progress",
    ),
    "import_runs": (lambda store, _, **given: import_runs(store, **given), "stream"),
    "Worker": (lambda store, _, **given: Worker(store, graph, **given), "queues retries accept middleware listen"),
    "Worker store": (lambda _, __, **given: Worker(graphs=graph, **given), "store"),
    "Worker graphs": (lambda store, _, **given: Worker(store, **given), "graphs"),
    "Scheduler": (lambda _, __, graphs: Scheduler(graphs), "graphs"),
    "damaged_runs": (lambda _, __, store: damaged_runs(store), "store"),
    "living_processes": (lambda _, __, store: living_processes(store), "store"),
    "orphaned_runs": (lambda _, __, store: orphaned_runs(store), "store"),
    "stranded_runs": (lambda held, _, **given: stranded_runs(**{"store": held} | given), "store after"),
    "open_checkpointer": (
        lambda _, __, **given: open_checkpointer(**{"url": URL} | given),
        "url read_only encryption_keys",
    ),
    "Keyring": (lambda _, __, **given: Keyring(**KEYS | given), "keys allow_unsealed"),
    "Keyring.parse": (lambda _, __, text: Keyring.parse(text), "text"),
    "Cipher": (lambda _, __, **given: Cipher(**KEYS | given), "keys allow_plain"),
    "Cipher.parse": (lambda _, __, text: Cipher.parse(text), "text"),
    "SQLiteCheckpointer": (
        lambda _, __, **given: SQLiteCheckpointer(**{"path": "run.sqlite"} | given),
        "path synchronous busy_timeout allow_network_filesystem read_only encryption latest_cache_bytes",
    ),
    "PostgresCheckpointer": (
        lambda _, __, **given: PostgresCheckpointer(**{"dsn": "postgresql://h/d"} | given),
        "dsn schema read_only max_connections timeout group_commit prepared_statements allow_data_loss encryption",
    ),
    "S3Checkpointer": (
        lambda _, __, **given: S3Checkpointer(**{"url": "s3://bucket/prefix"} | given),
        "url path_style checksums connect_timeout deadline read_only encryption",
    ),
    "MemoryCheckpointer": (lambda _, __, **given: MemoryCheckpointer(**given), "store read_only encryption"),
    **{
        f"{driver.__name__}.from_url": (lambda _, __, url, driver=driver: driver.from_url(url), "url")
        for driver in (SQLiteCheckpointer, PostgresCheckpointer, S3Checkpointer, MemoryCheckpointer)
    },
    "read_latest": (lambda store, _, run_id: store.read_latest(run_id), "run_id"),
    "read_at_step": (lambda store, _, **given: store.read_at_step(**{"run_id": "r", "step": 0} | given), "run_id step"),
    "read_at_key": (lambda store, _, **given: store.read_at_key(**{"run_id": "r", "key": "k"} | given), "run_id key"),
    "delete_run": (lambda store, _, run_id: store.delete_run(run_id), "run_id"),
    "search": (lambda store, _, **given: store.search(**given), " ".join(RunFilters.__annotations__)),
    "prune": (
        lambda store, _, **given: store.prune(**{"older_than": datetime.now(UTC)} | given),
        "older_than statuses",
    ),
    "claimable": (lambda store, _, **given: store.claimable(**{"process_id": "p", "queues": ()} | given), "queues"),
    "set_limits": (lambda store, _, limits: store.set_limits("q", limits), "limits"),
    "beat": (lambda store, _, process: store.beat(process), "process"),
    "leave": (lambda store, _, process_id: store.leave(process_id), "process_id"),
    "put_schedule": (lambda store, _, schedule: store.put_schedule(schedule), "schedule"),
    "write": (lambda store, _, checkpoint: store.write(checkpoint), "checkpoint"),
    "write_many": (lambda store, _, checkpoints: store.write_many(checkpoints), "checkpoints"),
    "redact": (lambda _, __, url: redact(url), "url"),
    "redact_text": (lambda _, __, text: redact_text(text), "text"),
    "find_secrets": (lambda _, __, text: find_secrets(text), "text"),
    "parse_type": (lambda _, __, text: parse_type(text), "text"),
    "canonical_type": (lambda _, __, text: canonical_type(text), "text"),
    "validate_value": (lambda _, __, text: validate_value(text, 1, "state.n"), "text"),
    "prompt_fields": (lambda _, __, prompt: prompt_fields(prompt), "prompt"),
    "definition_of": (lambda _, __, document: definition_of(document), "document"),
    "graph_hash": (lambda _, __, definition: graph_hash(definition), "definition"),
    "OpenTelemetryMiddleware": (
        lambda _, __, **given: OpenTelemetryMiddleware(**given),
        "tracer_provider meter_provider store_spans gen_ai",
    ),
    "observe_worker": (
        lambda store, _, **given: observe_worker(**{"worker": Worker(store, graph)} | given),
        "worker meter_provider",
    ),
    "StargraphSaver.aget_tuple": (lambda store, _, config: StargraphSaver(store).aget_tuple(config), "config"),
    "StargraphSaver.alist": (
        lambda store, _, **given: anext(StargraphSaver(store).alist(**{"config": None} | given), None),
        "config before",
    ),
    "run_graph": (lambda _, __, **given: run_graph(**{"graph": graph} | given), "graph checkpointer middleware calls"),
    "recorded_calls": (lambda _, __, store: recorded_calls(store, "r"), "store"),
    "crash_after": (lambda _, __, step: crash_after(step), "step"),
    "FakeContext": (lambda _, __, **given: FakeContext(**given), "answers calls now node attempt metadata"),
    "StargraphSaver": (lambda store, _, serde: StargraphSaver(store, serde), "serde"),
    "create_app": (lambda held, _, **given: create_app(**{"store": held} | given), "store write graphs auth hosts"),
    "Fleet": (lambda _, __, **given: Fleet(**FLEET | given), "client store_url"),
}
STOP: Final[dict[str, Any]] = {"run_id": "r", "grace": 0}
RESPONSE: Final[dict[str, Any]] = {"run_id": "r", "interrupt_id": "a", "value": 1}
FORK: Final[dict[str, Any]] = {"parent_run_id": "r", "step": 0, "overlay": Overlay(), "run_id": "f"}
KEYS: Final[dict[str, Any]] = {"keys": {"a": b"x" * 32}}
FLEET: Final[dict[str, Any]] = {"client": SimpleNamespace(asynchronous=False), "store_url": URL}


def arguments() -> list[Any]:
    named = [(name, call, argument) for name, (call, arguments) in CALLS.items() for argument in arguments.split()]
    return [pytest.param(call, argument, id=f"{name} {argument}") for name, call, argument in named]


@pytest.mark.parametrize(("call", "argument"), arguments())
async def test_no_value_makes_an_error_from_inside(
    call: Call, argument: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in VALUES:
        async with MemoryCheckpointer() as store:
            run = await graph.start(checkpointer=store, run_id="r")
            await run.start()
            error = await _error(call, store, run, argument, value)
            if error is not None and not isinstance(error, StargraphError):
                last = traceback.extract_tb(error.__traceback__)[-1]
                line = linecache.getline(last.filename, last.lineno or 0).strip()
                is_refusal = isinstance(error, (TypeError, ValueError)) and "stargraph" in last.filename
                assert is_refusal, f"{argument}={value!r}: {error!r} ({last.filename}: {line})"
                assert line.startswith("raise "), f"{argument}={value!r}: {error!r} ({last.filename}: {line})"


async def _error(call: Call, store: MemoryCheckpointer, run: Run, argument: str, value: object) -> Exception | None:
    try:
        found = call(store, run, **{argument: value})
        if inspect.isawaitable(found):
            await found
    except Exception as error:
        return error
    return None


async def test_a_wrapper_that_passes_methods_on_is_a_checkpointer() -> None:
    """Python 3.12 and later do not look at `__getattr__` to tell whether an object fits a protocol."""

    class Wrapper:
        def __init__(self, store: MemoryCheckpointer) -> None:
            self._store = store

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

    wrapper: Any = Wrapper(MemoryCheckpointer())
    await wrapper.bootstrap()
    assert (await (await graph.start(checkpointer=wrapper)).start()).status == "awaiting_input"


def test_a_graph_is_loaded_by_its_path_too(tmp_path: Path) -> None:
    file = tmp_path / "g.yaml"
    file.write_text("id: loaded\nnodes:\n- {id: a, kind: echo}\n")
    assert Graph.load(file).id == load_document(file).id == "loaded"


def test_no_secret_is_shown() -> None:
    with pytest.raises(TypeError, match="encryption is of type str: give a Cipher") as caught:
        SQLiteCheckpointer("run.sqlite", encryption="k:a-secret-of-many-bytes")  # type: ignore[arg-type]
    assert "a-secret" not in str(caught.value)


class OnlyWrites:
    """Less than a file has."""

    def write(self, data: bytes) -> None:
        raise AssertionError("refused before anything is written")

    read = write


class Temporary(OnlyWrites):
    """A file in text mode as `tempfile` makes one: of a class of its own."""

    encoding = "utf-8"
    flush = readline = seekable = OnlyWrites.write


@pytest.mark.parametrize(
    "stream",
    [io.StringIO(), "export.jsonl", Path("export.jsonl"), OnlyWrites(), Temporary()],
    ids=["text", "name", "path", "half", "temporary"],
)
async def test_an_export_goes_to_a_file_in_binary_mode(stream: Any) -> None:
    async with MemoryCheckpointer() as store:
        with pytest.raises(TypeError, match=r"^stream is of type \w+: give a file in binary mode"):
            await export_runs(store, stream)
        with pytest.raises(TypeError, match=r"^stream is of type \w+: give a file in binary mode"):
            await import_runs(store, stream)


@pytest.mark.parametrize("config", [{"configurable": {}}, {"configurable": {"thread_id": None}}, {}], ids=repr)
async def test_a_thread_without_an_id_is_refused(config: Any) -> None:
    """A thread that is None by mistake would be one that all such mistakes share."""
    async with MemoryCheckpointer() as store:
        saver = StargraphSaver(store)
        with pytest.raises(
            ValueError, match=r"^config names no thread: give \{'configurable': \{'thread_id': '…'\}\}$"
        ):
            await saver.aget_tuple(config)
        with pytest.raises(ValueError, match=r"^config names no thread"):
            await saver.aput(config, empty_checkpoint(), {}, {})
        assert await store.list_runs() == []


@pytest.mark.parametrize("driver", ["memory", "sqlite"])
async def test_an_iterator_of_steps_is_written_to_its_end(driver: str, tmp_path: Path) -> None:
    made = MemoryCheckpointer() if driver == "memory" else SQLiteCheckpointer(tmp_path / "run.sqlite")
    async with MemoryCheckpointer() as store, made as other:
        run = await graph.start(checkpointer=store, run_id="r")
        await run.start()
        steps = [step async for step in store.history("r")]
        await other.write_many(iter(steps))  # type: ignore[arg-type]
        assert [step async for step in other.history("r")] == steps
