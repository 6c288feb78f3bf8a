"""docs/architecture.md names what is there: packages, their public names, modules and folders."""

from __future__ import annotations

import importlib
import re

import pytest
from support.workspace import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text()
CORE = ROOT / "packages/core/src/stargraph"


def _rows(heading: str) -> list[list[str]]:
    table = PAGE.partition(heading)[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ") and "---" not in line]
    return [[cell.strip() for cell in row] for row in rows[1:]]


@pytest.mark.parametrize("row", _rows("## What lives where"), ids=lambda row: row[0])
def test_a_package_has_the_names_that_the_page_gives_it(row: list[str]) -> None:
    package = re.findall(r"`(stargraph[\w.]*)`", row[0])[0]
    module = importlib.import_module(package)
    names = [name for name in re.findall(r"`([^`]+)`", row[2]) if name.isidentifier()]
    assert names or "`" in row[2] or row[2] == "internal"
    assert [name for name in names if not hasattr(module, name) and name != "stargraph"] == []


def test_each_module_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`((?:\w+/)*_\w+\.py)`", PAGE))
    modules = {file.name for folder in ("packages", "conformance") for file in (ROOT / folder).rglob("src/**/_*.py")}
    assert len(named) > 30
    assert [name for name in named if not ((CORE / name).is_file() if "/" in name else name in modules)] == []


def test_each_class_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`([A-Z][a-z]\w+)(?:\.\w+)?(?:\(…\))?`", PAGE))
    files = [file for folder in ("packages", "conformance") for file in (ROOT / folder).rglob("src/**/*.py")]
    classes = set(re.findall(r"^class (\w+)", "\n".join(file.read_text() for file in files), re.MULTILINE))
    assert len(named) > 20
    assert named - classes == set()


def test_each_folder_of_tests_that_the_page_names_is_there() -> None:
    named = re.findall(r"`(tests/\w+|torture/?)[/`]", PAGE)
    assert len(named) > 8
    assert [name for name in named if not (ROOT / name).is_dir()] == []
