"""Lists and searches of runs: the statement for what is asked, such that an index leads to it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from stargraph.checkpoint.driver import RunMatcher, RunQuery
from stargraph.checkpoint.postgres._indexed_text import indexed_tags, indexed_text
from stargraph.checkpoint.postgres._schema import Schema
from stargraph.checkpoint.protocol import is_run_id

_ORDERS: Final = {
    "started": "started_at DESC, run_id",
    # An index of the minutes gives the order of the minutes; what is in one minute is sorted.
    "updated": "updated_minute DESC, updated_at DESC, run_id",
}

_HIGHEST_LIMIT: Final = 2**53

_CHILDREN: Final = """
SELECT run_id, summary FROM {schema}.runs
WHERE parent_run_id = $1 AND is_child AND status <> 'deleted' ORDER BY started_at DESC, run_id
"""


class SearchStatements:
    """The statements that find runs in one schema, with their parameters."""

    def __init__(self, schema: Schema) -> None:
        self._runs = schema.sql("{schema}.runs")
        self.children = schema.sql(_CHILDREN)

    def search(self, query: RunQuery) -> tuple[str, list[Any]]:
        """Return the statement that finds a page of runs and one more, and its parameters."""
        if query.matcher.statuses == ():
            return f"SELECT run_id, summary FROM {self._runs} WHERE false", []  # noqa: S608  # no value in it
        conditions = _Conditions()
        conditions.match(query.matcher)
        if query.cursor is not None:
            at, run_id = conditions.given(query.cursor.moment), conditions.given(query.cursor.run_id)
            column = "started_at" if query.order == "started" else "updated_at"
            conditions.add(f"{column} <= {at} AND ({column} < {at} OR run_id > {run_id})")
            if query.order == "updated":
                conditions.add(f"updated_minute <= {conditions.given(_minute(query.cursor.moment))}")
        order = _ORDERS[query.order]
        limit = conditions.given(min(query.limit, _HIGHEST_LIMIT) + 1)

        source = self._source(conditions, query.matcher)

        def part(columns: str, where: str) -> str:
            return f"SELECT {columns} FROM {source} WHERE {where} ORDER BY {order} LIMIT {limit}"  # noqa: S608  # every value is a parameter

        statuses = query.matcher.statuses
        if statuses is None:
            return part("run_id, summary", conditions.where("status <> 'deleted'")), conditions.parameters
        # Each status in its own order by its index, instead of all of them read and then sorted.
        wheres = [conditions.where(f"status = {conditions.given(status)}") for status in statuses]
        if len(wheres) == 1:
            return part("run_id, summary", wheres[0]), conditions.parameters
        parts = " UNION ALL ".join(f"({part('*', where)})" for where in wheres)
        return (
            f"SELECT run_id, summary FROM ({parts}) AS found ORDER BY {order} LIMIT {limit}",  # noqa: S608  # likewise
            conditions.parameters,
        )

    def count(self, matcher: RunMatcher) -> tuple[str, list[Any]]:
        """Return the statement that counts runs by their status, and its parameters."""
        conditions = _Conditions()
        conditions.match(matcher)
        where = conditions.where(
            "status <> 'deleted'"
            if matcher.statuses is None
            else f"status = ANY ({conditions.given(list(matcher.statuses))}::text[])"
        )
        source = self._source(conditions, matcher)
        return f"SELECT status, count(*) AS runs FROM {source} WHERE {where} GROUP BY status", conditions.parameters  # noqa: S608  # likewise

    def _source(self, conditions: _Conditions, matcher: RunMatcher) -> str:
        """Return the table, or what of it begins with a prefix: the planner cannot know that this is little."""
        if matcher.run_id_range is None:
            return self._runs
        first, end = map(conditions.given, matcher.run_id_range)
        return f"(SELECT * FROM {self._runs} WHERE run_id >= {first} AND run_id < {end} OFFSET 0) AS runs"  # noqa: S608  # likewise


class _Conditions:
    """What a run must fit, but for its status; every value is a parameter."""

    def __init__(self) -> None:
        self.parameters: list[Any] = []
        self._conditions: list[str] = []

    def given(self, value: object) -> str:
        """Return the name of a new parameter."""
        self.parameters.append(value)
        return f"${len(self.parameters)}"

    def add(self, condition: str) -> None:
        self._conditions.append(condition)

    def where(self, status: str) -> str:
        """Return all conditions and one about the status."""
        return " AND ".join([status, *self._conditions])

    def match(self, matcher: RunMatcher) -> None:
        """Add what was asked, but for the statuses."""
        if matcher.graph_id is not None:
            self.add(f"graph_id = {self.given(indexed_text(matcher.graph_id))}")
        self._add_hash("graph_hash", matcher.graph_hash)
        self._add_hash("runtime_hash", matcher.runtime_hash)
        if matcher.error_reason is not None:
            self.add(f"error_reason = {self.given(indexed_text(matcher.error_reason))}")
        if matcher.parent_run_id is not None:
            parent = matcher.parent_run_id
            self.add(f"parent_run_id = {self.given(parent)}" if is_run_id(parent) else "false")
        if matcher.roots_only:
            self.add("NOT is_child")
        if matcher.metadata:
            # The second condition is what the index of tags is made for.
            self.add(f"tags @> {self.given(indexed_tags(matcher.metadata))}::text[] AND tags <> '{{}}'")
        if matcher.since is not None:
            self.add(f"started_at >= {self.given(matcher.since)}")
        if matcher.updated_since is not None:
            self.add(f"updated_at >= {self.given(matcher.updated_since)}")
            self.add(f"updated_minute >= {self.given(_minute(matcher.updated_since))}")
        if matcher.updated_before is not None:
            self.add(f"updated_at < {self.given(matcher.updated_before)}")
            self.add(f"updated_minute <= {self.given(_minute(matcher.updated_before))}")
        if matcher.due_before is not None:
            self.add(f"due_at < {self.given(matcher.due_before)}")

    def _add_hash(self, column: str, value: str | None) -> None:
        if value is None:
            return
        try:
            digest = bytes.fromhex(value)
        except ValueError:
            self.add("false")
        else:
            # An upper-case or spaced text is no hash of a run, though it has the same bytes.
            self.add(f"{column} = {self.given(digest)}" if digest.hex() == value else "false")


def _minute(moment: datetime) -> datetime:
    """Return the minute that the tables put an instant in."""
    return moment.replace(second=0, microsecond=0)
