"""`stargraph cancel`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from stargraph.cli._options import DEFAULT_CHECKPOINT, CheckpointOption, JsonOption, KeysOption, RunIdArgument

if TYPE_CHECKING:
    from stargraph.checkpoint.protocol import Checkpoint


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
    """End the run RUN_ID and its child runs as cancelled, whoever executes it.

    The state that it reached stays. A cancelled run does not go on.
    """
    from stargraph.cli._execution import run_async
    from stargraph.cli._output import print_json, print_lines

    ended = run_async(_cancel(run_id, grace, checkpoint))
    if json:
        print_json({"run_id": run_id, "step": ended.step, "status": ended.status})
    else:
        print_lines([f"run {run_id} is cancelled at step {ended.step}"])


async def _cancel(run_id: str, grace: float, checkpoint: str) -> Checkpoint:
    from stargraph.cli._store import keyring, opened
    from stargraph.graph import cancel as end

    async with opened(checkpoint, must_exist=True) as store:
        return await end(store, run_id, grace=grace, keyring=keyring())
