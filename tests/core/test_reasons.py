"""docs/contract.md lists every `reason` of the contract's packages, with its class."""

from __future__ import annotations

import ast
import re

from support.workspace import ROOT

import stargraph.errors

SOURCES = sorted((ROOT / "packages/core/src/stargraph/checkpoint").rglob("*.py"))

# Every driver raises this one, and none of the core does.
OF_DRIVERS = {("closed", "CheckpointError")}

# Raised by a helper that takes the word as an argument.
BY_ARGUMENT = {
    ("unsealed", "CheckpointCorruptedError"),
    ("unknown-key", "CheckpointCorruptedError"),
    ("wrong-seal", "CheckpointCorruptedError"),
    ("run-failed", "NodeError"),
    ("no-encryption-key", "CheckpointCorruptedError"),
    ("undecipherable", "CheckpointCorruptedError"),
    ("unknown-encryption-key", "CheckpointCorruptedError"),
}


def _listed() -> list[tuple[str, str]]:
    page = (ROOT / "docs/contract.md").read_text().partition("## Errors")[2]
    return re.findall(r"^\| `([a-z-]+)` \| `(\w+)` \|", page, flags=re.MULTILINE)


def _raised() -> set[tuple[str, str]]:
    found = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Call):
                for keyword in node.keywords:
                    if keyword.arg == "reason" and isinstance(keyword.value, ast.Constant):
                        found.add((str(keyword.value.value), ast.unparse(node.func)))
    return found


def test_every_reason_is_listed_with_its_class() -> None:
    raised = _raised()
    assert len(raised) > 15
    assert set(_listed()) == raised | BY_ARGUMENT | OF_DRIVERS


def test_the_words_given_by_argument_are_in_the_code() -> None:
    code = "".join(source.read_text() for source in SOURCES)
    for word, _ in BY_ARGUMENT:
        assert f'"{word}"' in code


def test_the_list_is_in_order_and_names_classes_that_exist() -> None:
    listed = _listed()
    assert listed == sorted(set(listed))
    for word, error_class in listed:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", word)
        assert error_class in stargraph.errors.__all__
