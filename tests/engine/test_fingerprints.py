"""What the code of a run is known by: what a resume asks about, and what makes no difference to it."""

from __future__ import annotations

import functools
import hashlib
import operator
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.memory import MemoryCheckpointer

from stargraph.engine import _source
from stargraph.engine._fingerprint import fingerprint, runtime_changes
from stargraph.engine._source import meaning_of
from stargraph.errors import HashMismatchError
from stargraph.graph import Graph

BASE = """
async def node(state, *, ctx=None):
    for item in state.items:
        total = item.price
        f"{total!r:>10} {ctx}"
    match total:
        case {"a": [1, *rest]}:
            return {"x": rest, **{"y": (yield)}}
    return lambda n, /, *, k=1: [*n, k]
"""

SAME = {
    "annotations": BASE.replace("state,", "state: State,").replace("total = item", "total: 'Decimal' = item"),
    "an annotation of what is returned": BASE.replace("ctx=None)", "ctx: Context | None = None) -> dict[str, int]"),
    "a bare annotation": BASE.replace("    for", "    total: Decimal\n    for"),
    "a docstring": BASE.replace("None):", "None):\n    '''Told,\n       at length.'''"),
    "comments and layout": BASE.replace("item.price", "(item  # why\n                 .price)"),
    "pass": BASE.replace("    for", "    pass\n    for"),
    "an indented method": "\n".join(f"    {line}" if line else "" for line in BASE.lstrip("\n").splitlines()),
}


@pytest.mark.parametrize("case", SAME)
def test_what_makes_no_difference_does_not_count(case: str) -> None:
    assert SAME[case] != BASE
    assert meaning_of(SAME[case]) == meaning_of(BASE)


@pytest.mark.parametrize(
    ("old", "new"), [("item.price", "item.cost"), ("k=1", "k=2"), ("!r", "!s"), ("[1, *rest]", "[2, *rest]")]
)
def test_what_makes_a_difference_counts(old: str, new: str) -> None:
    assert meaning_of(BASE.replace(old, new)) != meaning_of(BASE)


PRINT = "import sys, hashlib, _source; print(hashlib.sha256(_source.meaning_of(sys.stdin.read()).encode()).hexdigest())"


@pytest.mark.parametrize("minor", [11, 12, 13, 14])
def test_every_version_of_python_says_the_same(minor: int) -> None:
    installed = sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python"))
    other = str(installed[0]) if installed else shutil.which(f"python3.{minor}")
    if other is None or f"3.{minor}" == f"3.{sys.version_info.minor}":
        pytest.skip("not here")
    text = Path(_source.__file__).read_text(encoding="utf-8") + BASE
    answer = subprocess.run(
        [other, "-c", PRINT],
        input=text,
        env={"PYTHONPATH": str(Path(_source.__file__).parent), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "not found" in answer.stderr:
        pytest.skip("not here")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == hashlib.sha256(meaning_of(text).encode()).hexdigest()


def test_another_python_is_named_and_no_node_is_said_to_have_changed() -> None:
    old = {"python": "3.11", "engine": 1, "code": {"node 'a'": "source:1", "node 'b'": "code:3.11:2"}}
    new = {"python": "3.12", "engine": 1, "code": {"node 'a'": "source:1", "node 'b'": "code:3.12:3"}}
    assert runtime_changes(old, new) == ("Python was 3.11, is 3.12",)
    assert runtime_changes(old, {**new, "engine": 2})[1:] == ("the engine's semantics were 1, are 2",)
    gone = {**new, "code": {"node 'a'": "source:2"}}
    assert runtime_changes(old, gone)[1:] == ("the code of node 'a' changed", "the code of node 'b' is gone")
    assert runtime_changes(old, gone, within={"node 'c'"}) == ("Python was 3.11, is 3.12",)


class Base:
    def execute(self, state: Any) -> Any:
        return state


class Derived(Base):
    pass


class DerivedToo(Base):
    pass


def scaled(state: Any, factor: int = 1) -> Any:
    return factor


def test_what_a_class_inherits_and_a_partial_holds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fingerprint(Derived, "a") != fingerprint(DerivedToo, "a")
    assert fingerprint(Base, "a") in fingerprint(Derived, "a")
    two, three = functools.partial(scaled, factor=2), functools.partial(scaled, factor=3)
    assert fingerprint(two, "a") != fingerprint(three, "a")
    assert fingerprint(two, "a") == fingerprint(functools.partial(scaled, factor=2), "a")
    assert fingerprint(operator.add, "a") == "python:_operator:add"


NODES = (
    "id: g\nstate_schema: {n: {type: int, default: 0}, stop: {type: bool, default: false}}\n"
    'nodes: [{id: a, kind: "steps:a"}, {id: b, kind: "steps:fails"}, {id: c, kind: "steps:c"}]\n'
)
ASK = "{kind: interrupt, prompt: q, into: stop}"
GRAPHS = {
    "sequence": (NODES, "a"),
    "loop": (NODES + 'rules: [{id: r, when: {node: b, if: "state.n > 5"}, then: [{kind: goto, target: a}]}]\n', ""),
    "a rule that always decides": (NODES + "rules: [{id: r, when: {node: b}, then: [{kind: halt}]}]\n", "ac"),
    "a question": (NODES + f"rules: [{{id: r, when: {{node: b}}, then: [{ASK}, {{kind: goto, target: c}}]}}]\n", "a"),
}
"""Of each graph, the text and the nodes whose code makes no difference to a run that failed in `b`."""
STEPS = (
    "import pathlib\n"
    "def a(state):\n    return {{'n': {a}}}\n"
    "def fails(state):\n    if not pathlib.Path({flag!r}).exists(): raise ValueError('no')\n"
    "def c(state):\n    return {{'n': {c}}}\n"
)


@pytest.mark.parametrize("case", GRAPHS)
@pytest.mark.parametrize("changed", "ac")
async def test_only_code_that_can_still_run_is_asked_about(
    store: MemoryCheckpointer, tmp_path: Path, case: str, changed: str
) -> None:
    text, indifferent = GRAPHS[case]
    file, flag = tmp_path / "graph.yaml", tmp_path / "flag"
    file.write_text(text)

    def load(**values: int) -> Graph:
        (tmp_path / "steps.py").write_text(STEPS.format(flag=str(flag), **{"a": 1, "c": 1, **values}))
        return Graph.from_file(file)

    run = await load().start(checkpointer=store, run_id="r")
    assert (await run.start()).status == "failed"
    flag.touch()
    again = await load(**{changed: 22}).start(checkpointer=store)
    if changed in indifferent:
        assert (await again.resume("r")).status in ("done", "awaiting_input")
        assert store.runs["r"][3].runtime_hash == again._plan.runtime_hash
        assert store.runs["r"][3].definition is not None
        return
    with pytest.raises(HashMismatchError) as refused:
        await again.resume("r")
    assert refused.value.changes == (f"the code of node {changed!r} changed",)


STATE = (
    "from pydantic import BaseModel, Field, field_validator\n"
    "class State(BaseModel):\n    n: int = Field(0, description={words!r})\n"
    "    @field_validator('n')\n    @classmethod\n    def check(cls, value):\n        return {check}\n"
    "def fails(state):\n    raise ValueError('no')\n"
)


async def test_the_code_of_a_state_class_counts_and_its_words_do_not(store: MemoryCheckpointer, tmp_path: Path) -> None:
    file = tmp_path / "graph.yaml"
    file.write_text('id: g\nstate_class: "steps:State"\nnodes: [{id: a, kind: "steps:fails"}]\n')

    def load(words: str, check: str) -> Graph:
        (tmp_path / "steps.py").write_text(STATE.format(words=words, check=check))
        return Graph.from_file(file)

    first = load("one", "value")
    await (await first.start(checkpointer=store, run_id="r")).start()
    assert load("two", "value").runtime_hash == first.runtime_hash
    with pytest.raises(HashMismatchError) as refused:
        await (await load("one", "abs(value)").start(checkpointer=store)).resume("r")
    assert refused.value.changes == ("the code of the class of the state changed",)
