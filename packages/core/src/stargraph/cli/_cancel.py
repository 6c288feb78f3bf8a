"""`stargraph cancel`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from stargraph.cli._options import DEFAULT_CHECKPOINT, CheckpointOption, JsonOption, KeysOption, RunIdArgument

if TYPE_CHECKING:
    from stargraph.checkpoint.protocol import Checkpoint
    from stargraph.cli._store import StoreRef


def cancel(
    run_id: RunIdArgument,
    grace: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0, help="How long an executor has to stop before it loses the run."),
    ] = 10.0,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    json: JsonOption = False,
) -> None:
    """Cancel the run RUN_ID and its child runs, whichever process executes it.

    The state that it has reached stays. A cancelled run cannot be resumed.
    """
    from stargraph.cli._execution import run_async
    from stargraph.cli._output import print_json, print_lines
    from stargraph.cli._store import StoreRef

    ended = run_async(_cancel(StoreRef(checkpoint, encryption_keys), run_id, grace))
    if json:
        print_json({"run_id": ended.run_id, "step": ended.step, "status": ended.status})
    else:
        print_lines([f"run {ended.run_id} is cancelled at step {ended.step}"])


async def _cancel(ref: StoreRef, run_id: str, grace: float) -> Checkpoint:
    from stargraph.cli._run_ids import find_run_id
    from stargraph.cli._store import keyring
    from stargraph.graph import cancel as end

    async with ref.opened("write") as store:
        return await end(store, await find_run_id(store, run_id), grace=grace, keyring=keyring())
