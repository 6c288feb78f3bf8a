"""docs/formats.md says what an export is: its example is one, and its tables name what the code writes."""

from __future__ import annotations

import io
import json
import re

from support.documents import blocks_of
from support.workspace import ROOT

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.transfer import export_runs, import_runs
from stargraph.transfer._lines import FORMAT, MAX_LINE, VERSION

PAGE = (ROOT / "docs/formats.md").read_text()
EXAMPLE = next(block.text for block in blocks_of(PAGE) if block.name == "example.jsonl").encode()


async def test_the_example_is_what_an_export_of_its_run_is() -> None:
    async with MemoryCheckpointer() as store:
        report = await import_runs(store, io.BytesIO(EXAMPLE))
        assert (report.runs, report.steps, report.refused) == (1, 2, ())
        again = io.BytesIO()
        await export_runs(store, again)
    assert again.getvalue().splitlines()[1:-1] == EXAMPLE.splitlines()[1:-1]
    assert set(json.loads(EXAMPLE.splitlines()[2])["checkpoint"]) == {"form", *Checkpoint.model_fields}


def test_the_page_names_the_format_its_version_and_its_bounds() -> None:
    assert f'`"{FORMAT}"` and the integer {VERSION}' in PAGE
    assert f"## The export file, version {VERSION}" in PAGE
    assert f"at most {MAX_LINE:,} bytes" in PAGE


def test_every_member_of_a_checkpoint_is_in_one_of_the_two_pages() -> None:
    digest = (ROOT / "docs/digest.md").read_text()
    named = set(re.findall(r"`([a-z_]+)`", digest[digest.index("## The digest") :] + PAGE))
    assert set(Checkpoint.model_fields) <= named
