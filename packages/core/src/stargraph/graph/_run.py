"""One run of a graph: started, resumed, watched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, cast

from typing_extensions import TypeVar

from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.protocol import Checkpoint, Checkpointer, Interrupt, JsonValue
from stargraph.engine import (
    ForkOverrides,
    Hooks,
    Pause,
    Plan,
    RunEvent,
    RunInfo,
    RunLog,
    StoppedElsewhere,
    around,
    new_executor_id,
    observed,
)
from stargraph.errors import CheckpointConflictError, CheckpointError
from stargraph.graph._control import (
    CANCEL_GRACE,
    answer_record,
    cancel,
    check_answer,
    pause,
    respond,
    takes_no_answers,
)
from stargraph.graph._execution import Execution
from stargraph.graph._listeners import Listeners
from stargraph.graph._logging import log_takeover, logged
from stargraph.graph._options import RunOptions
from stargraph.graph._presence import presence
from stargraph.graph._records import append_resumed, crash_loop_record, first_record, new_run_id
from stargraph.graph._result import RunResult
from stargraph.graph._resume_checks import (
    carried_over,
    check_done,
    fork_overrides,
    fruitless_resumes,
    open_request,
    refuse_busy,
    refuse_ended,
    refuse_moved_on,
    until_due,
    waits_longer,
)
from stargraph.graph._suspects import Suspect
from stargraph.runtime import dispatch

if TYPE_CHECKING:
    from stargraph.replay import Overlay, ReplayReport

S = TypeVar("S", default=Any)
Accept = Literal["runtime", "graph"]


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
        self.run_id = run_id or new_run_id()
        self._plan = plan
        self._options = options
        self._hooks = Hooks(options.middleware)
        self._checkpointer = checkpointer
        self._store = observed(checkpointer, self._hooks.store)
        self._inputs = dict(inputs or {})
        self._metadata = dict(metadata or {})
        self._holds = False
        self._keyring = keyring
        self._opening = opening
        self._allow_effects = allow_effects
        self._resumes_if_known = resumes_if_known
        self._log: RunLog | None = None
        self._begun = False
        self._active = False
        self._suspect: Suspect | None = None
        self._execution: Execution | None = None
        self._pause: Pause | None = None
        self._as_of: datetime | None = None
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
        self._holds = wait
        with self._only_one():
            return await (self._start_or_resume() if self._resumes_if_known else self._start())

    async def _start_or_resume(self) -> RunResult[S]:
        """Start the run, or resume it if the store knows its id."""
        if await dispatch.read_latest(self._store, self.run_id, keyring=self._keyring) is None:
            try:
                return await self._start()
            except CheckpointConflictError as error:
                if error.reason != "run-exists":
                    raise
        return await self._resume()

    async def _start(self) -> RunResult[S]:
        """Begin the run inside its middleware."""
        return await self._observed(RunInfo(self.run_id, self._plan.document.id, "start", self._metadata), self._begin)

    async def _begin(self) -> RunResult[S]:
        """Store step 0, and execute the run from there."""
        executor_id = new_executor_id()
        first, *carried = self._opening or [
            first_record(
                self._plan,
                self._inputs,
                run_id=self.run_id,
                executor_id=executor_id,
                metadata=self._metadata,
            )
        ]
        try:
            await dispatch.write(self._store, first, keyring=self._keyring)
        except CheckpointConflictError as error:
            raise CheckpointConflictError(
                f"run {self.run_id!r} exists already",
                reason="run-exists",
                hint="Resume it, or choose another run id.",
                run_id=self.run_id,
                step=0,
            ) from error
        if carried:
            await dispatch.write_many(self._store, carried, keyring=self._keyring)
            self._listeners.publish_step(first)
        return await self._execute((first, *carried)[-1], executor_id)

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
        """
        self._holds, self._as_of = wait, as_of
        with self._only_one():
            self.run_id = run_id or self.run_id
            return await self._resume(
                only_if_idle=only_if_idle,
                only_at_step=only_at_step,
                max_resumes=max_resumes,
                accept=accept,
                allow_effects=allow_effects,
            )

    async def _resume(
        self,
        *,
        only_if_idle: float | None = None,
        only_at_step: int | None = None,
        max_resumes: int = 10,
        accept: Sequence[Accept] = (),
        allow_effects: bool | None = None,
    ) -> RunResult[S]:
        """Check what can be checked without writing, and take the run up; the arguments are those of `resume`."""
        if allow_effects is not None:
            self._allow_effects = allow_effects
        tail = await dispatch.read_run(self._store, self.run_id, keyring=self._keyring)
        log = self._open_log(tail)
        refuse_moved_on(tail, only_at_step)
        if tail.status == "done":
            await check_done(self._plan, tail, self._read_step, accept=accept)
            return self._result(tail)
        refuse_ended(tail)
        refuse_busy(tail, only_if_idle)
        info = RunInfo(self.run_id, tail.graph_id, "resume", dict(tail.metadata), tail.parent_run_id, tail.step)
        take_up = partial(self._take_up, log, max_resumes, accept, stays_paused=only_at_step is not None)
        return await self._observed(info, take_up)

    async def _take_up(
        self, log: RunLog, max_resumes: int, accept: Sequence[Accept], *, stays_paused: bool
    ) -> RunResult[S]:
        """Do what was asked of the run meanwhile, append `resumed`, and execute it.

        Args:
            log: the log, at its latest checkpoint.
            max_resumes: fail the run after so many resumes in a row without a completed step.
            accept: changes of the graph or the code to accept.
            stays_paused: leave a run paused that somebody asked to pause.
        """
        tail, executor_id = log.tail, new_executor_id()
        request = await open_request(tail, self._read_step)
        if request == "cancel":
            return await self.cancel(grace=0)
        if request == "pause" and stays_paused:
            # A worker does not undo what a person asked for; whoever resumes the run by hand does.
            return self._seen(await pause(self._store, self.run_id, grace=0, keyring=self._keyring))
        carried = await carried_over(self._plan, tail, self._read_step, executor_id=executor_id, accept=accept)
        if carried is tail and waits_longer(self._plan, tail, self._as_of):
            if not self._holds:
                return self._result(tail)
            if tail.status == "queued":
                await until_due(tail)
        resumes = await fruitless_resumes(tail, self._read_step, max_resumes)
        if resumes >= max_resumes:
            return await self._give_up(tail, executor_id, max_resumes)
        suspect = Suspect()
        if resumes and resumes * 2 >= max_resumes:
            await suspect.wait()
        self._suspect = suspect
        try:
            async with nullcontext() if tail.queue is None else presence(self._checkpointer):
                if carried is not tail:
                    await dispatch.write(self._store, carried, keyring=self._keyring)
                    log = self._open_log(carried)
                    self._listeners.publish_step(carried)
                resumed, met = await append_resumed(self._plan, log, executor_id)
                log_takeover(tail)
                changed = (tail.graph_hash, tail.runtime_hash) != (resumed.graph_hash, resumed.runtime_hash)
                return await self._execute(resumed, executor_id, met, asks_again=changed)
        finally:
            suspect.cleared()

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
        self.run_id = run_id or self.run_id
        tail = await dispatch.read_run(self._store, self.run_id, keyring=self._keyring)
        if tail.status == "done":
            await check_done(self._plan, tail, self._read_step, accept=accept)
        else:
            refuse_ended(tail)
            await carried_over(self._plan, tail, self._read_step, executor_id=new_executor_id(), accept=accept)
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
            CheckpointNotFoundError: the store holds no such run.
            HashMismatchError: another version of the graph made all of it.
            CheckpointError: as the store raises.
        """
        from stargraph.replay import replay

        self.run_id = run_id or self.run_id
        return await replay(
            self._plan,
            self._checkpointer,
            self.run_id,
            keyring=self._keyring,
            threads=self._options.executor,
            from_step=from_step,
            accept_graph="graph" in accept,
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

        overlay = overlay or Overlay()
        plan = self._plan if overlay.graph is None else overlay.graph._plan
        fork_id = run_id or new_run_id()
        opening = await open_fork(
            plan,
            self._store,
            self.run_id,
            step,
            overlay,
            run_id=fork_id,
            metadata=metadata,
            accept_graph=overlay.graph is not None or "graph" in accept,
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

    async def answer(self, question: Interrupt | str, value: JsonValue) -> RunResult[S]:
        """Answer a question of this run; it continues at once if it is being executed, else when it is resumed.

        Args:
            question: one of `questions`, or its id.
            value: the answer; if it does not fit, it is refused, and nothing is recorded.

        Returns:
            Where the run stands then.

        Raises:
            StateError: the answer does not fit the field that takes it, or is not JSON.
            CheckpointError: `reason` is `no-such-question`, `run-ended` or `run-not-found`.
        """
        question_id = question if isinstance(question, str) else question.id
        execution = self._execution
        if execution is None:
            return self._seen(
                await respond(self._store, self.run_id, question_id, value, plan=self._plan, keyring=self._keyring)
            )
        log = execution.log
        checked = await check_answer(self._store, log.tail, question_id, value, plan=self._plan, keyring=self._keyring)
        try:
            record, _ = await log.append(lambda tail: answer_record(tail, question_id, checked))
        except StoppedElsewhere:
            raise takes_no_answers(log.tail) from None
        execution.observe(record)
        return self._result(record)

    async def respond(self, interrupt_id: str, value: JsonValue) -> RunResult[S]:
        """Do the same as `answer`.

        Args:
            interrupt_id: the id of the question.
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
        """
        if self._execution is not None:
            await self._execution.cancel()
        return self._seen(await cancel(self._store, self.run_id, grace=grace, keyring=self._keyring))

    def pause(self, *, grace: float = 30.0, requeue: bool = False) -> None:
        """Stop this execution gently: start no more nodes, let running ones finish, and record `paused`.

        Args:
            grace: seconds after which a node that still runs is cancelled; it runs again after a resume.
            requeue: leave the run to the workers, `queued`, if it has a queue; otherwise it stays until it is resumed.
        """
        self._pause = Pause(grace, requeue=requeue)
        if self._execution is not None:
            self._execution.pause(self._pause)

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
                while self._active or not queue.empty():
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

    async def _observed(self, info: RunInfo, execute: Callable[[], Awaitable[RunResult[S]]]) -> RunResult[S]:
        """Execute the run inside its middleware, and log how that went."""
        if not self._hooks.run:
            return await logged(info, execute)
        async with around(self._hooks.run, info):
            return await logged(info, execute)

    async def _execute(
        self, tail: Checkpoint, executor_id: str, met: Sequence[Checkpoint] = (), *, asks_again: bool = False
    ) -> RunResult[S]:
        """Execute the run from a checkpoint on, and again as long as a fork answers its questions by itself."""
        overrides = await fork_overrides(tail, self._read_step, effects=self._allow_effects)
        self._listeners.publish_step(tail)
        summary = await self._execute_once(tail, executor_id, overrides, met, asks_again=asks_again)
        while summary.status == "awaiting_input" and await self._answer_by(overrides):
            assert self._log is not None
            summary = await self._execute_once(self._log.tail, executor_id, overrides)
        return summary

    async def _answer_by(self, overrides: ForkOverrides) -> bool:
        """Answer the open questions that a fork answers by itself; tell whether there were any."""
        assert self._log is not None
        answered = False
        for interrupt in self._log.tail.questions:
            answer = overrides.answer_to(interrupt)
            if answer is not None:
                await self.answer(interrupt, answer[0])
                answered = True
        return answered

    async def _execute_once(
        self,
        tail: Checkpoint,
        executor_id: str,
        overrides: ForkOverrides,
        met: Sequence[Checkpoint] = (),
        *,
        asks_again: bool = False,
    ) -> RunResult[S]:
        """Execute the run from a checkpoint on until it ends, waits or is stopped."""
        log = self._open_log(tail)
        if self._suspect is not None:
            log.on_stored = self._suspect.cleared
        execution = Execution(
            self._plan,
            log,
            executor_id=executor_id,
            options=self._options,
            listeners=self._listeners,
            overrides=overrides,
            asks_again=asks_again,
            holds=self._holds,
            as_of=self._as_of,
            hooks=self._hooks,
        )
        for record in met:
            execution.observe(record)
        if self._pause is not None:
            execution.pause(self._pause)
        self._execution = execution
        try:
            await execution.run()
        finally:
            self._execution = None
        return self._result(log.tail)

    def _result(self, tail: Checkpoint) -> RunResult[S]:
        """Return what a caller gets of a run that stands at this checkpoint."""
        return RunResult.of(tail, self._plan.state)

    def _seen(self, tail: Checkpoint) -> RunResult[S]:
        """Take note of where the run stands, unless an execution of this object knows better."""
        if self._execution is None:
            self._open_log(tail)
        return self._result(tail)

    def _open_log(self, tail: Checkpoint) -> RunLog:
        """Make the log that the next records are appended to, behind this checkpoint."""
        self._log = RunLog(self._store, tail, durability=self._options.durability, keyring=self._keyring)
        return self._log

    async def _give_up(self, tail: Checkpoint, executor_id: str, resumes: int) -> RunResult[S]:
        """Record that the run failed: it was resumed that many times in a row without a completed step."""
        failed = crash_loop_record(tail, executor_id, resumes)
        await dispatch.write(self._store, failed, keyring=self._keyring)
        self._open_log(failed)
        self._listeners.publish_step(failed)
        return self._result(failed)

    async def _read_step(self, step: int) -> Checkpoint | None:
        """Return one step of the run, or None if absent."""
        return await dispatch.read_at_step(self._store, self.run_id, step, keyring=self._keyring)

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        """Guard against two executions of this object at a time, and tell the listeners when one stops."""
        if self._active:
            raise CheckpointError(
                f"run {self.run_id!r} is being executed by this object already",
                reason="already-running",
                hint="Await the first start() or resume().",
                run_id=self.run_id,
            )
        self._begun = self._active = True
        self._pause = None
        try:
            yield
        finally:
            self._active = False
            self._listeners.publish(None)
