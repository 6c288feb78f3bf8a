"""Finds runs by a text that stands anywhere in what the list shows of them: on any store, up to a stated bound."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stargraph.checkpoint.protocol import RunFilters, RunOrder, RunSearch, RunSummary, is_run_id
from stargraph.ui._text import show_number

MOST_RUNS: Final = 20_000
"""At how many runs one page looks: no store has an index of the texts, so each run is read."""

MOST_SECONDS: Final = 1.5
"""How long it looks, for stores on which a read takes long."""

_MOST_CHARACTERS: Final = 200
"""How long a text may be: an address that somebody was sent must not keep the server busy."""

_AT_A_TIME: Final = 500
_SHORTEST_PREFIX: Final = 4


@dataclass(frozen=True, slots=True)
class TextPage:
    """The runs that a text was found in.

    Attributes:
        items: the runs, in the order that was asked for; a run whose id begins with the text comes before all.
        next_cursor: where to look further; None if every run was looked at.
        looked_at: at how many runs this page looked.
        last: the last of them, or None if there was none.
    """

    items: tuple[RunSummary, ...]
    next_cursor: str | None
    looked_at: int
    last: RunSummary | None


async def search_text(
    store: RunSearch, text: str, filters: RunFilters, order: RunOrder, cursor: str | None, limit: int
) -> TextPage:
    """Return runs that fit the filters and have each word of a text in their id, graph, tags or error.

    Ids are looked up by their beginning as well, so that one that somebody has pasted is found however old its run is.

    Args:
        store: holds the runs.
        text: words; upper and lower case are the same.
        filters: what else must fit; by these the store finds the runs.
        order: which come first.
        cursor: the end of the page before; None for the first page.
        limit: enough runs. The page ends after the read that has found them.

    Raises:
        ValueError: the text is too long, or a filter or the cursor is malformed.
    """
    if len(text) > _MOST_CHARACTERS:
        length = show_number(len(text))
        raise ValueError(f"The text has {length} characters; at most {_MOST_CHARACTERS} are searched for")
    words = text.casefold().split()
    found = {} if cursor else {run.run_id: run for run in await _named(store, text.strip(), filters)}
    looked_at, last, ends_at = 0, None, time.monotonic() + MOST_SECONDS
    while True:
        page = await store.search(limit=_AT_A_TIME, cursor=cursor, order=order, **filters)
        looked_at, cursor = looked_at + len(page.items), page.next_cursor
        last = page.items[-1] if page.items else last
        found |= {run.run_id: run for run in page.items if run.run_id not in found and _has_words(run, words)}
        if cursor is None or len(found) >= limit or looked_at >= MOST_RUNS or time.monotonic() > ends_at:
            return TextPage(tuple(found.values()), cursor, looked_at, last)


async def _named(store: RunSearch, text: str, filters: RunFilters) -> Sequence[RunSummary]:
    """Return the runs whose id begins with a text, unless it is the beginning of many."""
    if len(text) < _SHORTEST_PREFIX or not is_run_id(text) or filters.get("run_id_prefix"):
        return ()
    named: RunFilters = {**filters, "run_id_prefix": text}
    page = await store.search(limit=10, **named)
    return () if page.next_cursor else page.items


def _has_words(run: RunSummary, words: Sequence[str]) -> bool:
    shown = "\n".join(_texts_of(run)).casefold()
    return all(word in shown for word in words)


def _texts_of(run: RunSummary) -> list[str]:
    texts = [run.run_id, run.graph_id, *(f"{name}={value}" for name, value in run.metadata.items())]
    if run.error is not None:
        texts += [run.error.type, run.error.message, run.error.reason or "", run.error.node or ""]
    return texts
