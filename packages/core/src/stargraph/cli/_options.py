"""The options that several commands share."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated, Final

import typer

from stargraph.cli._keys import KeyFile
from stargraph.errors import StargraphError

LATEST: Final = "latest"
"""The word for the run that started last."""

DEFAULT_CHECKPOINT: Final = "./.stargraph/run.sqlite"
"""The store if none is named."""

CHECKPOINT_VARIABLE: Final = "STARGRAPH_CHECKPOINT"
"""The environment variable that names the store if no option does."""

REQUIRE_VARIABLE: Final = "STARGRAPH_REQUIRE_STORE"
"""The environment variable that refuses the default store."""

NODE_THREADS: Final = "stargraph-node"
"""The names of the threads in which nodes run begin with this."""


class StatusName(StrEnum):
    """Where a run stands, as an option takes it."""

    QUEUED = "queued"
    RUNNING = "running"
    AWAITING_INPUT = "awaiting_input"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    MOVED = "moved"


class OrderName(StrEnum):
    """Which runs come first, as an option takes it."""

    STARTED = "started"
    UPDATED = "updated"


class DurabilityName(StrEnum):
    """When a step is durable, as an option takes it."""

    SYNC = "sync"
    ASYNC = "async"
    EXIT = "exit"


class LogLevel(StrEnum):
    """From which level on the log is printed, as an option takes it."""

    OFF = "off"
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class AcceptName(StrEnum):
    """What may have changed since the run was recorded, as an option takes it."""

    RUNTIME = "runtime"
    GRAPH = "graph"


STORE_ARGUMENT: Final = "PATH_OR_URL"
"""What the help calls the store of a command that takes it as an argument."""


def _check_address(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    """Refuse what names no store, before anything is done."""
    if context.resilient_parsing:  # a shell that completes the line
        return value
    source = context.get_parameter_source(parameter.name or "")
    if source is not None and source.name == "DEFAULT":
        value = _default_address(value, "--checkpoint" if parameter.param_type_name == "option" else STORE_ARGUMENT)
    from stargraph.checkpoint.registry import parse_address

    parse_address(value)
    return value


def _default_address(value: str, named_by: str) -> str:
    # The option parser takes an empty variable for one that is not set.
    if CHECKPOINT_VARIABLE in os.environ:
        raise StargraphError(
            f"{CHECKPOINT_VARIABLE} is set, but empty",
            reason="invalid-url",
            hint=f"Set it to the path or URL of a store, or unset it to use {DEFAULT_CHECKPOINT}.",
        )
    if os.environ.get(REQUIRE_VARIABLE, "").strip().lower() not in ("", "0", "false", "no", "off"):
        raise StargraphError(
            f"no store is named, and {REQUIRE_VARIABLE} is set",
            reason="no-store-named",
            hint=f"Give {named_by}, or set {CHECKPOINT_VARIABLE}.",
        )
    return value


_RUN_ID_HELP: Final = "The id of the run, a unique prefix of it, or latest."

CheckpointOption = Annotated[
    str,
    typer.Option(
        "--checkpoint",
        metavar="PATH_OR_URL",
        envvar=CHECKPOINT_VARIABLE,
        help="The store: a path, sqlite:///…, postgresql://…, s3://bucket/prefix; memory:// keeps nothing.",
        callback=_check_address,
    ),
]
StoreArgument = Annotated[
    str,
    typer.Argument(
        metavar=STORE_ARGUMENT,
        envvar=CHECKPOINT_VARIABLE,
        show_envvar=False,
        help="A store.",
        callback=_check_address,
    ),
]
KeysOption = Annotated[
    KeyFile | None,
    typer.Option(
        "--encryption-keys",
        metavar="FILE",
        help="A file with the encryption keys, one key_id:secret per line, the current one first; or"
        " set STARGRAPH_ENCRYPTION_KEY.",
        parser=KeyFile.read,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout, for programs.")]
EventsOption = Annotated[
    bool,
    typer.Option("--events", help="Print each event as a JSON object on a line of its own, and the outcome last."),
]
LogLevelOption = Annotated[
    LogLevel,
    typer.Option("--log-level", help="Print the log of the run and the driver to stderr, from this level on."),
]
LogJsonOption = Annotated[
    bool,
    typer.Option("--log-json", help="Print the log as one JSON object per line; from info on if no level is given."),
]
WaitOption = Annotated[
    bool,
    typer.Option("--wait", help="If nothing is left but to wait for a time, keep waiting here instead of exiting."),
]

QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the outcome.")]
TagOption = Annotated[list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="Tag the run; repeatable.")]
WithTagOption = Annotated[
    list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="Only runs with this tag; repeatable.")
]
GRAPH_HELP: Final = "The graph: graph.yaml, file.py:attribute or module:attribute."

GraphArgument = Annotated[str, typer.Argument(metavar="GRAPH", help=GRAPH_HELP)]
GraphAfterRunArgument = Annotated[str | None, typer.Argument(metavar="GRAPH", help=GRAPH_HELP, show_default=False)]
RunIdsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="RUN_ID", help="Ids of runs, unique prefixes of ids, or latest.", show_default=False),
]
InputOption = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", metavar="NAME=VALUE", help="A value of the state, as for run; repeatable."),
]
InputsOption = Annotated[
    str | None,
    typer.Option("--inputs", metavar="FILE", help="A YAML or JSON file with values of the state; - is stdin."),
]
PriorityOption = Annotated[
    int, typer.Option("--priority", metavar="N", help="Runs with a higher priority begin first.")
]
ConcurrencyKeyOption = Annotated[
    str | None,
    typer.Option(
        "--concurrency-key",
        "--key",
        metavar="TEXT",
        help="Runs with the same concurrency key count together against --per-key.",
    ),
]
AllOption = Annotated[bool, typer.Option("--all", help="Every run of the store.")]
SinceOption = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="TIME", help="Every run started or enqueued at TIME or later: 2026-01-31, or 30m, 12h, 7d."
    ),
]
ChildrenOption = Annotated[
    bool, typer.Option("--children/--no-children", help="Include the child runs of the named runs.")
]
RunIdArgument = Annotated[str, typer.Argument(metavar="RUN_ID", help=_RUN_ID_HELP)]
LatestRunArgument = Annotated[
    str,
    typer.Argument(metavar="RUN_ID", help=f"{_RUN_ID_HELP} The latest run if not given.", show_default=False),
]
RunBeforeGraphArgument = Annotated[
    str | None,
    typer.Argument(metavar="RUN_ID", help=f"{_RUN_ID_HELP} The latest run of GRAPH if not given.", show_default=False),
]
AllowEffectsOption = Annotated[
    bool,
    typer.Option("--allow-effects", help="In a fork, also make calls that are marked as not repeatable."),
]
DurabilityOption = Annotated[
    DurabilityName,
    typer.Option(
        help="When a step is on disk: before anything that depends on it starts (sync), while the next node runs"
        " (async), or when the run stops (exit)."
    ),
]


def run_and_graph(first: str | None, second: str | None) -> tuple[str, str]:
    """Return the run and the graph of `[RUN_ID] GRAPH`; a single argument is the graph.

    Args:
        first: the first argument, or None.
        second: the second one, or None.

    Raises:
        StargraphError: there is no graph among them.
    """
    if first is None:
        raise StargraphError(
            "GRAPH is missing", reason="usage", hint="Name a graph, as in graph.yaml or file.py:attribute."
        )
    if second is not None:
        return first, second
    if ":" not in first and not first.endswith(".py") and not os.path.isfile(first) and "." not in first:  # noqa: PTH113  # Path.is_file raises for a name that is too long
        raise StargraphError(
            f"GRAPH is missing, and {first!r} names no graph",
            reason="usage",
            hint="Write the run before the graph, as in: stargraph resume RUN_ID graph.yaml",
        )
    return LATEST, first
