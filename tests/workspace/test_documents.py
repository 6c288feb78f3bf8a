"""Documents cannot drift: their code runs, their links lead somewhere, their commands exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.documents import Block, blocks_of
from support.workspace import ROOT, distributions, documents, shown

DOCUMENTS = documents()
PLANNED = {"stargraph-checkpoint-postgres", "stargraph-checkpoint-s3", "stargraph-conformance"}

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=shown)
SLOW = {"write-a-driver.md"}
"""Their blocks take longer than a second or two: this one runs the conformance kit."""


def _run(path: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, "-W", "error", "-m", "support.documents", str(path)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.thorough) if path.name in SLOW else path for path in DOCUMENTS],
    ids=shown,
)
def test_python_blocks_run_in_order(path: Path, tmp_path: Path) -> None:
    if not any(block.language == "python" for block in blocks_of(path.read_text())):
        return
    done = _run(path, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@each_document
def test_links_lead_to_files_and_headings(path: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, heading = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.exists(), f"{shown(path)} links to {target}"
        if heading:
            assert heading in _anchors(linked), f"{shown(path)} links to {target}"


@each_document
def test_commands_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    names = {distribution.name for distribution in distributions()} | PLANNED
    for block in blocks_of(path.read_text()):
        if block.language in {"", "sh", "console", "bash"}:
            for line in block.text.splitlines():
                command = line.strip().removeprefix("$ ").partition("#")[0]
                if command.startswith("make "):
                    named = {word for word in shlex.split(command)[1:] if "=" not in word}
                    assert named <= targets, f"{shown(path)}: {command}"
                if re.match(r"(uv )?pip install", command):
                    ours = set(re.findall(r"\bstargraph[\w-]*", command))
                    assert ours <= names, f"{shown(path)}: {command}"


def _anchors(path: Path) -> set[str]:
    """The anchors of headings as GitHub makes them, and those that the page gives itself."""
    text = path.read_text()
    headings = re.findall(r"^#+ +(.+?) *$", text, flags=re.MULTILINE)
    own = re.findall(r'<a id="([^"]+)"></a>', text)
    return {*own, *(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)}


GUIDE = """\
# Guide

```python helpers.py
GREETING = "hello"
```

```python
import asyncio

from helpers import GREETING

lock = asyncio.Lock()
await lock.acquire()
```

1. Go on:

   ```python
   async with asyncio.timeout(5):
       lock.release()
   assert GREETING == "hello"
   {last}
   ```
"""


def test_the_runner_shares_names_files_and_the_loop(tmp_path: Path) -> None:
    guide = tmp_path / "guide.md"
    guide.write_text(GUIDE.format(last="print(lock.locked())"))
    done = _run(guide, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


def test_the_runner_names_the_line_that_failed(tmp_path: Path) -> None:
    guide = tmp_path / "guide.md"
    guide.write_text(GUIDE.format(last="1 / 0"))
    done = _run(guide, tmp_path)
    assert done.returncode == 1
    assert f'File "{guide}", line 22' in done.stderr


def test_a_block_that_never_ends_is_refused() -> None:
    with pytest.raises(ValueError, match="line 2: the block never ends"):
        list(blocks_of("x\n```python\n1\n"))


def test_blocks_are_found_with_their_lines() -> None:
    assert list(blocks_of("a\n\n```yaml g.yaml\nx: 1\n```\n")) == [Block("yaml", "g.yaml", "x: 1\n", 4)]
