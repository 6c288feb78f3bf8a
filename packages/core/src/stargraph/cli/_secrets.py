"""Hide secrets in all that is printed: those that this process was given, and those of URLs that a text quotes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus

_MASK: Final = "***"
_LEAST: Final = 4
"""A shorter secret would be found in every word; where it is, its place in a URL hides it."""
_CERTAIN: Final = 8
"""From this length on a secret is hidden inside of words too, and where the end of it was cut off."""
_LONGEST_CUT: Final = 80

_SECRET_VARIABLE: Final = re.compile(
    r"PASS(?:WORD|WD|PHRASE)?$|SECRET|TOKEN|CREDENTIAL|(?:^|_)KEYS?$|(?<!^OLD)(?<!^)PWD$", re.IGNORECASE
)
_KEY_LINE: Final = re.compile(r"[\w.@-]*:\S{8,}")


class SecretFilter:
    """Hides what a process must not print.

    Args:
        words: the arguments of the command line.
    """

    def __init__(self, words: Iterable[str] = (), environment: Mapping[str, str] | None = None) -> None:
        self._words = list(words)
        self._environment = dict(environment or {})
        self._added: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self._compiled = False

    def add(self, secrets: Iterable[str]) -> None:
        """Hide these too.

        Args:
            secrets: what was read from a file.
        """
        self._added |= set(secrets)
        self._compiled = False

    def hide(self, text: str) -> str:
        """Return a text without the secrets that this process was given.

        Args:
            text: any text.
        """
        if not self._compiled:
            self._pattern = _pattern(self._collect())
            self._compiled = True
        return text if self._pattern is None else self._pattern.sub(_MASK, text)

    def hide_in(self, value: Any) -> Any:
        """Return a JSON value whose texts hide them.

        Args:
            value: what JSON can say, and datetimes.
        """
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, dict):
            return {self.hide_in(name): self.hide_in(each) for name, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.hide_in(each) for each in value]
        return value

    def _collect(self) -> set[str]:
        from stargraph.checkpoint.registry import find_secrets

        found = set(self._added)
        for text in (*self._words, *self._environment.values()):
            found |= find_secrets(text)
        for name, value in self._environment.items():
            if _SECRET_VARIABLE.search(name) and not value.startswith(("/", "./", "~")):
                found |= {value, *key_secrets(value.split(","))}
        return found


_filter = SecretFilter()


def protect(words: Iterable[str]) -> None:
    """Hide the secrets of this process from now on.

    Args:
        words: its arguments.
    """
    global _filter  # noqa: PLW0603  # as stdout is one, so is what must not be printed there
    _filter = SecretFilter(words, os.environ)


def add_secrets(secrets: Iterable[str]) -> None:
    """Hide these from now on.

    Args:
        secrets: what was read from a file.
    """
    _filter.add(secrets)


def hide_secrets(message: str) -> str:
    """Return a message without secrets: those of this process, and those of any URL in it.

    Args:
        message: sentences.
    """
    from stargraph.checkpoint.registry import redact_text

    return redact_text(_filter.hide(message))


def hide_known(text: str) -> str:
    """Return a text without the secrets of this process; what only looks like one stays.

    Args:
        text: data, such as a value of a run's state.
    """
    return _filter.hide(text)


def hide_in_json(value: Any) -> Any:
    """Return a JSON value without the secrets of this process.

    Args:
        value: what JSON can say, and datetimes.
    """
    return _filter.hide_in(value)


def key_secrets(lines: Iterable[str]) -> set[str]:
    """Return the secrets of keys, written `key_id:secret`.

    Args:
        lines: a key each; a line that is none is left out.
    """
    keys = [line.strip() for line in lines]
    return {part for key in keys if _KEY_LINE.fullmatch(key) for part in (key, key.partition(":")[2])}


def _pattern(secrets: set[str]) -> re.Pattern[str] | None:
    forms = {form for secret in secrets if len(secret) >= _LEAST for form in _forms(secret)}
    if not forms:
        return None
    parts = []
    for form in sorted(forms, key=len, reverse=True):
        if len(form) < _CERTAIN:
            parts.append(rf"(?<!\w){re.escape(form)}(?!\w)")
        else:
            parts += [re.escape(form), _cut(form)]
    return re.compile("|".join(parts))


def _cut(form: str) -> str:
    """A pattern of a secret whose end was cut off, as in a message that quotes the start of a long text."""
    rest = "".join(f"(?:{re.escape(character)}" for character in form[_CERTAIN:_LONGEST_CUT])
    return f"{re.escape(form[:_CERTAIN])}{rest}{')?' * len(form[_CERTAIN:_LONGEST_CUT])}(?!\\w)"


def _forms(secret: str) -> Iterator[str]:
    """How a secret may be written in a message: as it is, quoted, or escaped."""
    yield secret
    yield quote(secret, safe="")
    yield quote(secret)
    yield quote_plus(secret)
    yield repr(secret)[1:-1]
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield secret.encode("unicode_escape").decode()
    yield secret.replace("'", "'\"'\"'")
    yield secret.replace("\n", "\\n").replace("\t", "\\t")
    yield secret.encode("ascii", "backslashreplace").decode()
