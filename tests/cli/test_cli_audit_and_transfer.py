"""`stargraph verify`, `anchor`, `copy`, `export`, `import`, `prune` and `delete`."""

from __future__ import annotations

import json
import os
import pty
import sqlite3
import subprocess
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from support.cli import GRAPH, Answer, Folder, command
from support.documents import blocks_of

STORE = ".stargraph/run.sqlite"
KEY = {"STARGRAPH_INTEGRITY_KEY": "k1:a secret of 16 bytes or more"}


@pytest.fixture
def runs(folder: Folder) -> Folder:
    for run_id in ("r1", "r2"):
        assert folder.call("run", "graph.yaml", "-i", "count=1", "--run-id", run_id, "-q").code == 0
    asking = GRAPH.replace('kind: "steps:note"}', "kind: interrupt, prompt: 'Which?', into: maybe}")
    folder.write("ask.yaml", asking)
    assert folder.call("run", "ask.yaml", "-i", "count=1", "--run-id", "open", "-q").code == 3
    return folder


def damage(run_id: str, step: int) -> None:
    edit("UPDATE checkpoints SET record = x'00'", run_id, step)


def take_away(run_id: str, step: int) -> None:
    edit("DELETE FROM checkpoints", run_id, step)


def edit(sql: str, run_id: str, step: int) -> None:
    place = "id = (SELECT number FROM runs WHERE run_id = ?) << 34 | ?"
    with closing(sqlite3.connect(STORE)) as database, database:
        assert database.execute(f"{sql} WHERE {place}", (run_id, step)).rowcount == 1


def listed(folder: Folder, store: str = STORE) -> set[str]:
    return {run["run_id"] for run in folder.call("runs", "--json", "--checkpoint", store).json}


def test_a_sound_store_verifies(runs: Folder) -> None:
    for words in ((), ("--all",)):
        answer = runs.call("verify", *words)
        assert (answer.code, answer.err) == (0, "")
        assert answer.out.splitlines()[-1] == "verified 3 runs, 11 steps: sound"
    assert "verified 1 run, 4 steps: sound" in runs.call("verify", "r1").out
    shown = runs.call("verify", "r1", "--json")
    assert shown.code == 0
    assert shown.json["sound"] is True
    assert (shown.json["runs"], shown.json["findings"]) == (1, [])


def test_what_is_found_is_reported_and_ends_with_7(runs: Folder) -> None:
    damage("r1", 3)
    answer = runs.call("verify")
    assert answer.code == 7
    header, row, *_ = (line.split(maxsplit=3) for line in answer.out.splitlines())
    assert header == ["FOUND", "RUN", "STEP", "WHAT"]
    assert row[:3] == ["unreadable", "r1", "3"]
    assert "1 finding in 1 run" in answer.err
    assert "Traceback" not in answer.err
    shown = runs.call("verify", "r1", "--json")
    assert (shown.code, shown.json["sound"], shown.err) == (7, False, "")
    assert shown.json["findings"][0]["kind"] == "unreadable"
    assert runs.call("verify", "r2").code == 0


def test_seals_are_checked_where_there_is_a_key(folder: Folder) -> None:
    assert folder.call("run", "graph.yaml", "-i", "count=1", "--run-id", "r1", "-q", env=KEY).code == 0
    assert "seals    4 steps by k1\n" in folder.call("verify", env=KEY).out
    assert "not checked, since there is no key" in folder.call("verify").out
    other = {"STARGRAPH_INTEGRITY_KEY": "k2:another secret of 16 bytes"}
    answer = folder.call("verify", env=other)
    assert answer.code == 7
    assert "unknown-key  r1   0-3" in answer.out
    rotated = {"STARGRAPH_INTEGRITY_KEY": f"{other['STARGRAPH_INTEGRITY_KEY']},{KEY['STARGRAPH_INTEGRITY_KEY']}"}
    assert folder.call("verify", env=rotated).code == 0
    assert "secret" not in answer.out + answer.err


def test_an_anchor_shows_a_rollback(runs: Folder) -> None:
    older = Path(STORE).read_bytes()
    assert folder_run(runs, "r3").code == 0
    written = runs.call("anchor", "heads.json", env=KEY | {"STARGRAPH_INTEGRITY_ALLOW_UNSEALED": "1"})
    assert (written.code, written.out) == (0, "")
    assert "anchored 4 runs in heads.json, sealed with k1" in written.err
    assert runs.call("verify", "--anchor", "heads.json").code == 0
    assert json.loads(runs.call("anchor").out)["runs"] == json.loads(Path("heads.json").read_text())["runs"]
    Path(STORE).write_bytes(older)
    answer = runs.call("verify", "--anchor", "heads.json")
    assert answer.code == 7
    assert "run-missing  r3" in answer.out
    again = runs.call("anchor", "heads.json")
    assert again.code == 7
    assert "'r3'" in again.err
    assert len(json.loads(Path("heads.json").read_text())["runs"]) == 4, "the anchor went back with the store"
    assert runs.call("anchor", "heads.json", "--renew").code == 0
    assert len(json.loads(Path("heads.json").read_text())["runs"]) == 3


def folder_run(folder: Folder, run_id: str) -> Answer:
    return folder.call("run", "graph.yaml", "-i", "count=1", "--run-id", run_id, "-q")


def test_an_edited_anchor_is_refused(runs: Folder) -> None:
    allowed = KEY | {"STARGRAPH_INTEGRITY_ALLOW_UNSEALED": "1"}
    assert runs.call("anchor", "heads.json", env=allowed).code == 0
    text = Path("heads.json").read_text()
    Path("heads.json").write_text(text.replace('"step":3', '"step":2', 1))
    answer = runs.call("verify", "--anchor", "heads.json", env=allowed)
    assert answer.code == 7
    assert "heads.json: the anchor is refused: its seal does not fit" in answer.err


def test_copies_and_imports_have_equal_digests(runs: Folder) -> None:
    answer = runs.call("copy", STORE, "copy.sqlite", "--all")
    assert answer.code == 0
    assert answer.out == "copied 3 runs, 11 steps; read back and compared 3 runs\n"
    again = runs.call("copy", STORE, "sqlite:///copy.sqlite", "--since", "1h", "--json")
    assert again.json == {"runs": 3, "steps": 0, "present": 11, "verified": 0, "refused": []}
    assert runs.call("export", "all.jsonl", "--all").out == "exported 3 runs, 11 steps\n"
    assert Path("all.jsonl").stat().st_mode & 0o077 == 0
    assert runs.call("import", "all.jsonl", "--checkpoint", "import.sqlite").code == 0
    heads = [runs.call("anchor", "--checkpoint", store).out for store in (STORE, "copy.sqlite", "import.sqlite")]
    assert len({json.dumps(json.loads(text)["runs"]) for text in heads}) == 1
    assert runs.call("copy", STORE, "one.sqlite", "r2").code == 0
    assert listed(runs, "one.sqlite") == {"r2"}
    resumed = runs.call("respond", "open", "--value", "a", "--checkpoint", "copy.sqlite")
    assert resumed.code == 0
    assert runs.call("resume", "open", "ask.yaml", "--checkpoint", "copy.sqlite", "-q").code == 0


def test_an_export_goes_through_a_pipe(runs: Folder) -> None:
    sender = runs.spawn("export", "-", "--all")
    receiver = runs.spawn("import", "-", "--checkpoint", "piped.sqlite", stdin=sender.stdout)
    assert sender.stdout is not None
    sender.stdout.close()
    out, err = receiver.communicate(timeout=60)
    assert (receiver.returncode, err) == (0, "")
    assert out == "imported 3 runs, 11 steps; read back and compared 3 runs\n"
    assert sender.wait(60) == 0
    assert sender.stderr is not None
    assert sender.stderr.read() == "exported 3 runs, 11 steps\n"
    sender.stderr.close()


def test_a_reader_that_leaves_ends_an_export_without_a_word(runs: Folder) -> None:
    for number in range(3, 12):
        folder_run(runs, f"r{number}")
    read, written = os.pipe()
    os.close(read)
    sender = runs.spawn("export", "-", "--all", stdout=written)
    os.close(written)
    _, err = sender.communicate(timeout=60)
    assert (sender.returncode, err) == (141, "")


def test_a_cut_file_is_refused_with_its_line(runs: Folder) -> None:
    runs.call("export", "all.jsonl", "--all")
    Path("all.jsonl").write_bytes(Path("all.jsonl").read_bytes()[:-10])
    answer = runs.call("import", "all.jsonl", "--checkpoint", "import.sqlite")
    assert answer.code == 2
    assert "all.jsonl, line 16: the file was cut off here" in answer.err
    assert listed(runs, "import.sqlite") == set()


def test_runs_that_cannot_be_transferred_are_named_and_the_others_are(runs: Folder) -> None:
    assert runs.call("copy", STORE, "copy.sqlite", "--all").code == 0
    take_away("open", 1)
    answer = runs.call("copy", STORE, "another.sqlite", "--all")
    assert answer.code == 7
    assert answer.out.startswith("copied 2 runs, ")
    assert answer.err.count("run 'open' was left out: ") == 1
    damage("open", 0)
    damaged = runs.call("export", "all.jsonl", "--all")
    assert damaged.code == 7
    assert "run 'open' was left out" in damaged.err
    damage("open", 2)
    named = runs.call("copy", STORE, "third.sqlite", "open", "r1", "--no-children")
    assert (named.code, "run 'open' was left out" in named.err) == (7, True)
    assert listed(runs, "third.sqlite") == {"r1"}


def test_prune_touches_only_runs_that_ended_unless_told(runs: Folder) -> None:
    dry = runs.call("prune", "--older-than", "0s", "--keep-last", "2", "--dry-run")
    assert dry.out == "would remove 4 steps of 2 runs\n"
    assert runs.call("prune", "--older-than", "1d").out == "removed 0 steps of 0 runs\n"
    shown = runs.call("prune", "--older-than", "0s", "--keep-last", "2", "--json")
    assert shown.json == {"runs": 2, "checkpoints": 4, "dry_run": False}
    answer = runs.call("verify")
    assert answer.code == 0
    assert "r1: the steps below 2 were pruned; the chain is proved from step 2 on" in answer.out
    refused = runs.call("prune", "--older-than", "0s", "--status", "awaiting_input", "--status", "done")
    assert refused.code == 2
    assert "runs that are awaiting_input could still be resumed" in refused.err
    assert "--yes" in refused.err
    dry = runs.call("prune", "--older-than", "0s", "--status", "awaiting_input", "--dry-run")
    assert dry.out.startswith("would remove 1 step of 1 run")
    assert runs.call("prune", "--older-than", "0s", "--status", "awaiting_input", "--yes").code == 0
    assert runs.call("respond", "open", "--value", "a").code == 0
    assert runs.call("resume", "open", "ask.yaml", "-q").code == 0
    assert runs.call("prune", "--older-than", "0s", "--keep-last", "0").code == 0
    assert listed(runs) == set()


def test_delete_removes_an_ended_run_and_asks_for_an_open_one(runs: Folder) -> None:
    assert runs.call("delete", "r1").out == "run r1 is deleted\n"
    assert listed(runs) == {"r2", "open"}
    refused = runs.call("delete", "open")
    assert refused.code == 2
    assert "run 'open' is awaiting_input and could still be resumed" in refused.err
    assert listed(runs) == {"r2", "open"}
    assert runs.call("delete", "open", "--yes", "--json").json == {"deleted": ["open"]}
    gone = runs.call("delete", "open", "--yes")
    assert gone.code == 2
    assert "no run 'open'" in gone.err
    taken = folder_run(runs, "r1")
    assert taken.code != 0, "the id of a deleted run was taken again"


def test_a_damaged_run_is_deleted_only_if_that_is_meant(runs: Folder) -> None:
    damage("r1", 3)
    refused = runs.call("delete", "r1")
    assert refused.code == 2
    assert "damaged" in refused.err
    assert runs.call("delete", "r1", "-y").code == 0


@pytest.mark.parametrize(("typed", "code", "left"), [("y\n", 0, {"r1", "r2"}), ("n\n", 1, {"r1", "r2", "open"})])
def test_a_person_is_asked(runs: Folder, typed: str, code: int, left: set[str]) -> None:
    person, terminal = pty.openpty()
    process = subprocess.Popen(command("delete", "open"), stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    os.write(person, typed.encode())
    said = b""
    with suppress(OSError):  # the terminal is gone
        while part := os.read(person, 1000):
            said += part
    os.close(person)
    assert process.wait(60) == code
    assert b"could still be resumed. Remove it? [y/N]" in said
    assert listed(runs) == left


def on_a_terminal(*words: str) -> tuple[int, str, str]:
    """Run a command whose stderr is a terminal; its code, stdout, and what the terminal showed."""
    person, terminal = pty.openpty()
    process = subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=terminal, text=True)
    os.close(terminal)
    said = b""
    with suppress(OSError):
        while part := os.read(person, 1000):
            said += part
    os.close(person)
    out, _ = process.communicate(timeout=60)
    return process.returncode, out, said.decode()


def test_a_terminal_sees_how_far_it_is(runs: Folder) -> None:
    code, out, said = on_a_terminal("copy", STORE, "copy.sqlite", "--all")
    assert code == 0
    assert out.startswith("copied 3 runs")
    assert "copying" in said
    assert "3 of 3 runs, 11 steps" in said


def test_a_list_that_cannot_be_read_is_a_finding_on_a_terminal_too(runs: Folder) -> None:
    with closing(sqlite3.connect(STORE)) as database, database:
        database.execute("UPDATE runs SET summary = 'x' WHERE run_id = 'r1'")
    code, out, said = on_a_terminal("verify")
    assert code == 7
    assert out.splitlines()[1].startswith("listing-unreadable")
    assert "1 finding in 1 run" in said


BAD_CALLS: dict[str, tuple[tuple[str, ...], int, list[str]]] = {
    "verify without a store": (("verify", "--checkpoint", "no.sqlite"), 2, ["no store at no.sqlite"]),
    "verify an unknown run": (("verify", "r9"), 2, ["no run 'r9'", "stargraph runs"]),
    "verify a run and all": (("verify", "r1", "--all"), 2, ["--all"]),
    "an anchor that is not there": (("verify", "--anchor", "no.json"), 2, ["no.json: No such file"]),
    "an anchor that is a directory": (("verify", "--anchor", "."), 2, [".: Is a directory"]),
    "an anchor that is none": (("verify", "--anchor", "graph.yaml"), 2, ["graph.yaml: this is not an anchor"]),
    "an anchor over another file": (("anchor", "graph.yaml"), 2, ["graph.yaml: this is not an anchor"]),
    "an anchor in no directory": (("anchor", "no/heads.json"), 2, ["no/heads.json: No such file or directory"]),
    "copy nothing": (("copy", STORE, "b.sqlite"), 2, ["which runs to copy", "--all"]),
    "copy a run and all": (("copy", STORE, "b.sqlite", "r1", "--all"), 2, ["--all or --since"]),
    "copy onto itself": (("copy", STORE, f"./{STORE}", "--all"), 2, ["same store"]),
    "copy from nowhere": (("copy", "no.sqlite", "b.sqlite", "--all"), 2, ["no store at no.sqlite"]),
    "copy to an unknown driver": (("copy", STORE, "foo://u:geheim@h/x", "--all"), 2, ["foo://u:***@h", "sqlite://"]),
    "copy to a malformed url": (("copy", STORE, "sqlite://x", "--all"), 2, ["sqlite:///relative"]),
    "copy to a directory": (("copy", STORE, ".", "--all"), 7, ["directory"]),
    "copy with a bad time": (("copy", STORE, "b.sqlite", "--since", "soon"), 2, ["--since 'soon'", "7d"]),
    "export nothing": (("export", "x.jsonl"), 2, ["which runs to export"]),
    "export to no directory": (("export", "no/x.jsonl", "--all"), 2, ["no/x.jsonl: No such file or directory"]),
    "export an unknown run": (("export", "x.jsonl", "r9"), 2, ["no run 'r9'"]),
    "export twice to stdout": (("export", "-", "--all", "--json"), 2, ["stdout"]),
    "import from nowhere": (("import", "no.jsonl"), 2, ["no.jsonl: No such file"]),
    "import another file": (("import", "graph.yaml"), 2, ["graph.yaml, line 1: this is not JSON"]),
    "import an empty file": (("import", "empty"), 2, ["empty, line 1: the file was cut off here"]),
    "import a binary": (("import", "binary"), 2, ["binary, line 1: "]),
    "prune without a time": (("prune",), 2, ["--older-than"]),
    "prune with a bad time": (("prune", "--older-than", "old"), 2, ["--older-than 'old'", "7d"]),
    "prune a bad status": (("prune", "--older-than", "1d", "--status", "finished"), 2, ["finished", "done"]),
    "prune to less than nothing": (("prune", "--older-than", "1d", "--keep-last", "-1"), 2, ["--keep-last"]),
    "delete an unknown run": (("delete", "r9"), 2, ["no run 'r9'"]),
    "two ways to inspect": (("inspect", "r1", "--step", "1", "--follow"), 2, ["cannot be combined"]),
    "a page as JSON": (("inspect", "r1", "--html", "r1.html", "--json"), 2, ["--html and --json cannot be combined"]),
    "a difference of one step": (("inspect", "r1", "--diff", "1"), 2, ["--diff", "2 arguments"]),
    "a difference to nowhere": (("inspect", "r1", "--diff", "1", "9"), 2, ["no step 9", "latest step is 3"]),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_a_bad_call(runs: Folder, case: str) -> None:
    words, code, expected = BAD_CALLS[case]
    (runs.path / "binary").write_bytes(b"\xff\xfe\x00\n")
    (runs.path / "empty").write_bytes(b"")
    before = {path: path.read_bytes() for path in runs.path.iterdir() if path.is_file()}
    answer = runs.call(*words)
    assert answer.code == code, answer
    lines = [line for line in answer.err.splitlines() if line.startswith(("error:", "Error:"))]
    assert len(lines) == 1, answer.err
    assert "Traceback" not in answer.err
    missing = [word for word in expected if word not in answer.err]
    assert not missing, f"{missing} not in: {answer.err}"
    assert "geheim" not in answer.out + answer.err
    assert answer.out == "" or "--json" in words
    assert {path: path.read_bytes() for path in runs.path.iterdir() if path.is_file()} == before


def test_the_commands_of_the_document_are_those_of_the_command_line(runs: Folder) -> None:
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text().partition("## Proving")[2]
    block = next(block.text for block in blocks_of(text) if block.language == "sh")
    for line in block.splitlines():
        words = line.partition("#")[0].split()[1:]
        if any(word.startswith(("postgresql:", "s3:")) for word in words):
            continue
        given = [word.replace("RUN_ID", "r1").replace("/elsewhere/", "").replace("run.sqlite", STORE) for word in words]
        answer = runs.call(*given)
        assert answer.code == 0, (line, answer)


def test_an_encrypted_store_is_proved_and_moved_with_its_key(folder: Folder) -> None:
    secret = {"STARGRAPH_ENCRYPTION_KEY": "e1:7ImrD5vC9VQ8pXUQ0m1k3bqKJH2yN4sT"}
    run = ("run", "graph.yaml", "-i", "count=1", "-i", "name=geheim", "--run-id", "r1", "-q")
    assert folder.call(*run, env=secret).code == 0
    assert folder.call("verify", env=secret).code == 0
    assert folder.call("anchor", "heads.json", env=secret).code == 0
    assert folder.call("copy", STORE, "copy.sqlite", "--all", env=secret).code == 0
    assert b"geheim" not in Path("copy.sqlite").read_bytes() + Path(STORE).read_bytes()
    verified = folder.call("verify", "--anchor", "heads.json", "--checkpoint", "copy.sqlite", env=secret)
    assert verified.code == 0
    assert folder.call("export", "all.jsonl", "--all", env=secret).code == 0
    assert b"geheim" in Path("all.jsonl").read_bytes()
    assert folder.call("import", "all.jsonl", "--checkpoint", "plain.sqlite").code == 0
    assert folder.call("verify", "--anchor", "heads.json", "--checkpoint", "plain.sqlite").code == 0
    locked = folder.call("verify")
    assert locked.code == 7
    assert "Traceback" not in locked.err


@pytest.fixture
def family(folder: Folder) -> Folder:
    """A store with a run that has a child run, both with a tag."""
    folder.write("steps.py", "def work(state):\n    return {}\n")
    head = 'ir_version: "1.0.0"\n'
    folder.write("child.yaml", head + 'id: child\nnodes: [{id: work, kind: "steps:work"}]\n')
    folder.write("parent.yaml", head + "id: parent\nnodes: [{id: sub, kind: subgraph, graph: child.yaml}]\n")
    assert folder.call("run", "parent.yaml", "--run-id", "p", "--tag", "user=alice").code == 0
    assert folder.call("run", "parent.yaml", "--run-id", "q").code == 0
    return folder


def _ids(folder: Folder, *options: str) -> list[str]:
    listed: Any = folder.call("runs", "--json", *options).json
    rows = listed["runs"] if isinstance(listed, dict) else listed
    return sorted(row["run_id"].partition(":")[0] + ("" if ":" not in row["run_id"] else ":child") for row in rows)


def test_child_runs_are_taken_along_unless_asked_otherwise(family: Folder) -> None:
    assert family.call("copy", "./.stargraph/run.sqlite", "b.sqlite", "p").code == 0
    assert _ids(family, "--checkpoint", "b.sqlite") == ["p", "p:child"]
    assert family.call("copy", "./.stargraph/run.sqlite", "c.sqlite", "p", "--no-children").code == 0
    assert _ids(family, "--checkpoint", "c.sqlite") == ["p"]
    assert family.call("export", "one.jsonl", "p", "--no-children").out.startswith("exported 1 run,")
    assert family.call("export", "both.jsonl", "p").out.startswith("exported 2 runs,")
    assert family.call("verify", "p", "--json").json["runs"] == 2
    assert family.call("verify", "p", "--no-children", "--json").json["runs"] == 1


@pytest.mark.parametrize("how", ["copy", "move", "export"])
def test_children_that_are_left_behind_and_would_begin_again_are_counted(family: Folder, how: str) -> None:
    family.write("child.yaml", 'id: child\nnodes: [{id: ask, kind: interrupt, prompt: "Sure?", into: x}]\n')
    assert family.call("run", "parent.yaml", "--run-id", "waits").code == 3
    places = ("x.jsonl",) if how == "export" else ("./.stargraph/run.sqlite", "b.sqlite")
    said = "left out 1 child run: it begins again where the copy of the parent is resumed"
    if how != "move":
        assert said not in family.call(how, *places, "waits").err
        assert "left out" not in family.call(how, *places, "p", "--no-children").err, "it has ended"
    answer = family.call(how, *places, "waits", "--no-children")
    assert answer.code == 0, answer
    assert said in answer.err


def test_runs_are_deleted_by_a_tag(family: Folder) -> None:
    refused = family.call("delete", "--tag", "user=alice")
    assert (refused.code, "--yes" in refused.err) == (2, True)
    gone = family.call("delete", "--tag", "user=alice", "--yes")
    assert gone.code == 0
    assert gone.out.startswith("deleted 2 runs\n")
    assert _ids(family) == ["q", "q:child"]


def test_no_run_has_the_tag(family: Folder) -> None:
    assert family.call("delete", "--tag", "user=bob").out == "deleted 0 runs\n"


def test_an_interrupted_deletion_is_repeated(family: Folder) -> None:
    assert family.call("delete", "p", "--no-children").code == 0
    assert family.call("delete", "p").code == 0
    assert _ids(family) == ["q", "q:child"]
    assert family.call("delete", "p").code == 2
    assert family.call("delete").code == 2


def test_runs_are_moved(family: Folder) -> None:
    moved = family.call("move", "./.stargraph/run.sqlite", "b.sqlite", "p")
    assert moved.code == 0
    assert moved.out.startswith("moved 2 runs,")
    assert _ids(family, "--checkpoint", "b.sqlite") == ["p", "p:child"]
