"""A server that is started for a session is started once in a process of the tests, not once for each folder."""

from __future__ import annotations

from support.workspace import ROOT, shown

TESTS = ROOT / "tests"


def test_no_conftest_but_the_first_imports_a_fixture_of_a_session() -> None:
    """pytest makes an imported fixture once more for each file that imports it."""
    lasting = [file for file in TESTS.rglob("*.py") if '\n@pytest.fixture(scope="session"' in file.read_text()]
    assert TESTS / "support/session_fixtures.py" in lasting
    modules = [".".join(file.relative_to(TESTS).with_suffix("").parts) for file in lasting]
    importing = [
        f"{shown(conftest)} imports {module}"
        for conftest in TESTS.glob("*/conftest.py")
        for module in modules
        if f"from {module} import" in conftest.read_text()
    ]
    assert importing == []
