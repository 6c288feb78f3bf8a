"""Reports that can be published: described by a schema, compared, signed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from support.workspace import ROOT
from typer.testing import CliRunner

from stargraph.checkpoint.conformance import HarnessError, run
from stargraph.checkpoint.conformance._certificate import sign
from stargraph.checkpoint.conformance._cli import app
from stargraph.checkpoint.conformance._render import to_badge
from stargraph.checkpoint.conformance.reference import ReferenceStores

REFERENCE = "stargraph.checkpoint.conformance.reference:target"


def test_a_report_fits_its_schema() -> None:
    schema = json.loads((ROOT / "docs/conformance-report.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    report = run(ReferenceStores().target(), only=["steps", "performance"], seed=7).to_json()
    jsonschema.validate(json.loads(json.dumps(report)), schema)
    assert (report["seed"], report["options"]) == (7, {"quick": False, "deadline": 1.0})
    assert {"history", "search"} <= set(report["capabilities"])
    assert report["versions"] == {}


def test_versions_that_cannot_be_told_are_an_error_of_the_target() -> None:
    def unreachable() -> dict[str, str]:
        raise ConnectionError("nobody listens on port 9000")

    target = replace(ReferenceStores().target(), versions=unreachable)
    with pytest.raises(HarnessError, match="could not tell its versions: ConnectionError: nobody listens on port 9000"):
        run(target, only=["steps.gap_refused"])


def test_a_badge_is_a_picture() -> None:
    picture = ET.fromstring(to_badge(run(ReferenceStores().target(), only=["steps.gap_refused"])))
    assert picture.get("aria-label", "").startswith("stargraph conformance: partial, ")


def _run(*arguments: str, **environment: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(arguments), env=environment)
    return done.exit_code, done.output


def _made_key() -> tuple[str, str]:
    code, shown = _run("key")
    assert code == 0
    private, public = (line.partition(": ")[2] for line in shown.splitlines())
    return private, public


def _certified(file: Path, private: str) -> None:
    options = ("--only", "steps.gap_refused", "--certificate", str(file))
    assert _run("run", REFERENCE, *options, STARGRAPH_CONFORMANCE_KEY=private)[0] == 2


def test_anybody_can_verify_a_certificate(tmp_path: Path) -> None:
    file = tmp_path / "certificate.json"
    private, public = _made_key()
    _certified(file, private)
    assert private not in file.read_text()
    for options in ((), ("--signer", public)):
        code, shown = _run("verify", str(file), *options, STARGRAPH_CONFORMANCE_KEY="")
        assert code == 0
        assert "level partial" in shown
        assert public in shown


@pytest.mark.parametrize("part", ["level", "driver", "seed", "results"])
def test_a_certificate_shows_every_change(part: str, tmp_path: Path) -> None:
    file = tmp_path / "certificate.json"
    _certified(file, _made_key()[0])
    certificate = json.loads(file.read_text())
    certificate["report"][part] = "full"
    file.write_text(json.dumps(certificate))
    code, shown = _run("verify", str(file))
    assert code == 3
    assert "changed" in shown


def test_who_signs_a_changed_report_anew_is_not_the_signer(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine.json", tmp_path / "theirs.json"
    _, public = _made_key()
    _certified(theirs, _made_key()[0])
    code, shown = _run("verify", str(theirs), "--signer", public)
    assert code == 3
    assert "not with" in shown
    mine.write_text(json.dumps(json.loads(theirs.read_text()) | {"public_key": public}))
    assert _run("verify", str(mine), "--signer", public)[0] == 3


@pytest.mark.parametrize("key", ["", "no-key", "key_id:0123456789abcdef", "AAAA"])
def test_only_a_key_signs(key: str, tmp_path: Path) -> None:
    file = tmp_path / "certificate.json"
    code, shown = _run("run", REFERENCE, "--certificate", str(file), STARGRAPH_CONFORMANCE_KEY=key)
    assert code == 3
    assert "STARGRAPH_CONFORMANCE_KEY is not a key" in shown
    assert key == "" or key not in shown


def test_reports_are_compared(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    _run("run", REFERENCE, "--only", "steps.gap_refused", "--json", str(old))
    report = json.loads(old.read_text())
    report["results"][-1]["verdict"] = "fail"
    new.write_text(json.dumps(report))
    code, shown = _run("compare", str(old), str(new))
    assert code == 1
    assert "steps.gap_refused: pass -> fail" in shown
    assert _run("compare", str(old), str(old)) == (0, "")
    certificate = tmp_path / "certificate.json"
    certificate.write_text(json.dumps({"report": report, "public_key": "", "signature": ""}))
    assert _run("compare", str(old), str(certificate))[0] == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        ("<svg/>", "is not JSON"),
        pytest.param("[" * 100_000, "is not JSON", id="nested too deep"),
        ("[]", "is neither a report nor a certificate"),
        ('{"results": 3}', "is no report"),
        ('{"report": []}', "is no report"),
        ('{"results": [{"check": "steps.gap_refused"}]}', "is no report"),
    ],
)
def test_what_is_no_report_is_refused_in_words(text: str | None, said: str, tmp_path: Path) -> None:
    file, report = tmp_path / "other.json", tmp_path / "report.json"
    report.write_text('{"results": []}')
    if text is not None:
        file.write_text(text)
    code, shown = _run("compare", str(report), str(file))
    assert code == 3
    assert said in shown
    assert _run("verify", str(file))[0] == 3


def test_what_is_no_certificate_is_refused_in_words(tmp_path: Path) -> None:
    report, signed = tmp_path / "report.json", tmp_path / "signed.json"
    report.write_text('{"results": []}')
    signed.write_text(json.dumps(sign({"results": []}, _made_key()[0])))
    for file in (report, signed):
        code, shown = _run("verify", str(file))
        assert code == 3
        assert f"{file} is no certificate" in shown
