"""`stargraph-langgraph import` and `export`: threads from LangGraph's own savers, and back to them."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from stargraph.checkpoint.registry import open_checkpointer, redact, redact_text
from stargraph.errors import CheckpointError, StargraphError, StoreUnavailableError
from stargraph.langgraph._move import MoveReport, Saver, copy_threads
from stargraph.langgraph._saver import StargraphSaver

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
    if not _is_postgres(source) and not _file(source).is_file():
        raise typer.BadParameter(f"there is no file {str(_file(source))!r}", param_hint="SOURCE")
    _run(_theirs(source), StargraphSaver.from_url(dest), source, dest)


@app.command("export")
def export_threads(
    source: Annotated[str, typer.Argument(help=_OURS)], dest: Annotated[str, typer.Argument(help=_THEIRS)]
) -> None:
    """Copy all threads of a Stargraph store to LangGraph's own saver. Repeat it if it is interrupted."""
    _run(_ours(source), _theirs(dest), source, dest)


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
        return StargraphSaver(open_checkpointer(source, read_only=True))
    except CheckpointError as error:
        if error.reason != "no-read-only":
            raise
        return StargraphSaver.from_url(source)


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


def _unusable(name: str, error: Exception) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"{redact(name)}: LangGraph's saver cannot use it: {redact_text(str(error).strip())}",
        reason="store-failed",
        hint="Name the SQLite file or the database of LangGraph's own saver, and check that it can be reached.",
    )


def _is_postgres(name: str) -> bool:
    return name.startswith(("postgresql://", "postgres://"))


def _file(name: str) -> Path:
    return Path(name.removeprefix("sqlite:///"))


@asynccontextmanager
async def _theirs(name: str) -> AsyncIterator[Any]:
    if _is_postgres(name):
        try:
            import psycopg

            from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
        except ImportError:
            raise typer.BadParameter("pip install langgraph-checkpoint-postgres") from None
        try:
            async with AsyncPostgresSaver.from_conn_string(name) as saver:
                await saver.setup()
                yield saver
        except psycopg.Error as error:
            raise _unusable(name, error) from error
        return
    try:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
    except ImportError:
        raise typer.BadParameter("pip install langgraph-checkpoint-sqlite") from None
    try:
        async with AsyncSqliteSaver.from_conn_string(str(_file(name))) as lite:
            await lite.setup()
            yield lite
    except sqlite3.Error as error:
        raise _unusable(name, error) from error


if __name__ == "__main__":
    main()
