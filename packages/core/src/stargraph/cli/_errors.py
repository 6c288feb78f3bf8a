"""What goes wrong, told in one message, and the exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from enum import IntEnum
from typing import Any, Final

import typer
from typer.core import TyperGroup

from stargraph.cli._output import clean, print_json
from stargraph.errors import (
    CheckpointConflictError,
    CheckpointCorruptedError,
    CheckpointError,
    StargraphError,
    StoreUnavailableError,
    StoreVersionError,
)

JSON_KEY: Final = "stargraph.json"
"""Marks, in the meta data of the context, a command that answers in JSON."""


class ExitCode(IntEnum):
    """What the process tells its caller."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    WAITING = 3
    PAUSED = 4
    CANCELLED = 5
    CONFLICT = 6
    STORE = 7
    INTERNAL = 70
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


EXIT_CODES: Final = """\b
Exit codes:
  0  done                        5    the run was cancelled
  1  failed, or a replay differs 6    another executor has the run
  2  wrong usage or bad input    7    the store is unavailable or damaged
  3  the run waits for input     70   a fault of Stargraph or of a driver
  4  the run is paused           130  interrupted (143: by SIGTERM)
"""


class Commands(TyperGroup):
    """A group of commands in which every error becomes one message and an exit code."""

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option `--help` of the group.

        Args:
            ctx: the context of the group.
        """
        option = super().get_help_option(ctx)
        if option is not None:
            # Without a default, typer converts None by pydantic, and a command's own help waits for that.
            option.default = False
        return option

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named.

        Args:
            ctx: the context of the group.

        Raises:
            typer.Exit: with the code of the error.
        """
        try:
            return super().invoke(ctx)
        except StargraphError as error:
            code = exit_code_of(error)
            report(error, as_json=JSON_KEY in ctx.meta)
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
            print("interrupted", file=sys.stderr)  # noqa: T201
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if _is_about_usage(error):
                raise
            code = ExitCode.INTERNAL
            report(_unexpected(error), as_json=JSON_KEY in ctx.meta)
        raise typer.Exit(code)


def exit_code_of(error: StargraphError) -> ExitCode:
    """Return the exit code that an error stands for.

    Args:
        error: the error.
    """
    if isinstance(error, CheckpointConflictError):
        return ExitCode.USAGE if error.reason == "run-exists" else ExitCode.CONFLICT
    if isinstance(error, (StoreUnavailableError, CheckpointCorruptedError, StoreVersionError)):
        return ExitCode.STORE
    if isinstance(error, CheckpointError) and error.reason == "not-idle":
        return ExitCode.CONFLICT
    if error.reason == "unexpected-error":
        return ExitCode.INTERNAL
    return ExitCode.USAGE


def report(error: StargraphError, *, as_json: bool) -> None:
    """Print an error on stderr, and as JSON on stdout where the command answers in JSON.

    Args:
        error: the error.
        as_json: whether it does.
    """
    print_error(_headline(error), error.hint)
    if os.environ.get("STARGRAPH_DEBUG"):
        traceback.print_exception(error.__cause__ if error.reason == "unexpected-error" else error)
    if as_json:
        told = {
            "type": type(error).__name__,
            "reason": error.reason,
            "message": _headline(error),
            "hint": error.hint,
            "exit_code": int(exit_code_of(error)),
        }
        print_json({"error": told})


def print_error(message: str, hint: str | None = None) -> None:
    """Print a message, and what to do about it, on stderr.

    Args:
        message: what happened.
        hint: what to do.
    """
    color = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    for word, style, text in (("error", "31;1", message), ("hint", "36", hint)):
        if text:
            label = f"\x1b[{style}m{word}:\x1b[0m" if color else f"{word}:"
            print(f"{label} {clean(text)}", file=sys.stderr)  # noqa: T201


def _headline(error: StargraphError) -> str:
    """The message with its place, but without the hint."""
    text = str(error)
    return text.removesuffix(f"\n{error.hint}") if error.hint else text


def _is_about_usage(error: Exception) -> bool:
    # Typer's own errors about options and arguments; it prints them with the usage of the command.
    return hasattr(error, "exit_code") and hasattr(error, "format_message")


def _unexpected(error: Exception) -> StargraphError:
    fault = StargraphError(
        f"unexpected {type(error).__name__}: {error}",
        reason="unexpected-error",
        hint="This is a fault of Stargraph or of a driver. STARGRAPH_DEBUG=1 shows the traceback for a report.",
    )
    fault.__cause__ = error
    return fault
