"""A graph that can be run: what a program does with it, each entry point with its options."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from datetime import datetime
from pathlib import Path
from types import NoneType
from typing import Any, Final, Generic, overload

from typing_extensions import TypeVar

from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.protocol import Checkpointer, Interrupt, JsonValue, check_run_id
from stargraph.engine import (
    WATCH_SECONDS,
    Durability,
    Middleware,
    Plan,
    StateSpec,
    answer_type,
)
from stargraph.graph._loading import plan_of, plan_of_file, warn_of_session_code
from stargraph.graph._options import RunOptions
from stargraph.graph._queue import EnqueuedRun, RunRequest, enqueue_runs
from stargraph.graph._result import RunResult
from stargraph.graph._resume_checks import Accept
from stargraph.graph._run import Run
from stargraph.graph._targets import load_object, python_target, target_text
from stargraph.ir import GraphBuilder, IRDocument
from stargraph.runtime._given import as_folders, check_checkpointer, check_flags, check_type
from stargraph.runtime._loop_thread import LoopThread

S = TypeVar("S", default=Any)

_SYNC: Final = LoopThread("stargraph-sync")
"""The event loop of the programs of this process that are not async."""


class Graph(Generic[S]):
    """A graph that can be run.

    Args:
        ir: its definition, or the builder that makes it.
        folder: the folder that paths of subgraphs are relative to; if None, that of the code that calls the builder,
            and for a definition the current folder.
        integrity_key: seals what is written and checks what is read: a `Keyring`, or keys as
            `Keyring.parse` reads them; the environment variable `STARGRAPH_INTEGRITY_KEY` if None.

    Attributes:
        file: the file that it was loaded from, or None.

    Raises:
        GraphError: the definition is wrong, or the code that it names cannot be imported.

    Warns:
        UserWarning: nodes are defined in a session that no file holds, as in a notebook, so that no other process can
            resume the runs of this graph.
    """

    @overload
    def __init__(
        self,
        ir: GraphBuilder[S],
        *,
        folder: str | os.PathLike[str] | None = None,
        integrity_key: Keyring | str | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self: Graph[Any],
        ir: IRDocument,
        *,
        folder: str | os.PathLike[str] | None = None,
        integrity_key: Keyring | str | None = None,
    ) -> None: ...

    def __init__(
        self,
        ir: IRDocument | GraphBuilder[Any],
        *,
        folder: str | os.PathLike[str] | None = None,
        integrity_key: Keyring | str | None = None,
    ) -> None:
        self._set_up(plan_of(ir, folder), integrity_key)
        warn_of_session_code(self.ir, stacklevel=2)

    def _set_up(self, plan: Plan, integrity_key: Keyring | str | None) -> None:
        """Take over a plan; the constructors share this."""
        keys = "a Keyring, or the text of keys, as in key_id:secret"
        check_type(integrity_key, "integrity_key", (Keyring, str, NoneType), keys)
        self._plan = plan
        if isinstance(integrity_key, str):
            integrity_key = Keyring.parse(integrity_key)
        self._keyring = integrity_key or Keyring.from_environment()
        self.file: Path | None = None

    def __repr__(self) -> str:
        return f"Graph({self.id!r}, graph_hash={self.graph_hash[:12]!r})"

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        integrity_key: Keyring | str | None = None,
        code: Sequence[str | os.PathLike[str]] = (),
    ) -> Graph[Any]:
        """Load a graph from a YAML or JSON file.

        Its nodes may be in modules beside the file. Those belong to this graph: they are loaded under a private name,
        again if they have changed, and no other code sees them. If the process itself finds a module at that very
        place, as for `import steps` in a script beside the graph, that module is used.

        Args:
            path: the file.
            integrity_key: as for the constructor.
            code: further folders, for modules that are neither beside the file nor installed.

        Raises:
            GraphError: the file cannot be read, or the definition is wrong; with its line and column.
        """
        graph: Graph[Any] = cls.__new__(cls)
        graph._set_up(plan_of_file(path, code), integrity_key)
        graph.file = Path(path)
        return graph

    @classmethod
    def load(
        cls,
        target: str | os.PathLike[str],
        *,
        integrity_key: Keyring | str | None = None,
        code: Sequence[str | os.PathLike[str]] = (),
    ) -> Graph[Any]:
        """Load a graph as the command line names it: `graph.yaml`, `file.py:attribute` or `module:attribute`.

        The attribute is a Graph, a GraphBuilder or an IRDocument. `file.py` alone is the only graph of that file.

        Args:
            target: the name, or the path of a file.
            integrity_key: as for the constructor.
            code: further folders, for modules that are neither beside the file nor installed.

        Raises:
            GraphError: there is no such graph, or it is wrong; with the line in your file.
            TypeError: `target` is neither a name nor a path.
        """
        name = target_text(target)
        python = python_target(name)
        if python is None:
            return cls.from_file(name, integrity_key=integrity_key, code=code)
        found = load_object(python, as_folders(code), Graph)
        if not isinstance(found, Graph):
            return cls(found, integrity_key=integrity_key)
        if integrity_key is not None:
            found._set_up(found._plan, integrity_key)
        return found

    @property
    def state(self) -> StateSpec:
        """The state that the graph declares."""
        return self._plan.state

    @property
    def id(self) -> str:
        """The id of the graph."""
        return self._plan.document.id

    @property
    def ir(self) -> IRDocument:
        """The definition."""
        return self._plan.document

    @property
    def graph_hash(self) -> str:
        """The fingerprint of what shapes execution, 64 hex digits."""
        return self._plan.graph_hash

    @property
    def runtime_hash(self) -> str:
        """The fingerprint of the code of the nodes, 64 hex digits."""
        return self._plan.runtime_hash

    def answer_type(self, question: Interrupt) -> Any:
        """Return the type of the field that takes the answer to a question, as in `bool | None`.

        Args:
            question: one of the `questions` of a run.

        Returns:
            None if the answer may be any JSON, since it goes to the code of a node. If a child run asks, the field is
            one of the child's graph.
        """
        check_type(question, "question", Interrupt, "one of the questions of a run")
        return answer_type(self._plan, question)

    def validate(self) -> tuple[str, ...]:
        """Check what a run would notice only later: expressions that do not fit the state, nodes that never run.

        Loading a graph checks everything else. `stargraph run` does this before it starts a run.

        Returns:
            Warnings, a line each, with their places: nodes that never run, rules that never apply.

        Raises:
            GraphError: an expression names a field that the state does not have, or has a value of the wrong type; a
                line for each, with its place.
        """
        return self._plan.validate()

    async def start(
        self,
        *,
        checkpointer: Checkpointer,
        inputs: Mapping[str, JsonValue] | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        durability: Durability = "sync",
        executor: Executor | None = None,
        watch: float = WATCH_SECONDS,
        record_attempts: bool = False,
        middleware: Sequence[Middleware] = (),
    ) -> Run[S]:
        """Return a run of this graph; nothing is read or written before its `start` or `resume`.

        Args:
            checkpointer: the store.
            inputs: the values that the state begins with.
            run_id: its name; a UUIDv7 if None.
            metadata: tags.
            durability: when a step is durable: `sync` before what depends on it starts; `async` while the
                next node runs; `exit` when the run stops.
            executor: where sync nodes run; a thread for each if None.
            watch: the longest time in seconds before a running executor sees what other processes have appended:
                answers, a cancellation, a takeover. It costs a read each time, while nodes run; 0 never looks.
            record_attempts: record each attempt of a node that failed as a step of its own, at once. Otherwise the next
                step of the node holds it.
            middleware: wraps the run, its nodes, its calls and the operations of the store; the first one is the
                outermost.

        Raises:
            CheckpointError: the run id is not one (`reason="invalid-run-id"`).
            TypeError: `checkpointer` is not a checkpointer, or one of `middleware` is not a middleware.
            ValueError: there is no such durability, or `watch` is negative.
        """
        options = RunOptions(
            durability=durability,
            executor=executor,
            watch=watch,
            record_attempts=record_attempts,
            middleware=middleware,
        )
        return self._run(checkpointer, run_id, options, inputs=inputs, metadata=metadata)

    async def start_or_resume(
        self,
        *,
        checkpointer: Checkpointer,
        run_id: str,
        inputs: Mapping[str, JsonValue] | None = None,
        metadata: Mapping[str, str] | None = None,
        durability: Durability = "sync",
        executor: Executor | None = None,
        watch: float = WATCH_SECONDS,
        record_attempts: bool = False,
        middleware: Sequence[Middleware] = (),
    ) -> Run[S]:
        """Return a run whose `start` starts it, or resumes it if the store knows its id: safe to repeat after a crash.

        The arguments are those of `start`; `inputs` and `metadata` are not used if the run is resumed.

        Raises:
            Exception: as `start` raises.
        """
        options = RunOptions(
            durability=durability,
            executor=executor,
            watch=watch,
            record_attempts=record_attempts,
            middleware=middleware,
        )
        return self._run(checkpointer, run_id, options, inputs=inputs, metadata=metadata, resumes_if_known=True)

    async def enqueue(
        self,
        checkpointer: Checkpointer,
        inputs: Mapping[str, JsonValue] | None = None,
        *,
        run_id: str | None = None,
        queue: str = "default",
        priority: int = 0,
        not_before: datetime | None = None,
        metadata: Mapping[str, str] | None = None,
        concurrency_key: str | None = None,
    ) -> EnqueuedRun:
        """Store a run for a worker to execute: step 0, with the status `queued`; no node runs here.

        The run id is the key by which duplicates are found: enqueueing the same run again, with the same inputs, does
        nothing and says so. `Run.resume` and `start_or_resume` execute a queued run too.

        Args:
            checkpointer: the store.
            inputs: the values that the state begins with.
            run_id: its name; a UUIDv7 if None.
            queue: the queue; workers name those that they serve.
            priority: runs with a higher priority begin first.
            not_before: the earliest time to begin, an aware datetime; None for at once.
            metadata: tags.
            concurrency_key: runs of the queue with the same one share the queue's limit per key.

        Returns:
            The id of the run, and whether this call stored it.

        Raises:
            StateError: the inputs do not fit the state that the graph declares; nothing was written.
            CheckpointConflictError: another run has this id: of another graph, or with other inputs
                (`reason="run-exists"`).
            CheckpointError: a name or a number does not fit (`reason` is `invalid-run-id` or `invalid-queue-entry`), or
                as the store raises. Calling this again with the same run id is safe, whatever was raised.
            TypeError: `checkpointer` is not a checkpointer.
        """
        request = RunRequest(
            inputs={} if inputs is None else inputs,
            run_id=run_id,
            queue=queue,
            priority=priority,
            not_before=not_before,
            metadata=metadata,
            concurrency_key=concurrency_key,
        )
        (enqueued,) = await self.enqueue_many(checkpointer, [request])
        return enqueued

    async def enqueue_many(self, checkpointer: Checkpointer, runs: Iterable[RunRequest]) -> list[EnqueuedRun]:
        """Store many runs for workers to execute, as `enqueue` does each of them, in shared commits.

        All are checked before the first one is written: if one does not fit, or its id belongs to another run, none is.

        Args:
            checkpointer: the store.

        Returns:
            What came of each, in order.

        Raises:
            Exception: as `enqueue` raises.
        """
        check_checkpointer(checkpointer)
        return await enqueue_runs(self._plan, checkpointer, runs, keyring=self._keyring)

    def run_sync(
        self,
        *,
        checkpointer: Checkpointer,
        inputs: Mapping[str, JsonValue] | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        durability: Durability = "sync",
        executor: Executor | None = None,
        middleware: Sequence[Middleware] = (),
        resume: bool = False,
        wait: bool = False,
    ) -> RunResult[S]:
        """Start a run and execute it until it ends, fails or waits, in a program that is not async.

        It works in scripts, threads and notebooks: the run executes on an event loop in a thread of its own, the same
        one for all runs. The store is bootstrapped there; do not pass a checkpointer that another event loop uses
        already. `wait` is that of `Run.start`, and the other arguments are those of `start`; with `resume`, the run is
        resumed if the store knows its id, as `start_or_resume` does.

        Returns:
            Where it stands then, with its state and its questions.

        Raises:
            StargraphError: this was called in an async node (`reason="sync-in-async"`).
            Exception: as `start` and `Run.start` raise.
        """
        check_flags(resume=resume, wait=wait)
        options = RunOptions(durability=durability, executor=executor, middleware=middleware)
        run = self._run(checkpointer, run_id, options, inputs=inputs, metadata=metadata, resumes_if_known=resume)
        return _bootstrapped(checkpointer, lambda: run.start(wait=wait))

    def resume_sync(
        self,
        run_id: str,
        *,
        checkpointer: Checkpointer,
        accept: Sequence[Accept] = (),
        durability: Durability = "sync",
        executor: Executor | None = None,
        middleware: Sequence[Middleware] = (),
        wait: bool = False,
    ) -> RunResult[S]:
        """Resume a run and execute it, as `run_sync` does.

        `accept` and `wait` are those of `Run.resume`; the other arguments are those of `start`.

        Raises:
            Exception: as `Run.resume` raises.
        """
        options = RunOptions(durability=durability, executor=executor, middleware=middleware)
        run = self._run(checkpointer, run_id, options)
        return _bootstrapped(checkpointer, lambda: run.resume(accept=accept, wait=wait))

    def respond_sync(
        self, run_id: str, question: Interrupt | str, value: object, *, checkpointer: Checkpointer
    ) -> RunResult[S]:
        """Answer a question of a run, as `Run.answer` does; `resume_sync` then continues the run.

        Args:
            question: one of the `questions` of its result, or the id of one.
            value: the answer.
            checkpointer: the store.

        Raises:
            Exception: as `Run.answer` raises.
        """
        run = self._run(checkpointer, run_id, RunOptions())
        return _bootstrapped(checkpointer, lambda: run.answer(question, value))

    def _run(
        self,
        checkpointer: Checkpointer,
        run_id: str | None,
        options: RunOptions,
        *,
        inputs: Mapping[str, JsonValue] | None = None,
        metadata: Mapping[str, str] | None = None,
        resumes_if_known: bool = False,
    ) -> Run[S]:
        """Return a run, once what every entry point gets is checked."""
        check_checkpointer(checkpointer)
        if run_id is not None:
            check_run_id(run_id)
        return Run(
            self._plan,
            checkpointer,
            options,
            run_id=run_id,
            keyring=self._keyring,
            inputs=inputs,
            metadata=metadata,
            resumes_if_known=resumes_if_known,
        )


def _bootstrapped(checkpointer: Checkpointer, act: Callable[[], Coroutine[Any, Any, RunResult[S]]]) -> RunResult[S]:
    """Do something with a run on the event loop of the programs that are not async, when its store is ready."""

    async def work() -> RunResult[S]:
        await checkpointer.bootstrap()
        return await act()

    return _SYNC.run(work())
