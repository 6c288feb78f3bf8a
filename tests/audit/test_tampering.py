"""The nine tampers, on every driver: each has landed, and is noticed by what can notice it."""

from __future__ import annotations

import pytest
from support.places import Place
from support.tampering import LENGTH, TAMPERS, Tamper, kinds, observe

from stargraph.audit import VerifyReport

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("tamper", TAMPERS, ids=lambda tamper: tamper.name)
async def test_a_tamper_is_noticed(place: Place, driver: str, tamper: Tamper) -> None:
    seen = await observe(place, tamper)
    assert seen.landed, "the deed changed nothing that is stored"
    unlike = tamper.unlike.get(driver)
    refused = (True, True) if unlike == "unreadable" or driver in tamper.refused_by else tamper.read
    assert (bool(seen.read_plain), bool(seen.read_sealed)) == refused
    shown = {tamper.plain: unlike, tamper.sealed: unlike} if unlike is not None else {}
    assert _found(seen.plain, shown.get(tamper.plain, tamper.plain))
    assert _found(seen.sealed, shown.get(tamper.sealed, tamper.sealed))
    anchored = tamper.anchored if unlike in (None, "") else unlike
    assert _found(seen.anchored, anchored)


def _found(report: VerifyReport, kind: str) -> bool:
    """The kind is among what was found, and of the right run; nothing at all if there is no kind."""
    assert all(finding.run_id in ("r1", "r2") for finding in report.findings)
    return kind in kinds(report) if kind else report.sound


@pytest.mark.parametrize("tamper", [tamper for tamper in TAMPERS if tamper.plain], ids=lambda tamper: tamper.name)
async def test_findings_name_the_run_and_the_steps(file: Place, tamper: Tamper) -> None:
    report = (await observe(file, tamper)).plain
    (finding,) = report.findings
    assert finding.run_id == "r1"
    expected = {
        "broken-chain": (5, 5),
        "truncated": (8, 8),
        "missing-steps": (4, 4),
        "step-after-end": (LENGTH, LENGTH),
        "summary-differs": (9, 9),
        "unreadable": (4, 5 if tamper.name.startswith("4") else 4),
    }
    assert (finding.step, finding.last_step) == expected[finding.kind]
