"""Runs that use every part of the stored form, and the golden records that `support.golden` makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from stargraph.checkpoint.codec import Cipher, Codec, Keyring
from stargraph.checkpoint.protocol import Checkpoint, ErrorInfo, Interrupt, ProcessInfo, QueueEntry, RecordedCall
from support.checkpoints import HARD_STATE, NOW, following, genesis, rich

KEYS: Final = "golden:0123456789abcdef"


def runs() -> Iterator[tuple[str, bool, list[Checkpoint]]]:
    """Yield runs that use every part of the form: names, whether they are encrypted, and checkpoints."""
    whole = rich()
    first = genesis(
        run_id="run-1",
        state=HARD_STATE,
        metadata={"team": "α", "": ""},
        parent_run_id="parent:1",
        parent_step=4,
        origin="fork",
        definition={"ir": {"nodes": ["a"]}, "weight": 1.0},
        process=ProcessInfo(host="knoten-α", pid=4711, version="1.2.3", worker="blue-1", id="0123456789abcdef"),
        queue=QueueEntry(name="mail", priority=-3, concurrency_key="kunde α", not_before=NOW),
    )
    assert whole.previous_digest == first.digest
    yield "every field", False, [first, whole, Keyring.parse(KEYS).seal(following(whole, event="resumed", update={}))]
    yield "encrypted", True, [first, whole]
    edits = [genesis(run_id="edits", state={"text": ["paragraph " * 4 + str(n) for n in range(24)], "n": 0, "gone": 1})]
    while len(edits) < 24:
        number = len(edits)
        last = edits[-1]
        if number == 10:
            edits.append(following(last, state={"new": 1.0, "text": last.state["text"], "n": number}))
            continue
        text = list(last.state["text"])
        text[number * 7 % 24] = f"{text[number * 7 % 24]} (edit {number})"
        edits.append(following(last, changes={"text": text, "n": number}, update={"n": number}, last_node="edit"))
    yield "edits", False, edits
    keyed = genesis(run_id="keyed", state={"a": 1, "b": 2}, key="first")
    yield (
        "keys",
        False,
        [
            keyed,
            following(keyed, key="zweiter Schlüssel", removed=("b",)),
            following(following(keyed, key="zweiter Schlüssel", removed=("b",))),
        ],
    )

    sleeper = genesis(run_id="waits", state={"n": 0})
    wait = Interrupt(id="t/1", task_id="t", node="n", prompt="wait 60 s", asked_at=NOW, due_at=NOW)
    failed = RecordedCall(
        kind="attempt",
        task_id="t",
        name="attempt",
        occurrence=1,
        started_at=NOW,
        error=ErrorInfo(type="OSError", message="no route", node="n"),
    )
    yield (
        "waits",
        False,
        [sleeper, following(sleeper, event="asked", status="awaiting_input", interrupts=(wait,), calls=(failed,))],
    )
    entry = QueueEntry(name="mail", priority=-3, concurrency_key="kunde α", not_before=NOW)
    queued = genesis(run_id="queued", state={"n": 0}, status="queued", queue=entry)
    worker = ProcessInfo(host="knoten-α", pid=4711, version="1.2.3", worker="blue-1", id="0123456789abcdef")
    taken = following(queued, event="resumed", status="running", process=worker)
    again = following(
        following(taken, event="failed", status="failed"),
        event="queued",
        status="queued",
        process=None,
        queue=QueueEntry(name="mail"),
    )
    yield "queued", False, [queued, taken, following(taken, event="failed", status="failed"), again]


def text() -> str:
    """Return the golden records of the current version, each with its checkpoint, as JSON."""
    written: list[dict[str, Any]] = []
    for name, encrypted, checkpoints in runs():
        codec = Codec(cipher=Cipher.parse(KEYS) if encrypted else None)
        records = []
        for checkpoint in checkpoints:
            record = codec.encode(checkpoint)
            codec.appended(record)
            records.append({"record": record.data.hex(), "checkpoint": checkpoint.model_dump_json()})
        written.append({"name": name, "encrypted": encrypted, "run_id": checkpoints[0].run_id, "steps": records})
    return json.dumps(written, indent=1, ensure_ascii=False) + "\n"
