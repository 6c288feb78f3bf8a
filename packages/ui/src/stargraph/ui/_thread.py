"""The conversation of a LangGraph thread that `stargraph.langgraph` keeps in the store."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from stargraph.ui._console import console_of
from stargraph.ui._tree import show_json

_MOST: Final = 400
"""How many of the last messages are shown."""

_TEXT: Final = 20_000


async def messages(request: Request) -> Response:
    """Answer with the conversation of a thread."""
    console = console_of(request)
    latest = await console.latest(request.path_params["run_id"])
    found: list[Any] | None = None
    if find_spec("stargraph.langgraph") is not None:
        from stargraph.langgraph import thread_messages

        tags = latest.metadata
        found = await thread_messages(
            await console.store.opened(), tags.get("thread_id", ""), namespace=tags.get("checkpoint_ns", "")
        )
    return console.page(
        request,
        "_messages.html",
        found=None if found is None else found[-_MOST:],
        left_out=max(len(found or ()) - _MOST, 0),
        show=lambda value: show_json(value, _TEXT),
    )
