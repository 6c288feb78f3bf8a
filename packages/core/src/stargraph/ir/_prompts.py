"""The text of a question, with fields of the state in braces: `Severity {severity}: page somebody?`."""

from __future__ import annotations

import re
from string import Formatter
from typing import Final

from stargraph.errors._arguments import check_type

_FIELD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")


def prompt_fields(prompt: str) -> tuple[str, ...]:
    """Return the fields of the state that a prompt shows.

    A prompt is what `str.format` takes, with plain field names only: attributes, indexes, conversions and formats
    are refused, since they could reach into objects. `{{` and `}}` stand for braces.

    Args:
        prompt: the text.

    Raises:
        ValueError: the text is not a prompt.
    """
    check_type(prompt, "prompt", str, "text")
    try:
        parts = list(Formatter().parse(prompt))
    except ValueError as error:
        raise ValueError(f"{error}; write {{{{ and }}}} for braces that are text") from None
    fields = []
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if form or conversion:
            raise ValueError(f"{{{name}}} takes no format and no conversion; write {{{name}}} alone")
        if _FIELD.fullmatch(name) is None:
            raise ValueError(f"{{{name}}} is not the name of a field; write {{{{ and }}}} for braces that are text")
        fields.append(name)
    return tuple(dict.fromkeys(fields))
