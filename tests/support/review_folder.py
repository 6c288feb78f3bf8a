"""A folder of Markdown files with known faults, and the docs review run on it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from stargraph.checkpoint.protocol import RunSummary
from stargraph.graph import Graph
from support.memory import MemoryCheckpointer
from support.workspace import ROOT

EXAMPLE = ROOT / "examples/docs_review"
GRAPH = EXAMPLE / "graph.yaml"
COMMAND = Path(sys.executable).with_name("stargraph")

FAULTY = """\
---
author: somebody
---
## Start here

See [the guide](guide.md#set-up), [nothing](missing.md), [its part](guide.md#nowhere), [here](#start-here),
[there](#gone), [the web](https://example.org/a) and [no target]().

![](picture.png) ![a picture](picture.png)

#### Deep

TODO: say more. `TODO` in code is code.

- [ ] an open task
- [x] a closed one

```
no language
```

<!-- FIXME: hidden -->
<a id="by-hand"></a> and [by hand](#by-hand)

~~~python
never_closed = True
"""

FOUND = [
    ("no-title", 4),
    ("broken-link", 6),
    ("missing-anchor", 6),
    ("missing-anchor", 7),
    ("empty-link", 7),
    ("image-without-text", 9),
    ("skipped-level", 11),
    ("todo", 13),
    ("open-task", 15),
    ("fence-without-language", 18),
    ("todo", 22),
    ("open-fence", 25),
]

GUIDE = "# Guide\n\n## Set up\n\nDo it. [Back](faulty.md)\n\n```sh\nmake\n```\n"


def make_folder(folder: Path) -> Path:
    """Make a folder with a faulty file and a good one.

    Args:
        folder: where.
    """
    folder.mkdir(parents=True)
    (folder / "faulty.md").write_text(FAULTY)
    (folder / "guide.md").write_text(GUIDE)
    (folder / "picture.png").write_bytes(b"\x89PNG")
    return folder


def run_review(folder: Path, report: Path, **inputs: Any) -> tuple[RunSummary, dict[str, Any]]:
    """Run the review in this process, on a store in memory.

    Args:
        folder: the folder to review.
        report: where the report goes.
        inputs: more of the state.
    """

    async def run() -> tuple[RunSummary, dict[str, Any]]:
        graph = Graph.from_file(GRAPH)
        checkpointer = MemoryCheckpointer()
        await checkpointer.bootstrap()
        given = {"folder": os.fspath(folder), "report": os.fspath(report), **inputs}
        review = await graph.start(checkpointer=checkpointer, inputs=given)
        summary = await review.start()
        return summary, summary.stored_state

    return asyncio.run(run())
