"""What the commands of custody share: which runs are meant, how far they are, files, and what was refused."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import typer

from stargraph.cli._errors import ExitCode, print_error
from stargraph.cli._output import BROKEN_PIPE, discard, emit, one_line, plural, print_json
from stargraph.errors import CheckpointCorruptedError, StargraphError

if TYPE_CHECKING:
    from datetime import datetime

    from stargraph.checkpoint.protocol import Checkpointer, RunDeletion
    from stargraph.transfer import Progress, Refusal, TransferReport

_SHOWN: Final = 20
_COUNTED: Final = 500
_NOT_DAMAGE: Final = frozenset({"pruned", "diverged", "run-deleted", "run-ended", "step-taken", "wrong-predecessor"})


def chosen(
    run_ids: list[str] | None, everything: bool, since: str | None, *, verb: str
) -> tuple[list[str] | None, datetime | None]:
    """Return the runs that the arguments name, None for all of them, and since when.

    Args:
        run_ids: the runs.
        everything: `--all`.
        since: `--since`.
        verb: what is to be done with them, for the error.

    Raises:
        StargraphError: none of the three was given, or runs and one of the others.
    """
    from stargraph.cli._inputs import parse_since

    if run_ids and (everything or since is not None):
        raise _usage("both runs and --all or --since are given", "Name runs, or give --all or --since.")
    if not (run_ids or everything or since is not None):
        raise _usage(f"it is not said which runs to {verb}", "Name runs by their ids, or give --all or --since.")
    return run_ids or None, None if since is None else parse_since(since)


@contextmanager
def counting(what: str, total: int | None = None) -> Iterator[Progress | None]:
    """Show on stderr how far a command is, where that is a terminal.

    Args:
        what: what is done, as in `verifying`.
        total: how many runs there are; None where that is not known.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[done]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(what, total=total, done="")

        def show(runs: int, steps: int) -> None:
            of = f" of {total:,}" if total is not None else ""
            bar.update(task, completed=runs, done=f"{runs:,}{of} runs, {steps:,} steps")

        yield show


async def count_runs(store: Checkpointer, run_ids: list[str] | None, since: datetime | None = None) -> int | None:
    """Return how many runs are meant, where somebody watches and it does not take long to find out.

    Args:
        store: the store.
        run_ids: the runs; None for all.
        since: only runs that started then or later.
    """
    if not sys.stderr.isatty():
        return None
    if run_ids is not None:
        return len(set(run_ids))
    try:
        found = len(await store.list_runs(since=since, limit=_COUNTED + 1))
    except (CheckpointCorruptedError, ValueError):  # whoever reads the list for its sake tells of it
        return None
    return found if found <= _COUNTED else None


def finish(report: TransferReport, told: str, *, as_json: bool, to_stderr: bool = False) -> None:
    """Tell what a transfer did, and end the command with the code of it.

    Args:
        report: what it did.
        told: the same in words.
        as_json: print JSON instead.
        to_stderr: stdout took the runs themselves.

    Raises:
        typer.Exit: runs were refused.
    """
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        emit(told, sys.stderr if to_stderr else sys.stdout)
    for refusal in report.refused[:_SHOWN]:
        print_error(f"run {refusal.run_id!r} was left out: {one_line(refusal.message)}", refusal.hint)
    if len(report.refused) > _SHOWN:
        print_error(f"{plural(len(report.refused) - _SHOWN, 'run')} more were left out", "--json has all of them.")
    if report.refused:
        raise typer.Exit(_code_of(report.refused))


def _code_of(refused: tuple[Refusal, ...]) -> ExitCode:
    return ExitCode.FAILED if all(each.reason in _NOT_DAMAGE for each in refused) else ExitCode.STORE


@contextmanager
def output_file(name: str) -> Iterator[BinaryIO]:
    """Open a file that appears under its name once it is whole, readable by this user alone; `-` is stdout.

    Args:
        name: the path.

    Raises:
        StargraphError: it cannot be written.
        typer.Exit: the reader of stdout has gone.
    """
    if name == "-":
        try:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            discard(sys.stdout)
            raise typer.Exit(BROKEN_PIPE) from None
        return
    path = Path(name)
    draft = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except OSError as error:
        raise _usage(
            f"{name}: {error.strerror or error}", "Give a path in a directory that can be written to."
        ) from None
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def input_file(name: str) -> Iterator[BinaryIO]:
    """Open a file to read; `-` is stdin.

    Args:
        name: the path.

    Raises:
        StargraphError: it cannot be read.
    """
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        with Path(name).open("rb") as stream:
            yield stream
    except OSError as error:
        raise _usage(f"{name}: {error.strerror or error}", "Give the path of a file, or - for stdin.") from None


def agree(question: str, *, yes: bool, instead: str) -> None:
    """Go on only if a person says yes, or `--yes` has.

    Args:
        question: what a terminal is asked.
        yes: `--yes` was given.
        instead: what to tell where nobody can be asked.

    Raises:
        StargraphError: nobody can be asked.
        typer.Exit: the answer is no.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise StargraphError(instead, reason="not-confirmed", hint="--yes says that this is meant.")
    if not typer.confirm(question, err=True):
        emit("nothing was removed", sys.stderr)
        raise typer.Exit(ExitCode.FAILED)


def removing(store: Checkpointer) -> RunDeletion:
    """Return a store as one that can remove runs.

    Args:
        store: the store.

    Raises:
        CheckpointError: it cannot.
    """
    from stargraph.checkpoint.protocol import RunDeletion
    from stargraph.errors import CheckpointError

    if isinstance(store, RunDeletion):
        return store
    raise CheckpointError(
        f"the driver {type(store).__name__} cannot remove runs",
        reason="not-supported",
        hint="Copy the runs that you need into a store of another driver.",
    )


def _usage(message: str, hint: str) -> StargraphError:
    return StargraphError(message, reason="invalid-arguments", hint=hint)
