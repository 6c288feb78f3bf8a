"""The help desk: approvals, crashes, and a service that speaks the API of OpenAI."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from support.workspace import ROOT

from stargraph.graph import Graph
from stargraph.testing import InTurn, check_resumable, run_graph

DESK = ROOT / "examples/agent/desk.py"
QUESTION = {"messages": [{"role": "user", "content": "It is broken."}]}


def _call(name: str, **arguments: object) -> dict[str, Any]:
    return {"id": f"id-{name}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def _reply(*calls: dict[str, Any], content: str | None = None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


@pytest.fixture(scope="module")
def graph() -> Graph[Any]:
    return Graph.load(str(DESK))


def test_a_refund_waits_for_a_person_and_a_refusal_is_told_to_the_model(graph: Graph[Any]) -> None:
    model = [_reply(_call("refund", order="A7", amount=30.0)), _reply(content="no refund")]
    asked = run_graph(graph, inputs=QUESTION, calls={"model": InTurn(*model)})
    (question,) = asked.questions
    assert (question.prompt, question.payload) == ("Allow refund?", {"order": "A7", "amount": 30.0})

    refused = run_graph(graph, inputs=QUESTION, answers={"Allow refund?": False}, calls={"model": InTurn(*model)})
    assert [message.get("content") for message in refused.state.messages][2:] == ["a person refused this", "no refund"]


def test_a_tool_that_the_model_made_up_is_no_crash(graph: Graph[Any]) -> None:
    model = InTurn(_reply(_call("delete_all")), _reply(content="sorry"))
    result = run_graph(graph, inputs=QUESTION, calls={"model": model})
    assert result.state.messages[2]["content"] == "there is no tool 'delete_all'"
    assert result.status == "done"


def test_it_survives_a_crash_after_each_step(graph: Graph[Any]) -> None:
    def calls() -> dict[str, Any]:
        model = InTurn(_reply(_call("refund", order="A7", amount=30.0)), _reply(content="refunded"))
        return {"model": model, "refund": "refunded 30.00"}

    assert check_resumable(graph, inputs=QUESTION, answers={"Allow refund?": True}, calls=calls) > 5


class _Service(BaseHTTPRequestHandler):
    """Proposes a refund, then says what came of it; dies with its client while it answers, if it is told to."""

    answer: Callable[[list[dict[str, Any]]], dict[str, Any]]
    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append({"path": self.path, "key": self.headers["Authorization"], **request})
        body = json.dumps({"choices": [{"message": type(self).answer(request["messages"])}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the output of the tests clean."""


@pytest.fixture
def service() -> Iterator[tuple[str, type[_Service]]]:
    handler = type("Service", (_Service,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1", handler
        server.shutdown()
        thread.join()


def _desk(folder: Path, **variables: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    environment |= {"DESK_HOME": str(folder), **variables}
    command = [sys.executable, "-W", "error", str(DESK), "It is broken.", "--approve", "yes"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.thorough
def test_killed_between_the_refund_and_the_last_reply_it_refunds_once(
    tmp_path: Path, service: tuple[str, type[_Service]]
) -> None:
    url, handler = service
    started: Queue[subprocess.Popen[str]] = Queue()
    killed: list[subprocess.Popen[str]] = []

    def answer(messages: list[dict[str, Any]]) -> dict[str, Any]:
        if messages[-1]["role"] == "user":
            return _reply(_call("refund", order="A7", amount=12.5))
        if not killed:
            killed.append(started.get(timeout=60))  # it may ask before this program knows that it was started
            killed[0].send_signal(signal.SIGKILL)
        return {"role": "assistant", "content": f"Done: {messages[-1]['content']}"}

    handler.answer = staticmethod(answer)
    variables = {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "sk-test", "OPENAI_MODEL": "small"}
    desk = _desk(tmp_path, **variables)
    started.put(desk)
    desk.communicate(timeout=60)
    again = _desk(tmp_path, **variables)
    assert again.communicate(timeout=60) == ("Done: refunded 12.50\n", "")
    with closing(sqlite3.connect(tmp_path / "shop.sqlite")) as shop:
        assert shop.execute("SELECT id, amount FROM refunds").fetchall() == [("A7", 12.5)]
    assert desk.returncode == -signal.SIGKILL
    assert [request["messages"][-1]["role"] for request in handler.asked] == ["user", "tool", "tool"]
    assert {(each["path"], each["key"], each["model"]) for each in handler.asked} == {
        ("/v1/chat/completions", "Bearer sk-test", "small")
    }
    assert [tool["function"]["name"] for tool in handler.asked[0]["tools"]] == ["look_up", "refund"]


@pytest.mark.thorough
def test_offline_it_plays_a_script(tmp_path: Path) -> None:
    assert _desk(tmp_path).communicate(timeout=60) == ("About your order: refunded 30.00.\n", "")
