"""`stargraph run`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from stargraph.cli._options import (
    DEFAULT_CHECKPOINT,
    CheckpointOption,
    DurabilityName,
    DurabilityOption,
    EventsOption,
    GraphArgument,
    InputsOption,
    JsonOption,
    KeysOption,
    LogJsonOption,
    LogLevel,
    LogLevelOption,
    QuietOption,
    TagOption,
    WaitOption,
)
from stargraph.errors import StargraphError

if TYPE_CHECKING:
    from stargraph.checkpoint.protocol import Checkpointer
    from stargraph.cli._execution import Create
    from stargraph.graph import Graph, Run


def run(
    graph: GraphArgument,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    input_: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=VALUE",
            help="A value of the state: text for a str field, JSON for any other; repeatable.",
        ),
    ] = None,
    inputs: InputsOption = None,
    run_id: Annotated[
        str | None, typer.Option("--run-id", metavar="ID", help="The run's id; a UUIDv7 if not given.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="If the store knows --run-id, resume that run instead of starting it.")
    ] = False,
    tag: TagOption = None,
    durability: DurabilityOption = DurabilityName.SYNC,
    json: JsonOption = False,
    events: EventsOption = False,
    quiet: QuietOption = False,
    wait: WaitOption = False,
    log_level: LogLevelOption = LogLevel.OFF,
    log_json: LogJsonOption = False,
) -> None:
    """Start a run of GRAPH and execute it until it is done, fails or waits.

    On a terminal the nodes are shown as they run; elsewhere each event is a line. Ctrl-C stops the run after
    the write that is under way; a second one ends the process at once. Either way nothing that was stored is
    lost, and `stargraph resume` continues from there.
    """
    from stargraph.checkpoint.protocol import check_run_id
    from stargraph.cli._execution import execute, load
    from stargraph.cli._inputs import read_inputs, split_pairs
    from stargraph.cli._logging import show_log
    from stargraph.cli._output import clean, emit
    from stargraph.cli._store import StoreRef

    show_log(log_level, as_json=log_json)

    def prepare() -> tuple[Graph, Create]:
        loaded = load(graph)
        for warning in loaded.validate():
            emit(f"warning: {clean(warning)}", sys.stderr)
        values = read_inputs(loaded, input_ or (), inputs, complete=not resume)
        tags = split_pairs(tag or (), "--tag")
        if run_id is not None:
            check_run_id(run_id)  # before a store is made
        if resume and run_id is None:
            raise StargraphError(
                "--resume needs --run-id",
                reason="usage",
                hint="Name the run; it is started the first time, and resumed from then on.",
            )

        async def create(store: Checkpointer) -> Run:
            if resume and run_id is not None:
                return await loaded.start_or_resume(
                    checkpointer=store, inputs=values, run_id=run_id, metadata=tags, durability=durability.value
                )
            return await loaded.start(
                checkpointer=store, inputs=values, run_id=run_id, metadata=tags, durability=durability.value
            )

        return loaded, create

    execute(
        prepare,
        lambda run: run.start(wait=wait),
        graph_file=graph,
        store=StoreRef(checkpoint, encryption_keys),
        access="create",
        as_json=json,
        events=events,
        quiet=quiet,
    )
