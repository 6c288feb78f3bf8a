"""The API page names every public member of what a program uses, with arguments that exist."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from pydantic import BaseModel
from support.workspace import ROOT

from stargraph.graph import Context, Graph, GraphBuilder, Run, RunResult, RunSummary
from stargraph.ir import Edge
from stargraph.worker import Worker

PAGE = (ROOT / "docs/api.md").read_text(encoding="utf-8")
CLASSES = [Graph, GraphBuilder, Edge, Run, RunResult, RunSummary, Context, Worker]


def members(kind: type[Any]) -> set[str]:
    """Return what the class and its docstring say that it has; of a result, what it has beyond a summary."""
    found = {name for name, value in list(vars(kind).items()) if callable(value) or hasattr(value, "__get__")}
    found |= set(kind.model_fields if issubclass(kind, BaseModel) and kind is not RunResult else ())
    attributes = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    found |= set(re.findall(r"^    (\w+):", attributes, flags=re.MULTILINE))
    inherited = {*dir(BaseModel), "of"} if issubclass(kind, BaseModel) else set()
    return {name for name in found - inherited if not name.startswith("_")}


def named(section: str) -> set[str]:
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE)
    codes = [code for cell in cells for code in re.findall(r"`([^`]+)`", cell)]
    return {re.sub(r"^(await |\w+\.(?=\w+\())", "", code).partition("(")[0] for code in codes}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: str(kind.__name__))
def test_the_page_names_every_member(kind: type[Any]) -> None:
    assert members(kind) - named(kind.__name__) == set()


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: str(kind.__name__))
def test_arguments_on_the_page_exist(kind: type[Any]) -> None:
    text = PAGE.partition(f"\n## {kind.__name__}\n")[2].partition("\n## ")[0].partition("| --- |")[2]
    for name, arguments in re.findall(r"`(?:await )?(?:\w+\.)?(\w+)\(([^`]*)\)`", text):
        if name in members(kind):
            known = inspect.signature(getattr(kind, name)).parameters
            assert set(re.findall(r"(\w+)=(?=[,)]|$)", arguments)) <= set(known), name
