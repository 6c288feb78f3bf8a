"""The command `stargraph`. Nothing heavy is imported here: `--help` must answer at once."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from pathlib import Path
from typing import Annotated

import typer

from stargraph.cli._cancel import cancel
from stargraph.cli._doctor import doctor
from stargraph.cli._draw import graph, schema
from stargraph.cli._drivers import drivers
from stargraph.cli._errors import EXIT_CODES, Commands
from stargraph.cli._inspect import inspect
from stargraph.cli._options import NODE_THREADS
from stargraph.cli._output import clean
from stargraph.cli._respond import respond
from stargraph.cli._resume import resume
from stargraph.cli._run import run
from stargraph.cli._runs import runs

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


def _use_keys(file: str) -> None:
    if not file:
        return
    try:
        # Read by the drivers, which are opened by their URLs.
        os.environ["STARGRAPH_ENCRYPTION_KEY"] = ",".join(Path(file).read_text().split())
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file}: {getattr(error, 'strerror', None) or 'it is not text'}") from None


@app.callback()
def _stargraph(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks of errors; STARGRAPH_DEBUG=1 does the same.")
    ] = False,
    encryption_keys: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="A file with the keys that encrypt what is stored, key_id:secret, one a line, the current one first;"
            " or set STARGRAPH_ENCRYPTION_KEY.",
            callback=_use_keys,
        ),
    ] = "",  # for None, typer would load pydantic
) -> None:
    if debug:
        os.environ["STARGRAPH_DEBUG"] = "1"


app.command(short_help="Start a run of a graph.", epilog=EXIT_CODES)(run)
app.command(short_help="Go on with a run where it stopped.", epilog=EXIT_CODES)(resume)
app.command(short_help="Answer a question of a run.")(respond)
app.command(short_help="End a run as cancelled.")(cancel)
app.command(short_help="List the runs of a store.")(runs)
app.command(short_help="Show the steps of a run, or one step.")(inspect)
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
