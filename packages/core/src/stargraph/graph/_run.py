"""One run of a graph: started, resumed, watched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, cast

from typing_extensions import TypeVar

from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.protocol import Checkpoint, Checkpointer, Interrupt, JsonValue
from stargraph.engine import Pause, Plan, RunEvent, RunLog, new_executor_id, observed
from stargraph.errors import CheckpointError, CheckpointNotFoundError
from stargraph.graph._control import CANCEL_GRACE, as_question_id, cancel, check_answer, respond
from stargraph.graph._execution import Execution
from stargraph.graph._executor import RunExecutor
from stargraph.graph._given import as_accepted, as_inputs, as_metadata
from stargraph.graph._listeners import Listeners
from stargraph.graph._options import RunOptions
from stargraph.graph._records import new_run_id
from stargraph.graph._result import RunResult
from stargraph.graph._resume_checks import Accept, ReadStep, carried_over, check_done, refuse_ended
from stargraph.runtime import dispatch
from stargraph.runtime._given import check_count, check_flags, check_moment, check_seconds
from stargraph.runtime._loop_thread import running_loop

if TYPE_CHECKING:
    from stargraph.replay import Overlay, ReplayReport

S = TypeVar("S", default=Any)


class Run(Generic[S]):
    """One run of a graph; `Graph.start` makes it.

    Attributes:
        run_id: its name.
    """

    def __init__(
        self,
        plan: Plan,
        checkpointer: Checkpointer,
        options: RunOptions,
        *,
        run_id: str | None,
        keyring: Keyring | None,
        inputs: Mapping[str, JsonValue] | None = None,
        metadata: Mapping[str, str] | None = None,
        opening: Sequence[Checkpoint] = (),
        allow_effects: bool = False,
        resumes_if_known: bool = False,
    ) -> None:
        self.run_id = new_run_id() if run_id is None else run_id
        self._made_id = self.run_id if run_id is None else None
        self._plan = plan
        self._options = options
        self._checkpointer = checkpointer
        self._store = observed(checkpointer, options.hooks.store)
        self._inputs = {} if inputs is None else as_inputs(inputs)
        self._metadata = as_metadata(metadata)
        self._keyring = keyring
        self._opening = opening
        self._allow_effects = allow_effects
        self._resumes_if_known = resumes_if_known
        self._log: RunLog | None = None
        self._begun = False
        self._executor: RunExecutor | None = None
        self._pause: Pause | None = None
        self._paused_by: asyncio.Task[Any] | None = None
        self._listeners = Listeners()

    def __repr__(self) -> str:
        return f"Run({self.run_id!r})"

    @property
    def state(self) -> S | None:
        """The latest state that this object saw, a fresh copy each time; None as for `summary`.

        It is an object of the graph's state class, or a dict if the graph has none.
        """
        return None if self._log is None else cast("S", self._plan.state.value(self._log.tail))

    @property
    def summary(self) -> RunResult[S] | None:
        """Where the run stood when this object last wrote or read it; None before that."""
        return None if self._log is None else self._result(self._log.tail)

    @property
    def questions(self) -> tuple[Interrupt, ...]:
        """The open questions, with their ids, prompts and payloads, when this object last wrote or read the run."""
        return () if self._log is None else self._log.tail.questions

    async def start(self, *, wait: bool = False) -> RunResult[S]:
        """Start the run and execute it until it ends, fails or waits for an answer or for a time.

        Args:
            wait: if nothing is left to do but to wait for a time (`ctx.sleep`, `kind: wait`), wait for it here, instead
                of returning a result with its `due_at`.

        Returns:
            Where it stands then. The status shows whether a node failed; `raise_for_status()` raises its error.

        Raises:
            StateError: the inputs do not fit.
            CheckpointConflictError: a run with this id exists already (`reason="run-exists"`), or another executor has
                taken this run over.
            CheckpointError: as the store raises.
        """
        check_flags(wait=wait)
        with self._executing(self.run_id, waits_here=wait) as executor:
            if self._resumes_if_known:
                tail = await executor.start_or_resume(self._inputs, self._metadata)
            else:
                tail = await executor.start(self._inputs, self._metadata, self._opening)
        return self._result(tail)

    async def resume(
        self,
        run_id: str | None = None,
        *,
        only_if_idle: float | None = None,
        max_resumes: int = 10,
        accept: Sequence[Accept] = (),
        allow_effects: bool | None = None,
        wait: bool = False,
        only_at_step: int | None = None,
        as_of: datetime | None = None,
    ) -> RunResult[S]:
        """Take a run over from its former executor, alive or not, and execute it from its latest checkpoint.

        The former executor is refused at its next write. Only nodes that were running can run twice.

        Args:
            run_id: the run; this one's own id if None.
            only_if_idle: refuse while the last event is younger than this many seconds.
            max_resumes: a run that was resumed that many times in a row, and recorded nothing new, fails.
            accept: resume although `runtime` (the code of the nodes) or `graph` has changed.
            allow_effects: of a fork, whether calls that are not repeatable may be made; as for `fork` if None.
            wait: as for `start`.
            only_at_step: refuse if this is not the latest step any more: somebody else has gone on with the run.
            as_of: a time that has come, though the clock of this machine may not show it yet: waits until then are
                over. By it, a worker keeps the time of the store.

        Returns:
            Where it stands then. A run that is done already is not executed, nor is one that still waits for a time:
            `due_at` tells when to resume it.

        Raises:
            CheckpointNotFoundError: the store holds no such run.
            HashMismatchError: the graph or the code changed; nothing was written.
            StateError: what is stored does not fit the graph's state; nothing was written.
            CheckpointConflictError: another executor has taken the run over, or is beyond `only_at_step`.
            CheckpointError: `reason` is `not-idle` or `run-ended`, or as the store raises.
            ValueError: an argument is out of bounds; nothing was written.
        """
        accepted = as_accepted(accept)
        check_flags(wait=wait, allow_effects=allow_effects)
        check_count(max_resumes, "max_resumes", least=1)
        if only_if_idle is not None:
            check_seconds(only_if_idle, "only_if_idle")
        if only_at_step is not None:
            check_count(only_at_step, "only_at_step", least=0)
        if as_of is not None:
            check_moment(as_of, "as_of")
        run_id = self.run_id if run_id is None else run_id
        is_unnamed = run_id == self._made_id and self._log is None
        try:
            with self._executing(run_id, waits_here=wait, as_of=as_of, allow_effects=allow_effects) as executor:
                tail = await executor.resume(
                    only_if_idle=only_if_idle, only_at_step=only_at_step, max_resumes=max_resumes, accept=accepted
                )
        except CheckpointNotFoundError as error:
            if is_unnamed:
                error.hint = "This run has a new id, since none was given: say which run to resume, resume(run_id=…)."
            raise
        return self._result(tail)

    async def check(self, run_id: str | None = None, *, accept: Sequence[Accept] = ()) -> RunResult[S]:
        """Return where a run stands if `resume` would resume it; otherwise raise what `resume` would raise.

        Nothing is written, and no node runs.

        Args:
            run_id: the run; this one's own id if None.
            accept: as for `resume`.

        Raises:
            CheckpointError: as `resume` raises.
            StateError: as `resume` raises.
            GraphError: as `resume` raises.
        """
        accepted = as_accepted(accept)
        self.run_id = self.run_id if run_id is None else run_id
        tail = await dispatch.read_run(self._store, self.run_id, keyring=self._keyring)
        read_step: ReadStep = partial(dispatch.read_at_step, self._store, self.run_id, keyring=self._keyring)
        if tail.status == "done":
            await check_done(self._plan, tail, read_step, accept=accepted)
        else:
            refuse_ended(tail)
            await carried_over(self._plan, tail, read_step, executor_id=new_executor_id(), accept=accepted)
        return self._result(tail)

    async def replay(
        self, run_id: str | None = None, *, from_step: int = 0, accept: Sequence[Accept] = ()
    ) -> ReplayReport:
        """Replay a run from its log, each node with what it got then, and compare each step with its record.

        Nothing is written, and no call by `ctx.call` is made again. Whatever else a node does, it does again.

        Args:
            run_id: the run; this one's own id if None.
            from_step: the step to begin after; 0 compares everything.
            accept: with `graph`, steps that another version of the graph made are replayed, too.

        Raises:
            CheckpointNotFoundError: the store holds no such run, or the run has no such step.
            HashMismatchError: another version of the graph made all of it.
            CheckpointError: as the store raises.
        """
        from stargraph.replay import replay

        accepted = as_accepted(accept)
        check_count(from_step, "from_step", least=0)
        self.run_id = self.run_id if run_id is None else run_id
        return await replay(
            self._plan,
            self._checkpointer,
            self.run_id,
            keyring=self._keyring,
            threads=self._options.executor,
            from_step=from_step,
            accept_graph="graph" in accepted,
        )

    async def fork(
        self,
        step: int | None = None,
        overlay: Overlay | None = None,
        *,
        run_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        accept: Sequence[Accept] = (),
        allow_effects: bool = False,
    ) -> Run[S]:
        """Return a new run that begins at a step of this one; nothing is written before its `start`.

        Args:
            step: the step; if None, the last one before the overlay matters.
            overlay: the changes of the new run.
            run_id: the name of the new run; a UUIDv7 if None.
            metadata: its tags; those of this run if None.
            accept: with `graph`, the graph of this object may differ from that of the step.
            allow_effects: whether calls that are not repeatable may be made in the new run.

        Raises:
            CheckpointNotFoundError: the store holds no such run, or no such step.
            HashMismatchError: another version of the graph made the step.
            StateError: what the overlay sets does not fit the graph.
            StargraphError: the overlay names something that the run does not have (`reason="bad-overlay"`).
        """
        from stargraph.replay import Overlay, open_fork

        accepted = as_accepted(accept)
        check_flags(allow_effects=allow_effects)
        if step is not None:
            # Of a negative one is said, as of one beyond the end, which steps there are.
            check_count(max(step, 0) if type(step) is int else step, "step", least=0)
        if overlay is not None and not isinstance(overlay, Overlay):
            raise TypeError(f"overlay is of type {type(overlay).__qualname__}: give an Overlay of stargraph.replay")
        overlay = overlay or Overlay()
        plan = self._plan if overlay.graph is None else overlay.graph._plan
        fork_id = new_run_id() if run_id is None else run_id
        opening = await open_fork(
            plan,
            self._store,
            self.run_id,
            step,
            overlay,
            run_id=fork_id,
            metadata=metadata,
            accept_graph=overlay.graph is not None or "graph" in accepted,
            keyring=self._keyring,
        )
        return Run(
            plan,
            self._checkpointer,
            self._options,
            run_id=fork_id,
            keyring=self._keyring,
            opening=opening,
            allow_effects=allow_effects,
        )

    async def answer(self, question: Interrupt | str, value: object) -> RunResult[S]:
        """Answer a question of this run; it continues at once if it is being executed, else when it is resumed.

        Args:
            question: one of `questions`, or its id.
            value: the answer: JSON, or what the class of the state has for the field that takes it, such as a date. If
                it does not fit, it is refused, and nothing is recorded.

        Returns:
            Where the run stands then.

        Raises:
            StateError: the answer does not fit the field that takes it, or is not JSON.
            CheckpointError: `reason` is `no-such-question`, `run-ended` or `run-not-found`.
            TypeError: `question` is neither a question nor an id.
        """
        question_id = as_question_id(question)
        execution = self._execution
        if execution is None:
            return self._seen(
                await respond(self._store, self.run_id, question_id, value, plan=self._plan, keyring=self._keyring)
            )
        checked = await check_answer(
            self._store, execution.log.tail, question_id, value, plan=self._plan, keyring=self._keyring
        )
        return self._result(await execution.answer(question_id, checked))

    async def respond(self, interrupt_id: Interrupt | str, value: object) -> RunResult[S]:
        """Do the same as `answer`, by the name that the command line has for it.

        Args:
            interrupt_id: the question, or its id.
            value: the answer.
        """
        return await self.answer(interrupt_id, value)

    async def refresh(self) -> RunResult[S]:
        """Read where the run stands, whoever executes it, for `state`, `summary` and `questions`.

        Raises:
            CheckpointNotFoundError: the store holds no such run.
            CheckpointError: as the store raises.
        """
        return self._seen(await dispatch.read_run(self._store, self.run_id, keyring=self._keyring))

    async def cancel(self, *, grace: float = CANCEL_GRACE) -> RunResult[S]:
        """End this run as cancelled, whoever executes it; the state that it reached stays.

        Args:
            grace: seconds that an executor elsewhere has to stop its nodes, before it loses the run.

        Returns:
            Where the run stands then.

        Raises:
            CheckpointError: `reason` is `run-ended` or `run-not-found`.
            ValueError: `grace` is no number of seconds.
        """
        check_seconds(grace, "grace")
        # Whoever made a task of start() or resume() just before goes first.
        await asyncio.sleep(0)
        if self._executor is not None:
            await self._executor.cancel(grace=grace)
        return self._seen(await cancel(self._store, self.run_id, grace=grace, keyring=self._keyring))

    def pause(self, *, grace: float = 30.0, requeue: bool = False) -> None:
        """Stop this execution gently: start no more nodes, let running ones finish, and record `paused`.

        It does nothing if this object does not execute the run. A task of `start` or `resume` that was made before
        this call counts, even if the event loop has not begun it yet.

        Args:
            grace: seconds after which a node that still runs is cancelled; it runs again after a resume.
            requeue: leave the run to the workers, `queued`, if it has a queue; otherwise it stays until it is resumed.

        Raises:
            ValueError: `grace` is no number of seconds.
        """
        check_seconds(grace, "grace")
        check_flags(requeue=requeue)
        request = Pause(grace, requeue=requeue)
        if self._executor is not None:
            self._executor.pause(request)
        elif (loop := running_loop()) is not None:
            self._pause = request
            self._paused_by = asyncio.current_task()
            # A task of start() that was made before is ahead of this callback, one that is made later is behind it.
            loop.call_soon(self._forget_pause)

    def _forget_pause(self) -> None:
        self._pause = self._paused_by = None

    async def stream(self) -> AsyncIterator[RunEvent]:
        """Yield the events of the run until it stops; start the run if it was not started yet.

        Raises:
            Exception: as `start` raises, if this started the run.
        """
        with self._listeners.added() as queue:
            work = None
            try:
                # Whoever made a task of start() or resume() just before goes first.
                await asyncio.sleep(0)
                if not self._begun:
                    self._begun = True
                    work = asyncio.ensure_future(self.start())
                await asyncio.sleep(0)
                while self._executor is not None or not queue.empty():
                    event = await queue.get()
                    if event is None:
                        break
                    yield event
                if work is not None:
                    await work
            finally:
                if work is not None:
                    work.cancel()
                    await asyncio.gather(work, return_exceptions=True)

    def _result(self, tail: Checkpoint) -> RunResult[S]:
        """Return what a caller gets of a run that stands at this checkpoint."""
        return RunResult.of(tail, self._plan.state)

    def _seen(self, tail: Checkpoint) -> RunResult[S]:
        """Take note of where the run stands, unless an execution of this object knows better."""
        if self._execution is None:
            self._open_log(tail)
        return self._result(tail)

    def _open_log(self, tail: Checkpoint) -> RunLog:
        """Make the log that the next records are appended to, after this checkpoint."""
        self._log = RunLog(self._store, tail, durability=self._options.durability, keyring=self._keyring)
        return self._log

    @property
    def _execution(self) -> Execution | None:
        """What executes the nodes of the run for this object, if anything does."""
        return None if self._executor is None else self._executor.execution

    @contextmanager
    def _executing(
        self, run_id: str, *, waits_here: bool, as_of: datetime | None = None, allow_effects: bool | None = None
    ) -> Iterator[RunExecutor]:
        """Make the executor of a start or resume, the only one at a time; tell the listeners when it stops."""
        if self._executor is not None:
            raise CheckpointError(
                f"run {self.run_id!r} is being executed by this object already",
                reason="already-running",
                hint="Await the first start() or resume().",
                run_id=self.run_id,
            )
        self._begun = True
        self.run_id = run_id
        if allow_effects is not None:
            self._allow_effects = allow_effects
        self._executor = RunExecutor(
            run_id,
            self._plan,
            self._checkpointer,
            self._store,
            self._options,
            keyring=self._keyring,
            listeners=self._listeners,
            open_log=self._open_log,
            allow_effects=self._allow_effects,
            waits_here=waits_here,
            as_of=as_of,
        )
        # Who awaits start() without a task for it, after pause(), does so later, too.
        if self._pause is not None and self._paused_by is not asyncio.current_task():
            self._executor.pause(self._pause)
        try:
            with self._executor.beginning():
                yield self._executor
        finally:
            self._executor = None
            self._listeners.publish(None)
