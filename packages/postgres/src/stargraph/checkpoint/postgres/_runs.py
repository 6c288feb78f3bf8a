"""Lists and searches of runs: the statement for what is asked, and the cursor between pages."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from stargraph.checkpoint.postgres._rows import SUMMARY_COLUMNS, tags_of, text_of
from stargraph.checkpoint.protocol import RunSummary, Status, is_run_id

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def search_statement(
    table: str,
    *,
    status: Status | None,
    graph_id: str | None,
    metadata: Mapping[str, str] | None,
    since: datetime | None,
    cursor: str | None,
    limit: int,
) -> tuple[str, list[Any]]:
    """Return the statement that finds a page of runs, and its parameters.

    Args:
        table: the table of runs, quoted.
        status: where the run stands.
        graph_id: the id of its graph.
        metadata: tags that it has, with these values.
        since: only runs that started then or later.
        cursor: where the page before ended.
        limit: how many rows to return.

    Raises:
        ValueError: the cursor is not one of `cursor_after`.
    """
    conditions = ["status <> 'deleted'"]
    parameters: list[Any] = []

    def given(value: object) -> str:
        parameters.append(value)
        return f"${len(parameters)}"

    if status is not None:
        conditions.append(f"status = {given(status)}")
    if graph_id is not None:
        conditions.append(f"graph_id = {given(text_of(graph_id))}")
    if metadata:
        # The second condition is what the index of tags is made for.
        conditions.append(f"tags @> {given(tags_of(metadata))}::text[] AND tags <> '{{}}'")
    if since is not None:
        conditions.append(f"started_at >= {given(since)}")
    if cursor is not None:
        started_at, run_id = _parse(cursor)
        at = given(started_at)
        conditions.append(f"started_at <= {at} AND (started_at < {at} OR run_id > {given(run_id)})")
    where = " AND ".join(conditions)
    return (
        f"SELECT {SUMMARY_COLUMNS} FROM {table} WHERE {where} ORDER BY started_at DESC, run_id LIMIT {given(limit)}",  # noqa: S608  # every value is a parameter
        parameters,
    )


def cursor_after(last: RunSummary) -> str:
    """Return the cursor that a page ending with this run gives.

    Args:
        last: the last run of the page.
    """
    place = [(last.started_at - _EPOCH) // _MICROSECOND, last.run_id]
    return base64.urlsafe_b64encode(json.dumps(place, separators=(",", ":")).encode()).decode()


def _parse(cursor: str) -> tuple[datetime, str]:
    try:
        microseconds, run_id = json.loads(base64.urlsafe_b64decode(cursor.encode("ascii")))
        if type(microseconds) is int and is_run_id(run_id):
            return _EPOCH + microseconds * _MICROSECOND, run_id
    except (ValueError, TypeError, binascii.Error, OverflowError):
        pass
    raise ValueError(f"cursor is {cursor!r}: give the next_cursor of a page of this store")
