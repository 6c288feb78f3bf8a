"""What can be done to a store behind its driver's back, and what reading and verifying it then say.

    PYTHONPATH=tests python -m support.tampering

does all of it on SQLite, PostgreSQL and S3 (moto), and prints a table.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from stargraph.audit import Anchor, VerifyReport, anchor, verify
from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.codec._delta import NOTHING, delta_between
from stargraph.checkpoint.codec._fields import fields_of
from stargraph.checkpoint.codec._stored import pack
from stargraph.checkpoint.protocol import Checkpoint, RunHistory
from stargraph.errors import CheckpointCorruptedError, CheckpointError, StoreVersionError
from stargraph.runtime import dispatch
from support.places import DRIVERS, Dump, Place, Servers, servers
from support.records import executor_id, first, following

KEYRING = Keyring({"k1": b"the key that the attacker has not"})
LENGTH = 10


def run_of(run_id: str) -> list[Checkpoint]:
    """A sealed run of ten steps that is done."""
    run = [first(run_id, state={"account": "MARKER-AAAA", "count": 0}, metadata={"team": "payments"})]
    while len(run) < LENGTH:
        run.append(following(run[-1], status="done" if len(run) == LENGTH - 1 else "running"))
    return [KEYRING.seal(checkpoint) for checkpoint in run]


@dataclass
class AnchoredStore:
    """A store in which two runs are done, an older copy of it, and its anchor."""

    place: Place
    run: list[Checkpoint]
    other: list[Checkpoint]
    older: Dump
    anchor: Anchor

    @classmethod
    async def set(cls, place: Place) -> AnchoredStore:
        run, other = run_of("r1"), run_of("r2")
        async with place.open() as store:
            for checkpoint in run[:6]:
                await store.write(checkpoint)
        older = await place.dump()
        async with place.open() as store:
            for checkpoint in [*run[6:], *other]:
                await store.write(checkpoint)
            return cls(place, run, other, older, await anchor(store, keyring=KEYRING))

    async def rewrite(self, checkpoints: list[Checkpoint]) -> None:
        """Store a chain of one's own in the place of what is there."""
        await self.place.stand_alone(checkpoints)
        await self.place.set_tail(checkpoints[-1])


Deed = Callable[[AnchoredStore], Awaitable[None]]


def _chain(before: Checkpoint, length: int, **changes: object) -> list[Checkpoint]:
    """Steps that somebody without the key builds behind a stored one."""
    made = [before]
    for number in range(length):
        status = "done" if number == length - 1 else "running"
        given = {"changes": changes} if changes and number == 0 else {}
        made.append(following(made[-1], status=status, executor_id=executor_id(), **given))  # type: ignore[arg-type]
    return made[1:]


async def content_edit(scene: AnchoredStore) -> None:
    await scene.place.stand_alone(scene.run[5:])
    texts = fields_of(scene.run[4])
    texts.state["count"] = b"5"  # and the digest as it was
    record = pack("r1", 4, delta_between(NOTHING, texts), texts)
    await scene.place.forge(scene.run[4], record)


async def field_edit(scene: AnchoredStore) -> None:
    await scene.place.stand_alone(scene.run[5:])
    await scene.place.forge(_chain(scene.run[3], 2, count=5)[0])


async def rewritten_history(scene: AnchoredStore) -> None:
    await scene.rewrite(_chain(scene.run[3], LENGTH - 4, count=5))


async def lost_tail(scene: AnchoredStore) -> None:
    for step in (9, 8):
        await scene.place.remove("r1", step)


async def truncated_tail(scene: AnchoredStore) -> None:
    await lost_tail(scene)
    await scene.place.set_tail(scene.run[7])


async def middle_deletion(scene: AnchoredStore) -> None:
    await scene.place.stand_alone(scene.run[5:])
    await scene.place.remove("r1", 4)


async def reordering(scene: AnchoredStore) -> None:
    await scene.place.stand_alone(scene.run[4:])
    one, two = await scene.place.get("r1", 4), await scene.place.get("r1", 5)
    await scene.place.put("r1", 4, two)
    await scene.place.put("r1", 5, one)


async def forged_insertion(scene: AnchoredStore) -> None:
    await scene.rewrite(_chain(scene.run[4], LENGTH - 4, count=1000))


async def forged_append(scene: AnchoredStore) -> None:
    await scene.rewrite(_chain(scene.run[9], 1, count=1000))


async def transplant(scene: AnchoredStore) -> None:
    await scene.place.stand_alone(scene.run[5:])
    await scene.place.put("r1", 4, await scene.place.get("r2", 4))


async def old_record(scene: AnchoredStore) -> None:
    await scene.place.stand_alone(scene.run[5:])
    await scene.place.put("r1", 4, await scene.place.get("r1", 2))


async def fenced_record(scene: AnchoredStore) -> None:
    fenced = following(scene.run[8], status="done", executor_id=executor_id(), changes={"count": 999})
    await scene.rewrite([KEYRING.seal(fenced)])


async def metadata_edit(scene: AnchoredStore) -> None:
    await scene.place.edit_summary("r1", "payments", "holidays")


async def restored_store(scene: AnchoredStore) -> None:
    await scene.place.restore(scene.older)


@dataclass(frozen=True)
class Tamper:
    """A deed, and who notices it.

    Attributes:
        read: whether a read refuses it without a key, and with one.
        plain: what verify must find without key and anchor; empty if it cannot.
        sealed: with the key.
        anchored: with the anchor.
        unlike: the drivers that keep nothing, or something else, beside the log, and what verify finds there.
        refused_by: the drivers whose reads refuse it anyway, because they keep the tail beside the log.
    """

    name: str
    deed: Deed
    read: tuple[bool, bool]
    plain: str
    sealed: str
    anchored: str
    unlike: dict[str, str] = field(default_factory=dict)
    refused_by: tuple[str, ...] = ()


UNREADABLE = ((True, True), "unreadable", "unreadable", "unreadable")

TAMPERS = (
    Tamper("1  content edit", content_edit, *UNREADABLE),
    Tamper("1b field edit, digest made again", field_edit, (False, True), "broken-chain", "unsealed", "broken-chain"),
    Tamper("1c the same, all later steps too", rewritten_history, (False, True), "", "unsealed", "history-rewritten"),
    # On S3 the summary of a run that ended names its last step, so that both are one, and the list notices.
    Tamper(
        "2  truncated tail, summary too",
        truncated_tail,
        (False, False),
        "",
        "",
        "rolled-back",
        unlike={"s3": "listing-unreadable"},
        refused_by=("s3",),
    ),
    Tamper(
        "2b truncated tail alone",
        lost_tail,
        (False, False),
        "truncated",
        "truncated",
        "rolled-back",
        unlike={"s3": "listing-unreadable"},
        refused_by=("sqlite", "postgres", "s3"),
    ),
    Tamper(
        "3  middle deletion",
        middle_deletion,
        (False, False),
        "missing-steps",
        "missing-steps",
        "missing-steps",
        refused_by=("sqlite", "postgres", "s3"),
    ),
    Tamper("4  reordering", reordering, *UNREADABLE),
    Tamper("5  forged insertion, re-chained", forged_insertion, (False, True), "", "unsealed", "history-rewritten"),
    Tamper(
        "5b forged step after the end", forged_append, (False, True), "step-after-end", "unsealed", "step-after-end"
    ),
    Tamper("6  record of another run", transplant, *UNREADABLE),
    Tamper("7  older record put back", old_record, *UNREADABLE),
    Tamper("7b sealed record that lost a race", fenced_record, (False, False), "", "", "history-rewritten"),
    # On S3 the summary stands before the record that it was made from, and a read compares the two.
    Tamper(
        "8  metadata edit",
        metadata_edit,
        (False, False),
        "summary-differs",
        "summary-differs",
        "summary-differs",
        unlike={"s3": "unreadable"},
    ),
    Tamper("9  older copy of the store", restored_store, (False, False), "", "", "rolled-back"),
)


@dataclass(frozen=True)
class Observation:
    """What was seen after a deed."""

    landed: list[str]
    read_plain: list[str]
    read_sealed: list[str]
    plain: VerifyReport
    sealed: VerifyReport
    anchored: VerifyReport


async def observe(place: Place, tamper: Tamper) -> Observation:
    """Make a store, do the deed, prove by the stored bytes that it is done, and look."""
    scene = await AnchoredStore.set(place)
    before = await place.dump()
    await tamper.deed(scene)
    after = await place.dump()
    async with place.open() as store:
        return Observation(
            landed=_differences(before, after),
            read_plain=await _read(store, None),
            read_sealed=await _read(store, KEYRING),
            plain=await verify(store),
            sealed=await verify(store, keyring=KEYRING),
            anchored=await verify(store, anchor=scene.anchor),
        )


def _differences(before: Dump, after: Dump) -> list[str]:
    return [
        *(f"{name} gone" for name in sorted(before.keys() - after.keys())),
        *(f"{name} new" for name in sorted(after.keys() - before.keys())),
        *(f"{name} changed" for name in sorted(before.keys() & after.keys()) if before[name] != after[name]),
    ]


async def _read(store: object, keyring: Keyring | None) -> list[str]:
    """Read all of the run as the engine does, by every method; the refusals."""
    assert isinstance(store, RunHistory)
    refused = []
    for step in range(LENGTH + 1):
        try:
            await dispatch.read_at_step(store, "r1", step, keyring=keyring)  # type: ignore[arg-type]
        except (CheckpointCorruptedError, StoreVersionError) as error:
            refused.append(f"step {step}: {error.reason}")
    try:
        await dispatch.read_latest(store, "r1", keyring=keyring)  # type: ignore[arg-type]
    except CheckpointError as error:
        refused.append(f"latest: {error.reason}")
    return refused


def kinds(report: VerifyReport) -> list[str]:
    """The kinds of what was found, each once."""
    return list(dict.fromkeys(finding.kind for finding in report.findings))


async def _print_all(hosts: Servers) -> None:
    for driver in DRIVERS:
        print(f"\n{driver}\n")
        print(f"{'':36}{'landed':9}{'read':9}{'read+key':10}{'verify':33}{'verify + key':43}verify + anchor")
        for tamper in TAMPERS:
            async with hosts.place(driver) as place:
                seen = await observe(place, tamper)
            reads = ["refused" if refused else "taken" for refused in (seen.read_plain, seen.read_sealed)]
            shown = [", ".join(kinds(each)) or "sound" for each in (seen.plain, seen.sealed, seen.anchored)]
            landed = f"{len(seen.landed)} items"
            print(f"{tamper.name:36}{landed:9}{reads[0]:9}{reads[1]:10}{shown[0]:33}{shown[1]:43}{shown[2]}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder)) as hosts:
        asyncio.run(_print_all(hosts))
