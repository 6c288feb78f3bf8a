"""How two runs differ: their steps side by side, each with what differs in it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, Hashable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import groupby

from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.protocol import Checkpoint, Checkpointer, JsonValue, Task
from stargraph.checkpoint.values import canonical
from stargraph.errors import CheckpointNotFoundError
from stargraph.graph import Run
from stargraph.replay._diff import LIMIT, Change, Diff, diff_states, diff_values
from stargraph.runtime import dispatch
from stargraph.runtime._given import check_checkpointer, check_count, check_keyring, check_type


@dataclass(frozen=True, slots=True)
class StepPair:
    """A step of one run and its counterpart in the other, if there is one.

    Attributes:
        a: the step in the first run, or None.
        b: the step in the second run, or None.
        event: the recorded event; `fork` for the step at which one run begins in the other.
        node: the node, if it concerns one.
        task_id: the task.
        diff: what differs, `before` in the first run and `after` in the second. Of the state, what did not differ in
            the same way at the pair before.
    """

    a: int | None
    b: int | None
    event: str
    node: str | None
    task_id: str | None
    diff: Diff

    @property
    def same(self) -> bool:
        """Whether both runs have the step, and nothing differs in it."""
        return self.a is not None and self.b is not None and not self.diff


@dataclass(frozen=True, slots=True)
class RunDiff:
    """How two runs differ; false if they do not.

    Attributes:
        a: the first run.
        b: the second run.
        shared: the last step of the first run that the second, a fork of it, has in common with it; or None.
        pairs: the steps since, side by side.
        end: how the final states of the runs differ.
        statuses: where the two runs stand.
    """

    a: str
    b: str
    shared: int | None
    pairs: tuple[StepPair, ...]
    end: Diff
    statuses: tuple[str, str]

    def __bool__(self) -> bool:
        return bool(self.end) or self.statuses[0] != self.statuses[1] or not all(pair.same for pair in self.pairs)

    def lines(self, width: int = 60) -> list[str]:
        """Return the runs as text, side by side; consecutive steps that are equal share a line.

        Args:
            width: how many characters each value may have.
        """
        rows: list[tuple[str, str, list[str]]] = [(f"A {self.a}", f"B {self.b}", [])]
        if self.shared is not None:
            rows.append((_span(0, self.shared), "the same", []))
        for same, group in groupby(self.pairs, key=lambda pair: pair.same):
            pairs = list(group)
            if same and len(pairs) > 2:
                rows.append((f"{_span(pairs[0].a, pairs[-1].a)}", f"{_span(pairs[0].b, pairs[-1].b)}: alike", []))
                continue
            rows += [(_cell(pair.a, pair), _cell(pair.b, pair), pair.diff.lines(width)) for pair in pairs]
        rows.append((f"ends {self.statuses[0]}", f"ends {self.statuses[1]}", self.end.lines(width)))
        column = max(len(left) for left, _, _ in rows)
        return [
            line
            for left, right, changes in rows
            for line in (f"{left.ljust(column)}  │  {right}".rstrip(), *(f"    {change}" for change in changes))
        ]

    def as_json(self) -> dict[str, JsonValue]:
        """Return the difference for programs; equal steps are only counted."""
        return {
            "a": self.a,
            "b": self.b,
            "shared": self.shared,
            "same": not self,
            "statuses": list(self.statuses),
            "alike": sum(pair.same for pair in self.pairs),
            "steps": [
                {
                    "a": pair.a,
                    "b": pair.b,
                    "event": pair.event,
                    "node": pair.node,
                    "task_id": pair.task_id,
                    **pair.diff.as_json(),
                }
                for pair in self.pairs
                if not pair.same
            ],
            "end": self.end.as_json(),
        }


async def diff_runs(a: Run, b: Run, *, limit: int = LIMIT) -> RunDiff:
    """Return how two runs differ, step by step; they may be in two stores.

    Steps are paired by their event and task, so that loops and branches match whatever was recorded in between; the
    rest, by event and node in order. If one run is a fork of the other, the pairs begin at the fork.

    Args:
        a: one run.
        b: the other.
        limit: how many changes to list for each step.

    Raises:
        CheckpointNotFoundError: a store holds no such run.
    """
    for name, run in (("a", a), ("b", b)):
        check_type(run, name, Run, "a Run, as graph.start(…) returns; compare_runs(…) takes ids")
    check_count(limit, "limit", least=0)
    async with (
        aclosing(await _Log.read(a._store, a.run_id, a._keyring)) as one,
        aclosing(await _Log.read(b._store, b.run_id, b._keyring)) as other,
    ):
        return await _compared(one, other, limit)


async def compare_runs(
    store: Checkpointer, a: str, b: str, *, keyring: Keyring | None = None, limit: int = LIMIT
) -> RunDiff:
    """Return how two runs of a store differ, as `diff_runs` does, without their graphs.

    Args:
        a: the id of one run.
        b: the id of the other.
        keyring: checks the seals.
        limit: how many changes to list for each step.

    Raises:
        CheckpointNotFoundError: the store holds no such run.
    """
    check_checkpointer(store, "store")
    check_keyring(keyring)
    check_count(limit, "limit", least=0)
    async with (
        aclosing(await _Log.read(store, a, keyring)) as one,
        aclosing(await _Log.read(store, b, keyring)) as other,
    ):
        return await _compared(one, other, limit)


@dataclass(frozen=True, slots=True)
class _Entry:
    """What a step is paired by, and a mark that identical steps share."""

    step: int
    event: str
    node: str | None
    task_id: str | None
    mark: bytes

    @property
    def place(self) -> str:
        """The index of a branch in its fork, as the id of its task has it."""
        return (self.task_id or "").rpartition("-")[2].partition(".")[2]


@dataclass(slots=True)
class _Log:
    """The log of a run: what its steps are paired by, and its records one after the other."""

    store: Checkpointer
    keyring: Keyring | None
    tail: Checkpoint
    entries: list[_Entry]
    parent: tuple[str, int] | None
    opened: int
    _records: AsyncGenerator[Checkpoint] | None = None
    _next: Checkpoint | None = None

    @classmethod
    async def read(cls, store: Checkpointer, run_id: str, keyring: Keyring | None) -> _Log:
        tail = await dispatch.read_run(store, run_id, keyring=keyring)
        log = cls(store, keyring, tail, [], None, 0)
        async for record in log._history(0):
            log.entries.append(
                _Entry(record.step, record.event, record.last_node, record.task_id, _mark(_facts(record), record))
            )
            if "fork" in (record.definition or {}):
                log.opened = record.step
        if tail.origin == "fork" and tail.parent_run_id is not None and tail.parent_step is not None:
            log.parent = tail.parent_run_id, tail.parent_step
        return log

    def _history(self, from_step: int) -> AsyncGenerator[Checkpoint]:
        return dispatch.history(
            self.store, self.tail.run_id, from_step=from_step, to_step=self.tail.step, keyring=self.keyring
        )

    def since(self, step: int) -> list[_Entry]:
        """The entries after a step."""
        return [entry for entry in self.entries if entry.step > step]

    async def aclose(self) -> None:
        """Close the history that is being read, which may hold a connection."""
        if self._records is not None:
            await self._records.aclose()
        self._records = self._next = None

    async def record(self, step: int) -> Checkpoint:
        """Return a step; those that are asked for in order are read in one go."""
        if self._records is None or self._next is None or self._next.step > step:
            await self.aclose()
            self._records = self._history(step)
        while self._next is None or self._next.step < step:
            self._next = await anext(self._records, None)
            if self._next is None:
                raise CheckpointNotFoundError(
                    f"run {self.tail.run_id!r}: step {step} was removed during the comparison",
                    reason="step-not-found",
                    hint="Compare the runs again.",
                    run_id=self.tail.run_id,
                    step=step,
                )
        return self._next


async def _compared(a: _Log, b: _Log, limit: int) -> RunDiff:
    shared, start_a, start_b = None, -1, -1
    if b.parent is not None and b.parent[0] == a.tail.run_id:
        shared = start_a = b.parent[1]
        start_b = b.opened
    elif a.parent is not None and a.parent[0] == b.tail.run_id:
        start_a, start_b = a.opened, a.parent[1]
    differing: set[Hashable] = set()
    left_out = 0
    pairs = []
    if start_a >= 0:
        before, after = await a.record(start_a), await b.record(start_b)
        diff, differing, left_out = _state_changes(before, after, differing, left_out, limit)
        if diff:
            pairs.append(StepPair(start_a, start_b, "fork", None, None, diff))
    for one, other in _paired(a.since(start_a), b.since(start_b)):
        entry = one or other
        assert entry is not None
        diff = Diff((), 0)
        if one is not None and other is not None and one.mark == other.mark:
            differing, left_out = set(), 0
        elif one is not None and other is not None:
            before, after = await a.record(one.step), await b.record(other.step)
            of_state, differing, left_out = _state_changes(before, after, differing, left_out, limit)
            own = _step_changes(before, after, limit)
            diff = Diff((*own.changes, *of_state.changes)[:limit], own.total + of_state.total)
        pairs.append(
            StepPair(
                None if one is None else one.step,
                None if other is None else other.step,
                entry.event,
                entry.node,
                entry.task_id,
                diff,
            )
        )
    return RunDiff(
        a=a.tail.run_id,
        b=b.tail.run_id,
        shared=shared,
        pairs=tuple(pairs),
        end=diff_states(a.tail, b.tail, limit=limit),
        statuses=(a.tail.status, b.tail.status),
    )


def _paired(a: Sequence[_Entry], b: Sequence[_Entry]) -> Iterator[tuple[_Entry | None, _Entry | None]]:
    """Pair the entries of two logs, and yield them in the order of the first, those of the second alone in between."""
    partners: dict[int, _Entry] = {}
    left_a, left_b = list(a), list(b)
    for by_task in (True, False):
        found = dict(_keyed(left_b, by_task=by_task))
        for key, entry in _keyed(left_a, by_task=by_task):
            if key in found:
                partners[entry.step] = found.pop(key)
        taken = {entry.step for entry in partners.values()}
        left_a = [entry for entry in left_a if entry.step not in partners]
        left_b = [entry for entry in left_b if entry.step not in taken]
    alone = iter(left_b)
    waiting = next(alone, None)
    for entry in a:
        partner = partners.get(entry.step)
        while partner is not None and waiting is not None and waiting.step < partner.step:
            yield None, waiting
            waiting = next(alone, None)
        yield entry, partner
    while waiting is not None:
        yield None, waiting
        waiting = next(alone, None)


def _keyed(entries: Sequence[_Entry], *, by_task: bool) -> Iterator[tuple[Hashable, _Entry]]:
    """Yield entries with what they are paired by: event and task, or event and node, and how often it came before."""
    counts: Counter[Hashable] = Counter()
    for entry in entries:
        key = (entry.event, entry.task_id) if by_task else (entry.event, entry.node, entry.place)
        counts[key] += 1
        yield (key, counts[key]), entry


def _step_changes(before: Checkpoint, after: Checkpoint, limit: int) -> Diff:
    """Return how two steps differ, but for the states after them."""
    one, other = _facts(before), _facts(after)
    diffs = [diff_values(one[name], other[name], path=name, limit=limit) for name in one]
    diffs.insert(1, diff_values(before.update, after.update, path="update", limit=limit))
    return Diff(tuple(change for diff in diffs for change in diff.changes), sum(diff.total for diff in diffs))


def _facts(record: Checkpoint) -> dict[str, JsonValue]:
    """Return what is comparable of a step in another run: neither times nor the ids of runs."""
    return {
        "status": record.status,
        "error": None if record.error is None else {"type": record.error.type, "message": record.error.message},
        "calls": [
            {
                "name": call.name,
                "key": call.key,
                "occurrence": call.occurrence,
                "result": call.result,
                "error": None if call.error is None else f"{call.error.type}: {call.error.message}",
            }
            for call in record.calls
            if call.kind not in ("now", "attempt")
        ],
        "interrupts": [each.model_dump(mode="json", include={"id", "prompt", "payload"}) for each in record.interrupts],
        "next": [item.node if isinstance(item, Task) else item.join for item in record.frontier],
    }


def _state_changes(
    before: Checkpoint, after: Checkpoint, known: set[Hashable], left_out: int, limit: int
) -> tuple[Diff, set[Hashable], int]:
    """Return the new differences between two states, and all that are known now."""
    diff = diff_states(before, after, limit=limit)
    marks = {_mark_of(change): change for change in diff.changes}
    new = tuple(change for mark, change in marks.items() if mark not in known)
    more = diff.total - len(diff.changes)
    return Diff(new, len(new) + (more if more != left_out else 0)), set(marks), more


def _mark(facts: dict[str, JsonValue], record: Checkpoint) -> bytes:
    update, state = record.encoded_update(), record.encoded_state()
    members = [
        None if each is None else {name: encoded.digest for name, encoded in each.items()} for each in (update, state)
    ]
    return hashlib.sha256(canonical([facts, *members])).digest()


def _mark_of(change: Change) -> Hashable:
    # Values may be large; what is kept of each from step to step is not.
    return change.path, change.kind, hashlib.sha256(canonical([change.before, change.after])).digest()


def _span(first: int | None, last: int | None) -> str:
    return f"step {first}" if first == last else f"steps {first} to {last}"


def _cell(step: int | None, pair: StepPair) -> str:
    return "" if step is None else f"{step} {pair.event}{f' {pair.node}' if pair.node else ''}"
