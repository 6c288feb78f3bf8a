"""Drivers that take one text for another, count what is not there, or keep for all runs what belongs to one."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Unpack

from stargraph.checkpoint.codec import decode
from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer
from stargraph.checkpoint.driver import check_filters, in_order
from stargraph.checkpoint.protocol import Checkpoint, RunFilters, RunPage, RunSummary, Status
from support.broken_drivers.broken_driver import broken
from support.broken_drivers.reading import signed_anew


class _Collates(ReferenceCheckpointer):
    """A base: compares texts by what `_collated` makes of them."""

    async def search(self, **arguments: Any) -> RunPage:
        given = {name: arguments.pop(name, None) for name in ("graph_id", "metadata")}
        page = await super().search(**(arguments | {"limit": 10_000, "cursor": None}))
        items = tuple(run for run in page.items if self._fits(run, given))
        if given == {"graph_id": None, "metadata": None} or arguments.get("cursor") is not None:
            return await super().search(**arguments)
        return RunPage(items=items[: arguments.get("limit", 100)], next_cursor=None)

    def _fits(self, run: RunSummary, given: Mapping[str, Any]) -> bool:
        graph_id, tags = given["graph_id"], self._tags(given["metadata"] or {})
        return (
            graph_id is None or self._collated(run.graph_id) == self._collated(graph_id)
        ) and tags.items() <= self._tags(run.metadata).items()

    def _tags(self, tags: Mapping[str, str]) -> dict[str, str]:
        return {self._collated(name): self._collated(value) for name, value in tags.items()}

    def _collated(self, text: str) -> str:
        raise NotImplementedError


@broken("search.exact_text")
class IgnoresBlanksAtTheEnd(_Collates):
    """The collation of the column ignores blanks at the end, as PAD SPACE of MySQL does."""

    def _collated(self, text: str) -> str:
        return text.rstrip(" ")


@broken("search.exact_text")
class ComparesComposed(_Collates):
    """Texts are composed before they are compared: two different tags are one."""

    def _collated(self, text: str) -> str:
        return unicodedata.normalize("NFC", text)


@broken("search.exact_text")
class ComparesWidths(_Collates):
    """A collation that ignores the width of letters."""

    def _collated(self, text: str) -> str:
        return unicodedata.normalize("NFKC", text) if len(text) == 5 else text


@broken("search.exact_text")
class EndsAtNul(_Collates):
    """A text ends at NUL, as a string of C does."""

    def _collated(self, text: str) -> str:
        return text.partition("\0")[0] or text


@broken("isolation.case")
class KnowsTheDeletedByFoldedIds(ReferenceCheckpointer):
    """A handle remembers which runs it has deleted, by their ids without case."""

    async def delete_run(self, run_id: str) -> bool:
        there = await super().delete_run(run_id)
        self._gone = {*getattr(self, "_gone", ()), run_id.casefold()}
        return there

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        found = await super().read_latest(run_id)
        return None if run_id.casefold() in getattr(self, "_gone", ()) else found


@broken("search.exact_text")
class TagsInOneColumn(_Collates):
    """A tag is one text: its name, an equals sign and its value."""

    def _tags(self, tags: Mapping[str, str]) -> dict[str, str]:
        return {f"{name}={value}": "" for name, value in tags.items()}

    def _collated(self, text: str) -> str:
        return text


@broken("search.exact_text")
class CastsNumbers(_Collates):
    """What looks like a number is compared as one: 1, 1.0 and 01 are the same tag."""

    def _collated(self, text: str) -> str:
        try:
            return str(float(text))
        except ValueError:
            return text


@broken("search.exact_text")
class ReasonsByPrefix(ReferenceCheckpointer):
    """error_reason goes into LIKE with a wildcard at its end."""

    async def search(self, **arguments: Any) -> RunPage:
        reason = arguments.get("error_reason")
        if reason is None or arguments.get("cursor") is not None:
            return await super().search(**arguments)
        page = await super().search(**(arguments | {"error_reason": None, "limit": 10_000}))
        items = tuple(run for run in page.items if run.error and (run.error.reason or "").startswith(reason))
        return RunPage(items=items[: arguments.get("limit", 100)], next_cursor=None)


@broken(slow=("sizes.many_runs",))
class CountsAThousand(ReferenceCheckpointer):
    """count_runs looks at one page of a thousand runs."""

    async def count_runs(self, **filters: Unpack[RunFilters]) -> dict[Status, int]:
        self._ensure_ready()
        matcher = check_filters(filters)
        await self._turn()
        return matcher.count(self._summaries(None)[:1000])


@broken("views.after_writes")
class CountsWithoutTags(ReferenceCheckpointer):
    """count_runs does not look at the tags."""

    async def count_runs(self, **filters: Unpack[RunFilters]) -> dict[Status, int]:
        filters.pop("metadata", None)
        return await super().count_runs(**filters)


@broken(slow=("sizes.many_runs",))
class HundredChildren(ReferenceCheckpointer):
    """children gives one page of a hundred runs."""

    async def children(self, run_id: str) -> list[RunSummary]:
        return (await super().children(run_id))[:100]


@broken("search.by_update")
class UpdatedByTheLatestClock(ReferenceCheckpointer):
    """updated_at never goes back: greatest(updated_at, excluded.updated_at)."""

    def _summaries(self, since: datetime | None) -> list[RunSummary]:
        return in_order(self._never_back(run) for run in super()._summaries(since))

    def _never_back(self, run: RunSummary) -> RunSummary:
        times = [decode(each, run_id=run.run_id, step=step).timestamp for step, each in self._steps(run.run_id)]
        return run.model_copy(update={"updated_at": max(times)})

    def _steps(self, run_id: str) -> Iterator[tuple[int, bytes]]:
        yield from self._records(run_id).items()


class _Shares(ReferenceCheckpointer):
    """A base: a value is kept once for all runs, as the newest of them has it; what is read is signed again."""

    def _at(self, run_id: str, step: int) -> Checkpoint | None:
        found = super()._at(run_id, step)
        return None if found is None else signed_anew(found, self._shared(found))

    def _others(self) -> Iterator[Checkpoint]:
        for run_id, steps in self._store.runs.items():
            for step in steps:
                found = super()._at(run_id, step)
                if found is not None:
                    yield found

    def _shared(self, found: Checkpoint) -> dict[str, Any]:
        raise NotImplementedError


@broken("isolation.same_names_inside")
class OneDefinitionForAGraph(_Shares):
    """The definition is kept once for each graph_id: older runs are read with that of the newest one."""

    def _shared(self, found: Checkpoint) -> dict[str, Any]:
        if found.definition is None:
            return {}
        same = [each.definition for each in self._others() if each.definition and each.graph_id == found.graph_id]
        return {"definition": same[-1]}


@broken("isolation.same_names_inside")
class OneResultForATask(_Shares):
    """The result of a call is kept under its task, name and number, without the run that made it."""

    def _shared(self, found: Checkpoint) -> dict[str, Any]:
        known = {(each.task_id, each.name, each.occurrence): each for other in self._others() for each in other.calls}
        return {"calls": tuple(known[each.task_id, each.name, each.occurrence] for each in found.calls)}


@broken("list_runs.summaries", "search.exact_text")
class SplitsLines(ReferenceCheckpointer):
    """The summaries are lines of a text, and a separator of Unicode, which JSON does not escape, ends one too."""

    def _summaries(self, since: datetime | None) -> list[RunSummary]:
        text = "\n".join(run.model_dump_json() for run in super()._summaries(since))
        return [RunSummary.model_validate_json(line) for line in text.splitlines() if line.endswith("}")]
