"""The review of one file: each rule looks at the document and yields what it finds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from reviewer import prose
from reviewer.document import Document, LineCounter, parse
from reviewer.files import UnreadableFile, read_text
from reviewer.links import check_link, is_external
from reviewer.state import Finding, Review

MAX_PER_RULE: Final = 20
"""More findings of one rule in one file are counted, not listed."""

_LONG_FILE: Final = 5000
_LONG_PASSAGE: Final = 200
_LONG_SENTENCE: Final = 40
_NEEDS_HEADINGS: Final = 200
_TODO: Final = re.compile(r"\b(?:TODO|FIXME|XXX|TBD|TBC)\b(?P<rest>[^\n]*)")
_OPEN_TASK: Final = re.compile(r"\A\[ \] +(?P<rest>[^\n]*)")


def review(folder: Path, path: str) -> Review:
    """Review one file.

    Args:
        folder: the folder under review.
        path: the file, relative to it.

    Returns:
        What is known of it. A file that cannot be read gives a review that says so.
    """
    file = folder / path
    try:
        text = read_text(file)
    except UnreadableFile as error:
        return Review(path=path, findings=[Finding(rule=error.rule, severity="error", message=str(error))])
    document = parse(text.content)
    findings: list[Finding] = []
    if text.bad_line is not None:
        findings.append(
            Finding(rule="not-utf8", severity="error", line=text.bad_line, message="from here on, not all is UTF-8")
        )
    ease = prose.reading_ease(passage.plain for passage in document.passages if passage.is_prose)
    findings += _headings(document)
    findings += [found for link in document.links if (found := check_link(link, file, folder, document))]
    findings += _images(document)
    findings += _fences(document)
    findings += _notes(document)
    findings += _length(document, ease)
    return Review(
        path=path,
        words=document.words,
        headings=len(document.headings),
        links=len(document.links),
        external_links=sum(is_external(link) for link in document.links),
        reading_ease=ease,
        findings=sorted(_shortened(findings), key=lambda finding: finding.line or 0),
    )


def _headings(document: Document) -> Iterator[Finding]:
    headings = document.headings
    if not headings:
        if document.words >= _NEEDS_HEADINGS:
            yield _warning("no-headings", None, f"{document.words} words without a heading")
        return
    if headings[0].level != 1 and not document.has_title:
        yield _warning("no-title", headings[0].line, f"the first heading is of level {headings[0].level}, not 1")
    for title in [heading for heading in headings if heading.level == 1][1:]:
        yield _warning("second-title", title.line, f"a second heading of level 1: {_quoted(title.text)}")
    above: list[str] = []
    seen: set[tuple[str, ...]] = set()
    level = headings[0].level
    for heading in headings:
        if not heading.text.strip():
            yield _warning("empty-heading", heading.line, "the heading has no text")
        if heading.level > level + 1:
            jump = f"from level {level} to level {heading.level}"
            yield _warning("skipped-level", heading.line, f"the headings jump {jump}: {_quoted(heading.text)}")
        level = heading.level
        above = [*above[: level - 1], *[""] * (level - 1 - len(above)), heading.text]
        if tuple(above) in seen:
            yield _warning("repeated-heading", heading.line, f"the section has two headings {_quoted(heading.text)}")
        seen.add(tuple(above))


def _images(document: Document) -> Iterator[Finding]:
    for link in document.links:
        if link.kind == "image" and not link.text.strip():
            yield _warning("image-without-text", link.line, f"the image {_quoted(link.target)} has no alternative text")


def _fences(document: Document) -> Iterator[Finding]:
    for fence in document.fences:
        if not fence.is_closed:
            message = "the code block is never closed, so what follows is shown as code"
            yield Finding(rule="open-fence", severity="error", line=fence.line, message=message)
        elif not fence.language:
            yield _warning("fence-without-language", fence.line, "the code block names no language")


def _notes(document: Document) -> Iterator[Finding]:
    for passage in (*document.passages, *document.comments):
        lines = LineCounter(passage.text, passage.line)
        for found in _TODO.finditer(passage.plain):
            yield _note("todo", lines.at(found.start()), _quoted(passage.text[found.start() : found.end()]))
        task = _OPEN_TASK.search(passage.text)
        if task is not None:
            yield _note("open-task", passage.line, _quoted(task["rest"]))


def _length(document: Document, ease: float | None) -> Iterator[Finding]:
    if document.words == 0:
        yield _warning("no-text", None, "the file has no text")
    if document.words > _LONG_FILE:
        yield _note("long-file", None, f"{document.words} words: about {document.words // 238} minutes of reading")
    for passage in document.passages:
        words = len(passage.text.split())
        if passage.is_prose and words > _LONG_PASSAGE:
            yield _note("long-paragraph", passage.line, f"a paragraph of {words} words")
            continue
        lines = LineCounter(passage.text, passage.line)
        for start, end in prose.sentences(passage.plain) if passage.is_prose else ():
            sentence = passage.text[start:end]
            words = len(sentence.split())
            if words > _LONG_SENTENCE:
                yield _note("long-sentence", lines.at(start), f"a sentence of {words} words: {_quoted(sentence)}")
    if ease is not None and ease < prose.VERY_DIFFICULT:
        yield _note("hard-to-read", None, f"a Flesch reading ease of {ease}, which is very difficult")


def _shortened(findings: Iterable[Finding]) -> Iterator[Finding]:
    counted: Counter[str] = Counter()
    severities = {}
    for finding in findings:
        counted[finding.rule] += 1
        severities[finding.rule] = finding.severity
        if counted[finding.rule] <= MAX_PER_RULE:
            yield finding
    for rule, count in counted.items():
        if count > MAX_PER_RULE:
            message = f"and {count - MAX_PER_RULE} more of these"
            yield Finding(rule=rule, severity=severities[rule], message=message)


def _quoted(text: str) -> str:
    """A piece of the document for a message: one short line, and nothing that a terminal would obey."""
    line = " ".join("".join(character if character.isprintable() else " " for character in text[:1000]).split())
    return f"“{line}”" if len(line) <= 80 else f"“{line[:79]}…”"


def _warning(rule: str, line: int | None, message: str) -> Finding:
    return Finding(rule=rule, severity="warning", line=line, message=message)


def _note(rule: str, line: int | None, message: str) -> Finding:
    return Finding(rule=rule, severity="note", line=line, message=message)
