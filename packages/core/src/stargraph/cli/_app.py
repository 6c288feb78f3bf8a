"""The command `stargraph`. Nothing heavy is imported here: `--help` must answer at once."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from typing import Annotated

import typer

from stargraph.cli._cancel import cancel
from stargraph.cli._copy import copy, export, import_
from stargraph.cli._doctor import doctor
from stargraph.cli._draw import graph, schema
from stargraph.cli._drivers import drivers
from stargraph.cli._errors import EXIT_CODES, Commands
from stargraph.cli._inspect import inspect
from stargraph.cli._options import NODE_THREADS
from stargraph.cli._output import clean
from stargraph.cli._prune import delete, prune
from stargraph.cli._replay import replay
from stargraph.cli._respond import respond
from stargraph.cli._resume import resume
from stargraph.cli._run import run
from stargraph.cli._runs import runs
from stargraph.cli._verify import anchor, verify

app = typer.Typer(
    name="stargraph",
    cls=Commands,
    help="Run graphs durably: every finished step is kept, and a run goes on where it stopped.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    # Its options would make typer load pydantic before a command's own help is shown.
    add_completion=False,
    # Help by rich takes as long as everything else together, and tracebacks are ours to decide on.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"stargraph {version('stargraph-core')}")
        raise typer.Exit


@app.callback()
def _stargraph(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks of errors; STARGRAPH_DEBUG=1 does the same.")
    ] = False,
) -> None:
    if debug:
        os.environ["STARGRAPH_DEBUG"] = "1"


app.command(short_help="Start a run of a graph.", epilog=EXIT_CODES)(run)
app.command(short_help="Go on with a run where it stopped.", epilog=EXIT_CODES)(resume)
app.command(short_help="Answer a question of a run.")(respond)
app.command(short_help="End a run as cancelled.")(cancel)
app.command(short_help="List the runs of a store.")(runs)
app.command(short_help="Show the steps of a run, or one step.")(inspect)
app.command(short_help="Prove that runs are what was written.")(verify)
app.command(short_help="Write the heads of all runs, to verify by later.")(anchor)
app.command(short_help="Copy runs to another store.")(copy)
app.command(short_help="Write runs to a portable file.")(export)
app.command("import", short_help="Store the runs of such a file.")(import_)
app.command(short_help="Remove all but the last steps of old runs.")(prune)
app.command(short_help="Remove a run.")(delete)
app.command(short_help="Do a run again from its log and compare, or fork it with changes.", epilog=EXIT_CODES)(replay)
app.command(short_help="Draw a graph as a Mermaid flowchart.")(graph)
app.command(short_help="Print the JSON Schema of a graph file.")(schema)
app.command(short_help="List the installed drivers.")(drivers)
app.command(short_help="Check versions, drivers and a store.")(doctor)


def main() -> None:
    """Run the command line of this process, and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    try:
        app(prog_name="stargraph")
    except SystemExit as end:
        _leave_stray_threads(end.code)
        raise


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {clean(str(message))}", file=sys.stderr)  # noqa: T201


def _leave_stray_threads(code: str | int | None) -> None:
    """End the process now if a node that nobody waits for any more still runs; Python would wait for it."""
    if any(thread.name.startswith(NODE_THREADS) for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code if isinstance(code, int) else 1)
