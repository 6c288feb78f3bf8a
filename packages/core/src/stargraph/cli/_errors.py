"""Report what went wrong: one message, a hint, and an exit code."""

from __future__ import annotations

import os
import re
import sys
import traceback
from typing import Any, Final

from stargraph.cli._exit_codes import ExitCode
from stargraph.cli._output import clean, emit, print_json, shorten
from stargraph.cli._secrets import hide_secrets
from stargraph.cli._streams import is_terminal
from stargraph.errors import (
    CheckpointConflictError,
    CheckpointCorruptedError,
    CheckpointError,
    StargraphError,
    StoreUnavailableError,
    StoreVersionError,
)

_SHOWN: Final = 4000
"""How many characters of a message are printed; a node may fail with one of many megabytes."""

_USAGE: Final = (
    (r"Invalid value for '?(.+?)'?: Input should be a valid (\w+).*", r"\1 is not a valid \2"),
    (r"Invalid value for '?(.+?)'?: Input should be greater than or equal to (\S+)", r"\1 must be at least \2"),
    (r"Invalid value for '?(.+?)'?: Input should be greater than (\S+)", r"\1 must be more than \2"),
    (r"Invalid value for '?(.+?)'?: Input should be less than or equal to (\S+)", r"\1 must be at most \2"),
    (r"Invalid value for '?(.+?)'?: (?:Value error, )?(.*)", r"\1: \2"),
    (r"Missing (?:argument|option|parameter) '(.+?)'\.?(.*)", r"\1 is missing\2"),
    (r"No such (option|command):? (.*?)\.?", r"there is no \1 \2"),
    (r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", r"too many arguments: \1"),
    (r"Option '(.+?)' requires (.*?)\.?", r"\1 needs \2"),
)
"""How the option parser says what is wrong, and how we do."""

_OTHER_NAMES: Final = {
    "answer": "`stargraph respond RUN_ID --value ANSWER` answers a question.",
    "diff": "`stargraph replay RUN_ID GRAPH --diff` compares a run with its log.",
    "fork": "`stargraph replay RUN_ID GRAPH --set NAME=VALUE` forks a run.",
    "init": "`stargraph migrate` makes a store; `stargraph run` makes it too.",
    "list": "`stargraph runs` lists runs.",
    "ls": "`stargraph runs` lists runs.",
    "rm": "`stargraph delete RUN_ID` removes a run.",
    "show": "`stargraph inspect RUN_ID` shows a run.",
    "start": "`stargraph run GRAPH` starts a run.",
    "status": "`stargraph inspect RUN_ID` shows a run, `stargraph runs` lists all.",
    "stop": "Ctrl-C stops a run that can be resumed; `stargraph cancel RUN_ID` ends it for good.",
    "upgrade": "`stargraph migrate` brings a store to the current format.",
}
"""What a person may look for under a name that other tools use."""


def report(error: Exception, *, as_json: bool) -> ExitCode:
    """Print an error on stderr, and as JSON on stdout if the command answers in JSON; return its exit code.

    Args:
        error: any exception.
        as_json: whether the command answers in JSON.
    """
    known = error if isinstance(error, StargraphError) else _as_ours(error)
    code = _exit_code_of(known)
    message, hint = _message_of(known), None if known.hint is None else hide_secrets(known.hint)
    print_error(message, hint)
    if os.environ.get("STARGRAPH_DEBUG"):
        emit(clean(hide_secrets("".join(traceback.format_exception(error)))), sys.stderr)
    if as_json:
        kind = type(known).__name__ if known.reason != "usage" else "UsageError"
        details = {"type": kind, "reason": known.reason, "message": message, "hint": hint, "exit_code": int(code)}
        print_json({"error": details})
    return code


def print_error(message: str, hint: str | None = None) -> None:
    """Print what went wrong, and what to do about it, on stderr."""
    _print("error", "31;1", message)
    if hint:
        _print("hint", "36", hint)


def print_message(message: str, hint: str | None = None) -> None:
    """Print what happened, and what to do next, on stderr: nothing went wrong."""
    emit(clean(hide_secrets(shorten(message, _SHOWN))), sys.stderr)
    if hint:
        _print("hint", "36", hint)


def _print(label: str, style: str, text: str) -> None:
    color = is_terminal(sys.stderr) and "NO_COLOR" not in os.environ
    shown = f"\x1b[{style}m{label}:\x1b[0m" if color else f"{label}:"
    emit(f"{shown} {clean(hide_secrets(shorten(text, _SHOWN)))}", sys.stderr)


def is_about_usage(error: Exception) -> bool:
    """Return whether an error is one of the option parser, about options and arguments.

    Args:
        error: any exception.
    """
    return hasattr(error, "exit_code") and hasattr(error, "format_message")


def _exit_code_of(error: StargraphError) -> ExitCode:
    if isinstance(error, CheckpointConflictError):
        return ExitCode.USAGE if error.reason == "run-exists" else ExitCode.CONFLICT
    if error.reason == "bad-dsn":  # as a bad URL of any other store
        return ExitCode.USAGE
    if isinstance(error, (StoreUnavailableError, CheckpointCorruptedError, StoreVersionError)):
        return ExitCode.STORE
    if isinstance(error, CheckpointError) and error.reason == "not-idle":
        return ExitCode.CONFLICT
    return {"unexpected-error": ExitCode.INTERNAL, "not-written": ExitCode.OUTPUT}.get(
        error.reason or "", ExitCode.USAGE
    )


def _message_of(error: StargraphError) -> str:
    """The message with its place, but without the hint."""
    text = str(error)
    return hide_secrets(shorten(text.removesuffix(f"\n{error.hint}") if error.hint else text, 2 * _SHOWN))


def _as_ours(error: Exception) -> StargraphError:
    if is_about_usage(error):
        return _usage_error(error)
    return StargraphError(
        f"unexpected {type(error).__name__}: {error}",
        reason="unexpected-error",
        hint="This is a fault of Stargraph or of a driver. STARGRAPH_DEBUG=1 shows the traceback for a report.",
    )


def _command_that_takes(option: str, group: Any) -> str | None:
    """Return a command of a group that has an option, the first in the order of the help; None if none has."""
    commands = getattr(group, "commands", {})
    return next((name for name, each in commands.items() if any(option in part.opts for part in each.params)), None)


def _usage_error(error: Any) -> StargraphError:
    """The option parser's error in our words; its class differs between versions of typer."""
    message = str(error.message)
    if type(error).__name__ != "NoSuchOption":
        message = error.format_message()
    for pattern, ours in _USAGE:
        message, found = re.subn(rf"^{pattern}$", ours, message, count=1, flags=re.DOTALL)
        if found:
            break
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "stargraph"
    similar = getattr(error, "possibilities", None)
    hint = f"Did you mean {', '.join(sorted(similar))}?" if similar else f"`{path} --help` shows what it takes."
    taker = _command_that_takes(getattr(error, "option_name", ""), getattr(context, "command", None))
    if taker:
        hint = f"Write it after the command, as in: {path} {taker} {error.option_name}"
    wanted = re.match(r"there is no command '(\w+)'", message)
    if wanted and wanted.group(1) in _OTHER_NAMES:
        # What the parser suggests only looks alike.
        message, hint = wanted.group(0), _OTHER_NAMES[wanted.group(1)]
    return StargraphError(message, reason="usage", hint=hint)
