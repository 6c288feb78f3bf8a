"""What leads from the texts of one checkpoint to those of a later one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from stargraph.checkpoint.codec._edit_script import EditScript, compose, diff
from stargraph.checkpoint.codec._fields import DIGEST_BYTES, DIGESTS, EVENT, EncodedFields

_SHORT: Final = 64
"""A text up to this length is stored anew when it changes: telling the difference would cost as much."""

_SHORT_EVENT: Final = 1024
"""Likewise for what a step tells, which is another in each; the compressor knows most of it."""

NOTHING: Final = EncodedFields({}, {}, None)
"""The base of a record that has none."""

_AFTER: Final[EditScript] = [(0, DIGEST_BYTES)]
"""Makes the digest of the step before from the digests of that step."""


@dataclass(slots=True)
class Delta:
    """The texts that differ, each with the script that makes it from the base's text of the same name.

    Attributes:
        fields: fields that differ.
        state: members of the state that differ or are new, in the order of the state.
        keys: all members of the state after it, in order.
    """

    fields: dict[str, EditScript]
    state: dict[str, EditScript]
    keys: tuple[str, ...]


def delta_between(old: EncodedFields, new: EncodedFields, grown: Mapping[str, bytes] | None = None) -> Delta:
    """Return what leads from one checkpoint's texts to another's.

    Args:
        old: the base, or `NOTHING`.
        new: what is to be made.
        grown: the lists of the new state that are known to be others with items behind: the texts of those.
    """
    fields = {
        name: script_between(old.fields.get(name), text, _SHORT_EVENT if name == EVENT else _SHORT)
        for name, text in new.fields.items()
        if text is not old.fields.get(name)
    }
    state: dict[str, EditScript] = {}
    for key, text in new.state.items():
        before = old.state.get(key)
        if grown and before is not None and grown.get(key) is before:
            kept = len(before) - 1
            state[key] = [(0, kept), text[kept:]]
        elif text is not before and text != before:
            state[key] = script_between(before, text)
    return Delta(fields, state, tuple(new.state))


def delta_after(old: EncodedFields, new: EncodedFields, grown: Mapping[str, bytes]) -> Delta:
    """Return what leads from the texts of a step to those of the step after it.

    Args:
        old: the step before.
        new: what is to be made.
        grown: as `delta_between` takes it.
    """
    patch = delta_between(old, new, grown)
    patch.fields[DIGESTS] = [new.fields[DIGESTS][:DIGEST_BYTES], *_AFTER]
    return patch


def script_between(old: bytes | None, new: bytes, short: int = _SHORT) -> EditScript:
    """Return the script that makes one text from another one.

    Args:
        old: the text that the reader has, if any.
        new: the text to be made.
        short: up to which length, in bytes, a text is stored anew.
    """
    if old is None or len(new) <= short or len(old) <= short:
        return [new] if new else []
    return diff(old, new)


def compose_deltas(first: Delta, second: Delta) -> Delta:
    """Return the patch that has the effect of two, one after the other.

    Args:
        first: leads from A to B.
        second: leads from B to C.
    """
    state = _composed(first.state, second.state)
    # In the order of the state: new members are put behind the others as they come.
    ordered = {key: state[key] for key in second.keys if key in state}
    return Delta(_composed(first.fields, second.fields), ordered, second.keys)


def _composed(first: dict[str, EditScript], second: dict[str, EditScript]) -> dict[str, EditScript]:
    both = first | second
    for name, script in second.items():
        before = first.get(name)
        if before is not None and not (len(script) == 1 and type(script[0]) is bytes):
            both[name] = compose(before, script)
    return both
