"""Lists and searches of runs: the statement for what is asked."""

from __future__ import annotations

from typing import Any, Final

from stargraph.checkpoint.driver import RunMatcher, RunQuery
from stargraph.checkpoint.postgres._rows import SUMMARY_COLUMNS, tags_of, text_of

_HIGHEST_LIMIT: Final = 2**53

_SUMMARY: Final = "convert_from(summary, 'UTF8')::json"

_FIELDS: Final = {
    "graph_hash": f"{_SUMMARY} ->> 'graph_hash'",
    "runtime_hash": f"{_SUMMARY} ->> 'runtime_hash'",
    "error_reason": f"{_SUMMARY} -> 'error' ->> 'reason'",
    "parent_run_id": f"{_SUMMARY} ->> 'parent_run_id'",
}
"""Where in a summary the filters without a column find what they compare."""


def search_statement(table: str, query: RunQuery) -> tuple[str, list[Any]]:
    """Return the statement that finds a page of runs and one more, and its parameters.

    Args:
        table: the table of runs, quoted.
        query: what is asked.
    """
    conditions, parameters = _conditions(query.matcher)
    column = "started_at" if query.order == "started" else "updated_at"
    if query.cursor is not None:
        parameters += [query.cursor.moment, query.cursor.run_id]
        at, run_id = len(parameters) - 1, len(parameters)
        conditions.append(f"{column} <= ${at} AND ({column} < ${at} OR run_id > ${run_id})")
    parameters.append(min(query.limit, _HIGHEST_LIMIT) + 1)
    where = " AND ".join(conditions)
    statement = f"SELECT {SUMMARY_COLUMNS} FROM {table} WHERE {where} ORDER BY {column} DESC, run_id"  # noqa: S608  # every value is a parameter
    return f"{statement} LIMIT ${len(parameters)}", parameters


def count_statement(table: str, matcher: RunMatcher) -> tuple[str, list[Any]]:
    """Return the statement that counts runs by their status, and its parameters.

    Args:
        table: the table of runs, quoted.
        matcher: which runs.
    """
    conditions, parameters = _conditions(matcher)
    return (
        f"SELECT status, count(*) AS runs FROM {table} WHERE {' AND '.join(conditions)} GROUP BY status",  # noqa: S608  # every value is a parameter
        parameters,
    )


def _conditions(matcher: RunMatcher) -> tuple[list[str], list[Any]]:
    conditions = ["status <> 'deleted'"]
    parameters: list[Any] = []

    def given(value: object) -> str:
        parameters.append(value)
        return f"${len(parameters)}"

    if matcher.statuses is not None and len(matcher.statuses) == 1:
        # An array, even of one, would be read by the index and then sorted.
        conditions.append(f"status = {given(matcher.statuses[0])}")
    elif matcher.statuses is not None:
        conditions.append(f"status = ANY({given(list(matcher.statuses))}::text[])")
    if matcher.graph_id is not None:
        conditions.append(f"graph_id = {given(text_of(matcher.graph_id))}")
    for name, expression in _FIELDS.items():
        if (wanted := getattr(matcher, name)) is not None:
            conditions.append(f"{expression} = {given(wanted)}")
    if matcher.roots_only:
        conditions.append(f"{_SUMMARY} ->> 'origin' IS DISTINCT FROM 'subgraph'")
    if matcher.metadata:
        # The second condition is what the index of tags is made for.
        conditions.append(f"tags @> {given(tags_of(matcher.metadata))}::text[] AND tags <> '{{}}'")
    if matcher.since is not None:
        conditions.append(f"started_at >= {given(matcher.since)}")
    if matcher.updated_since is not None:
        conditions.append(f"updated_at >= {given(matcher.updated_since)}")
    if matcher.updated_before is not None:
        conditions.append(f"updated_at < {given(matcher.updated_before)}")
    return conditions, parameters
