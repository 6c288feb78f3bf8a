"""A process for each contender, so that no peer's threads, imports or garbage disturb another's times."""

from __future__ import annotations

import asyncio
import multiprocessing
import traceback
from multiprocessing.connection import Connection
from typing import Any

from stargraph_bench._contender import CONTENDERS, Contender, Place
from stargraph_bench._workloads import WORKLOADS, Measures, Scale, Workload


class ContenderFailedError(Exception):
    """A contender broke, or read back something else than was written; the message is its traceback."""


class Worker:
    """One contender in a process of its own, which does one workload at a time.

    Args:
        store: the kind of store.
        name: the contender.
        place: where its stores go.
    """

    def __init__(self, store: str, name: str, place: Place) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, store, name, place), daemon=True)
        self._process.start()
        theirs.close()

    def begin(self, workload: str, scale: Scale) -> None:
        """Warm up and make what the repeats share."""
        self._ask("begin", workload, scale)

    def measure(self, seed: int) -> Measures:
        """Do the workload once."""
        measures: Measures = self._ask("measure", seed)
        return measures

    def end(self) -> None:
        """Remove what `begin` made."""
        self._ask("end")

    def stop(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()

    def _ask(self, *request: Any) -> Any:
        try:
            self._connection.send(request)
            well, answer = self._connection.recv()
        except (EOFError, BrokenPipeError):
            raise ContenderFailedError("its process died") from None
        if not well:
            raise ContenderFailedError(answer)
        return answer


def _serve(connection: Connection, store: str, name: str, place: Place) -> None:
    with asyncio.Runner() as runner:
        session = _Session(CONTENDERS[store][name].make(place))
        while True:
            try:
                request = connection.recv()
            except EOFError:
                return
            answer: tuple[bool, object]
            try:
                answer = True, runner.run(session.do(*request))
            except Exception:  # noqa: BLE001  # it is reported to who asked
                answer = False, traceback.format_exc()
            connection.send(answer)


class _Session:
    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self._workload: Workload
        self._scale: Scale

    async def do(self, what: str, *arguments: Any) -> Measures | None:
        if what == "begin":
            name, self._scale = arguments
            self._workload = next(workload for workload in WORKLOADS if workload.name == name)
            await self._workload.begin(self._contender, self._scale)
            return None
        if what == "measure":
            return await self._workload.measure(self._contender, self._scale, *arguments)
        await self._workload.end(self._contender)
        return None
