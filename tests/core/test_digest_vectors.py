"""docs/digest-vectors-1.json, checked by the code and by an implementation made from docs/digest.md alone.

The second one shares no line with the first: it imports nothing of the canonical form.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import following, genesis, json_values, rich, states
from support.workspace import ROOT

from stargraph.checkpoint.codec import DIGEST_FORM, Keyring
from stargraph.checkpoint.protocol import Checkpoint, JsonValue
from stargraph.checkpoint.protocol._digest import _time, digest_of
from stargraph.checkpoint.values import canonical, format_time

PAGE = (ROOT / "docs/digest.md").read_text()
VECTORS = json.loads((ROOT / "docs/digest-vectors-1.json").read_text())


# The specification, once more.


def spec_text(text: str) -> str:
    short = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
    written = "".join(short.get(char) or (f"\\u{ord(char):04x}" if char < " " else char) for char in text)
    return f'"{written}"'


def spec_float(number: float) -> str:
    sign, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    assert isinstance(exponent, int)
    minus = "-" if sign else ""
    if digits == (0,):
        return minus + "0.0"
    x = len(digits) - 1 + exponent
    shown = "".join(map(str, digits))
    if x < -5 or x >= 16:
        fraction = "." + shown[1:] if len(shown) > 1 else ""
        return f"{minus}{shown[0]}{fraction}e{'+' if x > 0 else '-'}{abs(x)}"
    if x < 0:
        return f"{minus}0.{'0' * (-x - 1)}{shown}"
    whole = shown[: x + 1] + "0" * (x + 1 - len(shown))
    return f"{minus}{whole}.{shown[x + 1 :] or '0'}"


def spec_canonical(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return f"{value:d}"
        case float():
            return spec_float(value)
        case str():
            return spec_text(value)
        case list():
            return f"[{','.join(spec_canonical(item) for item in value)}]"
        case dict():
            keys = sorted(value, key=lambda key: key.encode("utf-8"))
            return "{" + ",".join(spec_text(key) + ":" + spec_canonical(value[key]) for key in keys) + "}"
    raise TypeError(value)


def spec_sha256(value: Any) -> str:
    return hashlib.sha256(spec_canonical(value).encode("utf-8")).hexdigest()


def spec_envelope(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Take a checkpoint as JSON, where times have their canonical form already."""
    envelope = {name: value for name, value in checkpoint.items() if name not in {"digest", "seal"}}
    envelope["form"] = 1
    for name in ("state", "update"):
        if envelope[name] is not None:
            envelope[name] = {key: spec_sha256(value) for key, value in envelope[name].items()}
    return envelope


def spec_mac(secret: bytes, digest: str) -> str:
    return hmac.new(secret, bytes.fromhex(digest), hashlib.sha256).hexdigest()


def spec_keys(text: str) -> list[tuple[str, bytes]]:
    keys = []
    for part in text.split(","):
        part = part.strip()
        if part:
            key_id, colon, secret = part.partition(":")
            if not colon:
                secret, key_id = part, hashlib.sha256(b"stargraph key id" + part.encode()).hexdigest()[:8]
            keys.append((key_id, secret.encode()))
    return keys


# The vectors.

each_value = pytest.mark.parametrize("vector", VECTORS["canonical"], ids=lambda vector: vector["json"])
each_checkpoint = pytest.mark.parametrize("vector", VECTORS["checkpoints"], ids=lambda vector: vector["name"])
each_seal = pytest.mark.parametrize("vector", VECTORS["seals"], ids=lambda vector: vector["key_id"])


def test_the_vectors_are_of_this_form() -> None:
    assert VECTORS["form"] == DIGEST_FORM == 1
    assert f"The number of this form is {DIGEST_FORM}." in PAGE


@each_value
def test_values_by_the_code(vector: dict[str, str]) -> None:
    text = canonical(json.loads(vector["json"]))
    assert text.decode() == vector["canonical"]
    assert hashlib.sha256(text).hexdigest() == vector["sha256"]


@each_value
def test_values_by_the_page(vector: dict[str, str]) -> None:
    value = json.loads(vector["json"])
    assert spec_canonical(value) == vector["canonical"]
    assert spec_sha256(value) == vector["sha256"]


@each_checkpoint
def test_checkpoints_by_the_code(vector: dict[str, str]) -> None:
    fields = json.loads(vector["json"]) | {"digest": vector["digest"]}
    checkpoint = Checkpoint.model_validate_json(json.dumps(fields))
    checkpoint.ensure_valid()
    assert digest_of(checkpoint.__dict__, checkpoint.encoded_state(), checkpoint.encoded_update()) == vector["digest"]
    assert checkpoint.model_dump_json(exclude={"digest", "seal"}) == vector["json"]


@each_checkpoint
def test_checkpoints_by_the_page(vector: dict[str, str]) -> None:
    envelope = spec_envelope(json.loads(vector["json"]))
    assert spec_canonical(envelope) == vector["canonical"]
    assert spec_sha256(envelope) == vector["digest"]


@each_seal
def test_seals_by_the_code(vector: dict[str, str]) -> None:
    last = next(each for each in VECTORS["checkpoints"] if each["digest"] == vector["digest"])
    checkpoint = Checkpoint.model_validate_json(json.dumps(json.loads(last["json"]) | {"digest": last["digest"]}))
    seal = Keyring.parse(vector["keys"]).seal(checkpoint).seal
    assert seal is not None
    assert (seal.key_id, seal.mac) == (vector["key_id"], vector["mac"])


@each_seal
def test_seals_by_the_page(vector: dict[str, str]) -> None:
    key_id, secret = spec_keys(vector["keys"])[0]
    assert key_id == vector["key_id"]
    assert spec_mac(secret, vector["digest"]) == vector["mac"]


# The code against the page, on anything.


@given(json_values)
def test_any_value_agrees(value: JsonValue) -> None:
    assert canonical(value) == spec_canonical(value).encode()


@given(states, states | st.none(), json_values)
def test_any_checkpoint_agrees(
    state: dict[str, JsonValue], update: dict[str, JsonValue] | None, definition: JsonValue
) -> None:
    checkpoint = genesis(state=state, update=update, definition=definition)
    assert spec_sha256(spec_envelope(checkpoint.model_dump(mode="json"))) == checkpoint.digest


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])), st.booleans())
def test_any_time_agrees(moment: datetime, whole: bool) -> None:
    moment = moment.replace(microsecond=0) if whole else moment
    try:
        utc = moment.astimezone(UTC)
    except OverflowError:
        return
    date = f"{utc.year:04}-{utc.month:02}-{utc.day:02}"
    time = f"{utc.hour:02}:{utc.minute:02}:{utc.second:02}.{utc.microsecond:06}"
    assert _time(moment).decode() == f'"{date}T{time}Z"' == f'"{format_time(moment)}"'


def test_a_full_record_agrees() -> None:
    checkpoint = following(rich(), changes={"n": 2})
    assert spec_sha256(spec_envelope(checkpoint.model_dump(mode="json"))) == checkpoint.digest


# The page against the models: a new field is not forgotten there.


def _members_on_the_page(record: str) -> set[str]:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| {record} |"))
    return set(re.findall(r"`([a-z_]+)`", row))


def test_the_page_names_every_member() -> None:
    whole = rich()
    task, fan_out = whole.frontier
    records = {
        "task": task,
        "fan-out": fan_out,
        "range": task.calls[0] if task.kind == "task" else None,
        "interrupt": whole.interrupts[0],
        "call": whole.calls[0],
        "process": whole.process,
        "error": whole.error,
    }
    for name, record in records.items():
        assert _members_on_the_page(name) == set(type(record).model_fields), name  # type: ignore[union-attr]
    table = PAGE.partition("| member | value |")[2].partition("\n\n")[0]
    members = set(re.findall(r"`([a-z_]+)`", table))
    assert members == set(Checkpoint.model_fields) - {"digest", "seal"} | {"form"}


def test_the_examples_of_the_page_are_canonical() -> None:
    rule = PAGE.partition("**Float**")[2].partition("**Text**")[0]
    examples = [text for text in re.findall(r"`([^`]+)`", rule) if re.fullmatch(r"-?[\d.]+(e[+-]\d+)?", text)]
    assert len(examples) > 8
    for example in examples:
        assert canonical(float(example)).decode() == example


def test_the_vectors_cover_what_is_hard() -> None:
    values = [json.loads(vector["json"]) for vector in VECTORS["canonical"]]
    written = {vector["canonical"] for vector in VECTORS["canonical"]}
    assert {"1", "1.0", "0.0", "-0.0", "5e-324", "1e+16", "0.00001", "9223372036854775807", '"e\u0301"'} <= written
    assert any(isinstance(value, dict) and {"\uffff", "\U0001f600"} <= value.keys() for value in values)
    used = {name for vector in VECTORS["checkpoints"] for name, value in json.loads(vector["json"]).items() if value}
    assert used == set(Checkpoint.model_fields) - {"digest", "seal"}
