"""Anchors: the heads of all runs in one small file, kept where nobody who can write to the store can write."""

from __future__ import annotations

import hashlib
from contextlib import aclosing
from datetime import UTC, datetime
from types import NoneType
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer, StringConstraints, ValidationError

from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.protocol import ENDED, Checkpoint, Checkpointer, RunSummary, Seal, Status
from stargraph.checkpoint.values import canonical, format_time
from stargraph.errors import CheckpointCorruptedError, StargraphError
from stargraph.runtime._given import check_callable, check_checkpointer, check_keyring, check_type
from stargraph.runtime._reading import Progress, Tally, all_runs, each, find_summary, read_latest

_CONTEXT: Final = b"stargraph anchor 1\n"

Moment = Annotated[AwareDatetime, PlainSerializer(format_time, return_type=str, when_used="json")]


class Head(BaseModel):
    """The latest step of a run.

    Attributes:
        run_id: the run.
        step: its latest step.
        digest: the digest of that step, 64 hex digits; by the chain, it covers every step before.
        status: where the run stood.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    step: Annotated[int, Field(ge=0)]
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    status: Status


class Anchor(BaseModel):
    """The heads of every run of a store at one time.

    Attributes:
        format: always `stargraph-anchor`.
        version: the number of the form; 1.
        made_at: when the heads began to be read.
        runs: the heads.
        seal: proof that the holder of a key made it; None if there was no key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["stargraph-anchor"] = "stargraph-anchor"
    version: Literal[1] = 1
    made_at: Moment
    runs: tuple[Head, ...]
    seal: Seal | None = None

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of `stargraph anchor 1`, a newline, and the canonical form of all fields but the seal."""
        fields: dict[str, Any] = self.model_dump(mode="json", exclude={"seal"})
        return hashlib.sha256(_CONTEXT + canonical(fields)).hexdigest()

    def to_json(self) -> str:
        """Return the anchor as the text of its file: one run on a line."""
        head = self.model_dump_json(exclude={"runs"})
        runs = ",\n".join(run.model_dump_json() for run in self.runs)
        return f'{head[:-1]},"runs":[\n{runs}\n]}}\n'

    @classmethod
    def from_json(cls, text: str | bytes, *, keyring: Keyring | None = None) -> Anchor:
        """Return the anchor that a file holds.

        Args:
            text: the text of the file.
            keyring: checks the seal; without it, a seal is ignored.

        Raises:
            StargraphError: it is not an anchor (`reason="not-an-anchor"`).
            CheckpointCorruptedError: `reason` is `unsealed`, `unknown-key` or `wrong-seal`.
        """
        try:
            found = cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise StargraphError(
                f"this is not an anchor: {where + ': ' if where else ''}{first['msg']}",
                reason="not-an-anchor",
                hint="`stargraph anchor FILE` makes one.",
            ) from None
        if len({head.run_id for head in found.runs}) < len(found.runs):
            raise StargraphError("this is not an anchor: it names a run twice", reason="not-an-anchor")
        refusal = None if keyring is None else keyring.refusal(found.seal, found.digest)
        if refusal is not None:
            raise CheckpointCorruptedError(
                f"the anchor is refused: {refusal[1]}",
                reason=refusal[0],
                hint="It was edited, or made by the holder of another key.",
            )
        return found


async def anchor(
    store: Checkpointer,
    *,
    keyring: Keyring | None = None,
    after: Anchor | None = None,
    progress: Progress | None = None,
) -> Anchor:
    """Return the heads of all runs of a store; each is read, and checked by its digest and its seal.

    Args:
        keyring: checks the heads and seals the anchor.
        after: the anchor that this one follows; if the store contradicts it, none is made.
        progress: called from time to time with the numbers of runs and steps done.

    Raises:
        CheckpointCorruptedError: a head or the list of runs is damaged, or the store contradicts `after`
            (`reason="contradicts-anchor"`).
        StoreUnavailableError: the store cannot be read.
    """
    check_checkpointer(store, "store")
    check_keyring(keyring)
    check_type(after, "after", (Anchor, NoneType), "an Anchor, as Anchor.from_json(…) reads one")
    check_callable(progress, "progress", "a function of the numbers of runs and steps, or None")
    made_at = datetime.now(UTC)
    tally = Tally(progress)
    known = {} if after is None else {head.run_id: head for head in after.runs}
    heads: dict[str, Head] = {}

    async def read(summary: RunSummary) -> Head | None:
        head = await _head(store, summary, keyring)
        former = known.get(summary.run_id)
        if head is not None and former is not None:
            await _refuse_contradiction(store, head, former)
        return head

    async with aclosing(all_runs(store)) as listed, aclosing(each(listed, read)) as found:
        async for head in found:
            if head is not None:
                heads[head.run_id] = head
                tally.run()
    gone = next((run_id for run_id in known if run_id not in heads), None)
    if gone is not None:
        raise _contradiction(gone, f"it knows the run {gone!r}, and the store does not")
    made = Anchor(made_at=made_at, runs=tuple(heads[run_id] for run_id in sorted(heads)))
    return made if keyring is None else made.model_copy(update={"seal": keyring.sign(made.digest)})


async def _head(store: Checkpointer, summary: RunSummary, keyring: Keyring | None) -> Head | None:
    run_id = summary.run_id
    latest = await read_latest(store, run_id)
    if isinstance(latest, Checkpoint):
        if keyring is not None:
            keyring.check(latest)
        return Head(run_id=run_id, step=latest.step, digest=latest.digest, status=latest.status)
    if latest is None and await find_summary(store, summary) is None:
        return None  # deleted since it was listed
    raise CheckpointCorruptedError(
        f"run {run_id!r}: {'its latest step is not stored' if latest is None else latest.message}",
        reason="corrupted-record",
        hint=f"`stargraph verify {run_id}` shows more. A damaged store is not anchored.",
        run_id=run_id,
    )


async def _refuse_contradiction(store: Checkpointer, head: Head, former: Head) -> None:
    run_id, step = head.run_id, former.step
    if head.step < step:
        raise _contradiction(run_id, f"it knows the run {run_id!r} up to step {step}, and the store up to {head.step}")
    digest: str | None = head.digest
    if head.step > step:
        stored = await store.read_at_step(run_id, step)
        digest = None if stored is None else stored.digest
        if former.status in ENDED:
            raise _contradiction(
                run_id, f"it knows the run {run_id!r} as {former.status}, and the store has later steps"
            )
    if digest is not None and digest != former.digest:
        raise _contradiction(run_id, f"it has another step {step} of the run {run_id!r} than the store")


def _contradiction(run_id: str, complaint: str) -> CheckpointCorruptedError:
    return CheckpointCorruptedError(
        f"the store contradicts the anchor before: {complaint}",
        reason="contradicts-anchor",
        hint="`stargraph verify --anchor FILE` shows more. If you deleted runs, use `stargraph anchor --renew`.",
        run_id=run_id,
    )
