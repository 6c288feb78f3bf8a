"""The README lists every `reason` of the driver, with its class."""

from __future__ import annotations

import ast
import re

from support.workspace import ROOT

PACKAGE = ROOT / "packages/sqlite"

# Told by the contract's own page.
OF_THE_CONTRACT = {
    ("closed", "CheckpointError"),
    ("corrupted-record", "CheckpointCorruptedError"),
    ("newer-format", "StoreVersionError"),
    ("older-format", "StoreVersionError"),
}


def test_every_reason_is_listed_with_its_class() -> None:
    raised = set()
    for source in PACKAGE.rglob("src/**/*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Call):
                for keyword in node.keywords:
                    if keyword.arg == "reason":
                        words = [part.value for part in ast.walk(keyword.value) if isinstance(part, ast.Constant)]
                        raised |= {(word, ast.unparse(node.func)) for word in words if isinstance(word, str)}
    listed = re.findall(r"^\| `([a-z-]+)` \| `(\w+)` \|", (PACKAGE / "README.md").read_text(), flags=re.MULTILINE)
    assert len(raised) > 15
    raised.add(("missing-step", "CheckpointCorruptedError"))  # made by the toolkit of drivers
    assert set(listed) == raised - OF_THE_CONTRACT
    assert listed == sorted(set(listed))
