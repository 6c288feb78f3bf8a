"""The nodes of the graph: each takes the state and returns the fields that it changes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from reviewer.files import find_markdown, is_report, write_text
from reviewer.report import render, summarise
from reviewer.review import review
from reviewer.state import SEVERITIES, State
from stargraph.graph import Context


def find_files(state: State, ctx: Context) -> dict[str, Any]:
    """List the files, and make the paths independent of the directory that a resume starts in."""
    _note_execution(state, ctx)
    folder = _absolute(state.folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    return {
        "folder": str(folder),
        "report": str(_absolute(state.report)),
        "ledger": state.ledger and str(_absolute(state.ledger)),
        "files": [name for name in find_markdown(folder) if not is_report(folder / name)],
    }


def review_file(state: State, ctx: Context) -> dict[str, Any]:
    """Review the file that this branch of the map is about."""
    _note_execution(state, ctx)
    time.sleep(state.pace)
    return {"reviews": [review(Path(state.folder), str(ctx.item))]}


def rank_files(state: State, ctx: Context) -> dict[str, Any]:
    """Put the files with the most errors first, then those with the most warnings, then notes."""
    _note_execution(state, ctx)
    worst_first = sorted(
        state.reviews, key=lambda each: (*(-each.count(severity) for severity in SEVERITIES), each.path)
    )
    return {"ranking": [each.path for each in worst_first]}


def write_report(state: State, ctx: Context) -> dict[str, Any]:
    """Write the report, in one piece, so that a repeated execution leaves the same file."""
    _note_execution(state, ctx)
    write_text(Path(state.report), render(state))
    return {"summary": f"{summarise(state)}; the report is {state.report}"}


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()


def _note_execution(state: State, ctx: Context) -> None:
    if state.ledger is None:
        return
    line = json.dumps({"process": os.getpid(), "node": ctx.node, "file": ctx.item})
    with Path(state.ledger).expanduser().open("a", encoding="utf-8") as ledger:
        ledger.write(f"{line}\n")
