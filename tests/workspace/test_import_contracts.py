"""The import contracts of pyproject.toml: that they name every package, and that they really see it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.workspace import ROOT, distributions

CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]

_LINT = """
import sys
sys.path[:] = sys.argv[2:] + [path for path in sys.path if not path.endswith("/src")]  # where editable installs point
from importlinter.cli import lint_imports
sys.exit(lint_imports(config_filename=sys.argv[1] + "/pyproject.toml", no_cache=True))
"""


def _named(contract: dict[str, list[str]]) -> set[str]:
    return {name.strip(" ()") for layer in contract["layers"] for name in layer.replace("|", ":").split(":")}


def test_every_package_is_named() -> None:
    leaves = {leaf for distribution in distributions() for leaf in distribution.leaves()}
    assert len(leaves) > 5
    by_name = {contract["name"]: contract for contract in CONTRACTS}
    assert leaves <= _named(by_name["The core knows no driver"])
    # A package of one module, as the errors are, can have no circle.
    assert leaves - {"stargraph.errors"} <= set(by_name["No import cycles"]["ancestors"])
    drivers = {leaf for each in distributions() if each.folder.parent.name == "packages" for leaf in each.leaves()}
    assert drivers <= _named(by_name["A driver stands on the contract alone"])


@pytest.mark.parametrize(
    ("module", "imported", "broken"),
    [
        ("errors", "stargraph.checkpoint.protocol", "Layers of the engine"),
        ("checkpoint/protocol", "stargraph.checkpoint.codec", "Layers of the engine"),
        ("checkpoint/codec", "stargraph.checkpoint.registry", "Layers of the engine"),
        ("ir", "stargraph.engine", "Layers of the engine"),
        ("runtime", "stargraph.graph", "Layers of the engine"),
        ("graph", "stargraph.cli", "Layers of the engine"),
        ("checkpoint/sqlite", "stargraph.graph", "A driver stands on the contract alone"),
        ("checkpoint/sqlite", "stargraph.checkpoint.registry", "A driver stands on the contract alone"),
        ("runtime", "stargraph.checkpoint.sqlite", "The core knows no driver"),
        ("checkpoint/registry", "stargraph.checkpoint.sqlite", "The core knows no driver"),
        ("cli", "stargraph.checkpoint.registry", None),
        ("checkpoint/sqlite", "stargraph.checkpoint.codec", None),
    ],
)
def test_a_planted_import_is_seen_across_distributions(
    module: str, imported: str, broken: str | None, tmp_path: Path
) -> None:
    portions = []
    for distribution in distributions():
        portion = tmp_path / distribution.name
        shutil.copytree(distribution.src, portion, ignore=shutil.ignore_patterns("__pycache__"))
        portions.append(str(portion))
        package = portion / "stargraph" / module
        if package.is_dir():
            (package / "planted.py").write_text(f"import {imported}\n")
    done = subprocess.run(
        [sys.executable, "-c", _LINT, str(ROOT), *portions], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    verdict = ", 0 broken." if broken is None else f"{broken} BROKEN"
    assert verdict in done.stdout, done.stdout + done.stderr
    assert done.returncode == (0 if broken is None else 1)
