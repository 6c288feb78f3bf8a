"""Finding and counting runs by what their summaries say: each filter leads to an index in the order of the list."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from typing import Any, Final, get_args

from stargraph.checkpoint.driver import RunMatcher, RunQuery, microseconds, summaries_from_json
from stargraph.checkpoint.protocol import RunOrder, RunPage, RunSummary, Status
from stargraph.checkpoint.sqlite._schema import MINUTE

_MAX_INTEGER: Final = 2**63 - 1

_BY_RUN_ID: Final = "sqlite_autoindex_runs_1"
"""SQLite's name for the index that keeps `run_id` unique."""

_COLUMNS: Final = (
    "runs.run_id AS run_id, runs.started_at AS started_at, runs.updated_at AS updated_at,"
    " CAST(runs.summary AS BLOB) AS summary"
)

_AFTER_CURSOR: Final = {
    "started": "{started_at} <= :seen_at AND ({started_at} < :seen_at OR runs.run_id > :seen)",
    "updated": "runs.updated_minute <= :seen_minute"
    " AND (runs.updated_at < :seen_at OR (runs.updated_at = :seen_at AND runs.run_id > :seen))",
}

_ORDER_BY: Final = {
    "started": "{started_at} DESC, {run_id}",
    "updated": "runs.updated_minute DESC, runs.updated_at DESC, runs.run_id",
}

_ORDER_OF_PAGE: Final = {"started": "started_at DESC, run_id", "updated": "updated_at DESC, run_id"}

_HAS_TAGS: Final = """
NOT EXISTS (
    SELECT 1 FROM (VALUES {rows}) AS wanted WHERE NOT EXISTS (
        SELECT 1 FROM tags WHERE tags.name = wanted.column1 AND tags.value = wanted.column2
        AND tags.started_at = lead.started_at AND tags.run_id = lead.run_id
    )
)
"""

_CHILDREN: Final = """
SELECT run_id, CAST(summary AS BLOB) FROM runs INDEXED BY runs_by_parent
WHERE parent_run_id = ? AND is_child = 1 ORDER BY started_at DESC, run_id
"""


def search(connection: sqlite3.Connection, query: RunQuery) -> RunPage:
    """Return one page of the runs that match, in the order of the query.

    Raises:
        CheckpointCorruptedError: a summary cannot be read.
    """
    if query.matcher.statuses == ():
        return query.cut([])
    selection = _select(query.matcher, query.order)
    if query.cursor is not None:
        selection.conditions.append(_AFTER_CURSOR[query.order].format(started_at=selection.started_at))
        moment = microseconds(query.cursor.moment)
        selection.values |= {"seen_at": moment, "seen_minute": moment // MINUTE, "seen": query.cursor.run_id}
    selection.values["limit"] = min(query.limit, _MAX_INTEGER - 1) + 1
    order_by = _ORDER_BY[query.order].format(started_at=selection.started_at, run_id=selection.run_id)
    pages = [
        f"SELECT {_COLUMNS} FROM {selection.source} WHERE {where} ORDER BY {order_by} LIMIT :limit"  # noqa: S608  # made of constants; values are parameters
        for where in selection.wheres()
    ]
    statement = pages[0]
    if len(pages) > 1:
        union = " UNION ALL ".join(f"SELECT * FROM ({page})" for page in pages)  # noqa: S608  # made of constants; values are parameters
        statement = f"SELECT * FROM ({union}) ORDER BY {_ORDER_OF_PAGE[query.order]} LIMIT :limit"  # noqa: S608  # made of constants; values are parameters
    rows = connection.execute(statement, _bound(selection.values)).fetchall()
    return query.cut(summaries_from_json([(run_id, summary) for run_id, _, _, summary in rows]))


def count(connection: sqlite3.Connection, matcher: RunMatcher) -> dict[Status, int]:
    """Return how many runs match, by their status."""
    if matcher.statuses == ():
        return {}
    selection = _select(matcher, None)
    where = " AND ".join(selection.conditions)
    rows = connection.execute(
        f"SELECT runs.status, count(*) FROM {selection.source} WHERE {where} GROUP BY runs.status",  # noqa: S608  # made of constants; values are parameters
        _bound(selection.values),
    )
    return dict(rows.fetchall())


def _bound(values: dict[str, Any]) -> dict[str, Any]:
    """Return values as SQLite takes them: what is no text, a lone surrogate, becomes bytes, which equal no text."""
    bound = dict(values)
    for name, value in values.items():
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                bound[name] = value.encode("utf-8", "surrogatepass")
    return bound


def children(connection: sqlite3.Connection, run_id: str) -> list[RunSummary]:
    """Return the direct child runs of a run, in the order of a list.

    Raises:
        CheckpointCorruptedError: a summary cannot be read.
    """
    return summaries_from_json(connection.execute(_CHILDREN, (run_id,)).fetchall())


@dataclass(slots=True)
class _Selection:
    """The parts of a statement that finds runs.

    Attributes:
        source: the tables, and the index to use.
        conditions: that each run fulfils.
        values: for the names in the conditions.
        statuses: each is read for itself, in the order of the index, and then merged; empty if that gains nothing.
        started_at: the column that the list is in the order of.
        run_id: likewise.
    """

    source: str
    conditions: list[str]
    values: dict[str, Any] = field(default_factory=dict)
    statuses: tuple[Status, ...] = ()
    started_at: str = "runs.started_at"
    run_id: str = "runs.run_id"

    def wheres(self) -> list[str]:
        each = [[f"runs.status = :status_{number}"] for number in range(len(self.statuses))] or [[]]
        return [" AND ".join([*self.conditions, *status]) for status in each]


def _select(matcher: RunMatcher, order: RunOrder | None) -> _Selection:
    """Return what selects the runs that match.

    Args:
        matcher: what to look for.
        order: of the page; None for a count.
    """
    index = _index_for(matcher, order)
    selection = _Selection(f"runs INDEXED BY {index}", ["runs.status <> 'deleted'"])
    if matcher.metadata:
        selection = _select_by_tags(matcher)
    elif index == "runs_by_update":
        selection.conditions.append("runs.updated_minute IS NOT NULL")
    elif index.endswith("_by_start"):
        selection.conditions.append("runs.started_at IS NOT NULL")
    for column in ("graph_id", "graph_hash", "runtime_hash", "error_reason", "parent_run_id"):
        wanted = getattr(matcher, column)
        if wanted is not None:
            selection.conditions.append(f"runs.{column} = :{column}")
            selection.values[column] = wanted
    if matcher.roots_only:
        selection.conditions.append("runs.is_child = 0")
    if matcher.run_id_range is not None:
        selection.conditions.append("runs.run_id >= :first_id AND runs.run_id < :end_id")
        selection.values["first_id"], selection.values["end_id"] = matcher.run_id_range
    if matcher.since is not None:
        selection.conditions.append(f"{selection.started_at} >= :since")
        selection.values["since"] = microseconds(matcher.since)
    if matcher.updated_since is not None:
        selection.conditions.append("runs.updated_minute >= :since_minute AND runs.updated_at >= :updated_since")
        moment = microseconds(matcher.updated_since)
        selection.values |= {"updated_since": moment, "since_minute": moment // MINUTE}
    if matcher.updated_before is not None:
        selection.conditions.append("runs.updated_minute <= :before_minute AND runs.updated_at < :updated_before")
        moment = microseconds(matcher.updated_before)
        selection.values |= {"updated_before": moment, "before_minute": moment // MINUTE}
    if matcher.due_before is not None:
        selection.conditions.append("runs.due_at < :due_before")
        selection.values["due_before"] = microseconds(matcher.due_before)
    statuses = matcher.statuses
    if statuses is None and order is None and matcher.since is not None and index == "runs_by_status":
        statuses = get_args(Status)  # one range of the index for each; the runs themselves are not read
    if statuses is not None:
        selection.values |= {f"status_{number}": status for number, status in enumerate(statuses)}
        if order is not None and index.startswith("runs_by_status") and not matcher.metadata:
            selection.statuses = statuses
        else:
            names = ", ".join(f":status_{number}" for number in range(len(statuses)))
            selection.conditions.append(f"runs.status IN ({names})")
    return selection


def _select_by_tags(matcher: RunMatcher) -> _Selection:
    """Return what selects runs by their tags: the first one leads, by its key, which has the order of the list.

    The others are looked up by their key for each run. They are no joins, of which SQLite allows 64.
    """
    (name, value), *others = matcher.metadata.items()
    selection = _Selection(
        "tags AS lead CROSS JOIN runs ON runs.run_id = lead.run_id",
        ["lead.name = :name AND lead.value = :value"],
        {"name": name, "value": value},
        started_at="lead.started_at",
        run_id="lead.run_id",
    )
    if others:
        rows = ", ".join(f"(:name_{number}, :value_{number})" for number in range(len(others)))
        selection.conditions.append(_HAS_TAGS.format(rows=rows))
        for number, (name, value) in enumerate(others):
            selection.values |= {f"name_{number}": name, f"value_{number}": value}
    return selection


def _index_for(matcher: RunMatcher, order: RunOrder | None) -> str:
    """Return the index that leads to the fewest runs, as far as the filters tell; SQLite would have to guess too."""
    by_update = order == "updated" or matcher.updated_since is not None or matcher.updated_before is not None
    by_status = "runs_by_status_update" if by_update else "runs_by_status"
    # Most runs of a store that is some days old are done.
    few_statuses = matcher.statuses is not None and "done" not in matcher.statuses
    return next(
        index
        for index, leads in (
            (_BY_RUN_ID, matcher.run_id_range is not None),
            ("runs_by_parent", matcher.parent_run_id is not None),
            ("runs_by_due", matcher.due_before is not None),
            ("runs_by_error", matcher.error_reason is not None),
            (by_status, few_statuses),
            ("runs_by_runtime_hash", matcher.runtime_hash is not None),
            ("runs_by_graph_hash", matcher.graph_hash is not None),
            ("runs_by_graph", matcher.graph_id is not None),
            (by_status, matcher.statuses is not None),
            ("runs_by_update", by_update),
            ("roots_by_start", matcher.roots_only),
            ("runs_by_start", order is not None),
            ("runs_by_status", True),
        )
        if leads
    )
