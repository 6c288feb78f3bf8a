"""The command `stargraph`. Nothing heavy is imported here: `--help` must answer at once."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from stargraph.cli._cancel import cancel
from stargraph.cli._copy import copy, export, import_, move
from stargraph.cli._doctor import doctor
from stargraph.cli._draw import graph, schema
from stargraph.cli._drivers import drivers
from stargraph.cli._enqueue import enqueue
from stargraph.cli._errors import is_about_usage, report
from stargraph.cli._exit_codes import EXIT_CODES, ExitCode
from stargraph.cli._inspect import inspect
from stargraph.cli._migrate import migrate
from stargraph.cli._options import NODE_THREADS
from stargraph.cli._output import clean, emit, exit_code_of_stdout
from stargraph.cli._pause import pause
from stargraph.cli._prune import delete, prune
from stargraph.cli._queues import queues, requeue, workers
from stargraph.cli._replay import replay
from stargraph.cli._respond import respond
from stargraph.cli._resume import resume
from stargraph.cli._run import run
from stargraph.cli._runs import runs
from stargraph.cli._schedule import schedule_add, schedule_list, schedule_remove
from stargraph.cli._secrets import hide_secrets, protect
from stargraph.cli._streams import SafeStream, open_missing_streams, safe_streams
from stargraph.cli._ui import ui
from stargraph.cli._validate import validate
from stargraph.cli._verify import anchor, verify
from stargraph.cli._worker import worker


class Command(TyperCommand):
    """A command whose help is a result like others."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """Read the arguments; `--help` prints here, and ends the command."""
        with _result_printed():
            return super().make_context(*args, **extra)


class Commands(TyperGroup):
    """A group of commands in which every error becomes one message and an exit code."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """Read the arguments; `--help` and `--version` print here, and end the command."""
        with _result_printed():
            return super().make_context(*args, **extra)

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option `--help` of the group."""
        option = super().get_help_option(ctx)
        if option is not None:
            # Without a default, typer converts None by pydantic, and a command's own help waits for that.
            option.default = False
        return option

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command that the arguments name, and exit with its code."""
        words = list(sys.argv[1:] if args is None else args)
        with safe_streams():
            protect(words)
            try:
                code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
            except BaseException as error:  # noqa: BLE001  # every error becomes a message and an exit code
                code = _exit_code_of(error, as_json=_answers_in_json(words))
        sys.exit(code)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; what it raises is `main`'s to report, and not typer's."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            emit("interrupted", sys.stderr)
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except OSError as error:
            raise _SystemFault from error


class _CommandLine(typer.Typer):
    """Commands whose class is `Command`."""

    def command(self, name: str | None = None, **settings: Any) -> Any:
        """Return what registers a function as a command."""
        return super().command(name, cls=Command, **settings)


@contextlib.contextmanager
def _result_printed() -> Iterator[None]:
    """Let an option that ends the command after it has printed exit as a command does that could not print."""
    try:
        yield
    except (typer.Exit, SystemExit) as end:
        code = end.exit_code if isinstance(end, typer.Exit) else end.code
        if not code and isinstance(sys.stdout, SafeStream) and sys.stdout.failure is not None:
            raise typer.Exit(exit_code_of_stdout()) from None
        raise


class _SystemFault(Exception):
    """Carries an OSError past typer, which takes each for one of stdout."""


def _answers_in_json(words: list[str]) -> bool:
    # Not by what was parsed: the arguments may be what is wrong.
    own = words[: words.index("--")] if "--" in words else words
    return "--json" in own or "--events" in own


def _exit_code_of(error: BaseException, *, as_json: bool) -> int | str | None:
    if isinstance(error, _SystemFault):
        assert error.__cause__ is not None
        error = error.__cause__
    if isinstance(error, SystemExit):
        return error.code
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        emit("interrupted", sys.stderr)
        return ExitCode.INTERRUPTED
    if isinstance(error, typer.Exit):
        return error.exit_code
    if not isinstance(error, Exception):
        raise error
    if is_about_usage(error) and type(error).__name__ == "NoArgsIsHelpError":
        emit(error.format_message(), sys.stderr)  # type: ignore[attr-defined]
        return ExitCode.USAGE
    try:
        return report(error, as_json=as_json)
    except typer.Exit as end:  # stdout takes no more text
        return end.exit_code


def _is_about_completion() -> bool:
    options = {"--install-completion", "--show-completion"}
    return "_STARGRAPH_COMPLETE" in os.environ or not options.isdisjoint(sys.argv[1:2])


app = _CommandLine(
    name="stargraph",
    cls=Commands,
    help="Run graphs durably: each result is stored as soon as a node finishes, and a stopped run resumes.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    # Its options would make typer load pydantic before a command's own help is shown.
    add_completion=_is_about_completion(),
    # Help by rich takes as long as everything else together, and tracebacks are ours to decide on.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"stargraph {version('stargraph-core')}")  # noqa: TID251  # nothing that was given is in it
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
app.command(short_help="Resume a stopped run.", epilog=EXIT_CODES)(resume)
app.command(short_help="Answer a run's question.")(respond)
app.command(short_help="Pause a run.")(pause)
app.command(short_help="Cancel a run.")(cancel)
app.command(short_help="List the runs of a store.")(runs)
app.command(short_help="Store runs for workers to execute.")(enqueue)
app.command(short_help="Take runs from queues and execute them.")(worker)
app.command(short_help="List queues, or set the limits of one.")(queues)
app.command(short_help="List the processes that execute runs of queues.")(workers)
app.command(short_help="Put runs back into a queue.")(requeue)
schedule = _CommandLine(
    help="Enqueue runs at the times of a cron expression.", no_args_is_help=True, rich_markup_mode=None, cls=Commands
)
app.add_typer(schedule, name="schedule", short_help="Enqueue runs at the times of a cron expression.")
schedule.command("add", short_help="Add a schedule, or replace it.")(schedule_add)
schedule.command("list", short_help="List the schedules.")(schedule_list)
schedule.command("remove", short_help="Remove a schedule.")(schedule_remove)
app.command(short_help="Show the steps of a run, or one step.")(inspect)
app.command(short_help="Check that runs are what was written.")(verify)
app.command(short_help="Write the latest digest of each run, for a later verify.")(anchor)
app.command(short_help="Copy runs to another store.")(copy)
app.command(short_help="Move runs to another store.")(move)
app.command(short_help="Write runs to a portable file.")(export)
app.command("import", short_help="Store the runs of an exported file.")(import_)
app.command(short_help="Remove the earlier steps of old runs.")(prune)
app.command(short_help="Remove runs for good.")(delete)
app.command(short_help="Replay a run and compare, or fork it with changes.", epilog=EXIT_CODES)(replay)
app.command(short_help="Draw a graph as a Mermaid flowchart.")(graph)
app.command(short_help="Check a graph without running it.")(validate)
app.command(short_help="Print the JSON Schema of a graph file.")(schema)
app.command(short_help="List the installed drivers.")(drivers)
app.command(short_help="Make a store, or bring it to the current format.")(migrate)
app.command(short_help="Check versions, drivers and a store, and repair its queue index.")(doctor)
app.command(short_help="Show the runs of a store in a browser.")(ui)


def main() -> None:
    """Run the command line of this process, and exit with its code."""
    open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    threading.excepthook = _show_fault_of_a_thread
    try:
        app(prog_name="stargraph")
    except SystemExit as end:
        _leave_stray_threads(end.code)
        raise


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    emit(f"warning: {clean(hide_secrets(str(message)))}", sys.stderr)


def _show_fault_of_a_thread(fault: threading.ExceptHookArgs) -> None:
    if fault.exc_value is not None and not isinstance(fault.exc_value, SystemExit):
        name = fault.thread.name if fault.thread else "a thread"
        text = "".join(traceback.format_exception(fault.exc_value))
        emit(clean(hide_secrets(f"warning: {name} ended by an exception\n{text}".rstrip())), sys.stderr)


def _leave_stray_threads(code: str | int | None) -> None:
    """End the process now if a node that nobody waits for any more still runs; Python would wait for it."""
    if any(thread.name.startswith(NODE_THREADS) for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)
