"""requirements.lock holds a version of everything that the distributions and their development need."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.workspace import ROOT

LOCK = (ROOT / "requirements.lock").read_text()
PINNED = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", LOCK, re.MULTILINE)
}
FILES = [ROOT / "pyproject.toml", ROOT / "conformance/pyproject.toml", *sorted(ROOT.glob("packages/*/pyproject.toml"))]


def _wanted(path: Path) -> Iterator[Requirement]:
    content = tomllib.loads(path.read_text())
    project = content["project"]
    for text in project.get("dependencies", ()):
        yield Requirement(text)
    for text in content.get("dependency-groups", {}).get("dev", ()):
        yield Requirement(text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_requirement_is_pinned_to_a_version_that_fits(path: Path) -> None:
    for requirement in _wanted(path):
        if requirement.name.startswith("stargraph-"):
            continue
        version = PINNED.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is missing in requirements.lock: run `make lock`"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}, but {version} is pinned"


def test_each_pin_has_a_hash() -> None:
    entries = [entry for entry in re.split(r"\n(?=\S)", LOCK) if entry and not entry.startswith("#")]
    assert len(entries) >= len(PINNED) > 50
    assert [entry.partition(" ")[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_it_names_no_package_index() -> None:
    assert "://" not in LOCK
