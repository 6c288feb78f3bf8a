"""Questions, answers and cancellations on the command line."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import termios
import time
from enum import Enum
from typing import Annotated, Literal

import pytest
from support.cli import Folder, command

from stargraph.cli._questions import choices_of, readings

ASKING = """
id: asking
state_schema:
  amount: {type: float, default: 12.5}
  approval: {type: "bool | None", default: null}
  who: {type: "str | None", default: null}
nodes:
  - {id: begin, kind: echo}
  - {id: approve, kind: interrupt, prompt: "Approve {amount}?", into: approval}
  - {id: sign, kind: interrupt, prompt: "Who signs?", into: who}
  - {id: end, kind: echo}
rules: [{id: both, when: {node: begin}, then: [{kind: parallel, targets: [approve, sign], join: end}]}]
"""


@pytest.fixture
def waiting(folder: Folder) -> Folder:
    folder.write("asking.yaml", ASKING)
    answer = folder.call("run", "asking.yaml", "--run-id", "r")
    assert answer.code == 3
    assert "Approve 12.5?" in answer.err
    assert "Who signs?" in answer.err
    assert "stargraph respond r" in answer.err
    assert "error:" not in answer.err
    return folder


def questions(folder: Folder) -> dict[str, str]:
    latest = folder.call("inspect", "r", "--step", "3", "--json").json
    return {interrupt["node"]: interrupt["id"] for interrupt in latest["interrupts"]}


def test_answers_from_another_process_and_a_resume(waiting: Folder) -> None:
    ids = questions(waiting)
    first = waiting.call("respond", "r", "--interrupt", ids["approve"], "--value", "true", "--json")
    assert first.code == 0
    assert first.json["interrupt"] == ids["approve"]
    assert "resume" not in first.err
    last = waiting.call("respond", "r", "--value", "Ada")
    assert last.code == 0
    assert "hint: if there is none, resume it: stargraph resume r GRAPH" in last.err
    ended = waiting.call("resume", "r", "asking.yaml", "--json")
    assert ended.code == 0
    assert ended.json["state"] == {"amount": 12.5, "approval": True, "who": "Ada"}


def test_an_answer_that_does_not_fit_says_how_one_is_written(waiting: Folder) -> None:
    refused = waiting.call("respond", "r", "--interrupt", questions(waiting)["approve"], "--value", "perhaps")
    assert refused.code == 2
    assert "'perhaps' is not of type bool" in refused.err
    assert "hint: An answer is written as JSON, as in true, 3 or" in refused.err


STATE_CLASS = """
from typing import Any
from pydantic import BaseModel
class State(BaseModel):
    approval: bool | None = None
    note: str = ""
    anything: Any = None
"""


@pytest.mark.parametrize("definition", ["schema", "class", "none"])
@pytest.mark.parametrize(("field", "word", "recorded"), [("approval", "No", False), ("note", "no", "no")])
def test_yes_and_no_answer_a_bool_without_the_graph(
    folder: Folder, definition: str, field: str, word: str, recorded: object
) -> None:
    states = {
        "schema": "state_schema: {approval: {type: 'bool | None', default: null}, note: {type: str, default: ''}}",
        "class": "state_class: 'answer_states:State'",
        "none": "",
    }
    folder.write("answer_states.py", STATE_CLASS)
    asking = f"{{id: ask, kind: interrupt, prompt: 'ok?'{f', into: {field}'}}}"
    folder.write("asks.yaml", f"id: asks\n{states[definition]}\nnodes: [{asking}, {{id: end, kind: echo}}]\n")
    assert folder.call("run", "asks.yaml", "--run-id", "r").code == 3
    assert folder.call("respond", "r", "--value", word).code == 0
    ended = folder.call("resume", "r", "asks.yaml", "--json")
    assert ended.code == 0
    # In a state that nobody describes, the text "no" would be a yes to `if state.approval`.
    assert ended.json["state"][field] == (False if definition == "none" else recorded)


@pytest.mark.parametrize(
    ("typed", "given", "charged"),
    [
        ("no", False, False),
        ("No", False, False),
        ("n", False, False),
        ("False", False, False),
        ("yes", True, True),
        ('"no"', "no", True),
        ("nobody", "nobody", True),
    ],
)
def test_no_is_a_refusal_for_a_node_that_asks_without_a_type(
    folder: Folder, typed: str, given: object, charged: bool
) -> None:
    folder.write(
        "pay.py",
        "from stargraph.graph import GraphBuilder\n"
        "builder = GraphBuilder('pay')\n"
        "builder.state(charged=(bool, False))\n"
        "@builder.node\n"
        "def pay(state, ctx):\n"
        "    return {'charged': bool(ctx.interrupt('Pay?'))}\n",
    )
    assert folder.call("run", "pay.py", "--run-id", "r").code == 3
    answer = folder.call("respond", "r", "--value", typed)
    assert answer.out.endswith(f" of run r at step 2: {json.dumps(given)}\n")
    assert folder.call("resume", "r", "pay.py", "--json").json["state"] == {"charged": charged}


def test_yes_for_a_number_is_refused_in_the_words_of_the_person(folder: Folder) -> None:
    folder.write(
        "count.yaml",
        "id: count\nstate_schema: {n: {type: int, default: 0}}\n"
        "nodes: [{id: ask, kind: interrupt, prompt: 'How many?', into: n}]\n",
    )
    assert folder.call("run", "count.yaml", "--run-id", "r").code == 3
    refused = folder.call("respond", "r", "--value", "yes")
    assert refused.code == 2
    assert "'yes' is not of type int" in refused.err


def test_a_run_of_another_graph_names_both(waiting: Folder) -> None:
    waiting.write("other.yaml", ASKING.replace("id: asking", "id: selling"))
    refused = waiting.call("resume", "r", "other.yaml")
    assert refused.code == 2
    assert refused.err.startswith("error: run 'r' belongs to graph 'asking', and graph 'selling' was loaded\n")
    assert waiting.call("resume", "r", "other.yaml", "--accept", "graph").code == 3


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--value", "true"], "2 open questions"),
        (["--interrupt", "nope", "--value", "true"], "no open question 'nope'"),
        (["--interrupt", "APPROVE", "--value", "maybe"], "answer"),
    ],
)
def test_an_answer_that_cannot_be_taken(waiting: Folder, words: list[str], expected: str) -> None:
    words = [questions(waiting)["approve"] if word == "APPROVE" else word for word in words]
    answer = waiting.call("respond", "r", *words)
    assert answer.code == 2
    assert expected in answer.err
    assert "Traceback" not in answer.err


PAYLOAD = """
id: pays
state_schema: {approval: {type: "bool | None", default: null}}
nodes: [{id: pay, kind: "pays:pay"}]
"""


def test_what_a_question_is_about_is_shown_wherever_it_is_asked(folder: Folder) -> None:
    folder.write("pays.yaml", PAYLOAD)
    folder.write(
        "pays.py",
        "import asyncio\n"
        "async def ask(ctx, to):\n"
        "    return ctx.interrupt('Pay?', {'to': to, 'amount': 900, 'note': '\\x1b[2J'}, key=to)\n"
        "async def pay(state, ctx):\n"
        "    await asyncio.gather(ask(ctx, 'Ada'), ask(ctx, 'Bob'))\n",
    )
    waiting = folder.call("run", "pays.yaml", "--run-id", "r")
    assert waiting.code == 3
    several = folder.call("respond", "r", "--value", "yes")
    assert several.code == 2
    for text in (waiting.err, folder.call("inspect", "r").out, several.err):
        assert text.count("Pay?") == text.count('"amount": 900') == 2
        assert '"to": "Ada"' in text
        assert '"to": "Bob"' in text
        assert "\x1b" not in text


def test_an_answer_is_taken_once_and_not_after_the_end(waiting: Folder) -> None:
    ids = questions(waiting)
    words = ("respond", "r", "--interrupt", ids["approve"], "--value", "true")
    assert waiting.call(*words).code == 0
    assert waiting.call(*words).code == 2
    assert waiting.call("cancel", "r", "--grace", "0").code == 0
    ended = waiting.call("respond", "r", "--interrupt", ids["sign"], "--value", "Ada")
    assert ended.code == 2
    assert "is cancelled" in ended.err


def test_pause(waiting: Folder) -> None:
    assert waiting.call("pause", "r", "--json").json["status"] == "awaiting_input"
    assert "waits and executes nothing" in waiting.call("pause", "r", "--no-wait").out
    assert waiting.call("requeue", "r").code == 0
    assert waiting.call("enqueue", "asking.yaml", "--run-id", "q").code == 0
    assert waiting.call("pause", "q").out.startswith("run q is paused, at step 1")
    assert waiting.call("cancel", "q").code == 0
    assert "there is nothing to pause" in waiting.call("pause", "q").err
    assert waiting.call("pause", "nope").code == 2


def test_cancel(waiting: Folder) -> None:
    assert len(waiting.call("inspect", "r", "--json").json["interrupts"]) == 2
    answer = waiting.call("cancel", "r", "--json")
    assert answer.json["status"] == "cancelled"
    assert waiting.call("inspect", "r", "--json").json["interrupts"] == []
    assert "Who signs?" not in waiting.call("inspect", "r", "--last", "1").out
    assert waiting.call("cancel", "r").code == 0
    assert waiting.call("resume", "r", "asking.yaml").code == 2
    assert waiting.call("cancel", "nope").code == 2


def test_check_tells_and_writes_nothing(waiting: Folder) -> None:
    before = waiting.call("inspect", "r", "--json").out
    assert "would resume from step 3" in waiting.call("resume", "r", "asking.yaml", "--check").out
    waiting.write(
        "asking.yaml", ASKING.replace("id: sign", "id: signature").replace("[approve, sign]", "[approve, signature]")
    )
    refused = waiting.call("resume", "r", "asking.yaml", "--check")
    assert refused.code == 2
    assert "'sign'" in refused.err
    assert waiting.call("inspect", "r", "--json").out == before


def test_a_graph_is_drawn_and_its_schema_printed(waiting: Folder) -> None:
    assert waiting.call("graph", "asking.yaml").out.startswith("flowchart")
    schema = json.loads(waiting.call("schema").out)
    assert schema["title"] == "A Stargraph graph"


def test_on_a_terminal_the_person_is_asked(folder: Folder) -> None:
    folder.write("asking.yaml", ASKING)
    # Not by pty.fork: with other threads in this process, what it makes may hang before it becomes the program.
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        command("run", "asking.yaml", "--run-id", "r", first=f"import fcntl; fcntl.ioctl(0, {termios.TIOCSCTTY}, 0)"),
        cwd=folder.path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
        start_new_session=True,
    )
    os.close(theirs)
    seen = ""
    script = [
        ("Approve 12.5?", "perhaps"),
        ("Who signs?", ""),
        ("Approve 12.5?", ""),
        ("Who signs?", "Ada"),
        ("Approve 12.5?", "Yes"),
    ]
    read = 0
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            chunk = os.read(terminal, 4096)
        except OSError:  # what Linux says when the other side is gone
            break
        seen += chunk.decode(errors="replace")
        if script and (found := seen.find(script[0][0], read)) >= 0:
            question, typed = script.pop(0)
            read = found + len(question)
            os.write(terminal, f"{typed}\n".encode())
    os.close(terminal)
    assert process.wait(60) == 0, seen
    assert folder.call("inspect", "r", "--step", "0", "--json").code == 0
    assert '"Ada"' in seen
    assert "Approve 12.5? [yes/no]" in seen
    assert "'perhaps' is not one of yes, no" in seen
    assert seen.count("there is no answer yet") == 2


def test_the_words_of_an_answer_follow_from_its_type() -> None:
    assert choices_of(bool | None) == {"yes": True, "no": False}
    assert choices_of(Literal["a", 1]) == {"a": "a", "1": 1}
    assert choices_of(Annotated[Literal["low", "high"], "x"] | None) == {"low": "low", "high": "high"}
    assert choices_of(Enum("Level", {"LOW": "low", "TWO": 2})) == {"low": "low", "2": 2}
    assert choices_of(str | bool) == choices_of(None) == choices_of(int) == {}
    assert (readings("yes"), readings("7"), readings('"7"')) == ([True, "yes"], [7, "7"], ["7"])
