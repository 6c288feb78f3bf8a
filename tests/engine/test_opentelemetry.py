"""Spans and measurements: what is nested in what, what is linked, and what is never in them."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from support import calling_nodes
from support.graphs import calling, graph
from support.memory import MemoryCheckpointer

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import StoreUnavailableError
from stargraph.graph import Context
from stargraph.otel import TRACEPARENT, OpenTelemetryMiddleware

SECRET = "hunter22"


class Telemetry:
    """Collects spans and measurements in memory."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._provider = TracerProvider()
        self._provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self._meters = MeterProvider([self._reader])
        self.tracer = self._provider.get_tracer("user")

    def middleware(self, **options: Any) -> OpenTelemetryMiddleware:
        return OpenTelemetryMiddleware(tracer_provider=self._provider, meter_provider=self._meters, **options)

    def spans(self, prefix: str = "") -> Sequence[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name.startswith(prefix)]

    def path(self, span: ReadableSpan) -> str:
        """The names from the root to a span."""
        if span.parent is None:
            return span.name
        (above,) = (each for each in self.spans() if each.context.span_id == span.parent.span_id)
        return f"{self.path(above)} > {span.name}"

    def paths(self, prefix: str) -> list[str]:
        return [self.path(span) for span in self.spans(prefix)]

    def points(self, name: str) -> dict[tuple[tuple[str, Any], ...], float]:
        """The value, or the count of a histogram, of one instrument, by attributes."""
        data = self._reader.get_metrics_data()
        return {
            tuple(sorted(point.attributes.items())): getattr(point, "value", None) or point.count
            for of_resource in (data.resource_metrics if data else ())
            for scope in of_resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in cast("Any", metric.data.data_points)
        }

    def measured(self) -> dict[str, float]:
        """The sum, or the count of a histogram, of each instrument."""
        data = self._reader.get_metrics_data()
        found: dict[str, float] = {}
        for of_resource in data.resource_metrics if data else ():
            for scope in of_resource.scope_metrics:
                for metric in scope.metrics:
                    points: Any = metric.data.data_points
                    found[metric.name] = sum(getattr(point, "value", None) or point.count for point in points)
        return found

    def text(self) -> str:
        return "".join(span.to_json() or "" for span in self.spans()) + str(self._reader.get_metrics_data())


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.fixture(autouse=True)
def _nodes(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    calling_nodes.reset()
    with caplog.at_level(logging.WARNING, "opentelemetry"):
        yield
    calling_nodes.reset()
    # "Failed to detach context" is logged, and not raised.
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


PLAYING = """
state_schema: {{x: {{type: any, default: null}}}}
nodes:
  - {{id: a, kind: "support.calling_nodes:{kind}", retry: {{attempts: 2, initial_delay: 0, on: [ConnectionError]}}}}
"""
ASYNC, SYNC = PLAYING.format(kind="play"), PLAYING.format(kind="play_in_a_thread")


@pytest.mark.parametrize("kind", [ASYNC, SYNC], ids=["async", "sync"])
async def test_spans_of_the_user_are_children_of_the_nodes_and_calls(
    store: MemoryCheckpointer, telemetry: Telemetry, kind: str
) -> None:
    def fetch() -> int:
        with telemetry.tracer.start_as_current_span("user's in the call"):
            return 1

    async def script(state: Any, context: Context) -> Any:
        with telemetry.tracer.start_as_current_span("user's in the node"):
            return {"x": await context.call("fetch", fetch)}

    def sync_script(state: Any, context: Context) -> Any:
        with telemetry.tracer.start_as_current_span("user's in the node"):
            return {"x": context.call_sync("fetch", fetch)}

    calling_nodes.script, calling_nodes.sync_script = script, sync_script
    run = await graph(kind).start(checkpointer=store, middleware=[telemetry.middleware()])
    with telemetry.tracer.start_as_current_span("request"):
        assert (await run.start()).status == "done"
    assert telemetry.paths("user's") == [
        "request > run test > node a > user's in the node > call fetch > user's in the call",
        "request > run test > node a > user's in the node",
    ]
    assert telemetry.paths("store write") == [
        "request > run test > store write",
        "request > run test > node a > user's in the node > store write",
        "request > run test > store write",
    ]


async def test_child_runs_are_inside_their_nodes(tmp_path: Path, telemetry: Telemetry) -> None:
    store = MemoryCheckpointer()
    await store.bootstrap()
    run = await calling(tmp_path).start(checkpointer=store, run_id="r", middleware=[telemetry.middleware()])
    result = await run.start()
    while result.status == "awaiting_input":
        for question in result.questions:
            await run.answer(question, "yes")
        result = await run.resume()
    assert result.status == "done"
    assert telemetry.paths("node begin") == ["run calls > node sub > run calls_child > node begin"]
    assert telemetry.measured()["stargraph.steps"] == sum(len(log) for log in store.runs.values())


async def test_a_resume_is_linked_to_the_start(store: MemoryCheckpointer, telemetry: Telemetry) -> None:
    async def script(state: Any, context: Context) -> Any:
        return {"x": context.interrupt("Well?")}

    calling_nodes.script = script
    first = await graph(ASYNC).start(checkpointer=store, run_id="r", middleware=[telemetry.middleware()])
    result = await first.start()
    (started,) = telemetry.spans("run ")
    assert result.metadata[TRACEPARENT][:53] == f"00-{started.context.trace_id:032x}-{started.context.span_id:016x}-"
    (asked,) = telemetry.spans("node a")
    assert asked.attributes is not None
    assert (asked.attributes["stargraph.node.waits"], asked.status.status_code) == (True, trace.StatusCode.UNSET)
    # Another process resumes it.
    second = await graph(ASYNC).start(checkpointer=store, run_id="r", middleware=[telemetry.middleware()])
    await second.answer(result.questions[0], 1)
    assert (await second.resume()).status == "done"
    _, resumed = telemetry.spans("run ")
    assert resumed.context.trace_id != started.context.trace_id
    assert [link.context.span_id for link in resumed.links] == [started.context.span_id]


async def test_failures_are_named_and_never_quoted(store: MemoryCheckpointer, telemetry: Telemetry) -> None:
    def fetch() -> None:
        raise ConnectionError(f"password={SECRET}")

    async def script(state: Any, context: Context) -> None:
        await context.call("fetch", fetch)

    calling_nodes.script = script
    run = await graph(ASYNC).start(
        checkpointer=store, inputs={"x": SECRET}, middleware=[telemetry.middleware(gen_ai=True)]
    )
    assert (await run.start()).status == "failed"
    errors = {
        span.name: span.attributes["error.type"]
        for span in telemetry.spans()
        if span.attributes and span.status.status_code is trace.StatusCode.ERROR
    }
    assert errors == {"call fetch": "ConnectionError", "node a": "call-failed", "run test": "call-failed"}
    assert SECRET not in telemetry.text()
    measured = telemetry.measured()
    assert (measured["stargraph.node.failures"], measured["stargraph.runs"]) == (2, 1), "an attempt and its retry"


@pytest.mark.parametrize("store_spans", [True, False])
async def test_an_operation_of_the_store_that_failed_is_measured_by_its_error(
    store: MemoryCheckpointer, telemetry: Telemetry, store_spans: bool
) -> None:
    def refuse(checkpoint: Checkpoint) -> None:
        if checkpoint.step == 1:
            raise StoreUnavailableError(f"password={SECRET}", reason="unreachable")

    async def script(state: Any, context: Context) -> None:
        return None

    calling_nodes.script = script
    store.before_write = refuse
    # Without a look at what others append, which a run that takes long has now and then.
    middleware = [telemetry.middleware(store_spans=store_spans)]
    run = await graph(ASYNC).start(checkpointer=store, middleware=middleware, watch=0)
    with pytest.raises(StoreUnavailableError):
        await run.start()
    assert telemetry.points("stargraph.store.duration") == {
        (("stargraph.store.operation", "write"),): 1,
        (("error.type", "unreachable"), ("stargraph.store.operation", "write")): 1,
    }
    assert telemetry.points("stargraph.steps") == {(("stargraph.event", "started"), ("stargraph.graph.id", "test")): 1}
    assert SECRET not in telemetry.text()


async def test_a_retry_is_counted(store: MemoryCheckpointer, telemetry: Telemetry) -> None:
    async def script(state: Any, context: Context) -> None:
        if context.attempt == 1:
            raise ConnectionError

    calling_nodes.script = script
    run = await graph(ASYNC).start(checkpointer=store, middleware=[telemetry.middleware()], watch=0)
    assert (await run.start()).status == "done"
    assert [span.attributes["stargraph.attempt"] for span in telemetry.spans("node") if span.attributes] == [1, 2]
    measured = telemetry.measured()
    assert {name: measured[f"stargraph.{name}"] for name in ("node.retries", "node.failures", "steps")} == {
        "node.retries": 1,
        "node.failures": 1,
        "steps": 2,
    }
    assert measured["stargraph.node.duration"] == measured["stargraph.store.duration"] == 2
    assert measured["stargraph.checkpoint.size"] == 2


async def test_generative_ai_is_named_on_request_alone(store: MemoryCheckpointer, telemetry: Telemetry) -> None:
    async def script(state: Any, context: Context) -> None:
        await context.call("search", lambda: None)

    calling_nodes.script = script
    for gen_ai in (False, True):
        middleware = [telemetry.middleware(gen_ai=gen_ai, store_spans=False)]
        await (await graph(ASYNC).start(checkpointer=store, middleware=middleware)).start()
    named = [
        (span.name, {name: value for name, value in (span.attributes or {}).items() if name.startswith("gen_ai.")})
        for span in telemetry.spans()
    ]
    assert named == [
        ("call search", {}),
        ("node a", {}),
        ("run test", {}),
        ("call search", {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"}),
        ("node a", {}),
        ("run test", {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "test"}),
    ]


def test_without_the_extra_the_error_says_what_to_install() -> None:
    program = "import sys; sys.modules['opentelemetry'] = None; import stargraph.otel"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr.splitlines()[-1].endswith("pip install 'stargraph-core[otel]'")


async def test_without_a_provider_nothing_is_stored_or_made(store: MemoryCheckpointer) -> None:
    run = await graph(ASYNC).start(checkpointer=store, middleware=[OpenTelemetryMiddleware()])
    assert (await run.start()).metadata == {}
