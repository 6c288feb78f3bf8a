"""What differs: between two steps of a run, and between two runs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.replay import Diff, compare_runs, diff_states
from stargraph.ui._console import console_of, is_fragment, step_number
from stargraph.ui._tree import show_json

_SHOWN: Final = 600
"""How many characters of each side of a change are shown."""

_LIMIT: Final = 200
_SIGNS: Final = {"added": "+", "removed": "−", "changed": "~"}


@dataclass(frozen=True, slots=True)
class Line:
    """One change, fit to be shown.

    Attributes:
        kind: `added`, `removed` or `changed`.
        sign: the same in one character.
        path: where.
        before: the former value, or empty.
        after: the new value, or empty.
    """

    kind: str
    sign: str
    path: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Lines:
    """The first changes, and how many there are in all."""

    lines: tuple[Line, ...]
    total: int


def lines_of(diff: Diff) -> Lines:
    """Return a difference, fit to be shown."""
    return Lines(
        tuple(
            Line(
                change.kind,
                _SIGNS[change.kind],
                change.path.removeprefix("state.").removeprefix("state"),
                "" if change.kind == "added" else show_json(change.before, _SHOWN),
                "" if change.kind == "removed" else show_json(change.after, _SHOWN),
            )
            for change in diff.changes
        ),
        diff.total,
    )


async def differences(before: Checkpoint, after: Checkpoint) -> Lines:
    """Return how the states of two steps differ; a large one does not hold up the other pages."""
    return await asyncio.to_thread(lambda: lines_of(diff_states(before, after, limit=_LIMIT)))


async def diff_steps(request: Request) -> Response:
    """Answer with what differs between any two steps of a run."""
    console = console_of(request)
    run_id = request.path_params["run_id"]
    latest = await console.latest(run_id)
    a = _number(request, "a", max(latest.step - 1, 0))
    b = _number(request, "b", latest.step)
    before, after = await console.checkpoint(run_id, a), await console.checkpoint(run_id, b)
    return console.page(
        request,
        "_diff_body.html" if is_fragment(request) else "diff.html",
        run=latest,
        before=before,
        after=after,
        diff=await differences(before, after),
        command=console.store.command("inspect", run_id, "--diff", str(a), str(b)),
    )


async def diff_two_runs(request: Request) -> Response:
    """Answer with two runs side by side, as after a fork."""
    console = console_of(request)
    store = await console.store.opened()
    a, b = request.query_params.get("a", ""), request.query_params.get("b", "")
    if not a or not b:
        raise ValueError("two runs are compared: a and b name them")
    first, second = await console.latest(a), await console.latest(b)
    compared = await compare_runs(store, a, b, keyring=console.store.keyring)
    return console.page(
        request,
        "compare.html",
        a=first,
        b=second,
        shared=compared.shared,
        alike=sum(pair.same for pair in compared.pairs),
        pairs=[(pair, lines_of(pair.diff)) for pair in compared.pairs if not pair.same][:_LIMIT],
        total=sum(not pair.same for pair in compared.pairs),
        end=lines_of(compared.end),
        executing=console.executions.run_of(b) is not None,
    )


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    if not text:
        return default
    number = step_number(text)
    if number is None:
        raise ValueError(f"{text!r} is not the number of a step")
    return number
