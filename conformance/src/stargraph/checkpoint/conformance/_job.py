"""A process that runs checks for another one, which runs several of them side by side.

    python -m stargraph.checkpoint.conformance._job ORDER

The order is the arguments of its session, as JSON. Each line on stdin names a check, and tells the verdicts of those
that this one needs; what became of it goes back as a JSON line on stdout. Empty lines between them say that the
interpreter runs: whoever waits for them notices a call that holds it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TextIO

from stargraph.checkpoint.conformance._catalogue import find
from stargraph.checkpoint.conformance._interpreters import answers_on_stdout
from stargraph.checkpoint.conformance._jobs import exit_when_terminated
from stargraph.checkpoint.conformance._report import Result
from stargraph.checkpoint.conformance._runner import Session

BEAT: Final = 1.0
"""Seconds between two empty lines."""


def _beat(channel: TextIO, lock: threading.Lock) -> None:
    with suppress(OSError, ValueError):  # nobody reads any more, or it is closed
        while True:
            with lock:
                os.write(channel.fileno(), b"\n")  # no buffer, which this thread might hold when the process ends
            time.sleep(BEAT)


def main(order: dict[str, Any]) -> None:
    """Run the checks that come on stdin until it ends."""
    channel, lock = answers_on_stdout(order.pop("path")), threading.Lock()
    exit_when_terminated()
    faulthandler.enable()  # SIGABRT, with which a process that stands still is ended, tells where it stands
    threading.Thread(target=_beat, args=(channel, lock), daemon=True).start()
    keep = order.pop("keep")
    session = Session(**order, keep=keep and Path(keep))
    try:
        _answer(session, channel, lock)
    finally:
        if session.abandoned:  # its driver may hold the interpreter
            os._exit(0)


def _answer(session: Session, channel: TextIO, lock: threading.Lock) -> None:
    """Run the checks that come on stdin, and write what became of each to the channel."""
    with session:
        while line := sys.stdin.readline():
            asked = json.loads(line)
            check = find(asked["check"])
            assert check is not None
            for check_id, (verdict, message) in asked["needed"].items():
                needed = find(check_id)
                assert needed is not None
                session.results[check_id] = Result(needed, verdict, message)
            result = session.result(check)
            answer = {
                "verdict": result.verdict,
                "message": result.message,
                "details": result.details,
                "seconds": result.seconds,
                "measurements": result.measurements,
                "last": session.abandoned > 0,
            }
            with lock:
                print(json.dumps(answer), file=channel, flush=True)
            if session.abandoned:
                break


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main(json.loads(sys.argv[1]))
