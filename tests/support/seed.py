"""The snippets of the how-to that this project implements, word for word, and what it takes to run them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

WIRE_IT = """\
from stargraph.graph import Graph
from stargraph.ir._models import IRDocument
from stargraph.checkpoint.sqlite import SQLiteCheckpointer

ir = IRDocument(...)        # loaded or constructed elsewhere
graph = Graph(ir)

checkpointer = SQLiteCheckpointer("/var/stargraph/run.sqlite")
await checkpointer.bootstrap()                    # idempotent schema setup

run = await graph.start(checkpointer=checkpointer)
summary = await run.start()
"""

RESUME = """\
run = await graph.start(checkpointer=checkpointer)
await run.resume(run_id="...")    # picks up at the latest checkpoint
"""

RUN_COMMAND = "stargraph run my-graph.yaml --checkpoint /var/stargraph/run.sqlite"

PIN_CUSTOM = """\
from stargraph.checkpoint.protocol import Checkpointer

_: type[Checkpointer] = MyCustomCheckpointer    # mypy / pyright check
"""

PATH = "/var/stargraph/run.sqlite"


def program(snippet: str, **instead: str) -> str:
    """Make a program of a snippet that awaits at its top level, as the REPL of asyncio allows.

    Args:
        snippet: the code.
        instead: nothing but what must differ, by `path`, `ir` and `run_id`.
    """
    for name, shown in (("path", PATH), ("ir", "IRDocument(...)"), ("run_id", '"..."')):
        if name in instead:
            assert shown in snippet
            snippet = snippet.replace(shown, instead[name])
    return "import asyncio\n\nasync def main():\n" + textwrap.indent(snippet, "    ") + "\nasyncio.run(main())\n"


def run_program(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, warnings as errors.

    Args:
        text: the program.
        folder: where; its modules can be imported.
    """
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-c", text]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)
