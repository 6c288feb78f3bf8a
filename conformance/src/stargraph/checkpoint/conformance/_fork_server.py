"""Fork child processes from one that has imported the kit, where a new interpreter would import it again.

    python -m stargraph.checkpoint.conformance._child --fork-server DESCRIPTOR [MODULE…]

A fork costs milliseconds, an interpreter with the kit in it some tenths of a second. The server has no thread and no
event loop, inherits nothing from the process that tests, and never imports the driver: each fork does that itself, so
what a driver's modules make at import is its own in every process. What the target wants to be imported once, such as a
large SDK, is. Beside that only the seed of str hashes is shared between the forks; the process that tests has another.

The server first says that it can fork, with an empty line, or why it cannot. For each fork it then gets one byte with
four descriptors: stdin, stdout and stderr of the new process, and a line, on which the request comes as JSON, and the
pid and at last the exit code go back. An attendant, a fork of its own, waits for that end, so no process holds the
descriptors of another.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from stargraph.checkpoint.conformance._expect import HarnessError, error_line
from stargraph.checkpoint.conformance._forks import DESCRIPTORS
from stargraph.checkpoint.conformance._stage import build_models

_Main: TypeAlias = Callable[[dict[str, Any]], int]


def serve(control: socket.socket, main: _Main, preload: Sequence[str]) -> int:
    """Fork whenever the other side asks, until it hangs up; in a fork, return its exit code.

    Args:
        control: the socket on which it asks.
        main: does in a fork what was asked for, and returns the exit code.
        preload: the modules that are imported before the first fork.
    """
    try:
        for module in preload:
            _import(module)
    except HarnessError as error:
        control.sendall(f"{error}\n".encode())
        return 1
    control.sendall(b"\n")
    build_models()
    gc.collect()
    gc.freeze()  # so that a collection in a fork copies no page
    while True:
        _collect_attendants()
        asked, descriptors, _, _ = socket.recv_fds(control, 1, DESCRIPTORS)
        if not asked:
            return 0
        if os.fork() == 0:
            control.close()
            return _attend(descriptors, main)
        for descriptor in descriptors:
            os.close(descriptor)


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as error:
        raise HarnessError(f"preload: {module} cannot be imported: {error_line(error)}") from error
    if _has_threads():
        raise HarnessError(f"preload: {module} starts a thread, which a fork would lose: take it off")


def _has_threads() -> bool:
    """Whether this process has more than one thread, also if Python did not start it; that Linux alone can tell."""
    tasks = Path("/proc/self/task")
    return (len(list(tasks.iterdir())) if tasks.is_dir() else threading.active_count()) > 1


def _collect_attendants() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def _attend(descriptors: list[int], main: _Main) -> int:
    """Fork as a request says, and tell how that process ends; in the fork, return its exit code."""
    *streams, number = descriptors
    line = socket.socket(fileno=number)
    with line.makefile("rw", encoding="utf-8") as lines:
        line.close()
        asked = lines.readline()
        if not asked:  # whoever asked has died
            os._exit(0)
        request = json.loads(asked)
        process = os.fork()
        if process != 0:
            for stream in streams:
                os.close(stream)
            # Here too, since whoever is told of the process may want to kill its group at once.
            os.setpgid(process, process)
            with suppress(BrokenPipeError):
                print(process, file=lines, flush=True)
                print(_exit_code(process), file=lines, flush=True)
            os._exit(0)
    os.setpgid(0, 0)
    for place, stream in enumerate(streams):
        os.dup2(stream, place)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    return main(request["order"])


def _exit_code(process: int) -> int:
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)
