"""`stargraph-langgraph import` and `export`: threads from LangGraph's own savers, and back to them."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AbstractAsyncContextManager
from typing import Annotated, NoReturn

import typer

from stargraph.checkpoint.registry import open_checkpointer, redact, redact_text
from stargraph.errors import CheckpointError, StargraphError
from stargraph.langgraph._move import MoveReport, Saver, copy_threads
from stargraph.langgraph._opaque import OpaqueSerializer
from stargraph.langgraph._saver import StargraphSaver
from stargraph.langgraph._theirs import theirs, theirs_file

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Move LangGraph threads into a Stargraph store, or out of one.",
)

_THEIRS = "A store of LangGraph's own saver: an SQLite file, or postgresql://…"
_OURS = "A Stargraph store: a path, sqlite:///…, postgresql://… or s3://…"


@app.command("import")
def import_threads(
    source: Annotated[str, typer.Argument(help=_THEIRS)], dest: Annotated[str, typer.Argument(help=_OURS)]
) -> None:
    """Copy all threads of LangGraph's own saver into a Stargraph store. Repeat it if it is interrupted."""
    file = theirs_file(source)
    if file is not None and not file.is_file():
        raise typer.BadParameter(f"there is no file {str(file)!r}", param_hint="SOURCE")
    _run(theirs(source, is_source=True), StargraphSaver.from_url(dest, OpaqueSerializer()), source, dest)


@app.command("export")
def export_threads(
    source: Annotated[str, typer.Argument(help=_OURS)], dest: Annotated[str, typer.Argument(help=_THEIRS)]
) -> None:
    """Copy all threads of a Stargraph store to LangGraph's own saver. Repeat it if it is interrupted."""
    _run(_ours(source), theirs(dest, is_source=False), source, dest)


def main() -> None:
    """Run the command line; a mistake ends with one line, without the secrets of its arguments, and the exit code 2."""
    try:
        code = app(standalone_mode=False)
    except StargraphError as error:
        # The store's own hint speaks to whoever opens it in Python.
        _refuse(error.message, "Correct the path or URL of SOURCE." if error.reason == "no-store" else error.hint)
    except typer.Abort:
        raise SystemExit(130) from None
    except Exception as error:
        # The option parser's own; their classes differ between versions of typer.
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message(), err=True)
            raise SystemExit(2) from None
        _refuse(error.format_message())
    raise SystemExit(code)


def _refuse(message: str, hint: str | None = None) -> NoReturn:
    lines = [f"error: {message}"] if hint is None else [f"error: {message}", f"hint: {hint}"]
    print(redact_text("\n".join(lines), sys.argv[1:]), file=sys.stderr)  # noqa: T201
    raise SystemExit(2) from None


def _ours(source: str) -> StargraphSaver:
    """Return a saver that makes no store where there is none, if the driver can open one read-only."""
    try:
        return StargraphSaver(open_checkpointer(source, read_only=True), OpaqueSerializer())
    except CheckpointError as error:
        if error.reason != "no-read-only":
            raise
        return StargraphSaver.from_url(source, OpaqueSerializer())


def _run(source: AbstractAsyncContextManager[Saver], dest: AbstractAsyncContextManager[Saver], *names: str) -> None:
    async def copy() -> MoveReport:
        async with source as reading, dest as writing:
            return await copy_threads(reading, writing, progress=_progress)

    report = asyncio.run(copy())
    typer.echo(
        f"{redact(names[0])} → {redact(names[1])}: {_counted(report.threads, 'thread')},"
        f" {_counted(report.copied, 'checkpoint')} copied and verified, {report.present:,} there already"
    )


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty():
        typer.echo(f"\r{done:,} of {of:,} checkpoints", nl=done == of, err=True)


if __name__ == "__main__":
    main()
