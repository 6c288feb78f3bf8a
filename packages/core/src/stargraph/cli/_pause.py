"""`stargraph pause`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from stargraph.cli._options import DEFAULT_CHECKPOINT, CheckpointOption, JsonOption, KeysOption, RunIdArgument

if TYPE_CHECKING:
    from stargraph.checkpoint.protocol import Checkpoint
    from stargraph.cli._store import StoreRef

_OUTCOMES: Final = {
    "running": "was asked to pause; it does once its running nodes have finished",
    "awaiting_input": "waits and executes nothing",
    "failed": "has failed",
    "done": "is done: it ended before it paused",
}


def pause(
    run_id: RunIdArgument,
    grace: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0, help="How long an executor has to pause before it loses the run."),
    ] = 30.0,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Only ask the executor; it may take as long as its nodes do.")
    ] = False,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    json: JsonOption = False,
) -> None:
    """Pause the run RUN_ID, whichever process executes it, until it is resumed or requeued.

    No further node starts, and running nodes finish.
    """
    from stargraph.cli._execution import run_async
    from stargraph.cli._output import print_json, print_lines
    from stargraph.cli._store import StoreRef

    tail = run_async(_pause(StoreRef(checkpoint, encryption_keys), run_id, None if no_wait else grace))
    if json:
        print_json({"run_id": tail.run_id, "step": tail.step, "status": tail.status})
    else:
        outcome = _OUTCOMES.get(tail.status, f"is {tail.status}")
        print_lines([f"run {tail.run_id} {outcome}, at step {tail.step}"])


async def _pause(ref: StoreRef, run_id: str, grace: float | None) -> Checkpoint:
    from stargraph.cli._run_ids import find_run_id
    from stargraph.cli._store import keyring
    from stargraph.graph import pause as rest

    async with ref.opened("write") as store:
        return await rest(store, await find_run_id(store, run_id), grace=grace, keyring=keyring())
