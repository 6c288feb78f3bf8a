"""`make certificates`: the signed reports of the drivers of this repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import certificates

from stargraph.checkpoint.conformance._certificate import make_key, verify


@pytest.mark.thorough
@pytest.mark.parametrize("driver", certificates.TARGETS)
def test_a_driver_is_certified_on_a_server_of_its_own(
    driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(certificates, "FOLDER", tmp_path)
    private, public = make_key()
    code = certificates.certify(driver, private, public, "--only", "steps.append_and_read")
    assert code == 2, "one check is no level"
    report = verify(json.loads((tmp_path / f"{driver}.json").read_text()), public)
    verdicts = {result["check"]["id"]: result["verdict"] for result in report["results"]}
    assert verdicts["steps.append_and_read"] == "pass"
    assert "steps.append_and_read" in (tmp_path / f"{driver}.md").read_text()
    assert "Traceback" not in capfd.readouterr().err


def test_an_unknown_driver_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert certificates.main(["sqlite", "oracle"]) == 2
    assert "there is no driver oracle; there are sqlite, postgres, s3" in capsys.readouterr().err
