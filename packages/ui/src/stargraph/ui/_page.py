"""One run as one file: a page for a bug report, which needs no server and asks for nothing."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Final

from markupsafe import Markup

from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.protocol import Checkpointer
from stargraph.errors import CheckpointNotFoundError
from stargraph.runtime import dispatch
from stargraph.ui._console import template_environment
from stargraph.ui._graph_svg import draw_graph, progress_of
from stargraph.ui._steps import process_words, read_steps, shown
from stargraph.ui._store import read_definition
from stargraph.ui._timeline_svg import draw_timeline, timeline_of
from stargraph.ui._tree import show_json

_MOST_STEPS: Final = 5_000
"""How many of the last steps the file lists."""

_MOST_VALUE: Final = 20_000
"""How many characters of one field of the state it holds."""


async def render_page(store: Checkpointer, run_id: str, *, keyring: Keyring | None = None) -> str:
    """Return a run as one HTML page with its graph, timeline, steps and latest state, large values cut.

    Args:
        store: the store, opened.
        keyring: checks the seals.

    Raises:
        CheckpointNotFoundError: the store holds no such run.
    """
    latest = await dispatch.read_run(store, run_id, keyring=keyring)
    rows = await read_steps(store, run_id, 0, latest.step)
    try:
        definition = await read_definition(store, latest, keyring)
    except CheckpointNotFoundError:
        definition = None
    style = (files("stargraph.ui") / "static" / "app.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        template_environment()
        .get_template("report.html")
        .render(
            run=latest,
            style=Markup(style),  # noqa: S704  # our own file
            policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
            duration=(latest.timestamp - latest.started_at).total_seconds(),
            process=process_words(latest.process),
            graph=None if definition is None else draw_graph(definition, progress_of(latest, rows)),
            chart=draw_timeline(timeline_of(latest, rows)),
            rows=[shown(row) for row in rows[-_MOST_STEPS:]],
            left_out=max(len(rows) - _MOST_STEPS, 0),
            fields=[(name, show_json(value, _MOST_VALUE)) for name, value in latest.state.items()],
            payloads=[
                (each, "" if each.payload is None else show_json(each.payload, _MOST_VALUE))
                for each in latest.questions
            ],
            base="",
        )
    )
