"""Records that were written once: today's codec reads them, and nobody has touched them since."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from support.golden_records import FOLDER, KEYS, path_of, runs

from stargraph.checkpoint.codec import RECORD_VERSION, Cipher, Codec, missing_base_steps
from stargraph.checkpoint.protocol import Checkpoint

HASHES = {
    4: "a4b629b5d5559fdbf9383079dd6389240ea116722d341f07e43b0071345e5fa6",
    5: "3a98ed57b77bcb5849e49ac8b087860098b72a07037e22a5d1ef69dbf124cfa3",
    6: "1938f180e3e4baf4ee82605ff2e9d34dff9a2084df3d853806671e440bc04948",
    7: "adf4d8815df6d14ea8ceb87aa39a36eb8978c10a4f47db35213ed255b245fb79",
    8: "236c9f7f0e81a23978bff1774984b18cc673f922698b278e2a9f3dd4da3caf92",
    9: "98b6cc8781944bd0700b4ec0f50c34e0f9e5f11a6e68e1368b9b930ddfc371cd",
}
"""A change of the stored form takes a new version with a file and a hash of its own; these stay as they are."""


def test_every_version_that_is_read_has_its_file() -> None:
    assert RECORD_VERSION in HASHES, "write it: PYTHONPATH=tests python -m support.golden_records"
    assert sorted(FOLDER.iterdir()) == sorted(path_of(version) for version in HASHES)


@pytest.mark.parametrize("version", HASHES)
def test_the_file_is_as_it_was_written(version: int) -> None:
    assert hashlib.sha256(path_of(version).read_bytes()).hexdigest() == HASHES[version]


@pytest.mark.parametrize("version", HASHES)
def test_it_is_read_as_it_was_written(version: int) -> None:
    for run in json.loads(path_of(version).read_text()):
        codec = Codec(cipher=Cipher.parse(KEYS) if run["encrypted"] else None)
        records = {step: bytes.fromhex(each["record"]) for step, each in enumerate(run["steps"])}
        assert all(record[0] == version for record in records.values())
        assert not missing_base_steps(records, run_id=run["run_id"], steps=records)
        for step, each in enumerate(run["steps"]):
            expected = Checkpoint.model_validate_json(each["checkpoint"])
            read = codec.decode(records, run_id=run["run_id"], step=step)
            assert read == expected
            # Also the order of members, which no digest tells.
            assert read.model_dump_json() == expected.model_dump_json()


def test_what_is_written_today_has_the_same_form() -> None:
    """Without encryption, whose nonces are random, the very same bytes; zstd may compress them otherwise one day."""
    written: dict[str, Any] = {run["name"]: run for run in json.loads(path_of(RECORD_VERSION).read_text())}
    for name, encrypted, checkpoints in runs():
        if encrypted:
            continue
        codec = Codec()
        for checkpoint, each in zip(checkpoints, written[name]["steps"], strict=True):
            record = codec.encode(checkpoint)
            codec.appended(record)
            golden = bytes.fromhex(each["record"])
            assert _unpacked(record.data) == _unpacked(golden), f"{name}, step {checkpoint.step}: the form has changed"


def _unpacked(record: bytes) -> bytes:
    from stargraph.checkpoint.codec._stored import _header, _inflate

    _, start = _header(record, "", 1_000)
    return record[:1] + record[2:start] + (_inflate(record[start:]) if record[1] & 1 else record[start:])
