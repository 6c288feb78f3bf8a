"""A model in a dict, and random calls that it must agree with; Hypothesis makes the calls and shrinks what fails."""

from __future__ import annotations

import asyncio
from typing import Final

from stargraph.checkpoint.conformance._expect import Violation
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group

group: Final = Group("stateful", needs=("steps.append_and_read",))


@group.check(
    "agrees_with_model",
    "Whatever is called in whatever order, on several handles, the store agrees with a dict.",
    contract="log.1, write.1, read.1, list.1",
    usual_cause="Two features that work alone do not work together; the violation lists the calls.",
    needs=("steps.conflict_keeps_stored", "steps.ended_refused", "list_runs.newest_first", "durability.other_handle"),
    version=5,
    quick=False,
    deadline=120,
)
async def agrees_with_model(kit: Kit) -> None:
    from stargraph.checkpoint.conformance._model import run_model
    from stargraph.checkpoint.conformance._model_fleet import FleetMachine
    from stargraph.checkpoint.conformance._model_runs import RunMachine

    # Hypothesis is synchronous: it gets a thread, and in it a loop of its own.
    machines = [RunMachine, *([FleetMachine] if {"queues", "presence", "schedules"} & kit.declared else [])]
    for machine in machines:
        failure = await asyncio.to_thread(run_model, kit, machine, examples=50, steps=40)
        if failure is not None:
            raise Violation(failure)
