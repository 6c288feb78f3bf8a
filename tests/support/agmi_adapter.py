"""Stargraph on SQLite as agmi attacks it (agent-memory-integrity on PyPI): its nine edits of a store at rest.

    PYTHONPATH=tests python -m support.agmi_adapter

prints the table.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from agmi.adapters.base import MemoryAdapter, Record
from agmi.attacks.at_rest import AT_REST_ATTACKS_WITH_SNAPSHOT
from agmi.attacks.base import AttackResult
from agmi.runner import format_scorecard, run_matrix

from stargraph.audit import Anchor, anchor, verify
from stargraph.checkpoint.codec import Keyring, decode, encode
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.protocol._digest import digest_of
from stargraph.errors import CheckpointError
from stargraph.runtime import dispatch
from support.places import SQLitePlace
from support.records import first, following

KEYRING = Keyring({"k1": b"the key that the attacker has not"})
RUN, OTHER = "agmi-run", "agmi-other"

T = TypeVar("T")


def _do(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


class StargraphAdapter(MemoryAdapter):  # type: ignore[misc]  # agmi has no types
    """A run of a store, and somebody who writes into its file.

    Args:
        keyed: steps are sealed with a key, which the attacker has not.
        anchored: the heads of the runs are kept elsewhere, and compared.
        careful: the attacker changes what the store knows of the end of the run too.
    """

    supports_replay = supports_metadata = supports_snapshot = True

    def __init__(self, *, keyed: bool, anchored: bool = False, careful: bool = False) -> None:
        parts = ["keyed" if keyed else "plain", *(["anchored"] if anchored else []), *(["careful"] if careful else [])]
        self.name = f"stargraph-sqlite({', '.join(parts)})"
        self._keyring = KEYRING if keyed else None
        self._anchored = anchored
        self._careful = careful

    def setup(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="stargraph-agmi-"))
        self._place = SQLitePlace(self._folder / "run.sqlite")
        self._known: dict[bytes, Checkpoint] = {}
        self._anchor: Anchor | None = None

    def teardown(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    # What the tool does.

    def seed(self, n: int) -> None:
        self._seed(RUN, n)

    def seed_other(self, n: int) -> None:
        self._seed(OTHER, n)

    def append_genuine(self) -> None:
        self._append(following(self._rows(RUN)[-1], changes={"note": "late"}))

    def _seed(self, run_id: str, count: int) -> None:
        steps = [first(run_id, state={"note": f"{run_id} 0"}, metadata={"team": run_id})]
        while len(steps) < count:
            steps.append(following(steps[-1], changes={"note": f"{run_id} {len(steps)}"}))
        self._append(*steps)

    def _append(self, *steps: Checkpoint) -> None:
        async def append() -> None:
            async with self._place.open() as store:
                for checkpoint in steps:
                    await dispatch.write(store, checkpoint, keyring=self._keyring)
                self._anchor = await anchor(store, keyring=self._keyring) if self._anchored else None

        _do(append())
        self._rows(steps[0].run_id)  # the attacker can read the store

    def reload(self) -> None:
        """Every call opens the file again."""

    def verify(self) -> bool:
        self.verify_detail = None
        try:
            _do(self._read())
        except (CheckpointError, _Unsound) as error:
            self.verify_detail = f"{type(error).__name__}: {error}".partition("\n")[0]
            return False
        return True

    async def _read(self) -> None:
        """Read as a resume and a replay do: the latest step, and every step, by their digests, links and seals."""
        async with self._place.open() as store:
            latest = await dispatch.read_run(store, RUN, keyring=self._keyring)
            async for _ in dispatch.history(store, RUN, to_step=latest.step, keyring=self._keyring):
                pass
            if self._anchor is not None:
                report = await verify(store, keyring=self._keyring, anchor=self._anchor)
                if not report.sound:
                    raise _Unsound(report.findings[0].kind)

    # What the attacker does: records are read and written as bytes, and digests made again, since anybody can do that.

    def _rows(self, run_id: str) -> list[Checkpoint]:
        with self._place._database() as database:
            rows = database.execute(
                "SELECT step, digest, record FROM log WHERE run_id = ? ORDER BY step", (run_id,)
            ).fetchall()
        unknown = [(step, bytes(record)) for step, _, record in rows if bytes(record) not in self._known]
        if unknown:

            async def read() -> None:
                async with self._place.open() as store:
                    for step, record in unknown:
                        found = await store.read_at_step(run_id, step)
                        assert found is not None
                        self._known[record] = found

            _do(read())
        self._slots = [(step, bytes(digest), bytes(record)) for step, digest, record in rows]
        return [self._known[record] for _, _, record in self._slots]

    def read_all_raw(self) -> list[Record]:
        return self._records(RUN)

    def read_other_raw(self) -> list[Record]:
        return self._records(OTHER)

    def _records(self, run_id: str) -> list[Record]:
        self._rows(run_id)
        return [
            Record(seq, {"run_id": run_id, "step": step, "digest": digest, "record": record})
            for seq, (step, digest, record) in enumerate(self._slots)
        ]

    def write_raw(self, record: Record) -> None:
        is_new = record.seq >= len(self._rows(RUN))
        self._put(record.seq, record.fields["digest"], record.fields["record"])
        if is_new:  # else nobody would read it
            _do(self._place.set_tail(self._rows(RUN)[-1]))

    def _put(self, step: int, digest: bytes, record: bytes) -> None:
        with self._place._database() as database:
            number = f"{SQLitePlace._ID}, ?, ?"
            database.execute(f"INSERT OR REPLACE INTO checkpoints VALUES ({number})", (RUN, step, digest, record))
        self._move_end()

    def delete_raw(self, seq: int) -> None:
        _do(self._place.remove(RUN, seq))
        self._move_end()

    def _move_end(self) -> None:
        if self._careful:
            _do(self._place.set_tail(self._rows(RUN)[-1]))

    def _made(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """The fields of a record that the attacker makes, with a digest that fits it."""
        record = encode(checkpoint)
        self._known[record] = decode(record, run_id=checkpoint.run_id, step=checkpoint.step)
        return {"run_id": RUN, "step": checkpoint.step, "digest": bytes.fromhex(checkpoint.digest), "record": record}

    def mutate_payload(self, record: Record) -> Record:
        before = self._known[self._records(RUN)[record.seq - 1].fields["record"]]
        return Record(record.seq, self._made(following(before, changes={"note": "TAMPERED"})))

    def forge_record(self, template: Record) -> Record:
        last = self._known[template.fields["record"]]
        return Record(template.seq + 1, self._made(following(last, changes={"note": "FORGED"})))

    def replay_onto(self, victim_seq: int, donor: Record) -> None:
        self._put(victim_seq, donor.fields["digest"], donor.fields["record"])

    def read_meta(self, seq: int) -> dict[str, Any]:
        return dict(self._rows(RUN)[seq].metadata)

    def write_meta(self, seq: int, meta: dict[str, Any]) -> None:
        found = self._rows(RUN)[seq]
        fields = json.loads(found.model_dump_json()) | {"metadata": {key: str(value) for key, value in meta.items()}}
        digest = digest_of(
            found.__dict__ | {"metadata": fields["metadata"]}, found.encoded_state(), found.encoded_update()
        )
        made = self._made(Checkpoint.model_validate_json(json.dumps(fields | {"digest": digest, "seal": None})))
        self._put(seq, made["digest"], made["record"])

    def snapshot_store(self) -> object:
        return _do(self._place.dump())

    def restore_store(self, token: Any) -> None:
        _do(self._place.restore(token))

    # What agmi looks at to see that an edit is what it should be.

    def identity_of(self, record: Record) -> str:
        return f"{record.fields['run_id']}/{record.seq}"

    def payload_of(self, record: Record) -> str:
        return json.dumps(self._known[record.fields["record"]].fresh_state(), sort_keys=True)

    def owner_of(self, record: Record) -> str:
        return str(record.fields["run_id"])


class _Unsound(Exception):
    """An audit found something."""


ROWS: dict[str, dict[str, bool]] = {
    "plain": {"keyed": False},
    "plain, careful": {"keyed": False, "careful": True},
    "keyed": {"keyed": True},
    "keyed, careful": {"keyed": True, "careful": True},
    "keyed, anchored, careful": {"keyed": True, "anchored": True, "careful": True},
}


def attacked(row: str) -> list[AttackResult]:
    """Run the nine edits on a fresh store each."""
    return list(run_matrix([StargraphAdapter(**ROWS[row])], [attack() for attack in AT_REST_ATTACKS_WITH_SNAPSHOT]))


if __name__ == "__main__":
    results = [result for row in ROWS for result in attacked(row)]
    print(format_scorecard(results, [attack() for attack in AT_REST_ATTACKS_WITH_SNAPSHOT]))
    for result in results:
        if result.status != "VULNERABLE":
            print(f"{result.tool} {result.attack}: {result.error or result.guard or result.detail}")
