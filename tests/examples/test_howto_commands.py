"""The tutorial and the how-tos typed into a shell: their commands end as they say, and print what is shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.documents import blocks_of
from support.workspace import ROOT, shown

PAGES = [
    path
    for path in (ROOT / "docs/tutorial.md", *sorted((ROOT / "docs/how-to").glob("*.md")))
    if any(block.language == "sh" for block in blocks_of(path.read_text(encoding="utf-8")))
]


def _is_shown(line: str, output: str) -> bool:
    pattern = ".*".join(re.escape(part.strip()) for part in line.split("…"))
    return re.search(pattern, output) is not None


@pytest.mark.thorough
@pytest.mark.parametrize("path", PAGES, ids=shown)
def test_its_commands_do_what_it_shows(path: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STARGRAPH_")}
    environment |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}", "COLUMNS": "120"}
    output = ""
    for block in blocks_of(path.read_text(encoding="utf-8")):
        if block.name:
            (tmp_path / block.name).write_text(block.text, encoding="utf-8")
        elif block.language == "text":
            missing = [line for line in block.text.splitlines() if not _is_shown(line, output)]
            assert missing == [], output
        elif block.language == "sh":
            output = ""
            for line in block.text.splitlines():
                if line.startswith("export "):
                    name, _, value = line.removeprefix("export ").partition("=")
                    environment[name] = value
                    continue
                command = ["bash", "-c", line]
                done = subprocess.run(
                    command,
                    check=False,
                    cwd=tmp_path,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=60,
                )
                output += done.stdout
                expected = re.search(r"# exits with (\d+)$", line)
                assert done.returncode == int(expected[1] if expected else 0), f"{line}\n{done.stdout}{done.stderr}"


def test_there_is_a_how_to_for_each_recipe_of_the_seed() -> None:
    assert {path.stem for path in (ROOT / "docs/how-to").glob("*.md")} == {
        "run-from-the-shell",
        "wire-a-checkpointer",
        "resume-after-a-restart",
        "use-your-own-store",
        "replay-with-a-change",
    }
