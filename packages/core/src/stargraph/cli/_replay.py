"""`stargraph replay`."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace as replaced
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stargraph.cli._exit_codes import ExitCode
from stargraph.cli._options import (
    DEFAULT_CHECKPOINT,
    AcceptName,
    AllowEffectsOption,
    CheckpointOption,
    GraphAfterRunArgument,
    JsonOption,
    KeysOption,
    LogJsonOption,
    LogLevel,
    LogLevelOption,
    QuietOption,
    RunBeforeGraphArgument,
    TagOption,
    run_and_graph,
)
from stargraph.cli._output import clean, print_json, print_lines
from stargraph.errors import StargraphError

if TYPE_CHECKING:
    from stargraph.checkpoint.protocol import Checkpointer, RunSummary
    from stargraph.cli._store import StoreRef
    from stargraph.graph import Graph, Run
    from stargraph.replay import Overlay, ReplayReport, RunDiff


def replay(
    run_id: RunBeforeGraphArgument = None,
    graph: GraphAfterRunArgument = None,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    from_step: Annotated[int | None, typer.Option(metavar="N", min=0, help="Start after this step of the run.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Fork the run with this value in its state; repeatable."),
    ] = None,
    overlay: Annotated[
        str | None, typer.Option(metavar="FILE", help="Fork the run with the changes in this YAML or JSON file.")
    ] = None,
    diff: Annotated[bool, typer.Option("--diff", help="Show what differs, step by step.")] = False,
    fork_id: Annotated[
        str | None, typer.Option("--run-id", metavar="ID", help="The fork's id; a UUIDv7 if not given.")
    ] = None,
    tag: TagOption = None,
    accept: Annotated[
        AcceptName | None, typer.Option(help="Continue although another version of the graph made the run.")
    ] = None,
    allow_effects: AllowEffectsOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    log_level: LogLevelOption = LogLevel.OFF,
    log_json: LogJsonOption = False,
) -> None:
    """Replay the run RUN_ID of GRAPH from its log, with recorded calls, and compare each step with its record.

    Nothing is written. With --set or --overlay a fork is run instead: a new run that starts at a step of the first
    one, with the changes you give, and executes its nodes from there on. The first run stays as it is.
    """
    from stargraph.cli._execution import load
    from stargraph.cli._logging import show_log
    from stargraph.cli._store import StoreRef

    show_log(log_level, as_json=log_json)
    wanted, target = run_and_graph(run_id, graph)
    store = StoreRef(checkpoint, encryption_keys)
    loaded = load(target)
    accepted = accept is not None and accept.value == "graph"
    if not set_ and overlay is None:
        for option, given in (("--run-id", fork_id), ("--tag", tag), ("--allow-effects", allow_effects)):
            if given:
                raise StargraphError(
                    f"{option} is for a fork, but no change is given",
                    reason="invalid-arguments",
                    hint="Give --set or --overlay too.",
                )
        _verify(loaded, wanted, store, from_step=from_step or 0, accepted=accepted, diff=diff, json=json, quiet=quiet)
    _fork(
        loaded,
        target,
        wanted,
        _overlay(loaded, set_ or (), overlay),
        store=store,
        from_step=from_step,
        fork_id=fork_id,
        tags=tag,
        accepted=accepted,
        allow_effects=allow_effects,
        diff=diff,
        json=json,
        quiet=quiet,
    )


def _verify(
    graph: Graph,
    run_id: str,
    ref: StoreRef,
    *,
    from_step: int,
    accepted: bool,
    diff: bool,
    json: bool,
    quiet: bool,
) -> None:
    """Compare, print what was found, and end the command."""
    from stargraph.cli._execution import run_async
    from stargraph.cli._run_ids import find_run_id
    from stargraph.cli._streams import stdout_kept

    async def compare() -> ReplayReport:
        async with ref.opened("read") as store:
            run = await graph.start(checkpointer=store, run_id=await find_run_id(store, run_id, graph_id=graph.id))
            return await run.replay(from_step=from_step, accept=("graph",) if accepted else ())

    # What nodes print must not get between the JSON.
    with stdout_kept() if json else nullcontext():
        report = run_async(compare())
    if json:
        print_json(report.as_json())
    else:
        print_lines(map(clean, _report_lines(report, diff=diff, quiet=quiet)))
    raise typer.Exit(ExitCode.DONE if report else ExitCode.FAILED)


def _report_lines(report: ReplayReport, *, diff: bool, quiet: bool) -> list[str]:
    lines = report.lines()[:1] if quiet else report.lines()
    if diff:
        for difference in report.differences:
            lines += ["", difference.where, *(f"    {line}" for line in difference.diff.lines())]
    return lines


def _overlay(graph: Graph, pairs: list[str] | tuple[str, ...], file: str | None) -> Overlay:
    from stargraph.cli._inputs import split_pairs, typed
    from stargraph.replay import Overlay

    overlay = Overlay() if file is None else Overlay.from_file(file, code=(Path.cwd(),))
    spec = (overlay.graph or graph).state
    given = {
        path: typed(overlay.graph or graph, spec, path.removeprefix("state."), text, "--set")
        for path, text in split_pairs(pairs, "--set").items()
    }
    return replaced(overlay, state={**overlay.state, **given})


def _fork(
    graph: Graph,
    graph_file: str,
    run_id: str,
    overlay: Overlay,
    *,
    store: StoreRef,
    from_step: int | None,
    fork_id: str | None,
    tags: list[str] | None,
    accepted: bool,
    allow_effects: bool,
    diff: bool,
    json: bool,
    quiet: bool,
) -> None:
    """Execute a fork, print its outcome and how it differs, and end the command with its exit code."""
    from stargraph.cli._execution import ShownExecution, choose_display, run_async
    from stargraph.cli._inputs import split_pairs
    from stargraph.cli._run_ids import find_run_id
    from stargraph.replay import diff_runs

    metadata = split_pairs(tags, "--tag") if tags else None
    parent: Run | None = None
    difference: RunDiff | None = None

    async def create(opened: Checkpointer) -> Run:
        nonlocal parent
        parent = await graph.start(checkpointer=opened, run_id=await find_run_id(opened, run_id, graph_id=graph.id))
        return await parent.fork(
            from_step,
            overlay,
            run_id=fork_id,
            metadata=metadata,
            accept=("graph",) if accepted else (),
            allow_effects=allow_effects,
        )

    async def act(run: Run) -> RunSummary:
        nonlocal difference
        summary = await run.start()
        if diff and parent is not None:
            difference = await diff_runs(parent, run)
        return summary

    display = choose_display(as_json=json, events=False, quiet=quiet)
    outcome = None
    try:
        used = overlay.graph or graph
        execution = ShownExecution(used, str(used.file or graph_file), store, display)
        outcome = run_async(execution.run(create, act, access="write", answer=None))
        if difference is not None:
            outcome = replaced(outcome, details={"diff": difference.as_json()})
    finally:
        display.end(outcome)
    if difference is not None and not json:
        print_lines(map(clean, difference.lines()))
    outcome.explain()
    raise typer.Exit(outcome.exit_code)
