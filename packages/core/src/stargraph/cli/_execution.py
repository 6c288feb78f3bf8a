"""Execute a run for a command: the graph, the store, the events, and what signals do."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final, Literal, Self, TypeVar

import typer

from stargraph.checkpoint.protocol import Checkpointer, JsonValue, RunSummary
from stargraph.cli._display import Display, JsonDisplay, PlainDisplay
from stargraph.cli._errors import print_error
from stargraph.cli._logging import show_warnings_of_drivers
from stargraph.cli._options import NODE_THREADS
from stargraph.cli._outcome import RunOutcome
from stargraph.cli._output import print_json, print_lines
from stargraph.cli._questions import ask_person, first_that_fits
from stargraph.cli._store import Access, StoreRef, keyring
from stargraph.cli._streams import SafeStream, Stream, is_terminal
from stargraph.errors import GraphError, StateError, StoreUnavailableError
from stargraph.graph import Graph, Run
from stargraph.runtime import dispatch

T = TypeVar("T")

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR: Final = b"\x1b[?25h\n"
_GRACE: Final = 8.0
"""How long nodes may run on after a SIGTERM, in seconds; container runtimes kill after ten."""

Create = Callable[[Checkpointer], Awaitable[Run]]
Act = Callable[[Run], Coroutine[Any, Any, RunSummary]]


def load(graph_file: str) -> Graph:
    """Load a graph; its nodes may be in the current directory or beside the file.

    Args:
        graph_file: the graph, as the user named it.

    Raises:
        GraphError: it cannot be loaded.
    """
    try:
        return Graph.load(graph_file, integrity_key=keyring(), code=(Path.cwd(),))
    except SystemExit as end:
        raise GraphError(
            f"importing the code of the graph ended in sys.exit({end.code!r})",
            reason="import-failed",
            hint="Put what the module does when it runs as a program under `if __name__ == '__main__':`.",
            file=graph_file,
        ) from end


def execute(
    prepare: Callable[[], tuple[Graph, Create]],
    act: Act,
    *,
    graph_file: str,
    store: StoreRef,
    access: Access,
    as_json: bool,
    events: bool,
    quiet: bool,
) -> None:
    """Execute a run, show it, and end the command with the run's exit code.

    Args:
        prepare: loads the graph and returns it, with what makes the run.
        act: starts or resumes the run.
        graph_file: the graph, as the user named it.
        store: holds the run.
        access: whether the store may be made.
        as_json: print the outcome as JSON.
        events: print the events and the outcome as JSON Lines.
        quiet: print the outcome alone.

    Raises:
        typer.Exit: always, unless an error is raised.
        StargraphError: the run could not be started or taken up, or another executor has it.
    """
    person = not (as_json or events or quiet) and is_terminal(sys.stdin) and is_terminal(sys.stdout)
    prepared: tuple[Graph, Create] | None = None
    answer: Callable[[Run], Awaitable[None]] | None = None
    while True:
        display = choose_display(as_json=as_json, events=events, quiet=quiet)
        outcome: RunOutcome | None = None
        try:
            # What the modules of the nodes print must not get between the JSON.
            graph, create = prepared = prepared or prepare()
            execution = ShownExecution(graph, graph_file, store, display)
            outcome = run_async(execution.run(create, act, access=access, answer=answer))
        finally:
            display.end(outcome)
        questions = outcome.latest.questions if person and outcome.latest is not None else ()
        answers = ask_person(questions, graph.answer_type) if questions and outcome.status == "awaiting_input" else None
        if not answers:
            outcome.explain()
            raise typer.Exit(outcome.exit_code)
        answer, act = _answering(outcome.run_id, answers), Run.resume


def _answering(run_id: str, typed: dict[str, list[JsonValue]]) -> Callable[[Run], Awaitable[None]]:
    """Return what answers a run's questions; an answer that does not fit is reported, and asked for again later."""

    async def answer(run: Run) -> None:
        run.run_id = run_id
        for question, values in typed.items():
            try:
                await first_that_fits(values, partial(run.answer, question))
            except StateError as error:
                print_error(error.message, error.hint)

    return answer


def check_resume(
    prepare: Callable[[], tuple[Graph, Create]],
    accept: Sequence[Literal["runtime", "graph"]],
    *,
    store: StoreRef,
    as_json: bool,
) -> None:
    """Print whether a run would be resumed.

    Args:
        prepare: loads the graph and returns it, with what makes the run.
        accept: the changes that would be accepted.
        store: holds the run.
        as_json: print JSON.

    Raises:
        StargraphError: it would not; the error is that of the resume.
    """

    async def check() -> RunSummary:
        _, create = prepare()
        async with store.opened("read") as opened:
            return await (await create(opened)).check(accept=accept)

    summary = run_async(check())
    if as_json:
        print_json({"run_id": summary.run_id, "status": summary.status, "would_resume": summary.status != "done"})
    elif summary.status == "done":
        print_lines([f"run {summary.run_id} is done: a resume would return its outcome and run nothing"])
    else:
        print_lines([f"run {summary.run_id} would resume from step {summary.last_step} ({summary.status})"])


def choose_display(*, as_json: bool, events: bool, quiet: bool) -> Display:
    """Return the display that suits the options and where the output goes.

    Args:
        as_json: stdout takes one JSON object.
        events: stdout takes JSON Lines.
        quiet: only the outcome is shown.
    """
    if events or (as_json and quiet):
        return JsonDisplay(each_event=events)
    if quiet:
        return PlainDisplay(sys.stdout, each_event=False)
    shown = _display_on(sys.stderr if as_json else sys.stdout)
    return JsonDisplay(each_event=False, beside=shown) if as_json else shown


def _display_on(stream: Stream) -> Display:
    from stargraph.cli._terminal_display import TerminalDisplay, can_draw

    return TerminalDisplay(stream) if isinstance(stream, SafeStream) and can_draw(stream) else PlainDisplay(stream)


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; do not wait for the threads of nodes that nobody waits for any more.

    Args:
        main: the coroutine.
    """
    show_warnings_of_drivers()
    streams = sys.stdout, sys.stderr
    try:
        with ExitStack() as stack:
            with _interrupts_held():
                runner = stack.enter_context(asyncio.Runner())
                runner.get_loop().set_default_executor(_Threads(thread_name_prefix=NODE_THREADS))
            return runner.run(main)
    finally:
        main.close()  # a Ctrl-C before it began
        sys.stdout, sys.stderr = streams  # a node may have put others in their place, or None


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let a Ctrl-C wait until the block is over: an event loop that is half made cannot be closed."""
    if threading.current_thread() is not threading.main_thread() or (
        signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    held: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if held:
        raise KeyboardInterrupt


class _Threads(ThreadPoolExecutor):
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=True)


class ShownExecution:
    """One execution of a run, shown as it goes.

    Args:
        graph_file: the graph, as the user named it.
        store: holds the run.
        display: shows what happens.
    """

    def __init__(self, graph: Graph, graph_file: str, store: StoreRef, display: Display) -> None:
        self._graph = graph
        self._graph_file = graph_file
        self._store = store
        self._display = display

    async def run(
        self,
        create: Create,
        act: Act,
        *,
        access: Access,
        answer: Callable[[Run], Awaitable[None]] | None,
    ) -> RunOutcome:
        """Execute the run that `create` makes by what `act` does with it, after `answer`."""
        began = time.monotonic()
        with _Stopper(self._display) as stopper:
            run: Run | None = None
            try:
                async with self._store.opened(access) as store:
                    run = await create(store)
                    if answer is not None:
                        await answer(run)
                    await self._watch(run, act, stopper)
                    latest = await dispatch.read_latest(store, run.run_id, keyring=keyring())
            except StoreUnavailableError as error:
                if run is not None and stopper.pause is not None and not self._store.is_volatile:  # it has begun
                    command = self._store.command("resume", run.run_id, self._graph_file)
                    error.hint = "\n      ".join(filter(None, (error.hint, f"then resume with: {command}")))
                raise
            except asyncio.CancelledError:
                if stopper.signal is None:
                    raise
                latest = None
        return RunOutcome(
            run_id="" if run is None else run.run_id,
            latest=latest,
            seconds=time.monotonic() - began,
            store=self._store,
            graph_file=self._graph_file,
            stopped_by=stopper.signal,
        )

    async def _watch(self, run: Run, act: Act, stopper: _Stopper) -> None:
        work = asyncio.ensure_future(act(run))
        stopper.target = work
        try:
            async for event in run.stream():
                if stopper.pause is None:
                    stopper.pause = partial(run.pause, grace=_GRACE)
                    self._display.begin(run_id=run.run_id, graph_id=self._graph.id, checkpoint=str(self._store))
                self._display.event(event)
            await work
        except asyncio.CancelledError:
            if stopper.signal is None:
                raise
        finally:
            with suppress(BaseException):
                work.cancel()
                await work


class _Stopper:
    """Stops the run at the first SIGINT or SIGTERM, and ends the process at the second.

    SIGINT comes from a person who waits: nodes are cancelled. SIGTERM comes from a machine that is being shut
    down: nodes get a while to end.

    Attributes:
        signal: the signal that came, if one did.
        target: what SIGINT cancels.
        pause: what SIGTERM calls instead, once the run executes.
    """

    def __init__(self, display: Display) -> None:
        self.signal: int | None = None
        self.target: asyncio.Future[Any] | None = asyncio.current_task()
        self.pause: Callable[[], None] | None = None
        self._loop = asyncio.get_running_loop()
        self._display = display
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Not loop.add_signal_handler: a node that blocks the loop must not keep the second one from working.
        self._former = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            # The terminal was closed: the run continues without it. Not SIG_IGN, which child processes would inherit.
            self._former[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda *_: None)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            if is_terminal(sys.__stderr__):
                os.write(2, _SHOW_CURSOR)
            os._exit(128 + number)
        self.signal = number
        self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if self.signal == signal.SIGTERM and self.pause is not None:
            self._display.note(f"pausing; running nodes have {_GRACE:g} s to end")
            self.pause()
            return
        self._display.note("stopping; Ctrl-C once more ends the process at once")
        # One turn later, so that work which was made just before has begun.
        assert self.target is not None
        self._loop.call_soon(self.target.cancel)
