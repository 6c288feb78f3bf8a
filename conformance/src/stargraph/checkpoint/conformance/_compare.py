"""Compare what was written with what was read, by value, type and order, and say where they differ."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Final

from pydantic import BaseModel

from stargraph.checkpoint.conformance._expect import Violation
from stargraph.checkpoint.protocol import Checkpoint, RunSummary, StepSummary
from stargraph.checkpoint.values import EncodedValue
from stargraph.errors import CheckpointError

_WIDTH = 100


def show(value: object) -> str:
    """A value as a violation prints it: its repr, shortened in the middle."""
    text = repr(value)
    if len(text) <= _WIDTH:
        return text
    return f"{text[: _WIDTH // 2]}…{text[-_WIDTH // 4 :]} ({len(text)} characters)"


_ATOMS: Final = (str, int, bool, type(None), bytes, datetime)


def _identical(wrote: Any, read: Any) -> bool:
    """Whether `differences` of two values yields nothing: a tenth of its time, and most values are the same."""
    kind = type(wrote)
    if kind is not type(read):
        return False
    if kind in _ATOMS:
        return bool(wrote == read)
    if issubclass(kind, BaseModel):
        fields = _fields(kind)
        return all(map(_identical, fields(wrote), fields(read)))
    if kind is dict:
        return list(wrote) == list(read) and all(map(_identical, wrote.values(), read.values()))
    if kind is list or kind is tuple:
        return len(wrote) == len(read) and all(map(_identical, wrote, read))
    return not any(_differences(wrote, read, ""))


@functools.cache
def _fields(kind: type[BaseModel]) -> Callable[[Any], tuple[Any, ...]]:
    """Return what gets the fields of a model as a tuple."""
    names = tuple(kind.model_fields)
    return attrgetter(*names, names[0])  # a single name would give its value alone


def differences(wrote: object, read: object, path: str) -> Iterator[str]:
    """Yield every place at which two values differ, as `state.k: wrote -0.0, read 0`."""
    if not _identical(wrote, read):
        yield from _differences(wrote, read, path)


def _differences(wrote: object, read: object, path: str) -> Iterator[str]:
    if isinstance(wrote, BaseModel) and type(wrote) is type(read):
        for name in type(wrote).model_fields:
            yield from _differences(getattr(wrote, name), getattr(read, name, None), f"{path}.{name}" if path else name)
    elif type(wrote) is not type(read):
        yield f"{path}: wrote {show(wrote)}, read {show(read)}{_note(wrote, read)}"
    elif isinstance(wrote, dict) and isinstance(read, dict):
        yield from _dict_differences(wrote, read, path)
    elif isinstance(wrote, list | tuple) and isinstance(read, list | tuple):
        if len(wrote) != len(read):
            yield f"{path}: wrote {len(wrote)} elements, read {len(read)}: {show(wrote)}, {show(read)}"
            return
        for index, (before, after) in enumerate(zip(wrote, read, strict=True)):
            yield from _differences(before, after, f"{path}[{index}]")
    elif isinstance(wrote, float) and isinstance(read, float):
        if wrote != read or math.copysign(1.0, wrote) != math.copysign(1.0, read):
            yield f"{path}: wrote {wrote!r}, read {read!r}"
    elif wrote != read:
        yield f"{path}: wrote {show(wrote)}, read {show(read)}"


def _note(wrote: object, read: object) -> str:
    if wrote == read and wrote is not None:
        return f" (the type changed: {type(wrote).__name__} to {type(read).__name__})"
    return ""


def _dict_differences(wrote: dict[object, object], read: dict[object, object], path: str) -> Iterator[str]:
    for key, value in wrote.items():
        where = f"{path}.{key}" if isinstance(key, str) and key.isidentifier() else f"{path}[{key!r}]"
        if key not in read:
            yield f"{where}: wrote {show(value)}, read nothing"
        else:
            yield from _differences(value, read[key], where)
    for key, value in read.items():
        if key not in wrote:
            yield f"{path}[{key!r}]: wrote nothing, read {show(value)}"
    if list(wrote) != list(read) and wrote.keys() == read.keys():
        yield f"{path}: wrote the keys in the order {show(list(wrote))}, read {show(list(read))}"


def same(wrote: Checkpoint, read: object, what: str) -> Checkpoint:
    """Expect that a read gave back what was written, whole and ready to go on from.

    Args:
        wrote: what was written.
        read: what came back.
        what: the call in words, as the violation begins.
    """
    if read is None:
        raise Violation(f"{what} gave None; step {wrote.step} of run {wrote.run_id!r} was written")
    if not isinstance(read, Checkpoint):
        raise Violation(f"{what} gave {show(read)}; the contract wants a Checkpoint")
    found = [] if _is_copy(wrote, read) else list(differences(wrote, read, ""))
    if found:
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        raise Violation(f"{what}: " + "; ".join(found[:3]) + more)
    try:
        read.ensure_valid()
    except CheckpointError as error:
        raise Violation(
            f"{what} gave a Checkpoint that was put together by hand ({error.message});"
            " return what codec.decode or Checkpoint.model_validate gave"
        ) from error
    return read


def _is_copy(wrote: Checkpoint, read: Checkpoint) -> bool:
    """Tell at once of most checkpoints that they are the same: by the digest, and the order of members.

    False says nothing: user-defined values in other fields than the state are compared one by one.
    """
    if wrote.digest != read.digest or wrote.seal != read.seal:
        return False
    if wrote.calls or wrote.interrupts or wrote.definition is not None:
        return False
    try:
        read.ensure_valid()
    except CheckpointError:
        return False
    update, other = wrote.encoded_update(), read.encoded_update()
    return (
        list(wrote.metadata) == list(read.metadata)
        and _texts(wrote.encoded_state()) == _texts(read.encoded_state())
        and (None if update is None else _texts(update)) == (None if other is None else _texts(other))
    )


def _texts(members: Mapping[str, EncodedValue]) -> list[tuple[str, bytes]]:
    return [(name, value.encoded) for name, value in members.items()]


def absent(read: object, what: str) -> None:
    """Expect that a read found nothing."""
    if read is None:
        return
    held = f"step {read.step} of run {read.run_id!r}" if isinstance(read, Checkpoint) else show(read)
    raise Violation(f"{what} gave {held}; the contract wants None")


def same_steps(wrote: Sequence[Checkpoint], read: Sequence[Checkpoint], what: str) -> None:
    """Expect the same checkpoints in the same order."""
    wanted, got = [checkpoint.step for checkpoint in wrote], [checkpoint.step for checkpoint in read]
    if wanted != got:
        raise Violation(f"{what} gave the steps {show(got)}; the contract wants {show(wanted)}")
    for before, after in zip(wrote, read, strict=True):
        same(before, after, f"{what}, step {before.step}")


def same_runs(wanted: Sequence[str], got: Sequence[RunSummary], what: str) -> None:
    """Expect the summaries of these runs in this order."""
    ids = [summary.run_id for summary in got]
    if ids != list(wanted):
        raise Violation(f"{what} gave the runs {show(ids)}; the contract wants {show(list(wanted))}")


def same_summary(latest: Checkpoint | RunSummary, got: RunSummary, what: str) -> None:
    """Expect the summary that a run's latest checkpoint makes."""
    wanted = latest if isinstance(latest, RunSummary) else RunSummary.from_checkpoint(latest)
    found = list(differences(wanted, got, ""))
    if found:
        raise Violation(
            f"{what}: " + "; ".join(line.replace("wrote", "the latest checkpoint says") for line in found[:3])
        )


def rows_of(steps: Sequence[Checkpoint]) -> list[StepSummary]:
    """Return the rows of a timeline of some stored steps, in order."""
    rows = []
    for number, checkpoint in enumerate(steps):
        before = steps[number - 1] if number and steps[number - 1].step == checkpoint.step - 1 else None
        rows.append(StepSummary.from_checkpoint(checkpoint, before))
    return rows


def same_rows(wanted: Sequence[StepSummary], found: Sequence[StepSummary], what: str) -> None:
    """Expect the rows of a timeline, whatever sizes they name."""
    numbers = [row.step for row in found]
    if numbers != [row.step for row in wanted]:
        raise Violation(f"{what} gave the steps {show(numbers)}, not the ones that it should")
    for row, got in zip(wanted, found, strict=True):
        if got.size is not None and got.size <= 0:
            raise Violation(f"{what}, step {row.step}: its size is {got.size}")
        for name in StepSummary.model_fields:
            one, other = getattr(row, name), getattr(got, name)
            if name != "size" and one != other:
                raise Violation(f"{what}, step {row.step}: {name} is {show(other)}; the checkpoint says {show(one)}")
