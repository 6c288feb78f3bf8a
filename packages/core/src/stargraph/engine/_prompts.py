"""Questions with fields of the state in braces."""

from __future__ import annotations

import dataclasses
import string
from typing import Any

from pydantic import BaseModel


class _Fields(string.Formatter):
    """Fills in plain field names and nothing else: no attribute or index of a value can be reached."""

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> tuple[object, str]:
        return kwargs.get(field_name, f"{{{field_name}}}"), field_name


def fill_prompt(prompt: str, state: object) -> str:
    """Return a prompt with the values of the state's fields in it.

    Args:
        prompt: the text; `{name}` stands for a field, `{{` for a brace.
        state: the state as a node sees it.
    """
    if isinstance(state, BaseModel):
        values: object = dict(state)
    elif dataclasses.is_dataclass(state):
        values = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    else:
        values = state
    return _Fields().vformat(prompt, (), values if isinstance(values, dict) else {})
