"""A few words of SVG: every text escaped, colours as classes in a page and as attributes in a file."""

from __future__ import annotations

import re
from html import escape
from typing import Final

from stargraph.ui._text import visible

_PALETTE: Final = {
    "queued": "#47707f",
    "running": "#1d63c4",
    "awaiting_input": "#8a5a00",
    "paused": "#5d6066",
    "done": "#1c7a46",
    "failed": "#b3261e",
    "cancelled": "#5d6066",
    "moved": "#6a4bb5",
    "none": "#9a9da3",
}
"""The colours of a drawing in a file of its own, those of the light pages."""

_ROLES: Final = {
    "ink": 'fill="#1c1d1f"',
    "muted": 'fill="#5d6066"',
    "note": 'fill="#5d6066" stroke="#ffffff" stroke-width="3" stroke-linejoin="round" paint-order="stroke"',
    "line": 'stroke="#d5d5d1" fill="none"',
    "edge": 'stroke="#8a8d93" fill="none" stroke-width="1.5"',
    "arrow": 'fill="#8a8d93"',
    "box": 'fill="#ffffff" stroke="#c9c9c5"',
    "lane": 'fill="#f4f4f2"',
    "wait": 'fill="none" stroke="#8a5a00" stroke-dasharray="3 2"',
    "cut": 'stroke="#6a4bb5" stroke-dasharray="2 3" fill="none"',
}
_FONT: Final = "system-ui, sans-serif"


class Canvas:
    """Collects the elements of one drawing.

    Args:
        width: in units.
        height: in units.
        label: what the drawing shows, for who cannot see it.
        standalone: whether it is a file of its own, which no style sheet reaches.
    """

    def __init__(self, width: float, height: float, label: str, *, standalone: bool = False) -> None:
        self.width = width
        self.height = height
        self._label = label
        self._standalone = standalone
        self._parts: list[str] = []

    def role(self, name: str) -> str:
        """Return the attributes of a part of the drawing."""
        return _ROLES[name] if self._standalone else f'class="s-{name}"'

    def status(self, name: str, *, outline: bool = False) -> str:
        """Return the attributes that paint in the colour of a status."""
        if not self._standalone:
            return f'class="{"o" if outline else "f"}-{name if name in _PALETTE else "none"}"'
        colour = _PALETTE.get(name, _PALETTE["none"])
        return f'fill="#ffffff" stroke="{colour}" stroke-width="1.5"' if outline else f'fill="{colour}"'

    def add(self, element: str) -> None:
        """Add an element; whoever makes it escapes what it holds."""
        self._parts.append(element)

    def rect(
        self, x: float, y: float, width: float, height: float, paint: str, *, title: str = "", radius: float = 0
    ) -> None:
        """Add a rectangle, with a text that shows when a pointer rests on it."""
        rounded = f' rx="{radius:g}"' if radius else ""
        inner = f"<title>{safe(title)}</title>" if title else ""
        self.add(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.1f}"{rounded} {paint}>'
            f"{inner}</rect>"
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, paint: str) -> None:
        """Add a line."""
        self.add(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {paint}/>')

    def text(
        self, x: float, y: float, text: str, *, paint: str | None = None, size: float = 12, anchor: str = "start"
    ) -> None:
        """Add a line of text."""
        at = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self.add(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}"{at} {paint or self.role("ink")}>{safe(text)}</text>'
        )

    def __str__(self) -> str:
        namespace = f' xmlns="http://www.w3.org/2000/svg" font-family="{_FONT}"' if self._standalone else ""
        return (
            f'<svg{namespace} viewBox="0 0 {self.width:g} {self.height:g}" width="{self.width:g}"'
            f' height="{self.height:g}" role="img"'
            f' aria-label="{safe(self._label)}">{"".join(self._parts)}</svg>'
        )


_NOT_XML: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def safe(text: str) -> str:
    """Return a text for the inside of an element or of an attribute in quotes."""
    return escape(_NOT_XML.sub("�", visible(text)), quote=True)
