"""What the commands that read many runs share: which runs, how far they are, and what was left out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import typer

from stargraph.cli._errors import print_error
from stargraph.cli._exit_codes import ExitCode
from stargraph.cli._output import emit, one_line, plural, print_json
from stargraph.cli._streams import SafeStream, is_terminal
from stargraph.errors import CheckpointCorruptedError, StargraphError

if TYPE_CHECKING:
    from datetime import datetime

    from stargraph.checkpoint.protocol import Checkpointer
    from stargraph.transfer import Progress, Refusal, TransferReport

_SHOWN: Final = 20
_COUNTED: Final = 500
_ERASE_LINE: Final = "\r\x1b[K"
_NOT_DAMAGE: Final = frozenset({"pruned", "diverged", "run-deleted", "run-ended", "step-taken", "wrong-predecessor"})


def selected_runs(
    run_ids: list[str] | None, everything: bool, since: str | None, *, verb: str
) -> tuple[list[str] | None, datetime | None]:
    """Return the runs that the arguments name, None for all of them, and since when.

    Args:
        run_ids: as the user wrote them.
        everything: `--all`.
        since: `--since`.
        verb: what is done with them, for the error.

    Raises:
        StargraphError: none of the three was given, or runs and one of the others.
    """
    from stargraph.cli._inputs import parse_since

    if run_ids and (everything or since is not None):
        raise StargraphError(
            "run ids cannot be combined with --all or --since",
            reason="invalid-arguments",
            hint="Name runs, or give --all or --since.",
        )
    if not (run_ids or everything or since is not None):
        raise StargraphError(
            f"say which runs to {verb}",
            reason="invalid-arguments",
            hint="Name runs by their ids, or give --all or --since.",
        )
    return run_ids or None, None if since is None else parse_since(since)


@contextmanager
def progress_on_stderr(what: str, total: int | None = None) -> Iterator[Progress | None]:
    """Show on stderr how far a command is, if that is a terminal.

    Args:
        what: what is done, as in `verifying`.
        total: how many runs there are; None if that is not known.
    """
    stream = sys.stderr
    if not is_terminal(stream) or not isinstance(stream, SafeStream):
        yield None
        return

    def show(runs: int, steps: int) -> None:
        of = f" of {total:,}" if total is not None else ""
        stream.write_now(f"{_ERASE_LINE}{what} {runs:,}{of} runs, {steps:,} steps")

    try:
        yield show
    finally:
        stream.write_now(_ERASE_LINE)


async def count_runs(store: Checkpointer, run_ids: list[str] | None, since: datetime | None = None) -> int | None:
    """Return how many runs are meant, if somebody watches and counting them is quick.

    Args:
        store: holds the runs.
        run_ids: the runs; None for all.
        since: only runs that started then or later.
    """
    if not is_terminal(sys.stderr):
        return None
    if run_ids is not None:
        return len(set(run_ids))
    try:
        found = len(await store.list_runs(since=since, limit=_COUNTED + 1))
    except (CheckpointCorruptedError, ValueError):  # the command itself reads the list again, and reports it
        return None
    return found if found <= _COUNTED else None


async def note_children_left(store: Checkpointer, run_ids: list[str] | None, *, children: bool) -> None:
    """Say on stderr how many child runs that have not ended are left behind: a resume of the copies begins them again.

    Args:
        store: where the runs are.
        run_ids: those that are copied; None for all, with their child runs.
        children: whether child runs are taken along.
    """
    from stargraph.checkpoint.protocol import ENDED, Checkpoint
    from stargraph.runtime._reading import read_latest
    from stargraph.runtime._tree import children_of

    if children or run_ids is None:
        return

    async def is_open(run_id: str) -> bool:
        latest = await read_latest(store, run_id)  # one that is damaged is refused when its turn comes
        return isinstance(latest, Checkpoint) and latest.status not in ENDED

    left = 0
    for run_id in run_ids:
        for child in await children_of(store, run_id) if await is_open(run_id) else ():
            left += child not in run_ids and await is_open(child)
    if left:
        what = "it begins" if left == 1 else "they begin"
        text = f"left out {plural(left, 'child run')}: {what} again where the copy of the parent is resumed"
        emit(f"{text}; without --no-children, they go along", sys.stderr)


def report_transfer(report: TransferReport, text: str, *, as_json: bool, to_stderr: bool = False) -> None:
    """Print what a transfer did, and end the command with its exit code.

    Args:
        report: what it did.
        text: the same in words.
        as_json: print JSON instead.
        to_stderr: stdout took the runs themselves.

    Raises:
        typer.Exit: runs were refused.
    """
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        emit(text, sys.stderr if to_stderr else sys.stdout)
    for refusal in report.refused[:_SHOWN]:
        print_error(f"run {refusal.run_id!r} was left out: {one_line(refusal.message)}", refusal.hint)
    if len(report.refused) > _SHOWN:
        print_error(f"{plural(len(report.refused) - _SHOWN, 'run')} more were left out", "--json has all of them.")
    if report.refused:
        raise typer.Exit(_code_of(report.refused))


def _code_of(refused: tuple[Refusal, ...]) -> ExitCode:
    return ExitCode.FAILED if all(each.reason in _NOT_DAMAGE for each in refused) else ExitCode.STORE
