"""No page, message or comment brings back a phrase that was replaced by plainer English."""

from __future__ import annotations

import re

from support.workspace import ROOT

NEVER = re.compile(
    r"None where|at the most|in which nothing|of the user.s|told again|belongs? into|at the begin of|is not said"
    r"|resumed so often|did not live to|It is meant:|are not concerned|without a word|dealings with|\b[Rr]eckon"
    r"|\banew\b|all the same\b|\btells? of\b|\b(a|each|every|another|next|last) try\b(?! to)"
)
FOLDERS = ("benchmarks", "conformance", "docs", "examples", "packages", "tests", "torture")


def test_no_phrase_that_was_replaced_comes_back() -> None:
    files = [*ROOT.glob("*.md"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.*"))]
    # A decision record is never edited.
    pages = [file for file in files if file.suffix in (".py", ".md") and "decisions" not in file.parts]
    assert len(pages) > 500
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in pages
        if file.name != "test_words.py"
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if NEVER.search(line)
    ]
    assert found == []
