"""What users get wrong: each is one clear message, no traceback, and the right exit code."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cli import GRAPH, Folder
from support.graphs import graph

from stargraph.checkpoint import registry
from stargraph.checkpoint.protocol import JsonValue
from stargraph.cli._inputs import read_inputs
from stargraph.errors import StateError

ONE = "id: g\nstate_schema: {{n: {{type: int, default: 0}}}}\nnodes:\n  - {{id: a, kind: '{kind}'}}\n{more}"


def one(kind: str, more: str = "") -> str:
    return ONE.format(kind=kind, more=more)


LOOP = "rules:\n  - {id: again, when: {node: a}, then: [{kind: goto, target: a}]}\nmax_steps: 5\n"
CLIPS = "rules:\n  - {id: r, when: '?n <- (node-id (id a))', then: [{kind: halt}]}\n"
BAD_CEL = "rules:\n  - {id: r, when: {node: a, if: 'state.n >'}, then: [{kind: halt}]}\n"
NO_TARGET = "rules:\n  - {id: r, when: {node: a}, then: [{kind: goto, target: nowhere}]}\n"

BAD_GRAPHS = {
    "unknown key": (GRAPH.replace("nodes:", "nods:"), 2, ["graph.yaml:9:1", "nods", "nodes"]),
    "unknown key of a node": (one("steps:good").replace("kind:", "knid:"), 2, ["graph.yaml:4:", "knid"]),
    "unknown kind": (one("magic"), 2, ["graph.yaml:4:", "magic", "package.module:callable"]),
    "missing module": (one("nowhere.steps:f"), 2, ["'a'", "nowhere", "install"]),
    "missing function": (one("steps:nothing"), 2, ["'a'", "steps", "nothing", "good"]),
    "not a callable": (one("steps:NUMBER"), 2, ["'a'", "int", "called"]),
    "wrong signature": (one("steps:three"), 2, ["'a'", "(state, ctx)"]),
    "import error in the module": (one("imports_badly:f"), 2, ["imports_badly.py:1", "no_such_package"]),
    "syntax error in the module": (one("syntax_error:f"), 2, ["syntax_error.py:2", "SyntaxError"]),
    "module that raises": (one("raises:f"), 2, ["raises.py:1", "ZeroDivisionError"]),
    "module that exits": (one("exits:f"), 2, ["sys.exit(0)"]),
    "clips": (one("echo", CLIPS), 2, ["graph.yaml:6:", "CLIPS", "if:"]),
    "bad cel": (one("echo", BAD_CEL), 2, ["graph.yaml:6:", "state.n >"]),
    "unknown target": (one("echo", NO_TARGET), 2, ["graph.yaml:6:", "nowhere"]),
    "duplicate key": ("id: g\nid: h\nnodes: []\n", 2, ["graph.yaml:2:1", "'id'", "twice"]),
    "bad yaml": ("id: [g\nnodes: }\n", 2, ["graph.yaml:2:", "YAML"]),
    "a tab": ("id: g\n\tnodes: []\n", 2, ["graph.yaml:2:", "YAML"]),
    "empty file": ("", 2, ["graph.yaml:1:1", "empty"]),
    "no nodes": ("id: g\nnodes: []\n", 2, ["graph.yaml:2:", "nodes"]),
    "two nodes of one id": (one("echo", "  - {id: a, kind: echo}\n"), 2, ["graph.yaml:5:", "'a'"]),
    "bad type": (one("echo").replace("type: int", "type: integer"), 2, ["graph.yaml:2:", "int"]),
    "bad reducer": (one("echo").replace("default: 0", "default: 0, reduce: sum"), 2, ["graph.yaml:2:", "sum", "add"]),
    "bad default": (one("echo").replace("default: 0", "default: zero"), 2, ["graph.yaml:2:", "zero"]),
    "a list": ("- a\n- b\n", 2, ["graph.yaml:1:1"]),
    "a loop past max_steps": (one("steps:good", LOOP), 1, ["'a'", "allows 5", "stargraph resume"]),
    "node that raises": (one("steps:raises"), 1, ["'a'", "ValueError: boom", "steps.py:6"]),
    "node that returns a set": (one("steps:a_set"), 1, ["'a'", "state.n", "set"]),
    "node that returns nan": (one("steps:nan"), 1, ["'a'", "state.n", "nan"]),
    "node that returns text": (one("steps:text"), 1, ["'a'", "str", "dict"]),
    "node that returns an unknown field": (one("steps:unknown_field"), 1, ["'a'", "nope", "n"]),
    "node that exits": (one("steps:exits"), 1, ["'a'", "sys.exit(0)"]),
    "reducer that fails": (
        one("steps:good").replace("default: 0", "default: 0, reduce: 'steps:bad_reducer'"),
        1,
        ["state.n", "steps:bad_reducer", "KeyError"],
    ),
}

MODULES = {
    "steps.py": """\
import sys
NUMBER = 1
def good(state): return {"n": state.n + 1}
def three(a, b, c): return {}
def raises(state):
    raise ValueError("boom")
def a_set(state): return {"n": {1, 2}}
def nan(state): return {"n": float("nan")}
def text(state): return "n"
def unknown_field(state): return {"nope": 1}
def exits(state): sys.exit(0)
def bad_reducer(old, new): raise KeyError("gone")
""",
    "imports_badly.py": "import no_such_package\n",
    "syntax_error.py": "x = 1\ndef f(:\n",
    "raises.py": "1 / 0\n",
    "exits.py": "import sys; sys.exit(0)\n",
}


@pytest.mark.parametrize("case", BAD_GRAPHS)
def test_a_bad_graph(folder: Folder, case: str) -> None:
    text, code, words = BAD_GRAPHS[case]
    folder.write("graph.yaml", text)
    for name, source in MODULES.items():
        folder.write(name, source)
    answer = folder.call("run", "graph.yaml")
    assert answer.code == code, answer
    check_message(answer.err, words)
    if code == 2:
        assert answer.out == ""
        assert not Path(".stargraph").exists(), "a store was made for a run that cannot begin"


RUN = ("run", "graph.yaml", "-i", "count=1")

BAD_CALLS: dict[str, tuple[tuple[str, ...], int, list[str]]] = {
    "missing graph": (("run", "nothing.yaml"), 2, ["nothing.yaml", "no such file"]),
    "a directory as graph": (("run", "."), 2, ["directory"]),
    "a binary as graph": (("run", "binary"), 2, ["binary:1:", "UTF-8"]),
    "wrong input type": (("run", "graph.yaml", "-i", "count=many"), 2, ["count=many", "integer", "as in: -i count=3"]),
    "a float for an int": (("run", "graph.yaml", "-i", "count=1.5"), 2, ["count=1.5", "integer"]),
    "a list for a float": ((*RUN, "-i", "ratio=[1]"), 2, ["ratio=[1]", "float"]),
    "a wrong literal": ((*RUN, "-i", "level=middle"), 2, ["level=middle", "low"]),
    "nan": ((*RUN, "-i", "ratio=NaN"), 2, ["ratio=NaN", "not JSON"]),
    "infinity in a list": ((*RUN, "-i", "notes=[Infinity]"), 2, ["Infinity is not JSON"]),
    "a huge integer": (("run", "graph.yaml", "-i", f"count={10**30}"), 2, ["count", "64 bits"]),
    "a key twice": ((*RUN, "-i", 'notes={"a": 1, "a": 2}'), 2, ["notes=", "twice"]),
    "missing input": (("run", "graph.yaml"), 2, ["'count' is missing", "-i count="]),
    "unknown input": ((*RUN, "-i", "cuont=1"), 2, ["'cuont'", "count"]),
    "an input twice": ((*RUN, "-i", "count=2"), 2, ["'count' is given twice"]),
    "no equals sign": ((*RUN, "-i", "name"), 2, ["'name'", "name=value"]),
    "a tag without a name": ((*RUN, "--tag", "=x"), 2, ["'=x'", "--tag name=value"]),
    "missing inputs file": ((*RUN, "--inputs", "no.json"), 2, ["--inputs no.json", "No such file"]),
    "inputs file is a directory": ((*RUN, "--inputs", "."), 2, ["--inputs .", "directory"]),
    "inputs file is empty": ((*RUN, "--inputs", "empty.yaml"), 2, ["empty.yaml: it is empty", "leave out --inputs"]),
    "inputs file has only comments": ((*RUN, "--inputs", "notes.yaml"), 2, ["notes.yaml: it is empty"]),
    "inputs file is a list": ((*RUN, "--inputs", "list.yaml"), 2, ["list.yaml", "mapping"]),
    "inputs file is not json": ((*RUN, "--inputs", "bad.json"), 2, ["bad.json", "line 1 column"]),
    "inputs file is not yaml": ((*RUN, "--inputs", "bad.yaml"), 2, ["bad.yaml:2:", "YAML"]),
    "inputs file is binary": ((*RUN, "--inputs", "binary"), 2, ["binary", "UTF-8"]),
    "inputs file with a wrong type": (("run", "graph.yaml", "--inputs", "wrong.yaml"), 2, ["inputs.count", "integer"]),
    "bad run id": ((*RUN, "--run-id", "a b"), 2, ["'a b'", "A-Z"]),
    "a run id with a path": ((*RUN, "--run-id", "../x"), 2, ["'../x'", "A-Z"]),
    "a directory as checkpoint": ((*RUN, "--checkpoint", "."), 7, ["directory", "run.sqlite"]),
    "not a database": ((*RUN, "--checkpoint", "graph.yaml"), 7, ["graph.yaml", "not a Stargraph store"]),
    "a file as directory": ((*RUN, "--checkpoint", "graph.yaml/run.sqlite"), 7, ["graph.yaml"]),
    "no checkpoint": ((*RUN, "--checkpoint", ""), 2, ["empty"]),
    "unknown scheme": ((*RUN, "--checkpoint", "foo://u:geheim@h/x?token=geheim"), 2, ["foo://u:***@h", "sqlite://"]),
    "a malformed url": ((*RUN, "--checkpoint", "sqlite://x"), 2, ["sqlite:///relative"]),
    "resume without a store": (("resume", "r1", "graph.yaml"), 2, ["no store at ./.stargraph/run.sqlite"]),
    "inspect without a store": (("inspect", "r1", "--checkpoint", "sqlite:///no.sqlite"), 2, ["no store at"]),
    "runs without a store": (("runs", "--checkpoint", "typo.sqlite"), 2, ["no store at typo.sqlite"]),
    "a bad time": (("runs", "--since", "yesterday"), 2, ["'yesterday'", "7d"]),
    "a bad status": (("runs", "--status", "finished"), 2, ["finished", "done"]),
    "a negative limit": (("runs", "--limit", "-1"), 2, ["--limit"]),
    "a bad durability": ((*RUN, "--durability", "never"), 2, ["never", "sync"]),
    "an unknown command": (("runn",), 2, ["runn"]),
    "an unknown option": ((*RUN, "--checkpiont", "x"), 2, ["--checkpiont"]),
    "no graph": (("run",), 2, ["GRAPH"]),
    "two graphs": (("run", "graph.yaml", "other.yaml"), 2, ["other.yaml"]),
}


FOUND_WITH_THE_STORE_OPEN = {"a huge integer"}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_a_bad_call(folder: Folder, case: str) -> None:
    words, code, expected = BAD_CALLS[case]
    folder.write("list.yaml", "[1, 2]\n")
    folder.write("empty.yaml", "\n")
    folder.write("notes.yaml", "# count: 1\n")
    folder.write("bad.json", "{count: 1}")
    folder.write("bad.yaml", "count: [1\n")
    folder.write("wrong.yaml", "count: many\n")
    (folder.path / "binary").write_bytes(b"\xff\xfe\x00")
    before = sorted(path.name for path in folder.path.iterdir())
    answer = folder.call(*words)
    assert answer.code == code, answer
    check_message(answer.err, expected)
    assert "geheim" not in answer.out + answer.err
    assert answer.out == ""
    left = sorted(path.name for path in folder.path.iterdir())
    if case in FOUND_WITH_THE_STORE_OPEN:
        left.remove(".stargraph")
    assert left == before, "something was made in the folder"


def test_a_store_for_which_a_driver_is_missing_names_the_command_that_installs_it(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry._registry, "entry_points", lambda **_: [])
    answer = folder.call(*RUN, "--checkpoint", "postgresql://u:geheim@h/db")
    assert answer.code == 2
    check_message(answer.err, ["postgresql://u:***@h/db", "pip install stargraph-checkpoint-postgres"])
    assert folder.call("drivers").out.startswith("no drivers; install one: pip install")


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may write everywhere")
def test_an_unwritable_directory(folder: Folder) -> None:
    (folder.path / "locked").mkdir(mode=0o500)
    answer = folder.call(*RUN, "--checkpoint", "locked/run.sqlite")
    assert answer.code == 7
    check_message(answer.err, ["locked", "permission"])


@pytest.mark.skipif(sys.platform != "linux", reason="/proc takes no files on Linux")
def test_a_place_that_takes_no_files(folder: Folder) -> None:
    answer = folder.call(*RUN, "--checkpoint", "/proc/stargraph/run.sqlite")
    assert answer.code == 7
    check_message(answer.err, ["/proc"])


def test_a_run_id_that_is_taken_and_runs_that_are_not_there(folder: Folder) -> None:
    assert folder.call(*RUN, "--run-id", "r1").code == 0
    taken = folder.call(*RUN, "--run-id", "r1")
    assert taken.code == 2
    assert taken.out == ""
    check_message(taken.err, ["'r1' exists already", "Resume it"])
    for words in (("resume", "r2", "graph.yaml"), ("inspect", "r2")):
        unknown = folder.call(*words)
        assert unknown.code == 2
        check_message(unknown.err, ["no run 'r2'", "stargraph runs"])
    beyond = folder.call("inspect", "r1", "--step", "9")
    assert beyond.code == 2
    check_message(beyond.err, ["no step 9", "latest step is 3"])


def test_an_error_is_json_too_where_json_is_asked_for(folder: Folder) -> None:
    answer = folder.call(*RUN, "--checkpoint", ".", "--json")
    assert answer.code == 7
    shown = answer.json["error"]
    assert (shown["type"], shown["reason"], shown["exit_code"]) == ("StoreUnavailableError", "is-directory", 7)
    assert shown["message"] in answer.err
    assert shown["hint"] in answer.err


@pytest.mark.parametrize("case", BAD_CALLS)
@pytest.mark.parametrize("flag", ["--json", "--events"])
def test_a_bad_call_is_an_object_of_json_too(folder: Folder, case: str, flag: str) -> None:
    words, code, _ = BAD_CALLS[case]
    if flag == "--events" and words[0] not in ("run", "resume"):
        return
    (folder.path / "binary").write_bytes(b"\xff\xfe\x00")
    answer = folder.call(*words, flag)
    assert answer.code == code, answer
    error = answer.json["error"]
    assert set(error) == {"type", "reason", "message", "hint", "exit_code"}
    assert error["exit_code"] == code
    assert error["reason"]
    assert f"error: {error['message']}" in answer.err
    assert error["hint"] is None or error["hint"] in answer.err
    assert "geheim" not in answer.out


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (
            ("--checkpoint", "run.sqlite", "runs"),
            "there is no option --checkpoint",
            "Write it after the command, as in: stargraph run --checkpoint",
        ),
        (
            ("schedule", "--timezone", "UTC", "add"),
            "there is no option --timezone",
            "Write it after the command, as in: stargraph schedule add --timezone",
        ),
        (("runs", "--limit", "abc"), "--limit is not a valid integer", "`stargraph runs --help` shows what it takes."),
        (("cancel",), "RUN_ID is missing", "`stargraph cancel --help` shows what it takes."),
        (("respond", "r"), "--value is missing", "`stargraph respond --help` shows what it takes."),
        (("runs", "--limit", "-3"), "--limit must be at least 0", "`stargraph runs --help` shows what it takes."),
        (("run", "g.yaml", "--xyzzy"), "there is no option --xyzzy", "`stargraph run --help` shows what it takes."),
        (("run", "g.yaml", "--checkpiont", "x"), "there is no option --checkpiont", "Did you mean --checkpoint?"),
        (("runs", "extra"), "too many arguments: extra", "`stargraph runs --help` shows what it takes."),
        (("runn",), "there is no command 'runn'", ""),
        (("fork", "r"), "there is no command 'fork'", "stargraph replay RUN_ID GRAPH --set"),
        (("list",), "there is no command 'list'", "stargraph runs"),
    ],
)
def test_wrong_usage_is_reported_in_our_words(folder: Folder, words: tuple[str, ...], message: str, hint: str) -> None:
    answer = folder.call(*words)
    assert answer.code == 2
    assert answer.err.startswith(f"error: {message}")
    assert hint in answer.err
    assert "Usage:" not in answer.err


def test_a_fault_of_ours_is_short_and_has_a_traceback_only_when_asked(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("broken driver list")

    monkeypatch.setattr(registry, "installed_drivers", broken)
    answer = folder.call("drivers")
    assert answer.code == 70
    check_message(answer.err, ["RuntimeError: broken driver list", "STARGRAPH_DEBUG=1"])
    shown = folder.call("--debug", "drivers", env={"STARGRAPH_DEBUG": ""})
    assert shown.code == 70
    assert "Traceback" in shown.err
    assert "in broken" in shown.err


def test_a_weak_key_is_refused(folder: Folder) -> None:
    answer = folder.call(*RUN, env={"STARGRAPH_INTEGRITY_KEY": "k:geheim"})
    assert answer.code == 2
    check_message(answer.err, ["STARGRAPH_INTEGRITY_KEY", "16 bytes"])
    assert "geheim" not in answer.err


def check_message(err: str, words: list[str]) -> None:
    """One message, with the words that a user needs, and nothing of a traceback."""
    assert err.count("error:") + err.count("Error: ") - err.count("Error: boom") >= 1
    assert len([line for line in err.splitlines() if line.startswith(("error:", "Error:"))]) == 1, err
    assert "Traceback" not in err
    assert "  File " not in err
    missing = [word for word in words if word not in err]
    assert not missing, f"{missing} not in: {err}"


def test_a_word_that_no_file_can_be_called_is_no_graph(folder: Folder) -> None:
    answer = folder.call("resume", "[" * 3000)
    assert (answer.code, "names no graph" in answer.err) == (2, True)


@pytest.mark.parametrize(
    "words",
    [
        ("run", "L.py"),
        ("run", "m:L"),
        ("run", "L:graph"),
        ("run", "long.yaml"),
        ("validate", "long.yaml"),
        ("runs", "--checkpoint", "L"),
        ("doctor", "L"),
        ("resume", "r1", "graph.yaml", "--checkpoint", "sqlite:///L"),
        ("copy", "L", "b.sqlite", "--all"),
    ],
)
def test_a_name_that_the_system_refuses_is_a_mistake_of_the_user(folder: Folder, words: tuple[str, ...]) -> None:
    name = "a" * 3000
    folder.write("long.yaml", f"id: long\nnodes: [{{id: a, kind: '{name}:f'}}]\n")
    answer = folder.call(*[word.replace("L", name) for word in words])
    assert answer.code == 2, answer.err[-500:]


def test_code_may_try_to_import_a_name_that_no_file_can_have(folder: Folder) -> None:
    folder.write(
        "tries.py", f"try:\n    import {'a' * 300}\nexcept ImportError:\n    found = False\ndef f(state): ...\n"
    )
    folder.write("tries.yaml", "id: tries\nnodes: [{id: a, kind: 'tries:f'}]\n")
    answer = folder.call("run", "tries.yaml")
    assert answer.code == 0, answer.err


def test_an_anchor_of_a_name_that_is_too_long_is_not_written(folder: Folder) -> None:
    assert folder.call("run", "graph.yaml", "-i", "count=1").code == 0
    answer = folder.call("anchor", "a" * 3000)
    assert (answer.code, "File name too long" in answer.err) == (74, True), answer.err[-500:]


LITERALS = st.lists(
    st.text("ab'\" é$", min_size=1, max_size=4).map(lambda text: json.dumps(text, ensure_ascii=False))
    | st.sampled_from(["1", "-2", "True"]),
    min_size=1,
    max_size=3,
).map(lambda values: f"Literal[{', '.join(values)}]")
TYPES = st.recursive(
    st.sampled_from(["str", "int", "float", "bool", "list", "dict", "None", "any"]) | LITERALS,
    lambda inner: (
        inner.map(lambda text: f"list[{text}]")
        | inner.map(lambda text: f"dict[str, {text}]")
        | st.tuples(inner, inner).map(" | ".join)
    ),
    max_leaves=5,
)


@given(TYPES, st.sampled_from(["x", "1", "1.5", "[]", "{}", "null", '[null, ["x"]]', '{"a": [{}]}']))
@settings(deadline=None)
def test_the_example_in_a_hint_is_a_value_of_the_type(type_text: str, text: str) -> None:
    loaded = graph(f"state_schema: {{f: {{type: {json.dumps(type_text)}}}}}\nnodes: [{{id: a, kind: echo}}]")
    hint = None
    try:
        read_inputs(loaded, [f"f={text}"], None)
    except StateError as error:
        hint = error.hint or ""
    if hint is not None:
        (pair,) = shlex.split(hint.partition(", as in: -i ")[2])
        read_inputs(loaded, [pair], None)


@pytest.mark.parametrize(
    ("type_text", "example"),
    [
        ("int", "f=3"),
        ("float", "f=0.5"),
        ("list[float]", "'f=[0.5, 1.5]'"),
        ("list[int] | None", "'f=[3, 4]'"),
        ("dict[str, bool]", """'f={"a": true}'"""),
        ('Literal["low", "high"]', """'f="high"'"""),
    ],
)
def test_a_hint_shows_an_example_of_the_very_type(type_text: str, example: str) -> None:
    loaded = graph(f"state_schema: {{f: {{type: {json.dumps(type_text)}}}}}\nnodes: [{{id: a, kind: echo}}]")
    with pytest.raises(StateError) as caught:
        read_inputs(loaded, ["f=[[]]"], None)
    assert caught.value.hint is not None
    assert caught.value.hint.endswith(f", written as JSON, as in: -i {example}")


@pytest.mark.parametrize(
    ("annotation", "example"),
    [("List", ["a", "b"]), ("Dict", {"a": 1}), ("Mapping", {"a": 1}), ("Counter[str]", {"a": 1}), ("Tuple[()]", [])],
)
def test_a_hint_shows_an_example_of_a_class_without_all_its_arguments(
    folder: Folder, annotation: str, example: JsonValue
) -> None:
    state = f"import typing\nfrom pydantic import BaseModel\nclass S(BaseModel): v: typing.{annotation}\n"
    folder.write("states.py", state)
    folder.write("typed.yaml", "id: typed\nstate_class: states:S\nnodes: [{id: a, kind: echo}]\n")
    answer = folder.call("run", "typed.yaml", "-i", "v=no")
    assert (answer.code, f"as in: -i 'v={json.dumps(example)}'" in answer.err) == (2, True), answer.err[-500:]
