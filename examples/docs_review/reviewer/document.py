"""A Markdown document taken apart: what the rules look at."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape
from typing import Final, Literal

from markdown_it import MarkdownIt
from markdown_it.token import Token

_PARSER: Final = MarkdownIt("commonmark").enable(["table", "strikethrough"])
_FRONT_MATTER: Final = re.compile(r"\A---[ \t]*\n(?P<body>.*?)^(?:---|\.\.\.)[ \t]*$", re.MULTILINE | re.DOTALL)
_TAG: Final = re.compile(r"<(?P<name>[A-Za-z][A-Za-z0-9-]*)(?P<attributes>[^<>]*)>")
_ATTRIBUTE: Final = re.compile(r"""(?<![\w-])(?P<name>[A-Za-z-]+)\s*=\s*(?P<value>"[^"]*"|'[^']*'|[^\s"']+)""")
_CODE_SPAN: Final = re.compile(r"`[^`]*`")
_NEW_LINES: Final = frozenset({"softbreak", "hardbreak"})


@dataclass(frozen=True)
class Heading:
    """A heading; `level` is 1 to 6, `line` counts from 1, as everywhere here."""

    level: int
    text: str
    line: int


@dataclass(frozen=True)
class Link:
    """A link or an image; `target` is as written in the file, percent-encoded."""

    target: str
    line: int
    kind: Literal["link", "image"] = "link"
    text: str = ""


@dataclass(frozen=True)
class Fence:
    """A fenced block of code."""

    language: str
    line: int
    is_closed: bool


@dataclass(frozen=True)
class Passage:
    """A piece of running text, code in it in backticks; `is_prose` is false for table cells."""

    text: str
    line: int
    is_prose: bool

    @property
    def plain(self) -> str:
        """The text with its code blanked out, of the same length."""
        return _CODE_SPAN.sub(lambda span: "_" * len(span[0]), self.text)


@dataclass
class Document:
    """What a Markdown file consists of, each part in the order of the file.

    Attributes:
        headings: its headings.
        links: its links and images, those in HTML included.
        fences: its fenced blocks of code.
        passages: its running text.
        comments: its HTML comments.
        anchors: what a link to a place in the file can name.
        has_title: whether its front matter has a title.
        words: the number of words, code blocks not counted.
    """

    headings: list[Heading] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    fences: list[Fence] = field(default_factory=list)
    passages: list[Passage] = field(default_factory=list)
    comments: list[Passage] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    has_title: bool = False
    words: int = 0


class LineCounter:
    """Tells the lines of ascending positions in a text, each part of which is looked at once.

    Args:
        text: the text.
        first: the number of its first line.
    """

    def __init__(self, text: str, first: int) -> None:
        self._text = text
        self._line = first
        self._position = 0

    def at(self, position: int) -> int:
        """Return the line of a position that is not before the last one.

        Args:
            position: the position.
        """
        self._line += self._text.count("\n", self._position, position)
        self._position = position
        return self._line


def parse(text: str) -> Document:
    """Take a Markdown text apart.

    Args:
        text: CommonMark with tables, and YAML front matter, if any.
    """
    document = Document()
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    front_matter = _FRONT_MATTER.match(text)
    if front_matter is not None:
        document.has_title = re.search(r"^title\s*:", front_matter["body"], re.MULTILINE) is not None
        text = "\n" * front_matter[0].count("\n") + text[front_matter.end() :]
    lines = text.split("\n")
    containers: list[Token] = []
    for token in _PARSER.parse(text):
        if token.nesting == 1:
            containers.append(token)
        elif token.nesting == -1:
            containers.pop()
        elif token.type == "fence":
            document.fences.append(_fence(token, lines))
        elif token.type == "html_block":
            _read_html(document, token.content, _line(token))
        elif token.type == "inline":
            _read_inline(document, token, containers[-1])
    document.anchors |= set(_heading_anchors(document.headings))
    return document


def _line(token: Token) -> int:
    return token.map[0] + 1 if token.map else 1


def _fence(token: Token, lines: list[str]) -> Fence:
    assert token.map is not None
    start, end = token.map
    last = lines[end - 1].lstrip(" >\t").rstrip() if start < end - 1 <= len(lines) - 1 else ""
    is_closed = last.startswith(token.markup) and not last.strip(token.markup[0])
    return Fence(token.info.strip(), start + 1, is_closed)


def _read_inline(document: Document, token: Token, container: Token) -> None:
    line = _line(token)
    words: list[str] = []
    passage: list[str] = []
    for child in token.children or ():
        if child.type in _NEW_LINES:
            line += 1
        elif child.type == "link_open":
            document.links.append(Link(str(child.attrs["href"]), line))
        elif child.type == "image":
            document.links.append(Link(str(child.attrs["src"]), line, "image", child.content))
        elif child.type == "html_inline":
            _read_html(document, child.content, line)
            line += child.content.count("\n")
        elif child.type == "code_inline":
            words.append(child.content)
            passage.append("`" + child.content.replace("`", "'") + "`")
        elif child.type == "text":
            words.append(child.content)
            passage.append(child.content)
        if child.type in _NEW_LINES:
            words.append(" ")
            passage.append("\n")
    text = "".join(words)
    document.words += len(text.split())
    if container.type == "heading_open":
        document.headings.append(Heading(int(container.tag[1:]), text, _line(token)))
    elif text.strip():
        document.passages.append(Passage("".join(passage), _line(token), container.type == "paragraph_open"))


def _read_html(document: Document, html: str, line: int) -> None:
    # Not by html.parser: broken markup makes it quadratic, and a review must end.
    lines = LineCounter(html, line)
    position = 0
    while (start := html.find("<!--", position)) >= 0 and (end := html.find("-->", start + 4)) >= 0:
        _read_tags(document, html, position, start, lines)
        document.comments.append(Passage(html[start + 4 : end], lines.at(start), is_prose=False))
        position = end + 3
    _read_tags(document, html, position, len(html), lines)


def _read_tags(document: Document, html: str, start: int, end: int, lines: LineCounter) -> None:
    for tag in _TAG.finditer(html, start, end):
        attributes = {found["name"].lower(): _value(found["value"]) for found in _ATTRIBUTE.finditer(tag["attributes"])}
        document.anchors |= {attributes[name].lower() for name in ("id", "name") if name in attributes}
        if tag["name"].lower() == "a" and "href" in attributes:
            document.links.append(Link(attributes["href"], lines.at(tag.start())))
        elif tag["name"].lower() == "img" and "src" in attributes:
            # An empty alt says on purpose that the image is only decoration.
            text = attributes.get("alt", "") or ("decoration" if "alt" in attributes else "")
            document.links.append(Link(attributes["src"], lines.at(tag.start()), "image", text))


def _value(text: str) -> str:
    return unescape(text[1:-1] if text[0] in "\"'" else text)


def _heading_anchors(headings: list[Heading]) -> Iterator[str]:
    """The ids that GitHub gives to headings: a repeated one gets a number."""
    repeated: dict[str, int] = {}
    for heading in headings:
        text = heading.text.rstrip()
        explicit = text.rfind("{#")
        if explicit >= 0 and text.endswith("}"):
            yield from text[explicit + 2 : -1].lower().split()[:1]
            text = text[:explicit]
        slug = anchor = _slug(text)
        while anchor in repeated:
            repeated[slug] += 1
            anchor = f"{slug}-{repeated[slug]}"
        repeated[anchor] = 0
        yield anchor


def _slug(heading: str) -> str:
    kept = (
        character
        for character in heading.strip().lower()
        if character in "_- " or character.isalnum() or unicodedata.category(character).startswith("M")
    )
    return "".join(kept).replace(" ", "-")
