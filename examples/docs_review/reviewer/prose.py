"""How hard a text is to read: the Flesch reading ease.

Source of the formula: Rudolf Flesch, "A new readability yardstick", CallLog of Applied Psychology 32 (3), 1948,
pages 221-233. It is made for English and for samples of about a hundred words or more. Syllables are counted by groups
of vowels, which is right for most English words and close for the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

MIN_WORDS: Final = 100
"""Below this the formula says nothing."""

VERY_DIFFICULT: Final = 30.0
"""Below this Flesch calls a text very difficult."""

_WORD: Final = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_SENTENCE_END: Final = re.compile(r"(?<![.!?…])[.!?…]++(?=[\s\"'”’)\]]|$)")
_VOWELS: Final = re.compile(r"[aeiouy]+")
_SILENT_END: Final = re.compile(r"(?:[^laeiouy]|[aeiouy]l)(?:es?|ed)$")
_SPOKEN_ENDS: Final = ("ted", "ded", "ses", "ces", "zes", "ges", "xes", "ches", "shes")

_COMMON_WORDS = "the of and to a in is that it for on with as are be this was by or not have from at an but they you we"
_COMMON: Final = frozenset(_COMMON_WORDS.split())
_ENGLISH_SHARE: Final = 0.2
"""Common words make up about a third of English prose, and less than a tenth of other languages."""


def reading_ease(passages: Iterable[str]) -> float | None:
    """Return the Flesch reading ease: 60 to 70 is plain English, more is easier.

    Args:
        passages: paragraphs; each ends a sentence.

    Returns:
        The score, rounded to one digit; None if there is too little text or it is not English.
    """
    count = 0
    words: list[str] = []
    for passage in passages:
        for start, end in sentences(passage):
            found = _WORD.findall(passage[start:end].lower())
            words += found
            count += bool(found)
    if len(words) < MIN_WORDS or sum(word in _COMMON for word in words) < _ENGLISH_SHARE * len(words):
        return None
    syllables = sum(_syllables(word) for word in words)
    return round(206.835 - 1.015 * len(words) / count - 84.6 * syllables / len(words), 1)


def sentences(passage: str) -> Iterator[tuple[int, int]]:
    """Yield where the sentences of a passage begin and end.

    Args:
        passage: a paragraph.
    """
    start = 0
    for end in (*(match.end() for match in _SENTENCE_END.finditer(passage)), len(passage)):
        sentence = passage[start:end]
        if sentence.strip():
            yield start + len(sentence) - len(sentence.lstrip()), end
        start = end


def _syllables(word: str) -> int:
    groups = len(_VOWELS.findall(word))
    if groups > 1 and _SILENT_END.search(word) and not word.endswith(_SPOKEN_ENDS):
        groups -= 1
    return max(1, groups)
