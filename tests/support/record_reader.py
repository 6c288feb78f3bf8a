"""A reader of Stargraph's SQLite file, made from docs/formats.md and docs/digest.md: it imports nothing of Stargraph.

python tests/support/record_reader.py run.sqlite
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import zstandard

STEP_BITS = 34
APPLICATION_ID = int.from_bytes(b"Stgr", "big")

RUN = "run_id graph_id graph_hash runtime_hash started_at executor_id process parent_run_id parent_step origin queue"
EVENT = "calls definition error event frontier interrupts key last_node status step task_id task_started_at timestamp"
EMPTY: dict[str, Any] = {"calls": [], "frontier": [], "interrupts": [], "metadata": {}}

# The members of the small records that the digest covers; those which hold an instant are in the second text.
INSTANTS = {"asked_at", "due_at", "not_before", "started_at", "task_started_at", "timestamp"}


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number in unsigned LEB128, and the position after it."""
    number = shift = 0
    while True:
        number |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return number, at


class Step:
    """A decoded record: its texts, and those of the members of its state and update."""

    texts: dict[str, bytes]
    state: dict[str, bytes]
    update: dict[str, bytes] | None = None

    def __init__(self, record: bytes, base: Step | None, dictionary: bytes) -> None:
        assert record[0] == 0xC1, "another version"
        assert not record[1] & 2, "encrypted"
        count, at = varint(record, 2)
        for _ in range(count):
            _, at = varint(record, at)
        body = record[at:]
        if record[1] & 1:
            raw = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
            body = zstandard.ZstdDecompressor(dict_data=raw).decompress(body)
        line, _, self._literals = body.partition(b"\n")
        index = json.loads(line)
        check = self._take(4)
        start = self._literals
        base_check = self._take(4) if count else b""
        assert base_check == (base.texts["digests"][:4] if base else b""), "another base"
        old: dict[str, bytes] = base.texts if base else {}
        self.texts = old | {name: self._made(script, old.get(name, b"")) for name, script in index["f"].items()}
        event = start[: len(start) - len(self._literals)]
        assert check == zlib.crc32(line + event).to_bytes(4, "big"), "the check does not fit"
        before = base.state if base else {}
        new = {name: self._made(script, before.get(name, b"")) for name, script in index.get("s", {}).items()}
        members = {name: text for name, text in before.items() if name not in index.get("d", ())} | new
        self.state = {name: members[name] for name in index.get("o", members)}
        if "u" in index:
            self.update = {name: self._made(script, self.state.get(name, b"")) for name, script in index["u"].items()}
        assert self._literals == b"", "literals are left"

    def _take(self, length: int) -> bytes:
        taken, self._literals = self._literals[:length], self._literals[length:]
        assert len(taken) == length, "cut off"
        return taken

    def _made(self, script: int | list[int], old: bytes) -> bytes:
        if isinstance(script, int):
            return self._take(script)
        text, numbers = b"", iter(script)
        for number in numbers:
            if number < 0:
                text += self._take(-number)
            else:
                text += old[number : number + next(numbers)]
        return text

    def checkpoint(self) -> dict[str, Any]:
        """Return the members of the digest, and the digest and the seal."""
        fields: dict[str, Any] = dict.fromkeys(f"{RUN} {EVENT}".split()) | EMPTY | {"seal": None}
        fields |= json.loads(self.texts["run"]) | json.loads(self.texts["event"])
        digests = self.texts["digests"].hex()
        fields |= {"form": 1, "digest": digests[:64], "previous_digest": digests[64:] or None}
        fields["state"] = {name: json.loads(text) for name, text in self.state.items()}
        fields["update"] = None if self.update is None else {n: json.loads(text) for n, text in self.update.items()}
        for name in ("started_at", "timestamp", "task_started_at"):
            fields[name] = instant(fields[name])
        for name in ("frontier", "interrupts", "calls"):
            fields[name] = [with_instants(each) for each in fields[name]]
        if fields["queue"] is not None:
            fields["queue"] = with_instants(fields["queue"])
        return fields


def with_instants(record: dict[str, Any]) -> dict[str, Any]:
    """Return a small record with its instants as the digest wants them."""
    return {name: instant(value) if name in INSTANTS else value for name, value in record.items()}


def instant(text: str | None) -> str | None:
    """Return an instant with six decimals."""
    if text is None:
        return None
    seconds, _, decimals = text.removesuffix("Z").partition(".")
    return f"{seconds}.{decimals:<06}Z"


def canonical(value: Any) -> bytes:
    """Return the canonical bytes of a value."""
    if isinstance(value, float):
        text = repr(value)
        digits, _, exponent = text.partition("e")
        if not exponent:
            return text.encode()
        if int(exponent) == -5:  # Python writes 0.00001 as 1e-05
            sign = "-" if digits.startswith("-") else ""
            return f"{sign}0.0000{digits.lstrip('-').replace('.', '')}".encode()
        return f"{digits.removesuffix('.0')}e{'-' if exponent[0] == '-' else '+'}{abs(int(exponent))}".encode()
    if isinstance(value, list):
        return b"[" + b",".join(map(canonical, value)) + b"]"
    if isinstance(value, dict):
        members = sorted(value.items(), key=lambda member: member[0].encode())
        return b"{" + b",".join(canonical(key) + b":" + canonical(item) for key, item in members) + b"}"
    return json.dumps(value, ensure_ascii=False).encode()


def digest_of(checkpoint: dict[str, Any]) -> str:
    """Return the digest that the members of a checkpoint have."""
    members = {name: value for name, value in checkpoint.items() if name not in ("digest", "seal")}
    for name in ("state", "update"):
        if members[name] is not None:
            members[name] = {key: hashlib.sha256(canonical(item)).hexdigest() for key, item in members[name].items()}
    return hashlib.sha256(canonical(members)).hexdigest()


def read(path: Path, dictionary: bytes) -> Iterator[dict[str, Any]]:
    """Yield the checkpoints of every run of a file, each verified by its digest and the chain."""
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
        runs = "SELECT number, run_id, floor FROM runs WHERE status <> 'deleted' ORDER BY number"
        for number, run_id, floor in database.execute(runs).fetchall():
            steps: dict[int, Step] = {}
            before = None
            first, last = number << STEP_BITS, (number + 1 << STEP_BITS) - 1
            rows = "SELECT id, digest, record FROM checkpoints WHERE id BETWEEN ? AND ? ORDER BY id"
            for key, digest, record in database.execute(rows, (first, last)):
                step = key - first
                count, at = varint(record, 2)
                back = 0
                for _ in range(count):
                    back, at = varint(record, at)
                steps[step] = Step(record, steps[step - back] if count else None, dictionary)
                if step < floor:
                    continue
                checkpoint = steps[step].checkpoint()
                assert (checkpoint["run_id"], checkpoint["step"]) == (run_id, step)
                assert checkpoint["digest"] == digest.hex() == digest_of(checkpoint)
                assert before is None or checkpoint["previous_digest"] == before
                before = checkpoint["digest"]
                yield checkpoint


if __name__ == "__main__":
    docs = Path(__file__).parents[2] / "docs"
    for found in read(Path(sys.argv[1]), (docs / "record-dictionary-1.bin").read_bytes()):
        print(json.dumps(found, ensure_ascii=False))
