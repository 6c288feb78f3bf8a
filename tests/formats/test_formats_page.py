"""docs/formats.md is enough to read a store: a reader that was made from it, and the statements that it shows."""

from __future__ import annotations

import ast
import hashlib
import hmac
import json
import re
import textwrap
from pathlib import Path

import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from support import record_reader
from support.documents import blocks_of
from support.golden import KEYS, VERSION, folder_of, golden_runs, left
from support.workspace import ROOT

from stargraph.audit import Anchor
from stargraph.checkpoint.codec import RECORD_VERSION, canonical
from stargraph.checkpoint.codec._compression import MOST_BYTES
from stargraph.checkpoint.codec._dictionary import DICTIONARY
from stargraph.checkpoint.postgres import _schema as postgres_schema
from stargraph.checkpoint.s3 import _schema as s3_schema
from stargraph.checkpoint.sqlite import _schema as sqlite_schema

PATH = ROOT / "docs/formats.md"
PAGE = PATH.read_text()
DICTIONARY_FILE = ROOT / "docs/record-dictionary-1.bin"
READER = ROOT / "tests/support/record_reader.py"


def _shown(name: str) -> str:
    return next(block.text for block in blocks_of(PAGE) if block.name == name).strip()


def test_the_reader_shares_no_line_with_stargraph() -> None:
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(READER.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - {"__future__", "collections", "contextlib", "hashlib", "json", "pathlib", "sqlite3"} <= {
        "sys",
        "typing",
        "zlib",
        "zstandard",
    }


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_the_reader_reads_a_golden_file_as_it_was_written(version: int, tmp_path: Path) -> None:
    copy = tmp_path / "run.sqlite"
    copy.write_bytes((folder_of(version) / "sqlite.db").read_bytes())
    found = list(record_reader.read(copy, DICTIONARY_FILE.read_bytes()))
    expected = {
        (run_id, step.step): {"form": 1} | json.loads(step.model_dump_json())
        for run_id, run in left(golden_runs(version)).items()
        for step in run
    }
    assert {(step["run_id"], step["step"]): step for step in found} == expected
    for step in found:  # the order of a state, which no digest covers
        assert list(step["state"]) == list(expected[step["run_id"], step["step"]]["state"])


def _decrypted(record: bytes, run_id: str, step: int, secret: bytes) -> bytes:
    """Return a record without its encryption, as the page says."""
    count, end = record_reader.varint(record, 2)
    for _ in range(count):
        _, end = record_reader.varint(record, end)
    header, stored = record[:end], record[end:]
    assert header[1] & 2
    nonce = 1 + stored[0]
    key = hmac.digest(secret, b"stargraph record\n" + run_id.encode(), "sha256")
    bound = b"%b\n%d\n%b" % (run_id.encode(), step, header)
    body = AESGCM(key).decrypt(stored[nonce : nonce + 12], stored[nonce + 12 :], bound)
    return bytes((header[0], header[1] & 1)) + header[2:] + body


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_encrypted_records_are_read_as_the_page_says(version: int) -> None:
    key_id, _, secret = KEYS.partition(":")
    runs = json.loads((folder_of(version) / "records.json").read_text())
    (run,) = [run for run in runs if run["encrypted"]]
    before = None
    for number, step in enumerate(run["steps"]):
        record = bytes.fromhex(step["record"])
        assert key_id.encode() in record
        plain = _decrypted(record, run["run_id"], number, secret.encode())
        before = record_reader.Step(plain, before, DICTIONARY_FILE.read_bytes())
        found = before.checkpoint()
        assert found["digest"] == record_reader.digest_of(found) == json.loads(step["checkpoint"])["digest"]


def test_the_reader_notices_a_changed_byte(tmp_path: Path) -> None:
    original = (folder_of(VERSION) / "sqlite.db").read_bytes()
    at = original.index(b"\x28\xb5\x2f\xfd") + 60  # in the body of some record
    copy = tmp_path / "run.sqlite"
    copy.write_bytes(original[:at] + bytes([original[at] ^ 1]) + original[at + 1 :])
    with pytest.raises((AssertionError, ValueError, zstandard.ZstdError)):
        list(record_reader.read(copy, DICTIONARY_FILE.read_bytes()))


def test_the_page_shows_the_statements_of_the_tables() -> None:
    statements = sqlite_schema.MIGRATIONS[1]
    assert _shown("sqlite") == ";\n".join(textwrap.dedent(each).strip() for each in statements) + ";"
    assert _shown("postgres") == postgres_schema.MIGRATIONS[1].replace("{schema}", "stargraph").strip()


def test_the_page_names_numbers_and_marks() -> None:
    words = " ".join(PAGE.split())
    assert f"`PRAGMA application_id` {sqlite_schema.APPLICATION_ID} (the bytes `Stgr`)" in words
    assert f"## The record, version {RECORD_VERSION}" in words
    assert f"## The SQLite file, version {max(sqlite_schema.MIGRATIONS)}" in words
    assert f"## The PostgreSQL tables, version {max(postgres_schema.MIGRATIONS)}" in words
    assert f"## The objects of S3, format {s3_schema.STORE_FORMAT}" in words
    assert f"`{s3_schema.marker_of(s3_schema.STORE_FORMAT).decode().strip()}`" in words
    assert f"{len(DICTIONARY):,} bytes long with the SHA-256 `{hashlib.sha256(DICTIONARY).hexdigest()}`" in words
    assert DICTIONARY_FILE.read_bytes() == DICTIONARY
    assert f"at most {MOST_BYTES:,} bytes" in words


def test_the_page_names_what_an_anchor_is_and_what_its_seal_covers() -> None:
    text = (folder_of(VERSION) / "anchor.json").read_text()
    table = PAGE[PAGE.index("## The anchor") :]
    assert set(re.findall(r"`([a-z_]+)`", table.partition("The mac is made")[0])) >= json.loads(text).keys()
    members = {name: value for name, value in json.loads(text).items() if name != "seal"}
    digest = hashlib.sha256(b"stargraph anchor 1\n" + canonical(members)).hexdigest()
    assert digest == Anchor.from_json(text).digest


def test_every_object_of_a_golden_s3_store_has_a_row_on_the_page() -> None:
    table = PAGE[PAGE.index("## The objects of S3") : PAGE.index("## The summary")]
    keys = [key.removeprefix("store/") for key in json.loads((folder_of(VERSION) / "s3.json").read_text())]
    rows = [re.escape(row) for row in re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE) if "/" in row or "." in row]
    patterns = [
        re.sub(r"START", r"\\d{18}", row)
        .replace("STEP", r"\d{16}")
        .replace("KEYz", "[0-9a-f]+z")
        .replace("RUN", "[^/,]+")
        .replace("PARENT", "[^/,]+")
        .replace("ID", "[^/]+")
        .replace("N\\.sqlite", r"\d+\.sqlite")
        for row in rows
    ]
    assert [key for key in keys if not any(re.fullmatch(pattern, key) for pattern in patterns)] == []
