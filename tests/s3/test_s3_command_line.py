"""The command line on a bucket: every command that takes a store, and what it says of one that does not work."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import Answer, Folder, own_folder
from support.s3.servers import SECRET_KEY, fresh_bucket, rclone_server, sdk_client

pytestmark = pytest.mark.thorough

GRAPH = """\
ir_version: "1.0.0"
id: order
state_schema:
  count: {type: int, default: 0}
  approval: {type: "str | None", default: null}
nodes:
  - {id: first, kind: "steps:increase"}
  - {id: ask, kind: interrupt, prompt: "Ship it?", into: approval}
  - {id: last, kind: "steps:increase"}
"""

HELLO = "id: hello\nnodes:\n  - {id: say, kind: echo}\n"

STEPS = """\
import os, signal

def increase(state):
    if os.environ.get("LOSE_THE_PROCESS") and state.approval:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"count": state.count + 1}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moto: str) -> Iterator[Folder]:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    with own_folder(tmp_path) as folder:
        folder.write("graph.yaml", GRAPH)
        folder.write("steps.py", STEPS)
        yield folder


@pytest.fixture
def store(moto: str) -> str:
    return f"s3://{fresh_bucket(moto)}/some/prefix"


def _in_a_process(folder: Folder, *words: str) -> Answer:
    with folder.spawn(*words) as process:
        out, err = process.communicate()
    return Answer(process.returncode, out, err)


def _last_step(folder: Folder, store: str) -> Any:
    return folder.call("inspect", "r1", "--json", "--checkpoint", store).json


def test_every_command_on_a_bucket(folder: Folder, store: str, moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at = ("--checkpoint", store)
    asked = folder.call("run", "graph.yaml", "--run-id", "r1", "--tag", "team=a", *at)
    assert (asked.code, asked.err.count("Ship it?")) == (3, 1), asked.err
    assert folder.call("run", "graph.yaml", "--run-id", "r1", *at).code == 2

    answered = folder.call("respond", "r1", "--value", "yes", *at)
    assert answered.code == 0, answered.err
    monkeypatch.setenv("LOSE_THE_PROCESS", "1")
    assert _in_a_process(folder, "resume", "r1", "graph.yaml", *at).code == -signal.SIGKILL
    monkeypatch.delenv("LOSE_THE_PROCESS")
    assert folder.call("resume", "r1", "graph.yaml", "--check", *at).code == 0
    resumed = folder.call("resume", "r1", "graph.yaml", "--json", *at)
    assert (resumed.code, resumed.json["state"]["count"]) == (0, 2), resumed.err

    second = folder.call("run", "graph.yaml", "--run-id", "r2", "--durability", "exit", *at)
    assert second.code == 3, second.err
    cancelled = folder.call("cancel", "r2", *at)
    assert cancelled.code == 0, cancelled.err
    assert folder.call("resume", "r2", "graph.yaml", *at).code == 2

    monkeypatch.setenv("STARGRAPH_CHECKPOINT", store)
    listed = folder.call("runs", "--json").json
    assert [(run["run_id"], run["status"]) for run in listed] == [("r2", "cancelled"), ("r1", "done")]
    assert "r1" in folder.call("runs", "--status", "done", "--graph", "order", "--tag", "team=a").out
    assert "count=2" in folder.call("inspect", "r1").out
    assert folder.call("inspect", "r1", "--step", "1", "--json").json["state"]["count"] == 1
    doctor = folder.call("doctor", "--json").json["store"]
    assert doctor["state"] == "works"
    assert doctor["checks"] == ["8 writers created one object at once: one won in each of 3 rounds"]


def test_the_file_of_a_run_that_ended_is_a_store_of_its_own(folder: Folder, store: str, moto: str) -> None:
    folder.write("graph.yaml", HELLO)
    done = folder.call("run", "graph.yaml", "--run-id", "r1", "--checkpoint", store)
    assert done.code == 0, done.err
    bucket, _, prefix = store.removeprefix("s3://").partition("/")
    client = sdk_client(moto)
    listed = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/runs/")["Contents"]
    (key,) = [item["Key"] for item in listed if item["Key"].endswith(".sqlite")]
    client.download_file(bucket, key, "run.sqlite")
    client.close()
    in_bucket = folder.call("inspect", "r1", "--json", "--checkpoint", store).json
    in_file = folder.call("inspect", "r1", "--json", "--checkpoint", "run.sqlite").json
    assert in_file == in_bucket
    assert in_file["status"] == "done"


COMMANDS = [
    ("run", "graph.yaml"),
    ("resume", "r1", "graph.yaml"),
    ("respond", "r1", "--value", "yes"),
    ("pause", "r1"),
    ("cancel", "r1"),
    ("runs",),
    ("inspect", "r1"),
    ("doctor",),
]


def _at(command: tuple[str, ...], store: str) -> tuple[str, ...]:
    return (*command, store) if command == ("doctor",) else (*command, "--checkpoint", store)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_a_store_that_does_not_work_is_one_clear_error(folder: Folder, command: tuple[str, ...]) -> None:
    folder.write("graph.yaml", HELLO)
    answer = folder.call(*_at(command, "s3://no-such-bucket/p"))
    _check(answer, 7, "no-such-bucket", "Create the bucket")


def _check(answer: Answer, code: int, *words: str) -> None:
    assert answer.code == code, answer
    # A request that is repeated says so.
    lines = [line for line in answer.err.splitlines() if not line.startswith("warning: attempt ")]
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"], answer.err
    for word in words:
        assert word in answer.err
    assert SECRET_KEY not in answer.err


BAD_URLS = {
    "no bucket": ("s3://", ["not the name of a bucket"]),
    "no bucket but a path": ("s3:///prefix", ["not the name of a bucket"]),
    "a bucket that cannot be": ("s3://-/p", ["'-'", "not the name of a bucket"]),
    "an empty part": ("s3://bucket/a//b", ["'a//b'", "empty part"]),
    "a way out": ("s3://bucket/../b", ["'../b'"]),
    "an unknown option": ("s3://bucket/p?regoin=eu", ["'regoin'", "s3://bucket/prefix?region="]),
    "an option without sense": ("s3://bucket/p?path_style=maybe", ["path_style=maybe", "true or false"]),
    "a deadline without sense": ("s3://bucket/p?deadline=soon", ["deadline=soon", "seconds"]),
    "checksums without sense": ("s3://bucket/p?checksums=never", ["checksums", "never", "when_required"]),
    "an endpoint without a scheme": ("s3://bucket/p?endpoint_url=localhost:9000", ["localhost:9000", "http://"]),
}


@pytest.mark.parametrize("case", BAD_URLS)
def test_a_bad_url(folder: Folder, case: str) -> None:
    url, words = BAD_URLS[case]
    _check(folder.call("runs", "--checkpoint", url), 2, *words)


def test_nobody_listens(folder: Folder) -> None:
    answer = folder.call("runs", "--checkpoint", "s3://bucket/p?endpoint_url=http://127.0.0.1:9")
    _check(answer, 7, "127.0.0.1:9", "`endpoint_url=…` in the store's URL")


def test_something_else_listens(folder: Folder, store: str, moto: str) -> None:
    """A server that speaks HTTP, and not S3."""
    answer = folder.call("runs", "--checkpoint", f"{store}?endpoint_url={moto}/moto-api")
    assert answer.code == 7
    _check(answer, 7, "endpoint")


def test_no_credentials(folder: Folder, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    _check(folder.call("runs", "--checkpoint", store), 7, "credentials", "AWS_ACCESS_KEY_ID")


def test_no_region_is_fine_for_another_endpoint(folder: Folder, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert folder.call("run", "graph.yaml", "--checkpoint", store).code == 3
    assert folder.call("runs", "--checkpoint", store).code == 0


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = tmp_path_factory.mktemp("rclone") / "data"
    data.mkdir()
    with rclone_server(data) as url:
        yield url


def test_a_store_that_ignores_conditions(folder: Folder, rclone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = fresh_bucket(rclone)
    store = f"s3://{bucket}/p?endpoint_url={rclone}&path_style=true"
    folder.write("graph.yaml", HELLO)
    _check(
        folder.call("run", "graph.yaml", "--checkpoint", store),
        7,
        "If-None-Match",
        "`unsafe_single_writer=true` in the store's URL",
    )
    unsafe = _in_a_process(folder, "run", "graph.yaml", "--checkpoint", f"{store}&unsafe_single_writer=true")
    assert unsafe.code == 0
    assert "nothing stops two executors" in unsafe.err
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    _check(_in_a_process(folder, "doctor", f"{store}&unsafe_single_writer=true"), 7, "8 writers", "more than one won")


def test_a_store_is_not_asked_for_before_it_is_needed(folder: Folder) -> None:
    for words in (("graph", "graph.yaml"), ("schema",), ("drivers",), ("--help",), ("run", "--help")):
        answer = folder.call(*words, env={"STARGRAPH_CHECKPOINT": "s3://no-such-bucket/p"})
        assert answer.code == 0, answer
