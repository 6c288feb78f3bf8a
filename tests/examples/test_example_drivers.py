"""The example drivers keep the whole contract, on real servers, as installed distributions."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.example_servers import MARIADB, VALKEY, mariadb, valkey
from support.levels import FULL_CAPABILITIES
from support.workspace import ROOT

# All of them begin early, one after the other: they use the same server.
pytestmark = [pytest.mark.thorough, pytest.mark.timeout(300)]

CONFORMANCE = Path(sys.executable).with_name("stargraph-conformance")
SERVERS: dict[str, tuple[str | None, Callable[[], contextlib.AbstractContextManager[str]], str]] = {
    "valkey": (VALKEY, valkey, "apt-get install valkey-server, or redis-server"),
    "mariadb": (MARIADB, mariadb, "apt-get install mariadb-server"),
}


class Example(NamedTuple):
    """An example driver, installed beside its server."""

    name: str
    url: str
    folder: Path
    environment: dict[str, str]

    def conformance(self, *options: str) -> subprocess.CompletedProcess[str]:
        command = [str(CONFORMANCE), "run", f"{self.name}_target:target", *options]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module", params=sorted(SERVERS))
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    name: str = request.param
    program, server, how = SERVERS[name]
    if program is None:
        if os.environ.get("STARGRAPH_TESTS_REQUIRE_SERVERS"):
            pytest.fail(f"the server is not here: {how}")
        pytest.skip(f"the server is not here: {how}")
    folder = ROOT / f"examples/{name}_driver"
    site = tmp_path_factory.mktemp(name)
    uv = str(Path(sys.executable).with_name("uv"))
    install = [uv, "pip", "install", "--quiet", "--python", sys.executable, "--target", str(site)]
    subprocess.run([*install, "--no-deps", "--no-build-isolation", "--offline", str(folder)], check=True)
    with server() as url:
        environment = os.environ | {f"{name.upper()}_URL": url, "PYTHONPATH": str(site), "COLUMNS": "200"}
        yield Example(name, url, folder, environment)


def test_an_example_driver_passes_the_quick_checks(example: Example, tmp_path: Path) -> None:
    done = example.conformance("--quick", "--json", str(tmp_path / "report.json"), "--deadline", "4")
    report = json.loads((tmp_path / "report.json").read_text())
    assert done.returncode == 2, done.stdout + done.stderr  # partly: the rest was not asked for
    assert " 0 violations" in done.stdout, report
    # Only the whole run tells the level, but a capability that is not declared already rules out level full.
    assert set(report["capabilities"]) >= FULL_CAPABILITIES


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_example_driver_keeps_the_whole_contract(example: Example, tmp_path: Path) -> None:
    done = example.conformance("--json", str(tmp_path / "report.json"), "--deadline", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["level"] == "full", done.stdout
    assert any(name in report["versions"] for name in ("valkey", "redis", "mariadb")), report["versions"]


def test_the_command_line_opens_an_example_driver_by_its_url(example: Example, tmp_path: Path) -> None:
    stores = {"valkey": f"{example.url}?prefix=shell", "mariadb": f"{example.url}/shell"}
    if example.name == "mariadb":
        port = example.url.rpartition(":")[2]
        create = ["mariadb", "--no-defaults", "--host=127.0.0.1", f"--port={port}", "--user=root"]
        subprocess.run([*create, "--execute=CREATE DATABASE shell"], check=True)
    (tmp_path / "graph.yaml").write_text(
        "id: hello\nstate_schema: {name: str, greeting: {type: str, default: ''}}\n"
        "nodes:\n  - {id: greet, kind: 'nodes:greet'}\n"
    )
    (tmp_path / "nodes.py").write_text("def greet(state):\n    return {'greeting': f'Hello {state.name}'}\n")
    stargraph = str(CONFORMANCE.with_name("stargraph"))

    def shell(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [stargraph, *arguments, "--checkpoint", stores[example.name]],
            cwd=tmp_path,
            env=example.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    ran = shell("run", "graph.yaml", "--input", "name=Ada")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    listed = shell("runs", "--json")
    assert listed.returncode == 0, listed.stdout + listed.stderr
    assert '"done"' in listed.stdout, listed.stdout
