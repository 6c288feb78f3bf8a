"""Modules beside a graph file belong to that graph: nobody else meets them, and no other graph runs them."""

from __future__ import annotations

import inspect
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.memory import MemoryCheckpointer

from stargraph.errors import GraphError
from stargraph.graph import Graph, Run

ONE_NODE = 'id: g\nstate_schema: {x: {type: any, default: null}}\nnodes: [{id: a, kind: "steps:work"}]\n'


def write(folder: Path, **files: str) -> Path:
    """Write `name.py` files and a graph file; a name may have `__` for a folder."""
    for name, text in {"graph": ONE_NODE, **files}.items():
        path = folder / (f"{name.replace('__', '/')}.py" if name != "graph" else "graph.yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "graph.yaml"


async def ran(graph: Graph, store: MemoryCheckpointer, run_id: str = "r", **options: Any) -> Run:
    run = await graph.start(checkpointer=store, run_id=run_id, **options)
    await run.start()
    return run


async def x_of(graph: Graph, store: MemoryCheckpointer, run_id: str = "r", **options: Any) -> Any:
    run = await ran(graph, store, run_id, **options)
    assert run.summary is not None
    assert run.summary.status == "done", run.summary.error
    assert run.state is not None
    return run.state["x"]


def returning(value: object) -> str:
    return f"def work(state):\n    return {{'x': {value!r}}}\n"


async def test_parent_and_child_have_modules_of_one_name(store: MemoryCheckpointer, tmp_path: Path) -> None:
    write(tmp_path / "child", steps=returning("child"))
    parent = write(tmp_path / "parent", steps=returning("parent"))
    parent.write_text(
        "id: p\nstate_schema: {x: {type: any, default: null}, y: {type: any, default: null}}\nnodes:\n"
        '  - {id: a, kind: "steps:work"}\n'
        "  - {id: b, kind: subgraph, graph: ../child/graph.yaml, outputs: {y: state.x}}\n"
    )
    run = await ran(Graph.from_file(parent), store)
    assert run.state == {"x": "parent", "y": "child"}
    assert (await run.replay()).differences == ()


async def test_two_versions_run_in_one_process(store: MemoryCheckpointer, tmp_path: Path) -> None:
    graphs = [Graph.from_file(write(tmp_path / name, steps=returning(name))) for name in ("one", "two")]
    assert [await x_of(graph, store, graph_id) for graph, graph_id in zip(graphs, "ab", strict=True)] == ["one", "two"]
    assert graphs[0].runtime_hash != graphs[1].runtime_hash


async def test_a_file_that_changes_is_loaded_anew_and_the_old_graph_stays_what_it_was(
    store: MemoryCheckpointer, tmp_path: Path
) -> None:
    helped = "from helpers import value\n\ndef work(state):\n    return {'x': value}\n"
    file = write(tmp_path, steps=helped, helpers="value = 1\n")
    old = Graph.from_file(file)
    assert Graph.from_file(file)._plan.nodes["a"].code is old._plan.nodes["a"].code
    before = (tmp_path / "helpers.py").stat()
    (tmp_path / "helpers.py").write_text("value = 2\n")
    os.utime(tmp_path / "helpers.py", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    new = Graph.from_file(file)
    assert await x_of(new, store, "new") == 2
    assert await x_of(old, store, "old") == 1


async def test_modules_of_a_folder_import_each_other(store: MemoryCheckpointer, tmp_path: Path) -> None:
    file = write(
        tmp_path,
        steps=(
            "import json as json_, os.path\nimport helpers\nimport pkg.inner.deep\nimport pkg.inner.deep as deep_\n"
            "from pkg import inner, relative\nfrom helpers import *\nfrom .helpers import named as relatively\n"
            "import space.module\n\n"
            "def work(state):\n"
            "    import later\n    from pkg.inner import deep\n"
            "    assert json_.dumps(1) == '1' and os.path.sep\n"
            "    return {'x': [helpers.named, pkg.inner.deep.value, deep_.value, relative.value, named, relatively,\n"
            "                  later.value, deep.value, inner.__name__.rpartition('.')[2], space.module.value]}\n"
        ),
        helpers="import steps\nnamed = 'helpers'\n",
        later="from steps import helpers\nvalue = helpers.named\n",
        pkg____init__="",
        pkg__relative="from .inner import deep\nfrom . import inner\nvalue = deep.value + 1\n",
        pkg__inner____init__="",
        pkg__inner__deep="import helpers\nvalue = 1\n",
        space__module="value = 'space'\n",
    )
    assert await x_of(Graph.from_file(file), store) == [
        "helpers", 1, 1, 2, "helpers", "helpers", "helpers", 1, "inner", "space",
    ]  # fmt: skip
    assert not {"steps", "helpers", "later", "pkg", "space"} & set(sys.modules)


async def test_everything_that_a_graph_names_is_found_beside_it(store: MemoryCheckpointer, tmp_path: Path) -> None:
    file = write(
        tmp_path,
        steps=(
            "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom typing import Annotated\n"
            "from pydantic import BaseModel\nfrom stargraph.graph import append\n\n"
            "class Own(ValueError): pass\n\n"
            "class State(BaseModel):\n    items: Annotated[list[Item], keep] = []\n    tries: int = 0\n\n"
            "@dataclass\nclass Item:\n    name: str\n    next: Item | None = None\n\n"
            "def keep(old: list[Item], update: list[Item]) -> list[Item]:\n    return [*old, *update]\n\n"
            "State.model_rebuild()\n\n"
            "def work(state: State, ctx) -> dict:\n"
            "    if ctx.attempt == 1: raise Own('once')\n"
            "    return {'items': [Item('a', Item('b'))], 'tries': ctx.attempt}\n"
        ),
        graph=(
            'id: g\nstate_class: "steps:State"\n'
            'nodes: [{id: a, kind: "steps:work", retry: {attempts: 2, initial_delay: 0, on: ["steps:Own"]}}]\n'
        ),
    )
    run = await ran(Graph.from_file(file), store)
    assert run.summary is not None
    assert run.summary.status == "done", run.summary.error
    assert run.summary.stored_state == {"items": [{"name": "a", "next": {"name": "b", "next": None}}], "tries": 2}


async def test_a_moved_folder_has_the_same_hashes_and_records(store: MemoryCheckpointer, tmp_path: Path) -> None:
    steps = "class Own(Exception): pass\n\ndef work(state):\n    raise Own(f'no {Own}')\n"
    graphs = [Graph.from_file(write(tmp_path / name, steps=steps)) for name in ("here", "there")]
    assert graphs[0].runtime_hash == graphs[1].runtime_hash
    assert graphs[0].graph_hash == graphs[1].graph_hash
    for graph, run_id in zip(graphs, "ab", strict=True):
        run = await ran(graph, store, run_id)
        assert run.summary is not None
        assert run.summary.error is not None
        assert run.summary.error.type == "steps.Own"
        assert run.summary.error.message == "no <class 'steps.Own'>"
        assert "_folders" not in (store.runs[run_id][-1].error or run.summary.error).model_dump_json()


def test_the_code_can_be_read_pickled_and_traced(tmp_path: Path) -> None:
    file = write(tmp_path, steps="class Thing:\n    pass\n\ndef work(state):\n    raise ValueError('here')\n")
    work = Graph.from_file(file)._plan.nodes["a"].code
    assert inspect.getsource(work) == "def work(state):\n    raise ValueError('here')\n"
    assert pickle.loads(pickle.dumps(work)) is work  # what was dumped here
    assert sys.modules[work.__module__].Thing.__module__ == work.__module__
    with pytest.raises(ValueError, match="here") as raised:
        work(None)
    assert f'File "{tmp_path / "steps.py"}", line 5' in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("method", ["fork", "spawn"])
async def test_other_processes_find_the_same_code(store: MemoryCheckpointer, tmp_path: Path, method: str) -> None:
    steps = (
        "import helpers\n"
        "from concurrent.futures import ProcessPoolExecutor\nfrom multiprocessing import get_context\n\n"
        "def work(state):\n"
        "    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:\n"
        "        return {'x': list(pool.map(helpers.double, [1, 2]))}\n"
    )
    file = write(tmp_path, steps=steps, helpers="def double(n):\n    return 2 * n\n")
    graph = Graph.from_file(file)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        assert await x_of(graph, store, executor=pool) == [2, 4]


async def test_other_code_in_another_process_is_refused(store: MemoryCheckpointer, tmp_path: Path) -> None:
    file = write(tmp_path, steps=returning("old"))
    graph = Graph.from_file(file)
    (tmp_path / "steps.py").write_text(returning("another"))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        run = await ran(graph, store, executor=pool)
    assert run.summary is not None
    assert run.summary.error is not None
    assert run.summary.error.reason == "other-code"
    assert "node 'a'" in run.summary.error.message


def test_a_module_that_is_not_there_is_reported_by_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="there is no module 'steps'") as missing:
        Graph.from_file(write(tmp_path))
    assert missing.value.reason == "module-not-found"
    with pytest.raises(
        GraphError, match=r"importing 'steps:work' failed at .*steps.py:1: .*'no_such_module'"
    ) as failed:
        Graph.from_file(write(tmp_path, steps="import no_such_module\n"))
    assert failed.value.reason == "import-failed"


PROGRAMS = ([str(Path(sys.executable).parent / "stargraph")], [sys.executable, "-m", "stargraph"])


def stargraph(folder: Path, *arguments: str, program: list[str] = PROGRAMS[0]) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "STARGRAPH_CHECKPOINT"}
    return subprocess.run(
        [*program, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


LAZY = [
    "uuid_utils",
    "orjson",
    "yaml",
    "ruamel",
    "typing_extensions",
    "tenacity",
    "pydantic_core",
    "cel_expr_python",
    "aiosqlite",
    "rich",
    "typer",
    "click",
    "typing_inspection",
    "annotated_types",
    "ssl",
    "sqlite3",
    "secrets",
    "random",
    "queue",
    "platform",
    "getpass",
    "ipaddress",
    "zoneinfo",
    "importlib_metadata",
    "simplejson",
    "uvloop",
    "pebble",
    "cryptography",
    "opentelemetry",
    "colorama",
    "shellingham",
    "email",
]
"""What the engine, its command line and their dependencies import, at once or at their first use."""


@pytest.mark.thorough
@pytest.mark.parametrize("program", PROGRAMS, ids=["stargraph", "python -m stargraph"])
@pytest.mark.parametrize("place", ["beside the graph", "in the current folder"])
def test_nothing_of_a_users_folder_takes_the_place_of_what_we_import(
    tmp_path: Path, place: str, program: list[str]
) -> None:
    nasty = dict.fromkeys(LAZY, "raise SystemExit('a module of the user was imported')\n")
    file = write(tmp_path / "flows", steps=returning(1), **(nasty if place == "beside the graph" else {}))
    here = tmp_path / "here"
    write(here, **(nasty if place == "in the current folder" else {}))
    answer = stargraph(here, "run", str(file), "--json", "-q", "--run-id", "r", program=program)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["state"] == {"x": 1}
    answer = stargraph(here, "inspect", "r", program=program)
    assert answer.returncode == 0, answer.stderr


def test_a_user_may_call_a_module_of_his_own_like_one_of_ours(tmp_path: Path) -> None:
    steps = "import orjson\n\ndef work(state):\n    return {'x': orjson.mine}\n"
    write(tmp_path, steps=steps, orjson="mine = 'own'\n")
    answer = stargraph(tmp_path, "run", "graph.yaml", "--json", "-q")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["state"] == {"x": "own"}


def test_modules_of_the_current_folder_come_last(tmp_path: Path) -> None:
    steps = "import helpers, elsewhere\n\ndef work(state):\n    return {'x': [helpers.where, elsewhere.where]}\n"
    write(tmp_path / "flows", steps=steps, helpers="where = 'beside'\n")
    write(tmp_path, helpers="where = 'here'\n", elsewhere="import helpers\nwhere = helpers.where\n")
    answer = stargraph(tmp_path, "run", "flows/graph.yaml", "--json", "-q")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["state"] == {"x": ["beside", "here"]}


SCRIPT = """
import asyncio, sys
import steps
from stargraph.graph import Graph
from stargraph.checkpoint.sqlite import SQLiteCheckpointer

async def main():
    store = SQLiteCheckpointer("run.sqlite")
    await store.bootstrap()
    graph = Graph.from_file(sys.argv[1])
    run = await graph.start(checkpointer=store)
    await run.start()
    await store.close()
    print(run.state["x"], steps.CALLS)

asyncio.run(main())
"""


def test_a_script_beside_the_graph_has_the_modules_that_its_nodes_have(tmp_path: Path) -> None:
    steps = "CALLS = []\n\ndef work(state):\n    CALLS.append(1)\n    return {'x': 'same'}\n"
    write(tmp_path, steps=steps, main=SCRIPT)
    other = write(tmp_path / "other", steps="CALLS = []\n\ndef work(state):\n    return {'x': 'other'}\n")
    for file, printed in ((tmp_path / "graph.yaml", "same [1]"), (other, "other []")):
        answer = subprocess.run(
            [sys.executable, "main.py", str(file)], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert answer.stdout.strip() == printed, answer.stderr


EDITS = """
import asyncio, pathlib, sys
import steps
from stargraph.graph import Graph
from stargraph.checkpoint.sqlite import SQLiteCheckpointer

async def main():
    store = SQLiteCheckpointer("run.sqlite")
    await store.bootstrap()
    for text in ("as it was", "edited", "again"):
        if text != "as it was":
            pathlib.Path("steps.py").write_text(f"def work(state):\\n    return {{'x': {text!r}}}\\n")
        run = await Graph.from_file("graph.yaml").start(checkpointer=store)
        await run.start()
        print(run.state["x"])
    await store.close()

asyncio.run(main())
"""


def test_a_module_that_the_process_has_loaded_before_it_changed_is_loaded_anew(tmp_path: Path) -> None:
    write(tmp_path, steps=returning("as it was"), main=EDITS)
    answer = subprocess.run([sys.executable, "main.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.stdout.split("\n")[:3] == ["as it was", "edited", "again"], answer.stderr


def test_the_running_script_is_not_taken_for_the_module_beside_another_graph(tmp_path: Path) -> None:
    script = SCRIPT.replace("import steps\n", "CALLS = []\n\ndef work(state):\n    return {'x': 'script'}\n").replace(
        "steps.CALLS", "CALLS"
    )
    write(tmp_path, steps=script)
    other = write(tmp_path / "other", steps=returning("other"))
    for file, printed in ((tmp_path / "graph.yaml", "script []"), (other, "other []")):
        answer = subprocess.run(
            [sys.executable, "steps.py", str(file)], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert answer.stdout.strip() == printed, answer.stderr
