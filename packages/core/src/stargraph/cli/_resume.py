"""`stargraph resume`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from stargraph.cli._options import (
    DEFAULT_CHECKPOINT,
    AcceptName,
    AllowEffectsOption,
    CheckpointOption,
    DurabilityName,
    DurabilityOption,
    EventsOption,
    GraphAfterRunArgument,
    JsonOption,
    KeysOption,
    LogJsonOption,
    LogLevel,
    LogLevelOption,
    QuietOption,
    RunBeforeGraphArgument,
    WaitOption,
    run_and_graph,
)

if TYPE_CHECKING:
    from stargraph.checkpoint.protocol import Checkpointer
    from stargraph.cli._execution import Create
    from stargraph.graph import Graph, Run
    from stargraph.graph._resume_checks import Accept


def resume(
    run_id: RunBeforeGraphArgument = None,
    graph: GraphAfterRunArgument = None,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    accept: Annotated[
        list[AcceptName] | None,
        typer.Option(help="Resume although the code of the nodes (runtime) or the graph changed; repeatable."),
    ] = None,
    only_if_idle: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0, help="Refuse if the run's last event is less than this old."),
    ] = None,
    max_resumes: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Fail a run that was resumed this many times in a row without recording anything."
        ),
    ] = 10,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether the run would resume, and why not; write nothing.")
    ] = False,
    allow_effects: AllowEffectsOption = False,
    durability: DurabilityOption = DurabilityName.SYNC,
    json: JsonOption = False,
    events: EventsOption = False,
    quiet: QuietOption = False,
    wait: WaitOption = False,
    log_level: LogLevelOption = LogLevel.OFF,
    log_json: LogJsonOption = False,
) -> None:
    """Resume the run RUN_ID of GRAPH from its latest step; without RUN_ID, the latest run of GRAPH.

    Finished nodes do not run again; nodes that were running do. A process that still executes the run is
    refused at its next write. A run that is done is reported as it is.
    """
    from stargraph.cli._execution import check_resume, execute, load
    from stargraph.cli._logging import show_log
    from stargraph.cli._run_ids import find_run_id
    from stargraph.cli._store import StoreRef

    show_log(log_level, as_json=log_json)
    wanted, target = run_and_graph(run_id, graph)
    ref = StoreRef(checkpoint, encryption_keys)
    accepted: list[Accept] = [each.value for each in accept or ()]

    def prepare() -> tuple[Graph, Create]:
        loaded = load(target)

        async def create(store: Checkpointer) -> Run:
            found = await find_run_id(store, wanted, graph_id=loaded.id)
            return await loaded.start(checkpointer=store, run_id=found, durability=durability.value)

        return loaded, create

    if check:
        check_resume(prepare, accepted, store=ref, as_json=json)
        return
    execute(
        prepare,
        lambda run: run.resume(
            only_if_idle=only_if_idle, max_resumes=max_resumes, accept=accepted, allow_effects=allow_effects, wait=wait
        ),
        graph_file=target,
        store=ref,
        access="write",
        as_json=json,
        events=events,
        quiet=quiet,
    )
