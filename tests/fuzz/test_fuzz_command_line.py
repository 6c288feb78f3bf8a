"""Any words on the command line: an exit code of the documented ones, no traceback, no secret, no file elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cli import Folder, own_folder

pytestmark = pytest.mark.thorough

DOCUMENTED = {0, 1, 2, 3, 4, 5, 6, 7}

QUESTION = """
id: asks
state_schema: {a: "int | None", b: {type: "list[str]", default: []}}
nodes:
  - {id: ask, kind: interrupt, prompt: "How many?", into: a}
"""

COMMANDS = [
    "run",
    "resume",
    "respond",
    "cancel",
    "runs",
    "inspect",
    "graph",
    "schema",
    "drivers",
    "doctor",
    "--version",
]
OPTIONS = [
    *["-i", "--inputs", "--run-id", "--tag", "--durability", "--accept", "--only-if-idle", "--max-resumes", "--check"],
    *["--interrupt", "--value", "--json", "--events", "--quiet", "--checkpoint", "--status", "--since", "--limit"],
    *["--step", "--debug", "--help", "-q", "--", "--no-such-option", "--graph", "--cursor", "--from", "--to"],
]
VALUES = [
    *["graph.yaml", "asks.yaml", "steps.py", ".", "nowhere.yaml", "r1", "waiting", "count=1", "count=x", "a=", "=", ""],
    *["-1", "0", "1e99", "9" * 400, "NaN", "null", '{"a":', "[" * 3000, "sync", "done", "runtime", "30m", "2026-01-31"],
    *[
        "./s.sqlite",
        "graph.yaml",
        "sqlite:///s.sqlite",
        "sqlite:///s.sqlite?synchronous=x",
        "nosuch://x",
        "a\0b",
        "é\udcff",
    ],
    *["postgresql://u:hush@127.0.0.1:1/db", "s3://", "s3://b?nonsense=1", "postgresql://u:hush@[::1", "x" * 5000],
    *["a\0b", "é\udcff", "waiting:0", "t-0/0", "%s%n", "$(id)", "\x1b[31m", "../" * 3],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    path = tmp_path_factory.mktemp("words") / "inner"
    path.mkdir()
    with own_folder(path) as folder:
        folder.write("asks.yaml", QUESTION)
        answer = folder.call("run", "asks.yaml", "--run-id", "waiting", "-i", "a=null", "--checkpoint", "s.sqlite")
        assert answer.code == 3
        yield folder


words = st.sampled_from(VALUES) | st.text(st.characters(exclude_characters="/\\~\0"), max_size=12)
calls = st.builds(
    lambda command, rest: [command, *rest],
    st.sampled_from(COMMANDS),
    st.lists(st.sampled_from(OPTIONS) | words, max_size=6),
)


json_like = st.recursive(
    st.sampled_from(["1", "null", '"x"', "1.5", "NaN", "1e400"]), lambda inner: inner.map("[{}]".format), max_leaves=5
)
answers = st.sampled_from(VALUES) | st.text(max_size=40) | json_like

in_short_and_at_length = pytest.mark.parametrize(
    "examples",
    [
        pytest.param(25, id="short"),
        # At length they take minutes, more than the timeout of other tests on a busy machine.
        pytest.param(2_000, id="long", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)


@in_short_and_at_length
def test_any_words_are_obeyed_or_refused(folder: Folder, examples: int) -> None:
    @settings(max_examples=examples)
    @given(call=calls)
    def call_it(call: list[str]) -> None:
        begun = time.process_time()
        answer = folder.call(*call, env={"STARGRAPH_DEBUG": ""})
        assert time.process_time() - begun < 10
        assert answer.code in DOCUMENTED, (answer.code, answer.err)
        shown = answer.out + answer.err
        assert "Traceback" not in shown or "--debug" in call
        assert "hush" not in shown
        assert "\x1b" not in shown
        assert len(shown) < 60_000
        if answer.code == 2:
            assert answer.err
        assert [found.name for found in folder.path.parent.iterdir()] == ["inner"]
        os.environ.pop("STARGRAPH_DEBUG", None)

    call_it()


@in_short_and_at_length
def test_any_answer_is_recorded_or_refused(folder: Folder, examples: int) -> None:
    @settings(max_examples=examples // 4)
    @given(text=answers)
    def answer_it(text: str) -> None:
        run_id = f"r{time.monotonic_ns()}"
        begun = folder.call("run", "asks.yaml", "--run-id", run_id, "-i", "a=null", "--checkpoint", "s.sqlite")
        assert begun.code == 3, begun.err
        answer = folder.call("respond", run_id, f"--value={text}", "--checkpoint", "s.sqlite")
        assert answer.code in (0, 2), answer.err
        assert "Traceback" not in answer.err
        events = [step["event"] for step in log_of(folder, run_id)]
        assert events == (["started", "asked", "answered"] if answer.code == 0 else ["started", "asked"])

    answer_it()


def log_of(folder: Folder, run_id: str) -> list[dict[str, object]]:
    timeline: list[dict[str, object]] = folder.call("inspect", run_id, "--json", "--checkpoint", "s.sqlite").json[
        "timeline"
    ]
    return timeline
