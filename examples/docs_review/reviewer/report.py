"""The report: Markdown, the files that need work first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby

from reviewer.files import MARK
from reviewer.state import SEVERITIES, Review, Severity, State

_HINTS: dict[str, str] = {
    "broken-link": "a relative link or image whose file does not exist",
    "missing-anchor": "a link to a heading that is not there (ids as GitHub makes them)",
    "open-fence": "a code block without its end",
    "not-utf8": "text in another encoding than UTF-8",
    "binary": "data, not text",
    "too-large": "a file that is too large to review",
    "unreadable": "a file that cannot be opened",
    "no-text": "a file without words",
    "no-title": "the first heading is not of level 1, and there is no title in the front matter",
    "second-title": "more than one heading of level 1",
    "no-headings": "a long text without headings",
    "skipped-level": "a heading more than one level below the one before",
    "empty-heading": "a heading without text",
    "repeated-heading": "two headings of one name in one section",
    "empty-link": "a link without a target",
    "image-without-text": "an image without alternative text",
    "fence-without-language": "a code block that names no language",
    "todo": "TODO, FIXME, XXX, TBD or TBC, in text or in a comment",
    "open-task": "an open item of a task list",
    "long-file": "a file of more than 5000 words",
    "long-paragraph": "a paragraph of more than 200 words",
    "long-sentence": "a sentence of more than 40 words",
    "hard-to-read": "a Flesch reading ease below 30",
}


def summarise(state: State) -> str:
    """Return the outcome in a few words.

    Args:
        state: the state, with its reviews.
    """
    return f"{_counted(len(state.reviews), 'file')}, {_severities(state.reviews)}"


def render(state: State) -> str:
    """Return the report.

    Args:
        state: the state, with its reviews and their ranking.
    """
    return "\n".join(_lines(state)) + "\n"


def _lines(state: State) -> Iterator[str]:
    by_path = {review.path: review for review in state.reviews}
    reviews = [by_path[path] for path in state.ranking]
    yield from (MARK, "", "# Docs review", "", f"Folder: {_code(state.folder)}", "")
    if not reviews:
        yield "There are no Markdown files in it."
        return
    words, links, external = (
        sum(getattr(review, name) for review in reviews) for name in ("words", "links", "external_links")
    )
    yield (
        f"{_counted(len(reviews), 'file')} with {_counted(words, 'word')} and {_counted(links, 'link')}"
        f" ({external} of them into the web, not followed): **{_severities(reviews)}**."
    )
    yield from ("", "## Files, those that need work first", "")
    yield "| file | errors | warnings | notes | words | headings | links | reading ease |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for review in reviews:
        counts = " | ".join(str(review.count(severity) or "") for severity in SEVERITIES)
        ease = "" if review.reading_ease is None else f"{review.reading_ease:.0f}"
        figures = f"{review.words} | {review.headings} | {review.links} | {ease}"
        yield f"| {_code(review.path, in_table=True)} | {counts} | {figures} |"
    yield from ("", "## Findings")
    if not any(review.findings for review in reviews):
        yield from ("", "None.")
    for review in reviews:
        yield from _findings(review)
    yield from _legend(reviews)


def _findings(review: Review) -> Iterator[str]:
    if not review.findings:
        return
    yield from ("", f"### {_code(review.path)}", "")
    for finding in review.findings:
        line = "" if finding.line is None else f"line {finding.line}: "
        yield f"- **{finding.severity}** {line}{_escaped(finding.message)} ({_code(finding.rule)})"


def _legend(reviews: list[Review]) -> Iterator[str]:
    yield from ("", "## What the words mean", "")
    found = {(finding.severity, finding.rule) for review in reviews for finding in review.findings}
    ordered = sorted(found, key=lambda each: (SEVERITIES.index(each[0]), each[1]))
    for severity, rules in groupby(ordered, key=lambda each: each[0]):
        for _, rule in rules:
            yield f"- {_code(rule)} ({severity}): {_HINTS[rule]}"
    yield (
        "- reading ease: Flesch's formula of 1948, for English prose of 100 words or more; 60 to 70 is plain English,"
        " more is easier"
    )


def _severities(reviews: list[Review]) -> str:
    return ", ".join(_counted(_total(reviews, severity), severity) for severity in SEVERITIES)


def _total(reviews: list[Review], severity: Severity) -> int:
    return sum(review.count(severity) for review in reviews)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _code(text: str, *, in_table: bool = False) -> str:
    """A code span around any text."""
    text = "".join(character if character.isprintable() else "�" for character in text)
    if in_table:
        text = text.replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    ticks = "`" * (longest + 1)
    space = " " if "`" in text else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", text)
