"""The hundreds of processes that tests start do not compile this repository again, each for itself."""

from __future__ import annotations

import os
import subprocess
import sys

from support.workspace import ROOT

WHAT_IS_COMPILED = """
import sys

compiled = []
sys.addaudithook(lambda event, args: compiled.append(str(args[1])) if event == "compile" else None)
import stargraph.cli._app
import stargraph.checkpoint.conformance._child
import stargraph.dask._alone
import support.process_nodes
import support.s3.conformance_target
print(*(name for name in compiled if name.startswith({root!r})), sep="\\n")
"""


def test_processes_find_the_sources_compiled() -> None:
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT / "tests")}
    program = WHAT_IS_COMPILED.format(root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
