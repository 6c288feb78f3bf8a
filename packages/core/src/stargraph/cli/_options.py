"""The options that several commands share."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from stargraph.cli._errors import JSON_KEY

DEFAULT_CHECKPOINT: Final = "./.stargraph/run.sqlite"
"""The store where none is named."""

CHECKPOINT_VARIABLE: Final = "STARGRAPH_CHECKPOINT"
"""The environment variable that names the store where no option does."""

NODE_THREADS: Final = "stargraph-node"
"""How the names of the threads begin in which nodes run."""


class StatusName(StrEnum):
    """Where a run stands, as an option takes it."""

    RUNNING = "running"
    AWAITING_INPUT = "awaiting_input"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class DurabilityName(StrEnum):
    """When a step is durable, as an option takes it."""

    SYNC = "sync"
    ASYNC = "async"
    EXIT = "exit"


class AcceptName(StrEnum):
    """What may have changed since the run was recorded, as an option takes it."""

    RUNTIME = "runtime"
    GRAPH = "graph"


def _note_json(context: typer.Context, wanted: bool) -> bool:
    # Errors are told as JSON too, wherever they are raised.
    if wanted:
        context.meta[JSON_KEY] = True
    return wanted


def _use_keys(file: Path | None) -> Path | None:
    if file is not None:
        try:
            # The drivers, which are opened by their URLs, look for them there.
            os.environ["STARGRAPH_ENCRYPTION_KEY"] = ",".join(file.read_text().split())
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"{file}: {getattr(error, 'strerror', None) or 'it is not text'}") from None
    return file


CheckpointOption = Annotated[
    str,
    typer.Option(
        "--checkpoint",
        metavar="PATH_OR_URL",
        envvar=CHECKPOINT_VARIABLE,
        help="The store: a path, sqlite:///…, postgresql://…, s3://bucket/prefix.",
    ),
]
KeysOption = Annotated[
    Path | None,
    typer.Option(
        "--encryption-keys",
        metavar="FILE",
        help="A file with the keys that encrypt what is stored, key_id:secret, one a line, the current one first; or"
        " set STARGRAPH_ENCRYPTION_KEY.",
        callback=_use_keys,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON value on stdout, for programs.", callback=_note_json)
]
EventsOption = Annotated[
    bool,
    typer.Option(
        "--events", help="Print a JSON object for each event, one a line, and the outcome last.", callback=_note_json
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print the outcome alone.")]
TagOption = Annotated[list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="A tag; repeatable.")]
GraphArgument = Annotated[str, typer.Argument(metavar="GRAPH", help="The graph's file, YAML or JSON.")]
RunIdsArgument = Annotated[list[str] | None, typer.Argument(metavar="RUN_ID", help="The runs.", show_default=False)]
AllOption = Annotated[bool, typer.Option("--all", help="Every run of the store.")]
SinceOption = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="Every run started then or later: 2026-01-31, or 30m, 12h, 7d."),
]
RunIdArgument = Annotated[str, typer.Argument(metavar="RUN_ID", help="The run.")]
AllowEffectsOption = Annotated[
    bool,
    typer.Option("--allow-effects", help="In a fork, make calls too that are marked as not to be repeated."),
]
DurabilityOption = Annotated[
    DurabilityName,
    typer.Option(
        help="When a step is on disk: before what depends on it starts (sync), while the next node runs (async),"
        " or when the run stops (exit)."
    ),
]
