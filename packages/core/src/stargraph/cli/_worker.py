"""`stargraph worker`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from stargraph.cli._errors import print_error
from stargraph.cli._exit_codes import ExitCode
from stargraph.cli._options import (
    DEFAULT_CHECKPOINT,
    GRAPH_HELP,
    AcceptName,
    CheckpointOption,
    DurabilityName,
    DurabilityOption,
    JsonOption,
    KeysOption,
    LogJsonOption,
    LogLevel,
    LogLevelOption,
)
from stargraph.errors import StargraphError

if TYPE_CHECKING:
    from stargraph.cli._store import StoreRef
    from stargraph.worker import Worker, WorkerMetrics


def worker(
    graphs: Annotated[list[str], typer.Argument(metavar="GRAPH", help=f"{GRAPH_HELP} Several versions may be given.")],
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    queue: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A queue to serve; repeatable. [default: default]")
    ] = None,
    concurrency: Annotated[int, typer.Option(metavar="N", min=1, help="At most this many runs at once.")] = 8,
    attempts: Annotated[
        int, typer.Option(metavar="N", min=1, help="How often a failed run is tried, the first attempt included.")
    ] = 1,
    retry_delay: Annotated[
        float,
        typer.Option(
            "--retry-delay", metavar="SECONDS", min=0, help="The wait before the second attempt; then it doubles."
        ),
    ] = 1.0,
    max_retry_delay: Annotated[
        float, typer.Option("--max-retry-delay", metavar="SECONDS", min=0, help="The longest wait before an attempt.")
    ] = 300.0,
    silent_after: Annotated[
        float,
        typer.Option(
            "--silent-after",
            metavar="SECONDS",
            min=0.1,
            help="How long a process may be silent before it counts as gone.",
        ),
    ] = 30.0,
    isolate_after: Annotated[
        int,
        typer.Option(
            "--isolate-after", metavar="N", min=1, help="Give a run that killed this many processes one of its own."
        ),
    ] = 2,
    poison_after: Annotated[
        int, typer.Option("--poison-after", metavar="N", min=2, help="Fail a run that killed this many processes.")
    ] = 4,
    poll: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.01, help="The average time between two looks at idle queues.")
    ] = 1.0,
    grace: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How long running nodes have to end after a SIGTERM.")
    ] = 30.0,
    accept: Annotated[
        list[AcceptName] | None,
        typer.Option(help="Execute runs although the code of the nodes (runtime) or the graph changed; repeatable."),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST:]PORT", help="Answer /health, /ready and /metrics there; the host is 127.0.0.1 if not given."
        ),
    ] = None,
    until_idle: Annotated[bool, typer.Option("--until-idle", help="Exit once no run can go on now.")] = False,
    durability: DurabilityOption = DurabilityName.SYNC,
    json: JsonOption = False,
    log_level: LogLevelOption = LogLevel.INFO,
    log_json: LogJsonOption = False,
) -> None:
    """Take runs from queues and execute them, until a SIGTERM or Ctrl-C.

    It takes queued runs that are due, runs whose time or answer has come, and runs whose process is gone. At the first
    signal it takes no more, and leaves its runs to other workers once their running nodes have ended; a second
    one ends the process at once. Either way nothing that was stored is lost.
    """
    from stargraph.cli._execution import run_async
    from stargraph.cli._logging import show_log
    from stargraph.cli._output import print_json
    from stargraph.cli._store import StoreRef
    from stargraph.worker import RunRetries, StoreSource, Worker

    show_log(log_level, as_json=log_json)
    ref = StoreRef(checkpoint, encryption_keys)
    if poison_after <= isolate_after:
        raise StargraphError(
            f"--poison-after {poison_after} must be more than --isolate-after {isolate_after}",
            reason="invalid-arguments",
            hint="A run has to be tried alone before it is failed.",
        )
    address = None if listen is None else _address(listen)
    source = StoreSource(checkpoint)
    if encryption_keys is not None:
        source = StoreSource(checkpoint, encryption_keys.text, encryption_keys.option)
    made = Worker(
        source,
        graphs,
        tuple(queue or ("default",)),
        concurrency=concurrency,
        retries=RunRetries(attempts=attempts, initial_delay=retry_delay, max_delay=max_retry_delay),
        silent_after=silent_after,
        isolate_after=isolate_after,
        poison_after=poison_after,
        poll=poll,
        grace=grace,
        accept=[each.value for each in accept or ()],
        durability=durability.value,
        listen=address,
        until_idle=until_idle,
    )
    metrics = run_async(_run(ref, made))
    if json:
        print_json(
            {sample.name: sample.value for sample in metrics.counters() if not sample.labels}
            | {"executions": dict(metrics.executions), "damaged": metrics.damaged}
        )
    if until_idle and metrics.damaged:
        aside = "1 run or queue" if metrics.damaged == 1 else f"{metrics.damaged} runs or queues"
        print_error(
            f"the worker left {aside} aside, since the store cannot read what it holds of them",
            "Its log and `stargraph queues` name them; `stargraph doctor` repairs what the checkpoints tell.",
        )
        raise typer.Exit(ExitCode.STORE)


async def _run(ref: StoreRef, worker: Worker) -> WorkerMetrics:
    async with ref.opened("write"):
        pass  # a store that is not there is refused, not made
    return await worker.run()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise StargraphError(
            f"--listen {text!r:.220} is not an address",
            reason="invalid-arguments",
            hint="Write a port, or host:port, as in 9464 or 0.0.0.0:9464.",
        )
    return host.strip("[]") or "127.0.0.1", int(port)
