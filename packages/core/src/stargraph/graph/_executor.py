"""One start or resume of a run, from its first or latest checkpoint to that at which it ends, fails or waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from datetime import datetime
from functools import partial
from typing import Final

from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.protocol import Checkpoint, Checkpointer, JsonValue
from stargraph.engine import ForkOverrides, Pause, Plan, RunInfo, RunLog, around, first_record, new_executor_id
from stargraph.errors import CheckpointConflictError, StoreUnavailableError
from stargraph.graph._control import CANCEL_GRACE, cancel, pause, respond
from stargraph.graph._execution import Execution
from stargraph.graph._listeners import Listeners
from stargraph.graph._logging import log_takeover, logged
from stargraph.graph._options import RunOptions
from stargraph.graph._presence import presence
from stargraph.graph._records import append_resumed, crash_loop_record
from stargraph.graph._resume_checks import (
    Accept,
    ReadStep,
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

_BEGINNING: Final[ContextVar[tuple[asyncio.Event, ...]]] = ContextVar("stargraph_beginning", default=())
"""What tells that the store holds a run, of all runs whose start or resume this task is part of, also as middleware of
theirs that starts another one."""


class RunExecutor:
    """Executes a run once. It knows checkpoints alone; `Run` is what users see of it.

    Args:
        plan: its graph.
        checkpointer: the store.
        store: the same one, as the middleware observes it.
        options: how the run is executed.
        keyring: seals and checks.
        listeners: hear what happens.
        open_log: makes the log that continues after a checkpoint. The checkpoints that it gets, and the tails of these
            logs, are where the run is seen to stand.
        allow_effects: whether a fork may make calls that are not repeatable.
        waits_here: wait here for the times that nodes wait for.
        as_of: a time that has come, whatever the clock says.

    Attributes:
        execution: what executes the nodes; None before it begins and after it has stopped.
    """

    def __init__(
        self,
        run_id: str,
        plan: Plan,
        checkpointer: Checkpointer,
        store: Checkpointer,
        options: RunOptions,
        *,
        keyring: Keyring | None,
        listeners: Listeners,
        open_log: Callable[[Checkpoint], RunLog],
        allow_effects: bool,
        waits_here: bool,
        as_of: datetime | None,
    ) -> None:
        self.execution: Execution | None = None
        self._executor_id = new_executor_id()
        self._run_id = run_id
        self._plan = plan
        self._checkpointer = checkpointer
        self._store = store
        self._options = options
        self._keyring = keyring
        self._listeners = listeners
        self._open_log = open_log
        self._allow_effects = allow_effects
        self._waits_here = waits_here
        self._as_of = as_of
        self._pause: Pause | None = None
        self._cancel_grace = CANCEL_GRACE
        self._is_stored = asyncio.Event()
        self._stop_waiting = asyncio.Event()
        self._suspect = Suspect()
        self._read_step: ReadStep = partial(dispatch.read_at_step, store, run_id, keyring=keyring)

    async def start(
        self, inputs: Mapping[str, JsonValue], metadata: dict[str, str], opening: Sequence[Checkpoint] = ()
    ) -> Checkpoint:
        """Begin the run, and execute it.

        Args:
            inputs: the values that the state begins with.
            metadata: its tags; the middleware may add some.
            opening: its first steps, if it is a fork, which has no inputs.

        Returns:
            Where it stands then.
        """
        info = RunInfo(self._run_id, self._plan.document.id, "start", metadata)
        return await self._observed(info, partial(self._begin, inputs, metadata, opening))

    async def start_or_resume(self, inputs: Mapping[str, JsonValue], metadata: dict[str, str]) -> Checkpoint:
        """Start the run, or resume it if the store knows its id; the arguments are those of `start`."""
        if await dispatch.read_latest(self._store, self._run_id, keyring=self._keyring) is None:
            try:
                return await self.start(inputs, metadata)
            except CheckpointConflictError as error:
                if error.reason != "run-exists":
                    raise
        return await self.resume()

    async def resume(
        self,
        *,
        only_if_idle: float | None = None,
        only_at_step: int | None = None,
        max_resumes: int = 10,
        accept: Sequence[Accept] = (),
    ) -> Checkpoint:
        """Check what can be checked without writing, and take the run up; the arguments are those of `Run.resume`.

        Returns:
            Where it stands then.
        """
        tail = await dispatch.read_run(self._store, self._run_id, keyring=self._keyring)
        self._is_stored.set()
        log = self._open_log(tail)
        refuse_moved_on(tail, only_at_step)
        if tail.status == "done":
            await check_done(self._plan, tail, self._read_step, accept=accept)
            return tail
        refuse_ended(tail)
        refuse_busy(tail, only_if_idle)
        info = RunInfo(self._run_id, tail.graph_id, "resume", dict(tail.metadata), tail.parent_run_id, tail.step)
        take_up = partial(self._take_up, log, max_resumes, accept, stays_paused=only_at_step is not None)
        return await self._observed(info, take_up)

    def pause(self, request: Pause) -> None:
        """Stop gently, now or as soon as the nodes begin to execute."""
        self._pause = request
        self._stop_waiting.set()
        if self.execution is not None:
            self.execution.pause(request)

    async def cancel(self, *, grace: float) -> None:
        """Cancel the nodes, once the store holds the run; return when they have stopped, or none execute.

        Args:
            grace: seconds that an executor elsewhere has to stop, if this one waits for the time of a queued run.
        """
        self._cancel_grace = grace
        # The middleware of a run that begins holds up the task that stores it, and so do the tasks that it awaits.
        if self._is_stored not in _BEGINNING.get():
            await self._is_stored.wait()
        self._stop_waiting.set()
        if self.execution is not None:
            await self.execution.cancel()

    @contextmanager
    def beginning(self) -> Iterator[None]:
        """Let a cancel wait for the store to hold the run, unless this task waits for that cancel."""
        outer = _BEGINNING.get()
        # Of stored runs nothing waits: a run that starts the next one, and so on, does not make the tuple long.
        _BEGINNING.set((*[each for each in outer if not each.is_set()], self._is_stored))
        try:
            yield
        finally:
            self._is_stored.set()  # the store holds the run by now, or will not
            _BEGINNING.set(outer)

    async def _observed(self, info: RunInfo, execute: Callable[[], Awaitable[Checkpoint]]) -> Checkpoint:
        """Execute the run inside its middleware, and log how that went."""
        hooks = self._options.hooks.run
        if not hooks:
            return await logged(info, execute)
        async with around(hooks, info):
            return await logged(info, execute)

    async def _begin(
        self, inputs: Mapping[str, JsonValue], metadata: Mapping[str, str], opening: Sequence[Checkpoint]
    ) -> Checkpoint:
        """Store step 0, and execute the run from there."""
        first, *carried = opening or [
            first_record(
                self._plan,
                await self._plan.state.initial_in_turns(inputs),
                run_id=self._run_id,
                executor_id=self._executor_id,
                metadata=metadata,
            )
        ]
        try:
            await dispatch.write(self._store, first, keyring=self._keyring)
        except CheckpointConflictError as error:
            raise CheckpointConflictError(
                f"run {self._run_id!r} exists already",
                reason="run-exists",
                hint="Resume it, or choose another run id.",
                run_id=self._run_id,
                step=0,
            ) from error
        if carried:
            await dispatch.write_many(self._store, carried, keyring=self._keyring)
            self._listeners.publish_step(first)
        self._is_stored.set()
        return await self._execute((first, *carried)[-1])

    async def _take_up(
        self, log: RunLog, max_resumes: int, accept: Sequence[Accept], *, stays_paused: bool
    ) -> Checkpoint:
        """Do what was asked of the run meanwhile, append `resumed`, and execute it.

        Args:
            log: the log, at its latest checkpoint.
            max_resumes: fail the run after so many resumes in a row without a completed step.
            accept: changes of the graph or the code to accept.
            stays_paused: leave a run paused that somebody asked to pause.
        """
        tail = log.tail
        request = await open_request(tail, self._read_step)
        if request == "cancel":
            return self._noted(await cancel(self._store, self._run_id, grace=0, keyring=self._keyring))
        if request == "pause" and stays_paused:
            # A worker does not undo what a person asked for; whoever resumes the run by hand does.
            return self._noted(await pause(self._store, self._run_id, grace=0, keyring=self._keyring))
        carried = await carried_over(self._plan, tail, self._read_step, executor_id=self._executor_id, accept=accept)
        if carried is tail and waits_longer(self._plan, tail, self._as_of):
            if not self._waits_here:
                return tail
            if tail.status == "queued":
                look = self._look_for_changes(tail)
                latest = await until_due(tail, self._stop_waiting, look=look, seconds=self._options.watch)
                if latest is None:
                    return await self._stop_queued(tail)
                if latest.status != "queued":  # somebody else has stopped it, or has executed it
                    return self._noted(latest)
                if latest is not tail:  # or has queued it again, for another time
                    return await self._take_up(self._open_log(latest), max_resumes, accept, stays_paused=stays_paused)
        resumes = await fruitless_resumes(tail, self._read_step, max_resumes)
        if resumes >= max_resumes:
            return await self._give_up(tail, max_resumes)
        if resumes and resumes * 2 >= max_resumes:
            await self._suspect.wait()
        try:
            async with nullcontext() if tail.queue is None else presence(self._checkpointer):
                if carried is not tail:
                    await dispatch.write(self._store, carried, keyring=self._keyring)
                    log = self._open_log(carried)
                    self._listeners.publish_step(carried)
                resumed, met = await append_resumed(self._plan, log, self._executor_id)
                log_takeover(tail)
                changed = (tail.graph_hash, tail.runtime_hash) != (resumed.graph_hash, resumed.runtime_hash)
                return await self._execute(resumed, met, asks_again=changed)
        finally:
            self._suspect.cleared()

    def _look_for_changes(self, tail: Checkpoint) -> Callable[[], Awaitable[Checkpoint | None]]:
        """Return what looks whether somebody else has changed what a queued run waits for: one read if nobody has.

        Whoever executes the run meanwhile is left to it: what stops the wait then stops that execution.
        """
        known = tail

        async def look() -> Checkpoint | None:
            nonlocal known
            try:
                if await self._read_step(known.step + 1) is None:
                    return None
                known = await dispatch.read_run(self._store, self._run_id, keyring=self._keyring)
            except StoreUnavailableError:
                return None  # whoever begins the run says so, if it lasts
            return None if known.status == "running" else known

        return look

    async def _stop_queued(self, tail: Checkpoint) -> Checkpoint:
        """Do what ended the wait for the time of a queued run: a cancel, or a pause."""
        # Somebody else may execute the run by now, and has some time to stop.
        if self._pause is None:
            return self._noted(await cancel(self._store, self._run_id, grace=self._cancel_grace, keyring=self._keyring))
        if self._pause.requeue:
            return tail
        return self._noted(await pause(self._store, self._run_id, grace=self._pause.grace, keyring=self._keyring))

    async def _give_up(self, tail: Checkpoint, resumes: int) -> Checkpoint:
        """Record that the run failed: it was resumed that many times in a row without a completed step."""
        failed = crash_loop_record(tail, self._executor_id, resumes)
        await dispatch.write(self._store, failed, keyring=self._keyring)
        self._listeners.publish_step(failed)
        return self._noted(failed)

    async def _execute(
        self, tail: Checkpoint, met: Sequence[Checkpoint] = (), *, asks_again: bool = False
    ) -> Checkpoint:
        """Execute the run from a checkpoint on, and again as long as a fork answers its own questions."""
        overrides = await fork_overrides(tail, self._read_step, effects=self._allow_effects)
        self._listeners.publish_step(tail)
        tail = await self._execute_once(tail, overrides, met, asks_again=asks_again)
        while tail.status == "awaiting_input":
            answered = await self._answered(tail, overrides)
            if answered is tail:
                break
            tail = await self._execute_once(answered, overrides)
        return tail

    async def _execute_once(
        self,
        tail: Checkpoint,
        overrides: ForkOverrides,
        met: Sequence[Checkpoint] = (),
        *,
        asks_again: bool = False,
    ) -> Checkpoint:
        """Execute the run from a checkpoint on until it ends, waits or is stopped."""
        log = self._open_log(tail)
        log.on_stored = self._suspect.cleared
        self.execution = execution = Execution(
            self._plan,
            log,
            executor_id=self._executor_id,
            options=self._options,
            listeners=self._listeners,
            overrides=overrides,
            asks_again=asks_again,
            waits_here=self._waits_here,
            as_of=self._as_of,
        )
        for record in met:
            execution.observe(record)
        if self._pause is not None:
            execution.pause(self._pause)
        try:
            await execution.run()
        finally:
            self.execution = None
        return log.tail

    async def _answered(self, tail: Checkpoint, overrides: ForkOverrides) -> Checkpoint:
        """Answer the open questions that a fork has answers to; return the same checkpoint if there are none."""
        for interrupt in tail.questions:
            answer = overrides.answer_to(interrupt)
            if answer is not None:
                tail = self._noted(
                    await respond(
                        self._store, self._run_id, interrupt.id, answer[0], plan=self._plan, keyring=self._keyring
                    )
                )
        return tail

    def _noted(self, tail: Checkpoint) -> Checkpoint:
        """Note where the run stands, at a checkpoint that no execution has appended."""
        self._open_log(tail)
        return tail
