"""Seals: who wrote a record."""

from __future__ import annotations

import hashlib
import hmac
import traceback

import pytest
from support.checkpoints import chain, following, genesis

from stargraph.checkpoint.codec import KEY_VARIABLE, Keyring, decode, encode
from stargraph.checkpoint.protocol import Checkpoint, Seal
from stargraph.errors import CheckpointCorruptedError

OLD = b"the old secret, 16+"
NEW = b"the new secret, 16+"


def _refused(keyring: Keyring, checkpoint: Checkpoint) -> CheckpointCorruptedError:
    with pytest.raises(CheckpointCorruptedError) as raised:
        keyring.check(checkpoint)
    assert (raised.value.run_id, raised.value.step) == (checkpoint.run_id, checkpoint.step)
    assert raised.value.hint
    assert keyring.source in raised.value.hint
    return raised.value


def test_a_seal_is_an_hmac_of_the_digest() -> None:
    sealed = Keyring({"k": OLD}).seal(genesis())
    assert sealed.seal == Seal(key_id="k", mac=hmac.new(OLD, bytes.fromhex(sealed.digest), hashlib.sha256).hexdigest())


def test_what_was_sealed_is_accepted_from_the_store() -> None:
    keyring = Keyring({"k": OLD})
    for step in chain(3):
        keyring.check(decode(encode(keyring.seal(step)), run_id=step.run_id, step=step.step))


def test_the_next_step_is_not_sealed_by_the_one_before() -> None:
    assert following(Keyring({"k": OLD}).seal(genesis())).seal is None


def test_rotation() -> None:
    before = Keyring({"old": OLD}).seal(genesis())
    both = Keyring({"new": NEW, "old": OLD})
    after = both.seal(genesis())
    assert after.seal is not None
    assert after.seal.key_id == "new"
    both.check(before)
    both.check(after)
    Keyring({"new": NEW}).check(after)
    assert _refused(Keyring({"new": NEW}), before).reason == "unknown-key"
    assert _refused(Keyring({"old": OLD}), after).reason == "unknown-key"


def test_an_unsealed_record_is_refused_unless_allowed() -> None:
    assert _refused(Keyring({"k": OLD}), genesis()).reason == "unsealed"
    Keyring({"k": OLD}, allow_unsealed=True).check(genesis())


@pytest.mark.parametrize("allow_unsealed", [False, True])
def test_a_wrong_seal_is_refused_always(allow_unsealed: bool) -> None:
    keyring = Keyring({"k": OLD}, allow_unsealed=allow_unsealed)
    first, second = chain(2)
    stolen = second.sealed(keyring.seal(first).seal)
    forged = Keyring({"k": NEW}).seal(first)
    flipped = keyring.seal(first).seal
    assert flipped is not None
    flipped = flipped.model_copy(update={"mac": ("0" if flipped.mac[0] != "0" else "1") + flipped.mac[1:]})
    for bad in (stolen, forged, first.sealed(flipped)):
        assert _refused(keyring, bad).reason == "wrong-seal"
    assert _refused(keyring, Keyring({"other": OLD}).seal(first)).reason == "unknown-key"


class TestParse:
    def test_the_first_key_seals(self) -> None:
        keyring = Keyring.parse(" new:the new secret, of , old:0123456789abcdef,, ".replace(", of", "-of"))
        sealed = keyring.seal(genesis())
        assert sealed.seal == Keyring({"new": b"the new secret-of"}).seal(genesis()).seal
        keyring.check(Keyring({"old": b"0123456789abcdef"}).seal(genesis()))

    def test_a_secret_may_hold_colons(self) -> None:
        assert Keyring.parse("k:a:b:0123456789abcdef").seal(genesis()) == Keyring({"k": b"a:b:0123456789abcdef"}).seal(
            genesis()
        )

    def test_a_secret_alone_gets_a_key_id_that_does_not_show_it(self) -> None:
        sealed = Keyring.parse("0123456789abcdef").seal(genesis())
        assert sealed.seal is not None
        assert sealed.seal.key_id == hashlib.sha256(b"stargraph key id0123456789abcdef").hexdigest()[:8]

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("", "at least one key"),
            (" , ,", "at least one key"),
            ("k:too short", "the secret of key 1 is shorter than 16 bytes"),
            ("fifteen bytes ..", None),
            ("fifteen bytes .", "shorter than 16 bytes"),
            (":0123456789abcdef", "a key id is empty"),
            ("k:0123456789abcdef,k:fedcba9876543210", "given twice"),
            ("k\0:0123456789abcdef", "not printable"),
            ('"k:0123456789abcdef"', "in quotes"),
            ("'k:0123456789abcdef,l:fedcba9876543210'", "in quotes"),
            ("k:'0123456789abcdef", None),
        ],
    )
    def test_what_is_refused(self, text: str, complaint: str | None) -> None:
        if complaint is None:
            Keyring.parse(text)
            return
        with pytest.raises(ValueError, match=complaint):
            Keyring.parse(text)

    def test_bytes_of_the_environment_that_are_not_utf_8(self) -> None:
        secret = b"\xff\xfe0123456789abcdef"
        text = secret.decode("utf-8", "surrogateescape")
        assert Keyring.parse("k:" + text).seal(genesis()) == Keyring({"k": secret}).seal(genesis())
        Keyring.parse(text).seal(genesis())


class TestEnvironment:
    def test_no_variable_no_keyring(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(KEY_VARIABLE, raising=False)
        assert Keyring.from_environment() is None

    @pytest.mark.parametrize("text", ["", " ", "\n\t", ","])
    def test_a_variable_without_a_key_is_refused(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        monkeypatch.setenv(KEY_VARIABLE, text)
        with pytest.raises(ValueError, match=r"is set, but empty|at least one key"):
            Keyring.from_environment()

    @pytest.mark.parametrize(("allow", "accepted"), [(None, False), ("", False), ("0", False), ("1", True)])
    def test_the_variables(self, monkeypatch: pytest.MonkeyPatch, allow: str | None, accepted: bool) -> None:
        monkeypatch.setenv(KEY_VARIABLE, "k:0123456789abcdef")
        if allow is None:
            monkeypatch.delenv("STARGRAPH_INTEGRITY_ALLOW_UNSEALED", raising=False)
        else:
            monkeypatch.setenv("STARGRAPH_INTEGRITY_ALLOW_UNSEALED", allow)
        keyring = Keyring.from_environment()
        assert keyring is not None
        keyring.check(keyring.seal(genesis()))
        if accepted:
            keyring.check(genesis())
        else:
            _refused(keyring, genesis())


@pytest.mark.parametrize("secret", ["hunter2", "hunter2-hunter2-hunter2", "hunter2-hunter2\udcff"])
@pytest.mark.parametrize("key_id", ["k:", ""])
def test_no_secret_is_ever_shown(key_id: str, secret: str) -> None:
    shown = []
    try:
        keyring = Keyring.parse(key_id + secret + "," + key_id + secret + "2")
    except ValueError as error:
        shown.append("".join(traceback.format_exception(error)) + repr(error))
        keyring = Keyring.parse(key_id + secret + "-long enough for sure")
    shown.append(f"{keyring} {keyring!r}")
    for bad in (genesis(), Keyring({"x": OLD}).seal(genesis())):
        refused = _refused(keyring, bad)
        shown.append(str(refused) + repr(refused))
    sealed = keyring.seal(genesis())
    shown.append(repr(sealed) + sealed.model_dump_json())
    assert "hunter2" not in "".join(shown)


def test_a_refusal_names_where_the_keys_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "k:0123456789abcdef")
    by_variable = Keyring.from_environment()
    assert by_variable is not None
    assert by_variable.source == KEY_VARIABLE
    refused = _refused(Keyring({"k": OLD}), genesis())
    assert "integrity_key" in (refused.hint or "")
    assert "allow_unsealed=True" in (refused.hint or "")
