"""What this repository holds: its distributions, their packages, their documents."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Distribution:
    """A folder that becomes one wheel."""

    folder: Path
    project: dict[str, Any]

    @property
    def name(self) -> str:
        name = self.project["name"]
        assert isinstance(name, str)
        return name

    @property
    def src(self) -> Path:
        return self.folder / "src"

    def packages(self) -> Iterator[str]:
        """Yield the importable packages that have no underscore in their names."""
        for init in sorted(self.src.rglob("__init__.py")):
            parts = init.parent.relative_to(self.src).parts
            if not any(part.startswith("_") for part in parts):
                yield ".".join(parts)

    def leaves(self) -> Iterator[str]:
        """Yield the packages right below the namespace levels."""
        for name in self.packages():
            if not (self.path_of(name).parent / "__init__.py").exists():
                yield name

    def path_of(self, package: str) -> Path:
        return self.src.joinpath(*package.split("."))


def distributions() -> list[Distribution]:
    files = [*sorted(ROOT.glob("packages/*/pyproject.toml")), ROOT / "conformance/pyproject.toml"]
    return [Distribution(file.parent, tomllib.loads(file.read_text())["project"]) for file in files if file.exists()]


def documents() -> list[Path]:
    """Return the Markdown files that users read."""
    patterns = ("*.md", "docs/**/*.md", "packages/*/*.md", "conformance/*.md", "examples/**/*.md")
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
