"""Links inside a folder of documents: whether the file and the heading that they name are there."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from reviewer.document import Document, Link, parse
from reviewer.files import UnreadableFile, is_markdown, read_text
from reviewer.state import Finding


def is_external(link: Link) -> bool:
    """Return whether a link leads out of the file system, as in `https:` or `mailto:`.

    Args:
        link: the link.
    """
    try:
        parts = urlsplit(link.target)
    except ValueError:
        return True
    return bool(parts.scheme or parts.netloc)


def check_link(link: Link, file: Path, folder: Path, document: Document) -> Finding | None:
    """Return what is wrong with a link, if something is.

    Args:
        link: the link.
        file: the file that it stands in.
        folder: the folder under review; a target with a leading slash is looked up there, and in the repository.
        document: what `file` consists of.
    """
    if not link.target.strip():
        return Finding(rule="empty-link", severity="warning", line=link.line, message=f"the {link.kind} leads nowhere")
    if is_external(link):
        return None
    parts = urlsplit(link.target)
    path, anchor = unquote(parts.path), unquote(parts.fragment)
    target = _find(path, file, folder) if path else file
    if target is None:
        return Finding(
            rule="broken-link",
            severity="error",
            line=link.line,
            message=f"the {link.kind} leads to {path!r}, which does not exist",
        )
    anchors = document.anchors if target == file else _anchors(target)
    if not anchor or anchors is None or anchor.lower() in anchors or anchor.lower() == "top":
        return None
    where = f"{path!r} has" if path else "this file has"
    return Finding(
        rule="missing-anchor", severity="error", line=link.line, message=f"{where} no heading or anchor {anchor!r}"
    )


def _find(path: str, file: Path, folder: Path) -> Path | None:
    bases = [file.parent] if not path.startswith("/") else [folder, _repository(folder)]
    for base in bases:
        candidate = base / path.lstrip("/")
        try:
            if candidate.exists():
                return candidate
        except (OSError, ValueError):
            # A target may be no possible name at all: too long, or with a NUL in it.
            continue
    return None


def _repository(folder: Path) -> Path:
    return next((parent for parent in (folder, *folder.parents) if (parent / ".git").exists()), folder)


def _anchors(file: Path) -> frozenset[str] | None:
    """The anchors of a Markdown file; None if they cannot be known."""
    if not is_markdown(file):
        return None
    status = file.stat()
    return _anchors_of(file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1024)
def _anchors_of(file: Path, _changed: int, _size: int) -> frozenset[str] | None:
    try:
        return frozenset(parse(read_text(file).content).anchors)
    except UnreadableFile:
        return None
