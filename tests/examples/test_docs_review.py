"""The docs review: what it finds, what it writes, and that no file breaks it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.review_folder import FAULTY, FOUND, make_folder, run_review

from reviewer.files import MARK, MAX_BYTES
from reviewer.prose import reading_ease
from reviewer.review import MAX_PER_RULE, review


def _reviews(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["path"]: each for each in state["reviews"]}


def _rules(state: dict[str, Any], path: str) -> list[str]:
    return [finding["rule"] for finding in _reviews(state)[path]["findings"]]


def _review(folder: Path, text: str | bytes) -> list[tuple[str, int | None]]:
    (folder / "file.md").write_bytes(text.encode() if isinstance(text, str) else text)
    return [(finding.rule, finding.line) for finding in review(folder, "file.md").findings]


def test_every_fault_is_found_where_it_is(tmp_path: Path) -> None:
    summary, state = run_review(make_folder(tmp_path / "docs"), tmp_path / "report.md")
    assert summary.status == "done"
    found = [(finding["rule"], finding["line"]) for finding in _reviews(state)["faulty.md"]["findings"]]
    assert found == FOUND
    assert _rules(state, "guide.md") == []
    assert state["ranking"] == ["faulty.md", "guide.md"]
    figures = {name: _reviews(state)["faulty.md"][name] for name in ("headings", "links", "external_links")}
    assert figures == {"headings": 2, "links": 10, "external_links": 1}


def test_the_report_names_the_faults_and_their_places(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "docs")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    _, state = run_review(folder, tmp_path / "new/report.md")
    report = (tmp_path / "new/report.md").read_text()
    assert report.startswith(MARK)
    assert "2 files with" in report
    assert "**4 errors, 5 warnings, 3 notes**" in report
    assert "- **error** line 6: the link leads to 'missing.md', which does not exist (`broken-link`)" in report
    assert "- **note** line 13: “TODO: say more.”"[:25] in report
    assert "| `guide.md` |  |  |  |" in report
    assert state["summary"].startswith("2 files, 4 errors, 5 warnings, 3 notes")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_report_replaces_a_report_and_nothing_else(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "docs")
    for _ in range(2):
        summary, state = run_review(folder, folder / "report.md")
        assert summary.status == "done"
        assert state["files"] == ["faulty.md", "guide.md"]
    guide = (folder / "guide.md").read_text()
    summary, _ = run_review(folder, folder / "guide.md")
    assert summary.status == "failed"
    assert summary.error is not None
    assert "is there already" in summary.error.message
    assert (folder / "guide.md").read_text() == guide


def test_odd_files_do_not_break_it(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "docs")
    (folder / "empty.md").touch()
    (folder / "huge.md").write_bytes(b"word " * (MAX_BYTES // 5 + 1))
    (folder / "binary.md").write_bytes(bytes(range(256)))
    (folder / "latin.md").write_bytes("# Fine\n\nText.\n\ncafé\n".encode("latin-1"))
    (folder / "utf16.md").write_text("# Title\n", encoding="utf-16")
    (folder / "plain.md").write_text("no headings, " * 120)
    (folder / "loop.md").symlink_to("loop.md")
    (folder / "dangling.md").symlink_to("nowhere.md")
    (folder / "again").symlink_to(folder, target_is_directory=True)
    (folder / "folder.md").mkdir()
    (folder / "with ` and | and\nline.md").write_text("# Odd name\n\nText.\n")
    (folder / ".hidden").mkdir()
    (folder / ".hidden/inside.md").write_text("TODO\n")
    (folder / "venv").mkdir()
    (folder / "venv/pyvenv.cfg").touch()
    (folder / "venv/inside.md").write_text("TODO\n")
    os.mkfifo(folder / "pipe.md")
    Path(os.fsdecode(os.fsencode(folder) + b"/not-\xff-utf8.md")).write_text("# Title\n")
    summary, state = run_review(folder, tmp_path / "report.md")
    assert summary.status == "done"
    assert {path: _rules(state, path) for path in state["files"] if path != "faulty.md"} == {
        "binary.md": ["binary"],
        "dangling.md": ["unreadable"],
        "empty.md": ["no-text"],
        "guide.md": [],
        "huge.md": ["too-large"],
        "latin.md": ["not-utf8"],
        "loop.md": ["unreadable"],
        "not-\\xff-utf8.md": ["unreadable"],
        "plain.md": ["no-headings", "long-paragraph"],
        "utf16.md": ["not-utf8"],
        "with ` and | and\nline.md": [],
    }
    assert "`` with ` and \\| and�line.md ``" in (tmp_path / "report.md").read_text()


def test_a_folder_without_documents_gives_a_report_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    summary, state = run_review(tmp_path / "docs", tmp_path / "report.md")
    assert summary.status == "done"
    assert state["files"] == []
    assert "no Markdown files" in (tmp_path / "report.md").read_text()


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    summary, _ = run_review(tmp_path / "docs", tmp_path / "report.md")
    assert summary.status == "failed"
    assert summary.error is not None
    assert summary.error.message == f"{tmp_path}/docs is not a folder"


def test_the_ledger_has_a_line_for_each_execution(tmp_path: Path) -> None:
    run_review(make_folder(tmp_path / "docs"), tmp_path / "report.md", ledger=f"{tmp_path}/ledger.jsonl")
    entries = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert {entry["process"] for entry in entries} == {os.getpid()}
    assert sorted((entry["node"], entry["file"] or "") for entry in entries) == [
        ("find", ""),
        ("rank", ""),
        ("report", ""),
        ("review", "faulty.md"),
        ("review", "guide.md"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# A\n\n# B\n\nx\n", [("second-title", 3)]),
        ("# A\n\n## B\n\n## B\n\n### C\n", [("repeated-heading", 5)]),
        ("# A\n\n## B\n\n### X\n\n## C\n\n### X\n", []),
        ("# A\n\n##\n", [("empty-heading", 3)]),
        ("---\ntitle: A\n---\n## B\n\nx\n", []),
        ("# A `code` b!\n\n[x](#a-code-b) [y](#A-Code-B)\n", []),
        ("# A\n\n## B\n\n## B.\n\n[x](#b-1) [y](#b-2)\n", [("missing-anchor", 7)]),
        ("# A {#own}\n\n[x](#own)\n", []),
        ("# A\r\n\r\n[x](a%20b.md)\r\n", [("broken-link", 3)]),
        ("# A\n\nx\n<img src='no.png' alt='n'>\n", [("broken-link", 4)]),
        ("# A\n\n<!-- [x](no.md) <img src=no> -->\n\nx\n", []),
        ("# A\n\n```py\n[x](no.md) TODO\n```\n", []),
        ("# A\n\n- b\n\n  ```\n  c\n\nd\n", [("open-fence", 5)]),
        ("# A\n\n[x](/file.md) [y](/no.md) [z](mailto:a@b.c) [w](//h/x)\n", [("broken-link", 3)]),
        ("# A\n\n[x](" + "n" * 5000 + ".md) [y](%00.md)\n", [("broken-link", 3), ("broken-link", 3)]),
        ("# A\n\n" + "a word and " * 14 + "it ends.\n", [("long-sentence", 3)]),
        (b"\xef\xbb\xbf# A\n\nx\n", []),
        (b"# A\n\n\xff\n", [("not-utf8", 3)]),
    ],
)
def test_rules(tmp_path: Path, text: str | bytes, expected: list[tuple[str, int | None]]) -> None:
    assert _review(tmp_path, text) == expected


def test_many_findings_of_one_rule_are_counted(tmp_path: Path) -> None:
    found = _review(tmp_path, "# A\n\n" + "TODO\n" * (MAX_PER_RULE + 5))
    assert len(found) == MAX_PER_RULE + 1
    assert review(tmp_path, "file.md").findings[0].message == "and 5 more of these"


def test_messages_cannot_drive_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "file.md").write_text("# A\n\nTODO \x1b[31mred\x07\n\n[x](no%1b%5B2J.md)\n")
    messages = [finding.message for finding in review(tmp_path, "file.md").findings]
    assert len(messages) == 2
    assert all(message.isprintable() for message in messages)


@pytest.mark.parametrize("unit", ["<!--", "<!", "<a href='x' ", "<p a='", ".", "{#a", " "])
def test_hostile_text_takes_time_in_proportion(tmp_path: Path, unit: str) -> None:
    """What is quadratic in any of these takes hours."""
    _review(tmp_path, "# A " + unit * (400_000 // len(unit)) + "z")


def test_the_reading_ease_is_flesch_s() -> None:
    """By hand: 120 words, 20 sentences, 120 syllables: 206.835 - 1.015 * 6 - 84.6 * 1."""
    assert reading_ease(["The cat sat on the mat. " * 20]) == 116.1
    assert reading_ease(["The cat sat on the mat. " * 10]) is None
    assert reading_ease(["Die Katze saß auf einer Matte und schlief dann ein. " * 20]) is None


def test_hard_text_is_noticed(tmp_path: Path) -> None:
    hard = "The institutionalization of organizational accountability necessitates interdisciplinary considerations. "
    assert ("hard-to-read", None) in _review(tmp_path, "# A\n\n" + hard * 15)
    assert "hard-to-read" not in dict(_review(tmp_path, FAULTY))
