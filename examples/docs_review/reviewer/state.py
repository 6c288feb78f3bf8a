"""The state of the review: what goes in, and what is collected on the way."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

Severity: TypeAlias = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""The worst one first."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Finding(_Model):
    """One thing that somebody should look at.

    Attributes:
        rule: which rule found it, as in `broken-link`.
        severity: `error` is wrong for every reader, `warning` probably, `note` is for the author.
        line: the line in the file, from 1; None if the whole file is meant.
        message: what is wrong.
    """

    rule: str
    severity: Severity
    line: int | None = None
    message: str


class Review(_Model):
    """What is known of one file.

    Attributes:
        path: the file, relative to the folder.
        words: the number of words, code blocks not counted.
        headings: the number of headings.
        links: the number of links and images.
        external_links: those of them that lead into the web, which are not followed.
        reading_ease: the Flesch reading ease; None if there is too little English prose.
        findings: what is wrong, in the order of lines.
    """

    path: str
    words: int = 0
    headings: int = 0
    links: int = 0
    external_links: int = 0
    reading_ease: float | None = None
    findings: list[Finding] = []

    def count(self, severity: Severity) -> int:
        """Return the number of findings of one severity."""
        return sum(finding.severity == severity for finding in self.findings)


class State(_Model):
    """The state of a run.

    Attributes:
        folder: the folder to review.
        report: the file to write.
        pace: seconds that each file takes at the least, for those who want to watch.
        ledger: a file that gets a line for every execution of a node, for those who want to count.
        files: the Markdown files, relative to the folder.
        reviews: what is known of each.
        ranking: the files by how much work they need.
        summary: the outcome in one line.
    """

    folder: str
    report: str = "docs-review.md"
    pace: Annotated[float, Field(ge=0, le=60, allow_inf_nan=False)] = 0.0
    ledger: str | None = None
    files: list[str] = []
    reviews: Annotated[list[Review], Field(json_schema_extra={"reduce": "append"})] = []
    ranking: list[str] = []
    summary: str = ""
