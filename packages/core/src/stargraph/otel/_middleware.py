"""The middleware that makes spans and measurements of what a run does."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from importlib.metadata import version
from typing import Final

try:
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider, get_meter
    from opentelemetry.trace import (
        Link,
        Span,
        SpanKind,
        Status,
        StatusCode,
        Tracer,
        TracerProvider,
        get_current_span,
        get_tracer,
    )
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    from opentelemetry.util.types import AttributeValue
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "stargraph.otel needs the API of OpenTelemetry: pip install 'stargraph-core[otel]'", name=missing.name
    ) from missing

from stargraph.checkpoint.codec import state_size
from stargraph.errors import StargraphError
from stargraph.graph import CallInfo, Middleware, NodeInfo, RunInfo, StoreInfo
from stargraph.runtime._given import check_flags, check_type

TRACEPARENT: Final = "traceparent"
"""The tag of a run that names the span of its start, as the W3C's Trace Context writes it."""

_PROPAGATOR: Final = TraceContextTextMapPropagator()


def check_provider(provider: object, name: str, method: str) -> None:
    """Refuse what is no provider of OpenTelemetry, such as the name of one.

    Args:
        name: what the argument is called, for the error.
        method: the method that is called.

    Raises:
        TypeError: it has no such method.
    """
    if provider is not None and not callable(getattr(provider, method, None)):
        check_type(provider, name, (), f"an object with {method}, or None")


class OpenTelemetryMiddleware(Middleware):
    """Makes a span of each execution of a run, each attempt of a node, each call and each operation of the store.

    The spans of a node's own code are children of the node's span. A resume is a trace of its own, or part of the one
    that it is called in, with a link to the span of the run's start, which the run's tag `traceparent` names.

    No span and no measurement holds a value of a state, the result of a call or the text of an exception.

    Args:
        tracer_provider: makes the tracer; the global one if None.
        meter_provider: makes the meter; the global one if None.
        store_spans: whether operations of the store have spans of their own; they are measured in any case.
        gen_ai: whether runs and calls also get the attributes of the conventions for generative AI, as an agent and its
            tools.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        store_spans: bool = True,
        gen_ai: bool = False,
    ) -> None:
        check_flags(store_spans=store_spans, gen_ai=gen_ai)
        check_provider(tracer_provider, "tracer_provider", "get_tracer")
        check_provider(meter_provider, "meter_provider", "get_meter")
        release = version("stargraph-core")
        self._tracer: Tracer = get_tracer("stargraph", release, tracer_provider)
        self._store_spans = store_spans
        self._gen_ai = gen_ai
        meter = get_meter("stargraph", release, meter_provider)
        self._runs = meter.create_counter("stargraph.runs", "{execution}", "Executions of runs that ended, by status.")
        self._steps = meter.create_counter("stargraph.steps", "{step}", "Steps that were appended.")
        self._failures = meter.create_counter("stargraph.node.failures", "{attempt}", "Attempts of nodes that failed.")
        self._retries = meter.create_counter(
            "stargraph.node.retries", "{attempt}", "Attempts of nodes after the first."
        )
        self._node_seconds = meter.create_histogram(
            "stargraph.node.duration", "s", "How long an attempt of a node took."
        )
        self._store_seconds = meter.create_histogram(
            "stargraph.store.duration", "s", "How long an operation of the store took, also one that failed."
        )
        self._sizes = meter.create_histogram(
            "stargraph.checkpoint.size", "By", "The JSON text of the state and the update of a step that was appended."
        )

    @asynccontextmanager
    async def run(self, run: RunInfo) -> AsyncIterator[None]:
        """Make a span of an execution, and remember that of the start in the tags of the run."""
        attributes: dict[str, AttributeValue] = {
            "stargraph.run.id": run.run_id,
            "stargraph.graph.id": run.graph_id,
            "stargraph.run.action": run.action,
        }
        if self._gen_ai:
            attributes |= {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": run.graph_id}
        is_child = run.parent_run_id is not None
        links = [] if is_child else _links(run.metadata)
        with self._span(f"run {run.graph_id}", attributes, links=links) as span:
            if run.action == "start" and not is_child:
                _PROPAGATOR.inject(run.metadata)
            try:
                with _failing(span):
                    yield
            finally:
                status = run.status or "interrupted"
                span.set_attributes({"stargraph.run.status": status, "stargraph.step": run.step})
                if run.error is not None:
                    _set_error(span, run.error.reason or run.error.type)
                self._runs.add(1, {"stargraph.graph.id": run.graph_id, "stargraph.run.status": status})

    @asynccontextmanager
    async def node(self, node: NodeInfo) -> AsyncIterator[None]:
        """Make a span of an attempt of a node."""
        labels = {"stargraph.node.id": node.node}
        attributes: dict[str, AttributeValue] = {
            **labels,
            "stargraph.run.id": node.run_id,
            "stargraph.node.kind": node.kind,
            "stargraph.task.id": node.task_id,
            "stargraph.step": node.step,
            "stargraph.attempt": node.attempt,
        }
        if node.index is not None:
            attributes["stargraph.branch.index"] = node.index
        if node.attempt > 1:
            self._retries.add(1, labels)
        began = time.monotonic()
        with self._span(f"node {node.node}", attributes) as span:
            try:
                with _failing(span):
                    yield
            except Exception:
                self._failures.add(1, labels)
                raise
            finally:
                if node.waits:
                    span.set_attribute("stargraph.node.waits", True)
                self._node_seconds.record(time.monotonic() - began, labels)

    @asynccontextmanager
    async def call(self, call: CallInfo) -> AsyncIterator[None]:
        """Make a span of a call."""
        attributes: dict[str, AttributeValue] = {
            "stargraph.run.id": call.run_id,
            "stargraph.node.id": call.node,
            "stargraph.task.id": call.task_id,
            "stargraph.call.name": call.name,
        }
        if self._gen_ai:
            attributes |= {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": call.name}
        with self._span(f"call {call.name}", attributes, kind=SpanKind.CLIENT) as span, _failing(span):
            yield

    @asynccontextmanager
    async def store(self, store: StoreInfo) -> AsyncIterator[None]:
        """Measure an operation of the store, and make a span of it."""
        labels: dict[str, AttributeValue] = {"stargraph.store.operation": store.operation}
        began = time.monotonic()
        try:
            if self._store_spans:
                attributes = labels if store.run_id is None else {**labels, "stargraph.run.id": store.run_id}
                with self._span(f"store {store.operation}", attributes, kind=SpanKind.CLIENT) as span, _failing(span):
                    yield
            else:
                yield
        except Exception as error:
            failed: dict[str, AttributeValue] = {**labels, "error.type": _name_of(error)}
            self._store_seconds.record(time.monotonic() - began, failed)
            raise
        self._store_seconds.record(time.monotonic() - began, labels)
        for checkpoint in store.checkpoints:
            self._steps.add(1, {"stargraph.graph.id": checkpoint.graph_id, "stargraph.event": checkpoint.event})
            self._sizes.record(state_size(checkpoint), {"stargraph.graph.id": checkpoint.graph_id})

    def _span(
        self,
        name: str,
        attributes: Mapping[str, AttributeValue],
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        links: Sequence[Link] = (),
    ) -> AbstractContextManager[Span]:
        # An exception that is recorded would bring its text along.
        return self._tracer.start_as_current_span(
            name, kind=kind, attributes=attributes, links=links, record_exception=False, set_status_on_exception=False
        )


@contextmanager
def _failing(span: Span) -> Iterator[None]:
    """Mark a span as failed by an exception, without the text of it."""
    try:
        yield
    except Exception as error:
        _set_error(span, _name_of(error))
        raise


def _name_of(error: Exception) -> str:
    """Return the reason of an error, or its class: never its text, which may quote values."""
    return (error.reason if isinstance(error, StargraphError) else None) or type(error).__qualname__


def _set_error(span: Span, name: str) -> None:
    span.set_status(Status(StatusCode.ERROR, name))
    span.set_attribute("error.type", name)


def _links(tags: Mapping[str, str]) -> list[Link]:
    """Return a link to the span that the tags of a run name, if they do."""
    if TRACEPARENT not in tags:
        return []
    context = get_current_span(_PROPAGATOR.extract({TRACEPARENT: tags[TRACEPARENT]}, Context())).get_span_context()
    return [Link(context)] if context.is_valid else []
