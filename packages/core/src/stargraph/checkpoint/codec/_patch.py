"""What leads from the texts of one checkpoint to those of a later one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from stargraph.checkpoint.codec._script import Script, compose, diff
from stargraph.checkpoint.codec._texts import FIELDS, NULL, Texts

_SHORT: Final = 64
"""A text up to this length is stored anew when it changes: telling the difference would cost as much."""


@dataclass(frozen=True, slots=True)
class Patch:
    """The texts that differ, each with the script that makes it from the base's text of the same name.

    Attributes:
        fields: fields that differ.
        state: members of the state that differ or are new, in the order of the state.
        keys: all members of the state after it, in order.
    """

    fields: dict[str, Script]
    state: dict[str, Script]
    keys: tuple[str, ...]


NOTHING: Final = Texts(dict.fromkeys(FIELDS, NULL), {}, None)
"""The base of a record that has none."""


def patch_between(old: Texts, new: Texts) -> Patch:
    """Return what leads from one checkpoint's texts to another's.

    Args:
        old: the base, or `NOTHING`.
        new: what is to be made.
    """
    return Patch(_changed(old.fields, new.fields), _changed(old.state, new.state), tuple(new.state))


def _changed(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> dict[str, Script]:
    changes: dict[str, Script] = {}
    for name, text in new.items():
        before = old.get(name)
        if text is before or text == before:
            continue
        changes[name] = script_between(before, text)
    return changes


def script_between(old: bytes | None, new: bytes) -> Script:
    """Return the script that makes one text from another one.

    Args:
        old: the text that the reader has, if any.
        new: the text to be made.
    """
    if old is None or len(new) <= _SHORT or len(old) <= _SHORT:
        return [new] if new else []
    return diff(old, new)


def compose_patches(first: Patch, second: Patch) -> Patch:
    """Return the patch that has the effect of two, one after the other.

    Args:
        first: leads from A to B.
        second: leads from B to C.
    """
    state = _composed(first.state, second.state)
    # In the order of the state: new members are put behind the others as they come.
    ordered = {key: state[key] for key in second.keys if key in state}
    return Patch(_composed(first.fields, second.fields), ordered, second.keys)


def _composed(first: dict[str, Script], second: dict[str, Script]) -> dict[str, Script]:
    both = first | second
    for name in first.keys() & second.keys():
        both[name] = compose(first[name], second[name])
    return both
