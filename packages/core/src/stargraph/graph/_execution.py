"""One execution of a run, from its latest checkpoint until it ends, fails, pauses or waits."""

from __future__ import annotations

import asyncio
from datetime import datetime

from stargraph.checkpoint.protocol import Checkpoint, JsonValue
from stargraph.engine import Engine, EngineOptions, ForkOverrides, NodePools, Pause, Plan, RunLog, StoppedElsewhere
from stargraph.graph._control import answer_record, takes_no_answers
from stargraph.graph._listeners import Listeners
from stargraph.graph._options import RunOptions
from stargraph.runtime import dispatch


class Execution:
    """An engine with the threads of its nodes; what may be asked of it while it runs.

    Args:
        plan: the graph.
        log: the log of the run.
        executor_id: names this execution in the log.
        options: how the run is executed.
        listeners: hear what happens.
        overrides: what a fork does differently.
        asks_again: whether questions that were asked by other code are asked again.
        waits_here: wait here for the times that nodes wait for.
        as_of: a time that has come, whatever the clock says.
    """

    def __init__(
        self,
        plan: Plan,
        log: RunLog,
        *,
        executor_id: str,
        options: RunOptions,
        listeners: Listeners,
        overrides: ForkOverrides,
        asks_again: bool,
        waits_here: bool,
        as_of: datetime | None,
    ) -> None:
        self.log = log
        self._pools = NodePools(options.executor, concurrency=plan.concurrency)
        self._stopped = asyncio.Event()
        engine_options = EngineOptions(
            executor_id=executor_id,
            pools=self._pools,
            publish=listeners.publish,
            is_heard=listeners.__bool__,
            watch=options.watch,
            hooks=options.hooks,
            record_attempts=options.record_attempts,
            waits_here=waits_here,
            as_of=as_of,
        )
        self._engine = Engine(plan, log, engine_options, overrides=overrides, asks_again=asks_again)

    async def run(self) -> None:
        """Execute the run until nothing is left to do."""
        try:
            await self._engine.run()
        finally:
            try:
                await dispatch.run_uncancelled(self._pools.close())
            finally:
                self._stopped.set()

    def observe(self, record: Checkpoint) -> None:
        """Act on a control event that was appended by somebody else."""
        self._engine.observe(record)

    async def answer(self, question_id: str, value: JsonValue) -> Checkpoint:
        """Record the answer to a question, and act on it.

        Args:
            value: the answer, checked.

        Raises:
            CheckpointError: `reason` is `no-such-question` or `run-ended`, or as the store raises.
        """
        try:
            record, _ = await self.log.append(lambda tail: answer_record(tail, question_id, value))
        except StoppedElsewhere:
            raise takes_no_answers(self.log.tail) from None
        self.observe(record)
        return record

    def pause(self, pause: Pause) -> None:
        """Start nothing more; cancel the nodes that still run when its grace is over."""
        self._engine.pause(pause)

    async def cancel(self) -> None:
        """Stop all nodes, record that the run is cancelled, and wait until that is done."""
        self._engine.cancel()
        await self._stopped.wait()
