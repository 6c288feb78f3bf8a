"""The pytest plugin: one test item for each check.

import pytest

@pytest.mark.conformance("my_package.testing:target")
def test_my_driver(conformance_check):
    conformance_check()
"""

# Every run of pytest imports this, so the kit itself is imported where it is used.
from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from stargraph.checkpoint.conformance._registry import Check
    from stargraph.checkpoint.conformance._runner import Session
    from stargraph.checkpoint.conformance._target import Target

    _Sessions = dict[object, Session]

_FIXTURE = "conformance_check"
_SESSIONS: pytest.StashKey[_Sessions] = pytest.StashKey()
_SEED: pytest.StashKey[int] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("stargraph-conformance")
    group.addoption("--conformance-quick", action="store_true", help="leave out checks that need processes or time")


# After the conftest files, one of which may have an option of that name: its value seeds the checks too then.
@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(parser: pytest.Parser) -> Generator[None, Any, Any]:
    found = yield
    with contextlib.suppress(ValueError):
        parser.getgroup("stargraph-conformance").addoption(
            "--seed", type=int, help="repeat the chance of an earlier run of the conformance checks; drawn by default"
        )
    return found


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "conformance(target): what the fixture conformance_check tests, as 'package.module:name' or a Target",
    )
    config.stash[_SESSIONS] = {}
    config.stash[_SEED] = _seed(config.getoption("--seed", None))


def _seed(given: object) -> int:
    try:
        return int(str(given))
    except ValueError:
        return random.SystemRandom().randrange(2**31)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if _FIXTURE not in metafunc.fixturenames:
        return
    from stargraph.checkpoint.conformance._run import select

    _target_of(metafunc.definition)
    checks = select(quick=metafunc.config.getoption("--conformance-quick"))
    metafunc.parametrize(_FIXTURE, checks, ids=[check.id for check in checks], indirect=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for session in config.stash[_SESSIONS].values():
        report = session.report()
        terminalreporter.write_line(
            f"stargraph-conformance {report.target}: level {report.level}, {report.count('pass')} of"
            f" {sum(not check.advisory for check in report.catalogue)} checks passed, {report.count('fail')} violations"
            f" (repeat it with --seed {report.seed})"
        )


def pytest_unconfigure(config: pytest.Config) -> None:
    for session in config.stash.get(_SESSIONS, {}).values():
        session.close()


def _target_of(node: pytest.Item) -> str | Target:
    mark = node.get_closest_marker("conformance")
    if mark is None or len(mark.args) != 1:
        raise pytest.UsageError(
            f"{node.nodeid} uses {_FIXTURE}: mark it with @pytest.mark.conformance('package.module:target')"
        )
    found: str | Target = mark.args[0]
    return found


@pytest.fixture
def conformance_check(request: pytest.FixtureRequest) -> Callable[[], None]:
    """A function that runs one check against the target of the mark, and fails or skips as its verdict says."""
    from stargraph.checkpoint.conformance._runner import Session

    check: Check = request.param
    target = _target_of(request.node)
    sessions = request.config.stash[_SESSIONS]
    key = target if isinstance(target, str) else id(target)
    if key not in sessions:
        quick = request.config.getoption("--conformance-quick")
        sessions[key] = Session(target, request.config.stash[_SEED], thorough=not quick)
    session = sessions[key]

    def run_check() -> None:
        __tracebackhide__ = True
        result = session.result(check)
        if result.verdict == "pass":
            for name, value, unit in result.measurements:
                request.node.user_properties.append((name, f"{value:.3f} {unit}"))
        elif result.verdict in ("skip", "blocked"):
            pytest.skip(f"{result.verdict}: {result.message}")
        elif result.verdict == "expected-failure":
            pytest.xfail(result.message)
        else:
            pytest.fail(f"{check.id}: {result.explained()}\nrepeat it with --seed {session.seed}", pytrace=False)

    return run_check
