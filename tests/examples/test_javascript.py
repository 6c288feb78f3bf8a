"""docs/digest.md and docs/formats.md are enough for another language: the programs of examples/javascript_driver."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.checkpoints import chain, following, genesis, json_values, rich, states
from support.documents import blocks_of
from support.workspace import ROOT

from stargraph.checkpoint.codec import Keyring, canonical
from stargraph.checkpoint.protocol import JsonValue
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.transfer import export_runs

FOLDER = ROOT / "examples/javascript_driver"
VECTORS = ROOT / "docs/digest-vectors-1.json"
KEYS = "2026:correct horse battery staple"

NODE = shutil.which("node") or shutil.which("nodejs")
pytestmark = pytest.mark.skipif(
    NODE is None and not os.environ.get("STARGRAPH_TESTS_REQUIRE_SERVERS"),
    reason="node is not installed: apt-get install nodejs",
)


def node(program: str, given: str = "") -> str:
    """Return what a program prints that has the digest's module as `digest`."""
    assert NODE is not None
    source = f'import * as digest from "{(FOLDER / "digest.mjs").as_uri()}";\n{program}'
    command = [NODE, "--input-type=module", "-e", source]
    done = subprocess.run(command, input=given, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


READ = 'import { readFileSync } from "node:fs"; const given = JSON.parse(readFileSync(0, "utf8"));\n'


def test_the_vectors_of_the_digest() -> None:
    made = json.loads(
        node(
            READ
            + """
            const { canonical, digestOf, parse, seals, sha256 } = digest;
            const texts = given.canonical.map(({ json }) => canonical(parse(json)));
            console.log(JSON.stringify({
                canonical: texts.map((text) => [text, sha256(text)]),
                digests: given.checkpoints.map(({ json }) => digestOf(parse(json))),
                seals: given.seals.map(({ keys, digest }) => [...seals(keys, digest)][0]),
            }));
            """,
            VECTORS.read_text(),
        )
    )
    vectors = json.loads(VECTORS.read_text())
    assert made["canonical"] == [[each["canonical"], each["sha256"]] for each in vectors["canonical"]]
    assert made["digests"] == [each["digest"] for each in vectors["checkpoints"]]
    assert made["seals"] == [[each["key_id"], each["mac"]] for each in vectors["seals"]]


@settings(max_examples=8)
@given(st.lists(st.tuples(states, states | st.none(), json_values), min_size=5, max_size=20))
def test_any_checkpoint_has_the_digest_that_python_gives_it(values: list[Any]) -> None:
    full = rich()
    (question,) = full.interrupts
    made = [
        full,
        following(full, key="k-1", interrupts=(question.model_copy(update={"due_at": full.timestamp}),)),
        *(genesis(state=state, update=update, definition=definition) for state, update, definition in values),
    ]
    program = READ + "console.log(JSON.stringify(given.map((json) => digest.digestOf(digest.parse(json)))));"
    found = json.loads(node(program, json.dumps([checkpoint.model_dump_json() for checkpoint in made])))
    assert found == [checkpoint.digest for checkpoint in made]


@settings(max_examples=8)
@given(st.lists(json_values, min_size=30, max_size=60))
def test_any_value_has_the_canonical_bytes_that_python_gives_it(values: list[JsonValue]) -> None:
    program = READ + "console.log(JSON.stringify(given.map((json) => digest.canonical(digest.parse(json)))));"
    made = json.loads(node(program, json.dumps([json.dumps(value) for value in values])))
    assert made == [canonical(value).decode() for value in values]


REFUSED = ["", "1 2", "[1 2]", '["a""b"]', "[1,]", "{'a':1}", '{"a" 1}', '{"a":1,"a":2}', "01", "+1", ".5", "1.", "NaN"]
REFUSED += ["nul", "truefalse", '"a', '"\n"', '"\\x"', '"\\ud800"', "[", "{", '{"a":1', "9223372036854775808", "1e999"]


def test_what_is_no_value_is_refused() -> None:
    program = READ + (
        "const bytes = (json) => digest.canonical(digest.parse(json));\n"
        "const refused = (json) => { try { bytes(json); return false; } catch { return true; } };\n"
        "console.log(JSON.stringify(given.map(refused)));"
    )
    assert json.loads(node(program, json.dumps(REFUSED))) == [True] * len(REFUSED)


# The export file.


@pytest.fixture
async def export(tmp_path: Path) -> bytes:
    """An export of runs of every kind: a long one, one with every field, a child run, one that was pruned, sealed."""
    seal = Keyring.parse(KEYS).seal
    full = rich()
    other = genesis(run_id="other", parent_run_id="run-1", parent_step=0, origin="subgraph")
    first, pruned = chain(9), chain(6, run_id="pruned")
    pruned.append(following(pruned[-1], status="done"))
    file = io.BytesIO()
    async with SQLiteCheckpointer(tmp_path / "runs.sqlite") as store:
        for checkpoint in [
            *first,
            following(first[-1], key="k-1"),
            genesis(run_id="deep", state=dict(full.fresh_state())),
            other,
            *pruned,
        ]:
            await store.write(seal(checkpoint))
        report = await store.prune(older_than=following(pruned[-1]).timestamp, keep_last=2)
        assert report.runs == 1
        assert not (await export_runs(store, file)).refused
    return file.getvalue()


def verified(data: bytes, folder: Path, keys: str | None = None) -> tuple[int, str]:
    assert NODE is not None
    file = folder / "runs.jsonl"
    file.write_bytes(data)
    environment = {name: value for name, value in os.environ.items() if name != "STARGRAPH_INTEGRITY_KEY"}
    if keys is not None:
        environment["STARGRAPH_INTEGRITY_KEY"] = keys
    command = [NODE, str(FOLDER / "verify_export.mjs"), str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", check=False)
    return done.returncode, done.stdout + done.stderr


def test_an_export_is_verified_with_and_without_its_seals(export: bytes, tmp_path: Path) -> None:
    shown = "4 runs, 14 checkpoints: whole, and as they were written\n"
    assert verified(export, tmp_path) == (0, shown)
    assert verified(export, tmp_path, KEYS) == (0, shown)
    code, said = verified(export, tmp_path, KEYS.upper())
    assert code == 1
    assert "has no seal that fits" in said


def test_the_example_of_the_page_is_verified(tmp_path: Path) -> None:
    blocks = blocks_of((ROOT / "docs/formats.md").read_text())
    example = next(block.text for block in blocks if block.name == "example.jsonl")
    assert verified(example.encode(), tmp_path, KEYS)[0] == 0


def _resealed(lines: list[Any]) -> bytes:
    """The lines as a file whose last line fits: what an edit by somebody who knows the format looks like."""
    text = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines[:-1])
    runs = sum("run" in line for line in lines)
    counts = {"runs": runs, "checkpoints": sum("checkpoint" in line for line in lines)}
    return text + json.dumps({"end": counts | {"sha256": hashlib.sha256(text).hexdigest()}}).encode() + b"\n"


def _edited(change: Callable[[list[Any]], object]) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        lines = [json.loads(line) for line in data.splitlines()]
        change(lines)
        return _resealed(lines)

    return edit


def _steps(lines: list[Any], run_id: str) -> list[int]:
    return [number for number, line in enumerate(lines) if line.get("checkpoint", {}).get("run_id") == run_id]


def _swap(lines: list[Any]) -> None:
    first, second, *_ = _steps(lines, "run-1")[2:]
    lines[first], lines[second] = lines[second], lines[first]


def _leave_out(lines: list[Any]) -> None:
    del lines[_steps(lines, "run-1")[4]]


def _cut_head(lines: list[Any]) -> None:
    del lines[_steps(lines, "run-1")[-1]]
    next(line for line in lines if line.get("run", {}).get("head", {}).get("run_id") == "run-1")["run"]["steps"] -= 1


def _replace_step(lines: list[Any]) -> None:
    """A step with a digest that fits it, as somebody makes it who knows how digests are made."""
    number = _steps(lines, "run-1")[3]
    forged = following(chain(3)[-1], changes={"n": 99})
    lines[number] = {"checkpoint": {"form": 1} | json.loads(forged.model_dump_json())}


def _change_state(lines: list[Any]) -> None:
    lines[_steps(lines, "run-1")[3]]["checkpoint"]["state"]["n"] = 99


def _change_type(lines: list[Any]) -> None:
    lines[_steps(lines, "run-1")[3]]["checkpoint"]["state"]["n"] = 3.0


# An edit, and what the reader says of it.
EDITS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut in a line": (lambda data: data[:-300], "the file was cut off here"),
    "cut after a line": (lambda data: data[: data[:-1].rindex(b"\n") + 1], "the file was cut off here"),
    "more behind the end": (lambda data: data + b"{}\n", "something follows the last line"),
    "other white space": (lambda data: data.replace(b'{"run":', b'{"run": ', 1), "the file is not what was written"),
    "another version": (_edited(lambda lines: lines[0].update(version=2)), "the export has version 2"),
    "another format": (_edited(lambda lines: lines[0].update(format="x")), "this is not an export of Stargraph"),
    "an unknown line": (_edited(lambda lines: lines.insert(1, {"note": {}})), "was expected here"),
    "a changed value": (_edited(_change_state), "step 3 is not what its digest covers"),
    "a changed type": (_edited(_change_type), "step 3 is not what its digest covers"),
    "a step left out": (_edited(_leave_out), "was expected here"),
    "two steps swapped": (_edited(_swap), "step 2 is out of order"),
    "the last step cut off": (_edited(_cut_head), "this is not the run's last step"),
    "a forged step": (_edited(_replace_step), "step 4 follows another step"),
}


@pytest.mark.thorough
@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_export_is_refused(edit: str, export: bytes, tmp_path: Path) -> None:
    change, complaint = EDITS[edit]
    code, said = verified(change(export), tmp_path)
    assert code == 1, said
    assert re.search(rf"runs\.jsonl, line \d+: .*{re.escape(complaint)}", said), said


@pytest.mark.thorough
@pytest.mark.parametrize("part", range(24))
def test_no_changed_byte_goes_unnoticed(part: int, export: bytes, tmp_path: Path) -> None:
    position = len(export) * part // 24 + part
    changed = bytearray(export)
    changed[position] ^= 1 << (part % 7)
    assert verified(bytes(changed), tmp_path)[0] == 1, changed[max(0, position - 20) : position + 20]


def test_the_reader_is_small_and_needs_nothing() -> None:
    lines = [
        line.strip()
        for name in ("digest.mjs", "verify_export.mjs")
        for line in (FOLDER / name).read_text().splitlines()
    ]
    assert len([line for line in lines if line and not line.startswith("//")]) <= 200
    imported = {line.partition(" from ")[2].strip('";') for line in lines if line.startswith("import ")}
    assert imported == {"node:crypto", "node:fs", "./digest.mjs"}


# The driver, and what makes it a broken one.

CONFORMANCE = Path(sys.executable).with_name("stargraph-conformance")

BROKEN = {
    "numbers lose their types": (
        "JSON.stringify(checkpoint))",
        "JSON.stringify({ ...checkpoint, text: JSON.stringify(JSON.parse(checkpoint.text)) }))",
        "values.numbers",
    ),
    "a digest is believed": ("if (stated !== actual) throw", "if (false) throw", "values.altered_refused"),
    "a stored step is replaced in silence": (
        "if (stored.digest === given.digest) {",
        "if (stored) {",
        "steps.conflict_keeps_stored",
    ),
    "the step before is not compared": (
        "if (latest && latest.digest !== previous_digest) {",
        "if (false) {",
        "steps.wrong_predecessor",
    ),
    "an ended run goes on": ('["done", "cancelled", "moved"]', "[]", "steps.ended_refused"),
    "milliseconds are enough": ("}.${micros}Z`", "}.${micros.slice(0, 3)}000Z`", "list_runs.since_is_inclusive"),
    "the latest step is the last in the directory": (
        "Math.max(-1, ...names.map(Number))",
        "Number(names.sort().at(-1) ?? -1)",
        "steps.latest_is_numeric",
    ),
    "damage reads as nothing": (
        'throw new Refusal("CheckpointCorruptedError", "corrupted-record", `the record',
        "return null; void (`the record",
        "corruption.*",
    ),
    "the digest of a record is not computed": ("stated === actual;", "true;", "corruption.*"),
}


@pytest.mark.thorough
@pytest.mark.parametrize("mistake", BROKEN)
def test_a_broken_twin_of_the_driver_fails(mistake: str, tmp_path: Path) -> None:
    right, wrong, check = BROKEN[mistake]
    shutil.copytree(FOLDER, tmp_path / "driver")
    source = (tmp_path / "driver/driver.mjs").read_text()
    assert source.count(right) == 1, right
    (tmp_path / "driver/driver.mjs").write_text(source.replace(right, wrong))
    command = [str(CONFORMANCE), "run", "target:target", "--only", check, "--json", "-"]
    done = subprocess.run(command, cwd=tmp_path / "driver", capture_output=True, text=True, check=False)
    verdicts = {result["check"]["id"]: result["verdict"] for result in json.loads(done.stdout)["results"]}
    assert (done.returncode, "fail" in verdicts.values()) == (1, True), verdicts
