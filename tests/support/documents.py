"""Run the code of a Markdown document, block after block, as a reader would.

`python` blocks run in one namespace; `await` works at their top level. A block whose fence names a file after the
language (```` ```yaml triage.yaml ````, ```` ```python my_nodes.py ````) is written to that file instead, in the
current directory, which is importable. Other languages are text.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}) *(?P<language>[\w+-]*) *(?P<name>[^`\s]*) *$")


@dataclass(frozen=True)
class Block:
    """A fenced block; `line` is the number of its first line of text, from 1."""

    language: str
    name: str
    text: str
    line: int


def blocks_of(document: str) -> Iterator[Block]:
    lines = iter(enumerate(document.splitlines(), start=1))
    for number, line in lines:
        opening = _FENCE.match(line)
        if opening is None:
            continue
        body = []
        for _, inner in lines:
            if inner.strip() == opening["fence"]:
                break
            body.append(inner)
        else:
            raise ValueError(f"line {number}: the block never ends")
        text = textwrap.dedent("\n".join(body)) + "\n"
        yield Block(opening["language"], opening["name"], text, number + 1)


def run(path: Path) -> None:
    """Run a document in the current directory.

    Args:
        path: the document.
    """
    sys.path.insert(0, str(Path.cwd()))
    # A block defines classes as a module does: pydantic and typing look their names up there.
    namespace = sys.modules["__main__"].__dict__
    with asyncio.Runner() as runner:
        for block in blocks_of(path.read_text(encoding="utf-8")):
            if block.name:
                Path(block.name).parent.mkdir(parents=True, exist_ok=True)
                Path(block.name).write_text(block.text, encoding="utf-8")
            elif block.language == "python":
                # The leading lines make a traceback name the line of the document.
                source = "\n" * (block.line - 1) + block.text
                code = compile(source, str(path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
                result = eval(code, namespace)
                if inspect.iscoroutine(result):
                    runner.run(result)


if __name__ == "__main__":
    run(Path(sys.argv[1]).resolve())
