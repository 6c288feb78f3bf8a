"""`stargraph enqueue`."""

from __future__ import annotations

from datetime import datetime
from json import JSONDecodeError
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from stargraph.cli._options import (
    DEFAULT_CHECKPOINT,
    CheckpointOption,
    ConcurrencyKeyOption,
    GraphArgument,
    InputOption,
    InputsOption,
    JsonOption,
    KeysOption,
    PriorityOption,
    TagOption,
)
from stargraph.errors import CheckpointConflictError, StargraphError

if TYPE_CHECKING:
    from stargraph.cli._store import StoreRef
    from stargraph.graph import EnqueuedRun, Graph, RunRequest

_MEMBERS: Final = frozenset({"inputs", "run_id", "queue", "priority", "not_before", "concurrency_key", "metadata"})


def enqueue(
    graph: GraphArgument,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    input_: InputOption = None,
    inputs: InputsOption = None,
    lines: Annotated[
        str | None,
        typer.Option(
            "--lines", metavar="FILE", help='JSON Lines, a run each, as in: {"inputs": {…}, "run_id": …}; - is stdin.'
        ),
    ] = None,
    run_id: Annotated[
        str | None,
        typer.Option("--run-id", metavar="ID", help="The run's id: enqueued once, however often this is repeated."),
    ] = None,
    queue: Annotated[str, typer.Option(metavar="NAME", help="The queue.")] = "default",
    priority: PriorityOption = 0,
    not_before: Annotated[
        str | None,
        typer.Option(
            "--not-before", metavar="TIME", help="The earliest time to begin: 2026-01-31T12:00:00Z, or 30m, 12h."
        ),
    ] = None,
    key: ConcurrencyKeyOption = None,
    tag: TagOption = None,
    json: JsonOption = False,
) -> None:
    """Store runs of GRAPH for workers to execute; no node runs here.

    With --lines, each line is an object with the members inputs, run_id, queue, priority, not_before,
    concurrency_key and metadata, all optional; the options fill in what a line leaves out. If one line
    is wrong, no run is stored.
    """
    from stargraph.cli._execution import load, run_async
    from stargraph.cli._inputs import parse_delay, read_inputs, split_pairs
    from stargraph.cli._output import plural, print_json, print_lines
    from stargraph.cli._store import StoreRef

    if lines is not None and (input_ or inputs is not None or run_id is not None):
        raise StargraphError(
            "--lines and -i, --inputs or --run-id exclude each other",
            reason="invalid-arguments",
            hint="Give the inputs and the ids in the lines.",
        )
    ref = StoreRef(checkpoint, encryption_keys)
    if ref.is_volatile:
        raise StargraphError(
            f"{ref} ends with this command, so no worker could see the run",
            reason="invalid-arguments",
            hint="Name a lasting store with --checkpoint.",
        )
    loaded = load(graph)
    defaults: dict[str, Any] = {
        "queue": queue,
        "priority": priority,
        "not_before": None if not_before is None else parse_delay(not_before, "--not-before"),
        "concurrency_key": key,
        "metadata": split_pairs(tag or (), "--tag"),
    }
    if lines is None:
        values = read_inputs(loaded, input_ or (), inputs)
        requests = [_request(loaded, {**defaults, "inputs": values, "run_id": run_id})]
    else:
        numbered = _read_lines(loaded, lines, defaults)
        requests = [request for _, request in numbered]
    found = run_async(_enqueue(ref, loaded, requests, None if lines is None else (lines, numbered)))
    new = sum(each.is_new for each in found)
    if json:
        members = [
            {"run_id": each.run_id, "is_new": each.is_new, "queue": request.queue}
            for each, request in zip(found, requests, strict=True)
        ]
        print_json(members[0] if lines is None else members)
    elif lines is None:
        where = f"is queued in {queue}" if new else "was enqueued before"
        print_lines([f"run {found[0].run_id} {where}"])
    else:
        known = f"; {plural(len(found) - new, 'run')} had been enqueued before" if new < len(found) else ""
        print_lines([f"{plural(new, 'run')} enqueued{known}"])


async def _enqueue(
    ref: StoreRef, graph: Graph[Any], requests: list[RunRequest], lines: tuple[str, list[tuple[int, RunRequest]]] | None
) -> list[EnqueuedRun]:
    async with ref.opened("create") as store:
        try:
            return await graph.enqueue_many(store, requests)
        except StargraphError as error:
            if lines is not None:
                _name_line(error, *lines)
            raise


def _request(graph: Graph[Any], members: dict[str, Any]) -> RunRequest:
    """Return a checked request.

    Raises:
        StargraphError: it cannot be stored.
    """
    from stargraph.graph import RunRequest
    from stargraph.graph._queue import queued_record

    request = RunRequest(**members)
    queued_record(graph._plan, request, graph._plan.state.initial(request.inputs))
    return request


def _name_line(error: StargraphError, file: str, numbered: list[tuple[int, RunRequest]]) -> None:
    """Make the error of a store that did not take the runs of a file say which line it was, and what was stored."""
    if isinstance(error, CheckpointConflictError) and error.reason == "run-exists":
        line = max(number for number, request in numbered if request.run_id == error.run_id)
        error.message = f"{_name_of(file)}, line {line}: {error.message}"
        error.hint = (
            "No run was enqueued. Give the line another run_id, or leave it out, and enqueue the whole file again."
        )
    else:
        known = "Some lines may be enqueued: enqueue the whole file again, and those with a run_id are enqueued once."
        error.hint = f"{error.hint} {known}" if error.hint else known


def _name_of(file: str) -> str:
    return "stdin" if file == "-" else file


def _read_lines(graph: Graph[Any], file: str, defaults: dict[str, Any]) -> list[tuple[int, RunRequest]]:
    """Return the runs of a file, each with the number of its line."""
    from stargraph.cli._inputs import read_text

    requests = []
    for number, line in enumerate(read_text(file, "--lines", "a file with a JSON object in each line").splitlines(), 1):
        if not line.strip():
            continue
        try:
            requests.append((number, _request(graph, {**defaults, **_members_of(line)})))
        except (StargraphError, ValueError) as error:
            message = error.message if isinstance(error, StargraphError) else str(error)
            raise StargraphError(
                f"{_name_of(file)}, line {number}: {message}",
                reason=getattr(error, "reason", None) or "invalid-line",
                hint="No run was enqueued. Correct the line, and enqueue the whole file again.",
            ) from None
    return requests


def _members_of(line: str) -> dict[str, Any]:
    from stargraph.cli._inputs import parse_json

    try:
        members = parse_json(line)
    except JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(members, dict):
        raise ValueError('not an object; write {"inputs": {…}}')
    unknown = sorted(members.keys() - _MEMBERS)
    if unknown:
        raise ValueError(f"there is no member {unknown[0]!r}; there are {', '.join(sorted(_MEMBERS))}")
    for name, kind in (("inputs", dict), ("metadata", dict), ("run_id", str), ("queue", str), ("concurrency_key", str)):
        if name in members and not isinstance(members[name], kind):
            raise ValueError(f"{name} is {members[name]!r:.80}, not {'an object' if kind is dict else 'text'}")
    if type(members.get("priority", 0)) is not int:
        raise ValueError(f"priority is {members['priority']!r:.80}, not an integer")
    if "metadata" in members and not all(isinstance(value, str) for value in members["metadata"].values()):
        raise ValueError("the values of metadata are texts")
    if "not_before" in members:
        members["not_before"] = _time_of(members["not_before"])
    return members


def _time_of(value: object) -> datetime:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError(f"not_before is {value!r:.80}, not a time with its offset, as in 2026-01-31T12:00:00Z")
    return moment
