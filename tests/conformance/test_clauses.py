"""Every sentence of the contract has an id, and a check that proves it or a reason why none can."""

from __future__ import annotations

import re

import pytest
from support.clauses import CONTRACT, TABLE, clauses, proofs, table

from stargraph.checkpoint.conformance import catalogue
from stargraph.checkpoint.conformance._clauses import UNPROVED


def test_each_check_names_sentences_of_the_contract() -> None:
    known = clauses().keys()
    astray = {check.id: clause for check in catalogue() for clause in check.clauses if clause not in known}
    assert not astray


def test_each_sentence_is_proved_or_says_why_not() -> None:
    unproved = {clause for clause, checks in proofs().items() if not checks}
    assert unproved == UNPROVED.keys()


def test_ids_are_given_once() -> None:
    found = re.findall(r'<a id="([\w.]+)"', CONTRACT.read_text())
    assert len(found) == len(set(found)) > 90


def _paragraphs() -> list[str]:
    """The paragraphs, items and rows that say what a store does."""
    promises = CONTRACT.read_text().partition("## The log")[2].partition("## A whole driver")[0]
    lines = re.sub(r"\n(?![\n|#-])", " ", promises).splitlines()
    return [line for line in lines if line.strip() and not line.startswith(("#", "| #", "| ---", "| protocol"))]


@pytest.mark.parametrize("paragraph", _paragraphs(), ids=lambda paragraph: paragraph[:60])
def test_each_sentence_has_an_id(paragraph: str) -> None:
    if paragraph.startswith("|"):
        assert '<a id="' in paragraph
        return
    for sentence in re.split(r"(?<=\.)\s+(?=[A-Z`\"<])", paragraph.removeprefix("- ").strip()):
        assert sentence.startswith('<a id="'), sentence


def test_the_table_is_that_of_the_kit() -> None:
    assert TABLE.read_text() == table(), "run `make contract-checks`"
