"""Reports that can be published: described by a schema, compared, signed."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from support.workspace import ROOT
from typer.testing import CliRunner

from stargraph.checkpoint.conformance import run
from stargraph.checkpoint.conformance._cli import app
from stargraph.checkpoint.conformance._render import to_badge
from stargraph.checkpoint.conformance.reference import MemoryStores

REFERENCE = "stargraph.checkpoint.conformance.reference:target"
KEY = "release:0123456789abcdef0123"


def test_a_report_fits_its_schema() -> None:
    schema = json.loads((ROOT / "docs/conformance-report.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    report = run(MemoryStores().target(), only=["steps", "performance"], seed=7).to_json()
    jsonschema.validate(json.loads(json.dumps(report)), schema)
    assert (report["seed"], report["options"]) == (7, {"quick": False, "deadline": 1.0})
    assert {"history", "search"} <= set(report["capabilities"])
    assert report["versions"] == {}


def test_a_badge_is_a_picture() -> None:
    picture = ET.fromstring(to_badge(run(MemoryStores().target(), only=["steps.gap_refused"])))
    assert picture.get("aria-label", "").startswith("stargraph conformance: partial, ")


def _run(*arguments: str, **environment: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(arguments), env=environment)
    return done.exit_code, done.output


def test_a_certificate_shows_every_change(tmp_path: Path) -> None:
    file = tmp_path / "certificate.json"
    options = ("--only", "steps.gap_refused", "--certificate", str(file))
    assert _run("run", REFERENCE, *options, STARGRAPH_CONFORMANCE_KEY=KEY)[0] == 2
    code, shown = _run("verify", str(file), STARGRAPH_CONFORMANCE_KEY=KEY)
    assert code == 0
    assert "level partial" in shown
    certificate = json.loads(file.read_text())
    certificate["report"]["level"] = "full"
    file.write_text(json.dumps(certificate))
    code, shown = _run("verify", str(file), STARGRAPH_CONFORMANCE_KEY=KEY)
    assert code == 3
    assert "changed" in shown


@pytest.mark.parametrize("key", ["", "no-colon", "short:secret", "other:0123456789abcdef0123"])
def test_a_certificate_needs_its_key(key: str, tmp_path: Path) -> None:
    file = tmp_path / "certificate.json"
    _run("run", REFERENCE, "--only", "steps.gap_refused", "--certificate", str(file), STARGRAPH_CONFORMANCE_KEY=KEY)
    assert _run("verify", str(file), STARGRAPH_CONFORMANCE_KEY=key)[0] == 3


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
