"""Say where a run stands when its command ends, and what to do next."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from stargraph.checkpoint.protocol import ENDED, Checkpoint, RunSummary, Status
from stargraph.cli._errors import print_error, print_message
from stargraph.cli._exit_codes import ExitCode
from stargraph.cli._output import shorten, show_time
from stargraph.cli._questions import question_lines
from stargraph.cli._store import StoreRef

_CODES: Final[dict[Status, ExitCode]] = {
    "queued": ExitCode.WAITING,
    "done": ExitCode.DONE,
    "failed": ExitCode.FAILED,
    "awaiting_input": ExitCode.WAITING,
    "paused": ExitCode.PAUSED,
    "cancelled": ExitCode.CANCELLED,
    "moved": ExitCode.FAILED,
}

_SHOWN: Final = 2000
"""How many characters of a failure are printed; the whole is in the store."""

_FRAME: Final = re.compile(r'^\s*File "(.+)", line (\d+)', re.MULTILINE)


def exit_code_of_status(status: Status) -> ExitCode:
    """Return the exit code of a command whose run stands there.

    Args:
        status: where the run stands; not `running`.
    """
    return _CODES[status]


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a command left its run.

    Attributes:
        run_id: the run.
        latest: its latest checkpoint in the store; None if nothing of it is stored.
        seconds: how long the command executed it.
        store: holds the run.
        graph_file: the graph's file, as the user named it.
        stopped_by: the signal that interrupted it, or None.
        details: further members of the JSON form.
    """

    run_id: str
    latest: Checkpoint | None
    seconds: float
    store: StoreRef
    graph_file: str
    stopped_by: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """Where the run stands; `interrupted` if a signal stopped it."""
        if self.latest is None or (self.stopped_by is not None and self.latest.status == "running"):
            return "interrupted"
        return self.latest.status

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of the command."""
        if self.latest is not None and self.latest.status in _CODES:
            return _CODES[self.latest.status]
        return ExitCode.TERMINATED if self.stopped_by == signal.SIGTERM else ExitCode.INTERRUPTED

    @property
    def resume_command(self) -> str | None:
        """The command that resumes the run, or None if that is not possible."""
        if self.latest is None or self.latest.status in ENDED or self.store.is_volatile:
            return None
        return self.store.command("resume", self.run_id, self.graph_file)

    def as_json(self) -> dict[str, Any]:
        """Return the outcome for programs."""
        members: dict[str, Any] = {
            "type": "outcome",
            "run_id": self.run_id,
            "status": self.status,
            "exit_code": int(self.exit_code),
            "seconds": round(self.seconds, 6),
            "checkpoint": str(self.store),
            "resume": self.resume_command,
        }
        if self.latest is not None:
            summary = RunSummary.from_checkpoint(self.latest).model_dump(mode="json")
            members |= {name: value for name, value in summary.items() if name not in members}
            members["interrupts"] = [interrupt.model_dump(mode="json") for interrupt in self.latest.open_interrupts]
            members["state"] = self.latest.state
        return {**members, **self.details}

    def explain(self) -> None:
        """Say on stderr why the run is not done, and what to do."""
        if self.latest is None:
            run = f"run {self.run_id}" if self.run_id else "the run"
            print_message(f"interrupted before {run} began; nothing of it is stored")
        elif self.status == "failed":
            print_error(
                _failure(self.latest),
                self._resume
                if self.store.is_volatile
                else f"{self._resume}\n"
                f"      after a change of the code, with: {self.resume_command} --accept runtime\n"
                f"      see the traceback with: {self._inspect}",
            )
        elif self.status == "interrupted":
            print_message(
                f"interrupted: run {self.run_id} is stored up to step {self.latest.step} ({_event(self.latest)})",
                self._resume,
            )
        elif self.status == "awaiting_input" and not self.latest.questions and self.latest.due_at is not None:
            print_message(
                f"run {self.run_id} waits until {show_time(self.latest.due_at)}",
                self._resume if self.store.is_volatile else f"{self._resume}\n      (--wait waits for it)",
            )
        elif self.status == "awaiting_input":
            questions = "\n".join(question_lines(self.latest.questions))
            which = ("--interrupt", "ID") if len(self.latest.questions) > 1 else ()
            answer = self.store.command("respond", self.run_id, *which, "--value", "ANSWER")
            print_message(
                f"run {self.run_id} waits for an answer to:\n{questions}",
                self._resume if self.store.is_volatile else f"answer with: {answer}\n      {self._resume}",
            )
        elif self.status == "paused":
            print_message(f"run {self.run_id} is paused at step {self.latest.step}", self._resume)
        elif self.status == "cancelled":
            print_message(f"run {self.run_id} was cancelled at step {self.latest.step}")

    @property
    def _resume(self) -> str:
        if self.store.is_volatile:
            return f"nothing of the run is left: {self.store} ends with this command; --checkpoint PATH keeps the run"
        return f"resume with: {self.resume_command}"

    @property
    def _inspect(self) -> str:
        assert self.latest is not None
        return self.store.command("inspect", self.run_id, "--step", str(self.latest.step))


def _event(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.event} {checkpoint.last_node}" if checkpoint.last_node else checkpoint.event


def _failure(latest: Checkpoint) -> str:
    error = latest.error
    if error is None:
        return f"run {latest.run_id} failed"
    where = f"node {error.node!r} failed" if error.node else "the run failed"
    frames = _FRAME.findall(error.traceback or "")
    # A reason marks an error of Stargraph's own, whose place in our code helps nobody.
    place = f" ({frames[-1][0]}:{frames[-1][1]})" if frames and error.reason is None else ""
    kind = "" if error.reason is not None else f"{error.type}: "
    return f"{where}: {kind}{shorten(error.message, _SHOWN)}{place}"
