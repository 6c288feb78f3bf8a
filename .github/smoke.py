"""Start a run on SQLite, kill its process, resume the run, and check that no finished step ran again."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

STEPS = """
import os
from pathlib import Path


def note(name):
    with Path("ran.txt").open("a") as file:
        file.write(name + "\\n")


def first(state):
    note("first")
    return {"total": state.total + 1}


def second(state):
    if not Path("killed").exists():
        Path("killed").touch()
        os._exit(9)
    note("second")
    return {"total": state.total + 10}
"""
GRAPH = """
ir_version: "1.0.0"
id: smoke
state_schema:
  total: {type: int, default: 0}
nodes:
  - {id: first, kind: "smoke_steps:first"}
  - {id: second, kind: "smoke_steps:second"}
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "smoke_steps.py").write_text(STEPS)
        Path(folder, "smoke.yaml").write_text(GRAPH)

        def stargraph(*arguments: str) -> int:
            command = [sys.executable, "-c", "from stargraph.cli import main; main()", *arguments]
            return subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONUTF8": "1"}, check=False).returncode

        codes = [stargraph("run", "smoke.yaml", "--run-id", "smoke"), stargraph("resume", "smoke", "smoke.yaml")]
        ran = Path(folder, "ran.txt").read_text().split()
        print(f"exit codes {codes}, steps that ran: {ran}")
        return 0 if codes == [9, 0] and ran == ["first", "second"] else 1


if __name__ == "__main__":
    sys.exit(main())
