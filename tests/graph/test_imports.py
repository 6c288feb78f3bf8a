"""What an import leaves out, because only some runs need it."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

HEAVY: Final = ("multiprocessing", "importlib.metadata", "email", "zipfile", "ruamel.yaml", "celpy", "typer", "rich")

FIRST_VALIDATOR: Final = "pydantic.plugin._loader"
"""What pydantic imports when it builds the first validator of a process."""


def imported_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "from stargraph.graph import Graph, Run",
        "import stargraph.checkpoint.memory",
        "import stargraph.checkpoint.sqlite",
        "import stargraph.checkpoint.postgres",
    ],
)
def test_an_import_loads_no_machinery_and_builds_no_validator(statement: str) -> None:
    assert imported_by(statement) & {*HEAVY, FIRST_VALIDATOR} == set()


def test_the_first_validator_of_a_process_shows_in_its_modules() -> None:
    assert FIRST_VALIDATOR in imported_by("import pydantic; pydantic.TypeAdapter(int)")
