"""Files: which ones are reviewed, how they are read, how the report is written."""

from __future__ import annotations

import codecs
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MARK: Final = "<!-- Written by the docs review of Stargraph. -->"
"""The first line of every report, by which reports are told from documents."""

MAX_BYTES: Final = 2 * 2**20

_SUFFIXES: Final = frozenset({".md", ".markdown", ".mdown", ".mkd"})
_NOT_OURS: Final = frozenset({"node_modules", "site-packages", "vendor", "__pycache__"})
_UTF16_MARKS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class UnreadableFile(Exception):
    """Says why a file cannot be reviewed.

    Args:
        rule: the rule of the finding.
        message: the reason.
    """

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


@dataclass(frozen=True)
class Text:
    """The text of a file.

    Attributes:
        content: the text; bytes that are not UTF-8 are replaced.
        bad_line: the line of the first such byte, from 1; None if there is none.
    """

    content: str
    bad_line: int | None


def find_markdown(folder: Path) -> list[str]:
    """Return the Markdown files below a folder, relative to it, in order.

    Hidden folders, virtual environments and folders of dependencies are left out, links to folders are not
    followed, and neither pipes nor devices are touched.

    Args:
        folder: the folder.
    """
    found = []
    for place, folders, names in os.walk(folder):
        here = Path(place)
        folders[:] = [name for name in folders if not _is_left_out(here / name)]
        for name in names:
            file = here / name
            if is_markdown(file) and (file.is_file() or file.is_symlink()):
                found.append(file.relative_to(folder).as_posix())
    # A name that is not UTF-8 cannot be part of the state; it is shown, and found to be unreadable.
    return sorted(os.fsencode(name).decode(errors="backslashreplace") for name in found)


def is_markdown(file: Path) -> bool:
    """Tell by its name whether a file is Markdown.

    Args:
        file: the file.
    """
    return file.suffix.lower() in _SUFFIXES


def _is_left_out(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name in _NOT_OURS or (folder / "pyvenv.cfg").exists()


def is_report(file: Path) -> bool:
    """Return whether a file is a report of this graph.

    Args:
        file: the file.
    """
    try:
        with file.open("rb") as stream:
            return stream.read(len(MARK)) == MARK.encode()
    except OSError:
        return False


def read_text(file: Path) -> Text:
    """Read a Markdown file.

    Args:
        file: the file.

    Raises:
        UnreadableFile: it cannot be read, is too large, or is no text.
    """
    try:
        if not file.is_file():
            raise UnreadableFile("unreadable", "this is not a file that can be opened")
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UnreadableFile("unreadable", f"the file cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise UnreadableFile("too-large", f"larger than {MAX_BYTES // 2**20} MiB, so it was not reviewed")
    if content.startswith(_UTF16_MARKS):
        raise UnreadableFile("not-utf8", "the file is UTF-16 text; save it as UTF-8")
    if b"\0" in content:
        raise UnreadableFile("binary", "the file holds binary data, not text")
    try:
        return Text(content.decode("utf-8-sig"), None)
    except UnicodeDecodeError as error:
        bad_line = content.count(b"\n", 0, error.start) + 1
        return Text(content.decode("utf-8-sig", errors="replace"), bad_line)


def write_text(file: Path, content: str) -> None:
    """Put a report in place, whole or not at all.

    Args:
        file: where.
        content: what.

    Raises:
        FileExistsError: another document is there.
    """
    if file.exists() and not is_report(file):
        raise FileExistsError(f"{file} is there already and is not a report of this graph; choose another: -i report=…")
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    part.write_text(content, encoding="utf-8")
    part.replace(file)
